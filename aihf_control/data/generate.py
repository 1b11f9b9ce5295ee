"""Dataset generation: rollouts of graded policies, demonstrations, and comparisons by a synthetic annotator.

python -m aihf_control.data make --env Hopper-v4 --out my_data
python -m aihf_control.data show my_data --figure my_data.png --render 0 --out pair.mp4
python -m aihf_control.data verify my_data
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from aihf_control.core.errors import BadInput
from aihf_control.core.files import read_bytes, sha256
from aihf_control.core.provenance import versions
from aihf_control.core.types import Trajectory
from aihf_control.data.dataset import Dataset
from aihf_control.data.labelling.comparisons import collect_comparisons
from aihf_control.data.labelling.regret import Regret
from aihf_control.data.labelling.segments import SegmentPool
from aihf_control.data.labelling.teachers import Teacher, TeacherName, make_teacher
from aihf_control.data.pool import check_expert, evaluate_returns, find_bundled_policies, load_experts, play_episodes
from aihf_control.environments.cards import folder_name
from aihf_control.environments.gym import EnvSpec, groups_of, spec_of
from aihf_control.environments.modules import allow_module
from aihf_control.models.expert import Expert

RECIPE = 3  # version of the generator: increased when the same config gives a different dataset or metadata


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Settings of a generated dataset."""

    demos: int = 10
    """Demonstrations in the pool; each lane of a run draws its own from them."""
    demo_level: str = ""
    """Level of the demonstrator (expert, medium, weak), with `+0.3` appended for 30 % random actions. By default
    expert, or the first level where there is no expert."""
    demo_levels: tuple[str, ...] = ()
    """Levels of the demonstrators in turn, in place of `demo_level`, for demonstrations of mixed quality; a level may
    stand there several times."""
    demo_every: int = 1
    """Subsampling stride of demonstrations: learners receive every so many-th step, from a random offset."""
    levels: tuple[str, ...] = ("expert", "medium", "weak")
    """Levels whose episodes are compared; with policies of your own, the default is all of them."""
    noise: tuple[float, ...] = (0.0, 0.3)
    """Shares of random actions; each level plays episodes at each share."""
    episodes: int = 8
    """Episodes per level and noise."""
    balance: tuple[int, ...] = ()
    """Episodes per noise for each level, in the order of the levels; overrides `episodes`."""
    pairs: int = 1000
    """Training comparisons; each lane of a run draws its own from them."""
    test_pairs: int = 500
    """Held-out comparisons of episodes that no training comparison uses, labelled by the oracle."""
    clip: int = 0
    """Steps of a compared segment (clip); 0 compares whole trajectories."""
    teacher: TeacherName = "mistake"
    """Synthetic teacher: one of B-Pref's six, or `cyclic`, whose preferences go in a circle. The settings temperature
    to memory override its defaults."""
    label: Literal["return", "regret"] = "return"
    """Score of a segment in all comparisons: its true return, or its regret from the same state (as in CPL; simulated,
    takes minutes)."""
    regret_of: str = ""
    """Level of the policy against which a segment's regret is measured; by default the level that acted, without its
    noise."""
    clip_grid: int = 1
    """Segments start at multiples of this many steps. If `clip` is a multiple too, segments share the simulated values
    of their ends, and `--label regret` takes a fraction of the time."""
    discount: float = 0.99
    """Discount of the regret."""
    query: Literal["uniform", "disagreement", "entropy", "coverage"] = "uniform"
    """Selection of training pairs: uniform, or in rounds by disagreement or mean entropy of a reward ensemble fitted to
    the answers so far, or by distance from earlier pairs. Held-out pairs are always uniform."""
    temperature: float | None = None
    """Temperature of the label noise, in standard deviations of segment returns; 0 is deterministic (noisy: 0.2)."""
    error: float | None = None
    """Probability of a flipped label (mistake: 0.1)."""
    skip: float | None = None
    """Skip a pair unless one return exceeds the pool's mean by this many standard deviations (skip: -0.5)."""
    equal: float | None = None
    """Declare a tie if returns differ by less than this many standard deviations (equal: 0.1)."""
    memory: float | None = None
    """Weight of a step relative to the next one, above 0 up to 1 (myopic: 0.9)."""
    same_group: bool = False
    """Compare only segments of the same group of dynamics, in an environment that has groups (shifted/...)."""
    terminate: bool = True
    """End episodes at a fall. `--no-terminate` sets the environment's `terminate_when_unhealthy` to false."""
    seed: int = 0
    """Seed of all random numbers."""


