"""Makes datasets: rollouts of graded policies, demonstrations, and comparisons by an annotator.

python -m aihf_control.data make --env Hopper-v4 --out my_data
python -m aihf_control.data show my_data
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from aihf_control.annotator import Annotator, teacher
from aihf_control.cards import card_of
from aihf_control.comparisons import Material, compare
from aihf_control.data import Trajectory
from aihf_control.dataset import Dataset
from aihf_control.environments import EVALUATION_SEED, EnvSpec, rollout, spec_of
from aihf_control.experts import Expert, read_zip
from aihf_control.files import BadInput, read_bytes, sha256

Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What a dataset is made of."""

    demos: int = 10
    """Demonstrations to put in the pool; each lane of a run draws its own from them."""
    demo_level: str = "expert"
    """Who demonstrates: a bundled level (expert, medium, weak), `+0.3` appended for 30 % random actions."""
    levels: tuple[str, ...] = ("expert", "medium", "weak")
    """Whose episodes are compared."""
    noise: tuple[float, ...] = (0.0, 0.3)
    """Shares of random actions with which each level acts."""
    episodes: int = 8
    """Episodes of each level at each noise."""
    pairs: int = 1000
    """Comparisons to learn from; each lane of a run draws its own from them."""
    test_pairs: int = 500
    """Comparisons held out, between clips of episodes that no other comparison touches, labelled without error."""
    clip: int = 0
    """Steps of a compared clip; 0 compares whole trajectories (what is better was measured: `results/README.md`)."""
    teacher: Literal["oracle", "noisy", "mistake", "skip", "myopic", "equal"] = "noisy"
    """Who compares: one of B-Pref's six teachers. The next five settings are its own unless they are given."""
    temperature: float | None = None
    """By how much it doubts, in units of the pool's spread of clip returns; 0 never (noisy: 0.2)."""
    error: float | None = None
    """Probability that it names the wrong one (mistake: 0.1)."""
    skip: float | None = None
    """Spreads above the pool's worst clip that one of a pair must reach to be compared at all (skip: 0.1)."""
    equal: float | None = None
    """Spreads by which two clips must differ not to be a tie (equal: 0.1)."""
    memory: float | None = None
    """What a step counts beside the next one, from 0 to 1 (myopic: 0.9)."""
    terminate: bool = True
    """Whether a fall ends the episode. `--no-terminate` makes environments that offer it go on."""
    seed: int = 0
    """Seed of everything that is drawn."""


def make_dataset(
    env: str, cfg: DataConfig | None = None, policies: dict[str, Path] | None = None, out: Path | None = None
) -> Dataset:
    """A dataset of `env` from graded policies: {level: SB3 zip}, by default those bundled with the package.

    Written to the folder `out`, if given. Raises BadInput.
    """
    cfg = cfg or DataConfig()
    _check(cfg)
    spec = spec_of(env, **({} if cfg.terminate else {"terminate_when_unhealthy": False}))
    experts = _experts(env, spec, policies)
    seeds = itertools.count(10_000_000 + 100_000 * cfg.seed)
    rng = np.random.default_rng([cfg.seed, 2])

    demos = _episodes(spec, experts, cfg.demo_level, cfg.demos, seeds, rng)
    names = [f"{level}+{noise:g}" if noise else level for level in cfg.levels for noise in cfg.noise]
    compared = [t for name in names for t in _episodes(spec, experts, name, cfg.episodes, seeds, rng)]
    held_out = [len(demos) + i for i in range(len(compared)) if i % cfg.episodes >= round(0.75 * cfg.episodes)]
    training = [i for i in range(len(demos), len(demos) + len(compared)) if i not in set(held_out)]
    pool = demos + compared

    length = cfg.clip or spec.horizon
    material = Material(pool, training, length)
    spread, floor = material.scale(rng)
    annotator = dataclasses.replace(_teacher(cfg), spread=spread, floor=floor)
    pairs = [
        compare(material, cfg.pairs, annotator, "train", rng),
        compare(dataclasses.replace(material, episodes=held_out), cfg.test_pairs, teacher("oracle"), "test", rng),
    ]
    meta: dict[str, Any] = {
        "env": env,
        "options": spec.options,
        "horizon": spec.horizon,
        "config": dataclasses.asdict(cfg),
        "annotator": dataclasses.asdict(annotator),
        "policies": {level: str(path.name) for level, path in (policies or _bundled(env)).items()},
        "demonstrations": list(range(len(demos))),
        "held_out": held_out,
        "expert_returns": _returns(spec, experts.get("expert", experts[cfg.demo_level.partition("+")[0]])),
        "random_returns": _returns(spec, None),
        "versions": versions(),
    }
    dataset = Dataset(meta, pool, pd.concat(pairs, ignore_index=True))
    return dataset.save(out) if out else dataset


