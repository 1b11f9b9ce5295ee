"""Import of a user's data: demonstrations, episodes, and a csv of comparisons of their segments (clips)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aihf_control.core.errors import BadInput
from aihf_control.core.provenance import versions
from aihf_control.core.types import Trajectory
from aihf_control.data.comparison_csv import read_comparisons
from aihf_control.data.dataset import Dataset
from aihf_control.data.pairs import PAIR_COLUMNS, REFERENCE_COLUMNS, references
from aihf_control.data.pool import check_expert, evaluate_returns, find_bundled_policies
from aihf_control.data.sources import assign_unknown_seeds, read_episodes, read_stated_options
from aihf_control.data.verify import replay_episode
from aihf_control.environments.gym import Envs, EnvSpec, spec_of
from aihf_control.environments.modules import allow_module
from aihf_control.models.sb3 import read_zip

REPLAYED_EPISODES, REPLAYED_STEPS, TOLERANCE = 3, 10, 1e-3
"""Replay check at import: episodes per source, steps of each, and the relative and absolute tolerance. Simulators on
two machines agree to about 1e-12 over so few steps; another environment differs visibly at once."""


@dataclasses.dataclass(frozen=True)
class ImportConfig:
    """Sources of an imported dataset: FILE.npz, FILE.hdf5 (D4RL), minari:ID, or dataset folders."""

    demos: tuple[str, ...] = ()
    """Sources of demonstrations."""
    pool: tuple[str, ...] = ()
    """Sources of the episodes to compare, numbered from 0 across all sources in this order."""
    pairs: Path | None = None
    """csv with the columns win_episode, win_start, lose_episode, lose_start, length, and optionally weight, tie (1 for
    a tie), split (train or test), annotator. Two mirrored lines of weight 0.5 in sequence are a tie, too."""
    expert: Path | None = None
    """SB3 zip whose greedy return is score 1; by default the bundled expert's, else that of the demonstrations."""
    demo_every: int = 1
    """Subsampling stride of demonstrations: learners receive every so many-th step."""
    terminate: bool = True
    """End episodes at a fall. `--no-terminate` sets the environment's `terminate_when_unhealthy` to false."""


def import_dataset(
    env: str,
    config: ImportConfig,
    out: Path | None = None,
    options: dict[str, Any] | None = None,
    force: bool = True,
) -> Dataset:
    """Import a dataset and write it to the folder `out`, if given.

    `options` are those of the environment; by default the ones that the sources state. Without `force`, sources that
    do not replay and experts that are no better than random actions are refused. Raises BadInput; BadLines with a
    reason for each bad line.
    """
    if not config.demos and not config.pool:
        raise BadInput("nothing to import: give --demos, --pool, or both")
    if config.demo_every < 1:
        raise BadInput(f"--demo-every must be at least 1, got {config.demo_every}")
    allow_module(env)
    given = {**({} if config.terminate else {"terminate_when_unhealthy": False}), **(options or {})}
    notes: list[str] = []
    spec = spec_of(env, **_merge_options(env, (*config.pool, *config.demos), given, notes))
    compared, demos = (_read_sources(sources, spec, notes, force) for sources in (config.pool, config.demos))
    pairs = read_comparisons(config.pairs, compared, spec.horizon, notes) if config.pairs else _no_pairs()
    pool = assign_unknown_seeds([*compared, *demos])
    trained = pairs.loc[pairs["split"] == "train"]
    touched = {clip[0] for side in ("win", "lose") for clip in references(trained, side)}
    expert_returns = _expert_returns(env, spec, config.expert, demos or compared)
    random_returns = evaluate_returns(spec, None)
    if not force:
        check_expert(expert_returns, random_returns)
    meta: dict[str, Any] = {
        "env": env,
        "options": spec.options,
        "horizon": spec.horizon,
        "brought": dataclasses.asdict(config),
        "notes": notes,
        "demonstrations": list(range(len(compared), len(pool))),
        "demo_every": config.demo_every,
        "held_out": sorted(set(range(len(compared))) - touched),
        "expert_returns": expert_returns,
        "random_returns": random_returns,
        "versions": versions(),
    }
    dataset = Dataset(meta, pool, pairs)
    return dataset.save(out) if out else dataset


def _merge_options(env: str, sources: Sequence[str], given: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """Combine the environment options that sources state with those given.

    Raises BadInput if they differ, or if a source states text (such as a file name) that was not given as well.
    """
    merged, first = dict(given), None
    for source in sources:
        stated = read_stated_options(source, env)
        if stated is None:
            continue
        for key, value in stated.items():
            if key in given and given[key] != value:
                raise BadInput(f"{source} was recorded with {key}={value!r}, not {given[key]!r}")
            if key not in given and not _is_plain(value):
                raise BadInput(f"{source} was recorded with {key}={value!r}; confirm it by --env-option {key}=VALUE")
        if first is not None and stated != first[1]:
            raise BadInput(
                f"{source} was recorded with options {stated}, {first[0]} with {first[1]}; import them apart"
            )
        first = first or (source, stated)
        merged |= stated
    if first and {k: v for k, v in merged.items() if k not in given}:
        notes.append(f"environment options taken from {first[0]}: {first[1]}")
    return merged


def _is_plain(value: Any) -> bool:
    """Check that a value consists of numbers and booleans; text from a foreign file could name a file or a module."""
    return all(map(_is_plain, value)) if isinstance(value, list) else value is None or isinstance(value, int | float)


def _read_sources(sources: Sequence[str], spec: EnvSpec, notes: list[str], force: bool) -> list[Trajectory]:
    episodes = []
    for source in sources:
        found = read_episodes(source, spec, notes)
        difference = find_replay_difference(found, spec)
        if difference and not force:
            raise BadInput(
                f"{source}: {difference}; it was recorded in another environment, version or option "
                "(--env-option KEY=VALUE), or import it all the same with --force"
            )
        notes += [f"{source}: {difference}"] if difference else []
        episodes += found
    return episodes


def find_replay_difference(episodes: Sequence[Trajectory], spec: EnvSpec) -> str | None:
    """Replay the first steps of some episodes with known seeds; describe the first difference, None without any."""
    envs = Envs(spec, 1)
    seeded = [(i, t) for i, t in enumerate(episodes) if t.seed >= 0]
    for i, t in seeded[:REPLAYED_EPISODES]:
        again = replay_episode(t, envs, REPLAYED_STEPS)
        n = len(again)
        if n < min(REPLAYED_STEPS, len(t)):
            return f"episode {i}, replayed from seed {t.seed}, terminates after {n} steps, the recorded one later"
        for name, rows in (("obs", n + 1), ("reward", n)):
            recorded, here = getattr(t, name)[:rows], getattr(again, name)[:rows]
            scale = TOLERANCE * max(1.0, float(np.abs(here).max()))
            apart = np.abs(recorded - here).reshape(rows, -1).max(1)
            if (apart > scale).any():
                step = int((apart > scale).argmax())
                return (
                    f"episode {i}, replayed from seed {t.seed}, differs in {name} at step {step} by {apart[step]:.3g}"
                )
    return None


def _expert_returns(env: str, spec: EnvSpec, zip_path: Path | None, best: Sequence[Trajectory]) -> list[float]:
    path = zip_path or find_bundled_policies(env).get("expert")
    if path:
        return evaluate_returns(spec, read_zip(path, spec))
    return [float(t.reward.sum()) for t in best]


def _no_pairs() -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series(dtype=int if name in REFERENCE_COLUMNS else object) for name in PAIR_COLUMNS})