def make_dataset(
    env: str,
    cfg: DataConfig | None = None,
    policies: dict[str, Path] | None = None,
    out: Path | None = None,
    options: dict[str, Any] | None = None,
    force: bool = True,
) -> Dataset:
    """Generate a dataset of `env` from graded policies {level: SB3 zip}, by default the bundled ones.

    It is written to the folder `out`, if given. `options` are passed to the environment. Policies of your own replace
    the default `levels`. Without `force`, an expert that is no better than random actions is refused. Raises BadInput.
    """
    cfg = cfg or DataConfig()
    _check(cfg)
    allow_module(env)
    spec = spec_of(env, **{**({} if cfg.terminate else {"terminate_when_unhealthy": False}), **(options or {})})
    _check_clip(cfg, spec)
    experts = load_experts(env, spec, policies)
    if policies and cfg.levels == DataConfig.levels:
        cfg = dataclasses.replace(cfg, levels=tuple(policies))
    if not cfg.demo_level:
        cfg = dataclasses.replace(cfg, demo_level="expert" if "expert" in experts else next(iter(experts)))
    expert_returns, random_returns = evaluate_returns(spec, _choose_expert(experts, cfg)), evaluate_returns(spec, None)
    if not force:
        check_expert(expert_returns, random_returns)
    rng = np.random.default_rng([cfg.seed, 2])
    pool, held_out = play_pool(spec, experts, cfg, rng)
    annotator, pairs = _collect_comparisons(spec, experts, cfg, pool, held_out, rng)
    meta: dict[str, Any] = {
        "env": env,
        "options": spec.options,
        "horizon": spec.horizon,
        "config": dataclasses.asdict(cfg),
        "annotator": dataclasses.asdict(annotator),
        "policies": {level: str(path.name) for level, path in (policies or find_bundled_policies(env)).items()},
        "demonstrations": list(range(cfg.demos)),
        "demo_every": cfg.demo_every,
        "held_out": held_out,
        "expert_returns": expert_returns,
        "random_returns": random_returns,
        "versions": versions(),
    }
    dataset = Dataset(meta, pool, pairs)
    return dataset.save(out) if out else dataset


def play_pool(
    spec: EnvSpec, experts: dict[str, Expert], cfg: DataConfig, rng: np.random.Generator
) -> tuple[list[Trajectory], list[int]]:
    """Play demonstrations, then the episodes to compare; return them and the held-out indices.

    The last quarter of the episodes of each level and noise is held out.
    """
    seeds = itertools.count(10_000_000 + 100_000 * cfg.seed)
    pool, held_out = [], []
    demo_levels = cfg.demo_levels or (cfg.demo_level,)
    for i, level in enumerate(demo_levels):
        pool += play_episodes(spec, experts, level, len(range(i, cfg.demos, len(demo_levels))), seeds, rng)
    for level, n in zip(cfg.levels, cfg.balance or [cfg.episodes] * len(cfg.levels), strict=True):
        for noise in cfg.noise:
            name = f"{level}+{noise:g}" if noise else level
            held_out += range(len(pool) + round(0.75 * n), len(pool) + n)
            pool += play_episodes(spec, experts, name, n, seeds, rng)
    return pool, held_out


def _collect_comparisons(
    spec: EnvSpec,
    experts: dict[str, Expert],
    cfg: DataConfig,
    pool: list[Trajectory],
    held_out: list[int],
    rng: np.random.Generator,
) -> tuple[Teacher, pd.DataFrame]:
    """Scale the annotator to the pool; return it with the training comparisons and the oracle's held-out ones."""
    regret = Regret(spec, experts, cfg.discount, cfg.regret_of) if cfg.label == "regret" else None
    training = sorted(set(range(cfg.demos, len(pool))) - set(held_out))
    groups = _find_groups(spec, pool) if cfg.same_group else None
    segment_pool = SegmentPool(pool, training, cfg.clip or spec.horizon, regret, cfg.clip_grid, groups)
    mean, spread = segment_pool.scale(rng)
    annotator = dataclasses.replace(_make_annotator(cfg), mean=mean, spread=spread)
    train = collect_comparisons(segment_pool, cfg.pairs, annotator, "train", rng, cfg.query)
    unseen = dataclasses.replace(segment_pool, episodes=held_out)
    test = collect_comparisons(unseen, cfg.test_pairs, make_teacher("oracle"), "test", rng)
    return annotator, pd.concat([train, test], ignore_index=True)