def default_folder(env: str, cfg: DataConfig, root: Path) -> Path:
    """Where a dataset of this environment and config lies if nobody says where: named by what determines it."""
    policies = {level: sha256(read_bytes(path)) for level, path in _bundled(env).items()}
    key = json.dumps([dataclasses.asdict(cfg), policies], sort_keys=True)
    return root / env.replace("/", "__") / sha256(key.encode())[:12]


def _returns(spec: EnvSpec, expert: Expert | None, n: int = 20) -> list[float]:
    """True returns of greedy episodes of an expert, or of random actions, from the seeds of every evaluation."""
    rng = np.random.default_rng(0)

    def act(obs: Array) -> Array:
        if expert is None:
            return rng.uniform(-1, 1, (len(obs), spec.n_act)).astype(np.float32)
        return expert.act(torch.as_tensor(obs)).numpy()

    return [float(t.reward.sum()) for t in rollout(spec, act, [EVALUATION_SEED + i for i in range(n)])]


def versions() -> dict[str, str]:
    """What the numbers were made with."""
    import importlib.metadata
    import platform

    names = ("aihf_control", "torch", "numpy", "gymnasium", "mujoco", "stable_baselines3")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _check(cfg: DataConfig) -> None:
    for name, low in (("demos", 0), ("pairs", 0), ("test_pairs", 0), ("episodes", 4), ("clip", 0), ("seed", 0)):
        if getattr(cfg, name) < low:
            raise BadInput(f"--{name.replace('_', '-')} {getattr(cfg, name)}: give at least {low}")
    if not cfg.levels or not cfg.noise:
        raise BadInput("--levels and --noise: give at least one of each")
    if not all(0 <= share <= 1 for share in cfg.noise):
        raise BadInput(f"--noise {' '.join(map(str, cfg.noise))}: give shares of random actions, from 0 to 1")
    asked = _teacher(cfg)
    positive = all(x >= 0 for x in (asked.temperature, asked.skip, asked.equal))
    if not (positive and 0 <= asked.error < 0.5 and 0 < asked.memory <= 1):
        raise BadInput(
            "--error must be in [0, 0.5), --temperature, --skip and --equal at least 0, and --memory in (0, 1]"
        )


def _teacher(cfg: DataConfig) -> Annotator:
    dials = ("temperature", "error", "skip", "equal", "memory")
    return teacher(cfg.teacher, **{dial: getattr(cfg, dial) for dial in dials})


def _bundled(env: str) -> dict[str, Path]:
    card = card_of(env)
    return card.policies() if card else {}


def _experts(env: str, spec: EnvSpec, policies: dict[str, Path] | None) -> dict[str, Expert]:
    paths = _bundled(env) if policies is None else policies
    if not paths:
        raise BadInput(
            f"there is no bundled policy for {env}; train one with `python -m aihf_control.experts train --env {env}` "
            "or give your own with --policy expert=FILE.zip"
        )
    return {level: read_zip(path, spec) for level, path in paths.items()}


def _episodes(spec: EnvSpec, experts: dict[str, Expert], name: str, n: int, seeds, rng) -> list[Trajectory]:
    level, _, noise = name.partition("+")
    if level not in experts:
        raise BadInput(f"there is no policy of level {level!r}; known are {', '.join(experts)}")
    try:
        share = float(noise or 0)
    except ValueError:
        raise BadInput(f"level {name!r}: write it as LEVEL or LEVEL+SHARE, for instance expert+0.3") from None
    if not n:
        return []
    act = noisy(experts[level], spec, share, rng)
    return rollout(spec, act, [next(seeds) for _ in range(n)], name, state=True)


def noisy(expert: Expert, spec: EnvSpec, share: float, rng: np.random.Generator) -> Callable[[Array], Array]:
    """Acts greedily as the expert does, but with probability `share` uniformly at random."""

    def act(obs: Array) -> Array:
        a = expert.act(torch.as_tensor(obs)).numpy()
        random = rng.random((len(obs), 1)) < share
        return np.where(random, rng.uniform(-1, 1, a.shape), a).astype(np.float32)

    return act
