"""Makes datasets: rollouts of graded policies, demonstrations, and comparisons by an annotator.

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
from aihf_control.data.labelling.comparisons import compare
from aihf_control.data.labelling.regret import Regret
from aihf_control.data.labelling.segments import SegmentPool
from aihf_control.data.labelling.teachers import Annotator, teacher
from aihf_control.data.pool import bundled, episodes_of, experts_of, returns_of
from aihf_control.environments.cards import folder_name
from aihf_control.environments.gym import EnvSpec, spec_of
from aihf_control.environments.modules import allow_module
from aihf_control.models.sb3 import Expert

RECIPE = 2  # of a dataset: goes up when the same config comes to make another one, or to tell other things of it


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What a dataset is made of."""

    demos: int = 10
    """Demonstrations to put in the pool; each lane of a run draws its own from them."""
    demo_level: str = "expert"
    """Who demonstrates: a bundled level (expert, medium, weak), `+0.3` appended for 30 % random actions."""
    demo_every: int = 1
    """Learners get every so many-th step of a demonstration, from a random one of the first on."""
    levels: tuple[str, ...] = ("expert", "medium", "weak")
    """Whose episodes are compared."""
    noise: tuple[float, ...] = (0.0, 0.3)
    """Shares of random actions with which each level acts."""
    episodes: int = 8
    """Episodes of each level at each noise."""
    balance: tuple[int, ...] = ()
    """Episodes at each noise for each of the levels, in their order, in place of the same number for all."""
    pairs: int = 1000
    """Comparisons to learn from; each lane of a run draws its own from them."""
    test_pairs: int = 500
    """Comparisons held out, between clips of episodes that no other comparison touches, labelled without error."""
    clip: int = 50
    """Steps of a compared clip; 0 compares whole trajectories."""
    teacher: Literal["oracle", "noisy", "mistake", "skip", "myopic", "equal"] = "noisy"
    """Who compares: one of B-Pref's six teachers. The next five settings are its own unless they are given."""
    label: Literal["return", "regret"] = "return"
    """Compared are clips by their true return, or by how little they fall short of what the expert would have got from
    where they begin (as CPL does; it is played out, and takes minutes). Held-out pairs as well."""
    discount: float = 0.99
    """Discount of the regret."""
    query: Literal["uniform", "disagreement", "entropy", "coverage"] = "uniform"
    """Which pairs are compared: any, or in rounds those on which an ensemble of rewards, convert to the answers so far,
    disagrees or doubts most, or those least like any before. Held-out pairs are always any."""
    temperature: float | None = None
    """By how much it doubts, in units of the pool's spread of clip returns; 0 never (noisy: 0.2)."""
    error: float | None = None
    """Probability that it names the wrong one (mistake: 0.1)."""
    skip: float | None = None
    """Spreads above the pool's mean that one of a pair must reach to be compared at all (skip: -0.5)."""
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
    allow_module(env)
    spec = spec_of(env, **({} if cfg.terminate else {"terminate_when_unhealthy": False}))
    experts = experts_of(env, spec, policies)
    rng = np.random.default_rng([cfg.seed, 2])
    pool, held_out = pool_of(spec, experts, cfg, rng)
    annotator, pairs = _compared(spec, experts, cfg, pool, held_out, rng)
    meta: dict[str, Any] = {
        "env": env,
        "options": spec.options,
        "horizon": spec.horizon,
        "config": dataclasses.asdict(cfg),
        "annotator": dataclasses.asdict(annotator),
        "policies": {level: str(path.name) for level, path in (policies or bundled(env)).items()},
        "demonstrations": list(range(cfg.demos)),
        "demo_every": cfg.demo_every,
        "held_out": held_out,
        "expert_returns": returns_of(spec, _best(experts, cfg)),
        "random_returns": returns_of(spec, None),
        "versions": versions(),
    }
    dataset = Dataset(meta, pool, pairs)
    return dataset.save(out) if out else dataset


def pool_of(
    spec: EnvSpec, experts: dict[str, Expert], cfg: DataConfig, rng: np.random.Generator
) -> tuple[list[Trajectory], list[int]]:
    """Demonstrations, then the episodes to compare; and which of these, the last quarter of each kind, are held out."""
    seeds = itertools.count(10_000_000 + 100_000 * cfg.seed)
    pool, held_out = episodes_of(spec, experts, cfg.demo_level, cfg.demos, seeds, rng), []
    for level, n in zip(cfg.levels, cfg.balance or [cfg.episodes] * len(cfg.levels), strict=True):
        for noise in cfg.noise:
            name = f"{level}+{noise:g}" if noise else level
            held_out += range(len(pool) + round(0.75 * n), len(pool) + n)
            pool += episodes_of(spec, experts, name, n, seeds, rng)
    return pool, held_out


def _compared(
    spec: EnvSpec,
    experts: dict[str, Expert],
    cfg: DataConfig,
    pool: list[Trajectory],
    held_out: list[int],
    rng: np.random.Generator,
) -> tuple[Annotator, pd.DataFrame]:
    """The annotator in units of the pool, and its comparisons to learn from; then, without error, the held-out ones."""
    regret = Regret(spec, _best(experts, cfg), cfg.discount) if cfg.label == "regret" else None
    training = sorted(set(range(cfg.demos, len(pool))) - set(held_out))
    material = SegmentPool(pool, training, cfg.clip or spec.horizon, regret)
    mean, spread = material.scale(rng)
    annotator = dataclasses.replace(_teacher(cfg), mean=mean, spread=spread)
    train = compare(material, cfg.pairs, annotator, "train", rng, cfg.query)
    unseen = dataclasses.replace(material, episodes=held_out)
    test = compare(unseen, cfg.test_pairs, teacher("oracle"), "test", rng)
    return annotator, pd.concat([train, test], ignore_index=True)


def _best(experts: dict[str, Expert], cfg: DataConfig) -> Expert:
    return experts.get("expert", experts[cfg.demo_level.partition("+")[0]])


def default_folder(env: str, cfg: DataConfig, root: Path) -> Path:
    """Where a dataset of this environment and config lies if nobody says where: named by what determines it."""
    policies = {level: sha256(read_bytes(path)) for level, path in bundled(env).items()}
    key = json.dumps([RECIPE, dataclasses.asdict(cfg), policies], sort_keys=True)
    return root / folder_name(env) / sha256(key.encode())[:12]


def _check(cfg: DataConfig) -> None:
    least = {"demos": 0, "demo_every": 1, "pairs": 0, "test_pairs": 0, "episodes": 4, "clip": 0, "seed": 0}
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
    _check_teacher(cfg)


def _check_teacher(cfg: DataConfig) -> None:
    asked = _teacher(cfg)
    positive = all(x >= 0 for x in (asked.temperature, asked.equal))
    if not (positive and 0 <= asked.error < 0.5 and 0 < asked.memory <= 1) or math.isnan(asked.skip or 0):
        raise BadInput("--error must be in [0, 0.5), --temperature and --equal at least 0, and --memory in (0, 1]")
    if not 0 < cfg.discount < 1:
        raise BadInput(f"--discount {cfg.discount}: give more than 0 and less than 1")
    if cfg.label == "regret" and asked.memory < 1:
        raise BadInput("--label regret is of a clip as a whole; a teacher that forgets its beginning cannot give it")


def _teacher(cfg: DataConfig) -> Annotator:
    dials = ("temperature", "error", "skip", "equal", "memory")
    return teacher(cfg.teacher, **{dial: getattr(cfg, dial) for dial in dials})