def _find_groups(spec: EnvSpec, pool: list[Trajectory]) -> list[int]:
    """Return the group of each episode. Raises BadInput if the environment has none."""
    groups = groups_of(spec, [t.seed for t in pool])
    if groups is None:
        raise BadInput(f"--same-group: {spec.id} has no groups; use one of shifted/..., or --no-same-group")
    return groups


def _choose_expert(experts: dict[str, Expert], cfg: DataConfig) -> Expert:
    """Return the policy whose return is score 1: "expert", else the demonstrator. Raises BadInput without either."""
    demonstrator = (cfg.demo_levels or (cfg.demo_level,))[0].partition("+")[0]
    if "expert" not in experts and demonstrator not in experts:
        raise BadInput(f"there is no policy of level {demonstrator!r}; known are {', '.join(experts)}")
    return experts["expert"] if "expert" in experts else experts[demonstrator]


def default_folder(env: str, cfg: DataConfig, root: Path, options: dict[str, Any] | None = None) -> Path:
    """Return the default folder of a dataset, named by environment, config, policies and the environment's options."""
    policies = {level: sha256(read_bytes(path)) for level, path in find_bundled_policies(env).items()}
    named = [RECIPE, dataclasses.asdict(cfg), policies, *([options] if options else [])]
    key = json.dumps(named, sort_keys=True)
    return root / folder_name(env) / sha256(key.encode())[:12]


def _check_clip(cfg: DataConfig, spec: EnvSpec) -> None:
    if cfg.clip > spec.horizon:
        raise BadInput(f"--clip must be at most {spec.horizon}, the steps of an episode of {spec.id}, got {cfg.clip}")


def _check(cfg: DataConfig) -> None:
    least = {"demos": 0, "demo_every": 1, "pairs": 0, "test_pairs": 0, "episodes": 4}
    least |= {"clip": 0, "clip_grid": 1, "seed": 0}
    for name, low in least.items():
        if getattr(cfg, name) < low:
            raise BadInput(f"--{name.replace('_', '-')} {getattr(cfg, name)}: give at least {low}")
    if not cfg.levels or not cfg.noise:
        raise BadInput("--levels and --noise: give at least one of each")
    if not all(0 <= share <= 1 for share in cfg.noise):
        raise BadInput(f"--noise {' '.join(map(str, cfg.noise))}: give shares of random actions, from 0 to 1")
    if cfg.balance and (len(cfg.balance) != len(cfg.levels) or min(cfg.balance) < 1 or max(cfg.balance) < 4):
        raise BadInput(
            f"--balance {' '.join(map(str, cfg.balance))}: give each of the {len(cfg.levels)} levels at least 1 "
            "episode, and one of them at least 4, so that some can be held out"
        )
    _check_annotator(cfg)


def _check_annotator(cfg: DataConfig) -> None:
    asked = _make_annotator(cfg)
    positive = all(x >= 0 for x in (asked.temperature, asked.equal))
    if not (positive and 0 <= asked.error < 0.5 and 0 < asked.memory <= 1) or math.isnan(asked.skip or 0):
        raise BadInput("--error must be in [0, 0.5), --temperature and --equal at least 0, and --memory in (0, 1]")
    if not 0 < cfg.discount < 1:
        raise BadInput(f"--discount {cfg.discount}: give more than 0 and less than 1")
    if cfg.label == "regret" and (asked.memory < 1 or asked.parts > 1):
        raise BadInput("--label regret scores whole segments: --memory must be 1, --teacher neither myopic nor cyclic")


def _make_annotator(cfg: DataConfig) -> Teacher:
    names = ("temperature", "error", "skip", "equal", "memory")
    return make_teacher(cfg.teacher, **{name: getattr(cfg, name) for name in names})
