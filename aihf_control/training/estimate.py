"""Estimates of how long a run takes, from a short run of the same method, which is timed once per machine and kept.

The short run does 1 / n of every count of gradient steps and iterations, and its times are multiplied by n. Times are
those of the processor, so other load on the machine does not change them.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from aihf_control import methods
from aihf_control.core.config import jsonable
from aihf_control.core.errors import BadInput
from aihf_control.core.files import cache_folder, read_json, sha256, write_json
from aihf_control.core.progress import listening
from aihf_control.core.provenance import versions
from aihf_control.data.dataset import Dataset
from aihf_control.data.generate import DataConfig
from aihf_control.environments.gym import Envs, EnvSpec
from aihf_control.models.device import processor, synchronize
from aihf_control.models.networks import Policy
from aihf_control.training.run import RunSpec, task_of

SHORTEST = 40  # iterations of the short run
MOST = 100  # largest n
PLAYED = 30  # steps of each environment that are timed
COUNTS = ("steps", "warmup", "hold", "reward_warmup")  # and all settings that end with "updates"
PLAYING = ("comparing clones", "playing segments")  # phases that a short run does not shorten
RECORDING = 1.5  # by how much the policy and the recording of states lengthen a step
TIMINGS = "timings.json"


@dataclasses.dataclass(frozen=True)
class Expected:
    """Seconds of a run on an idle core."""

    start: float
    """Start of the command, and of its workers."""
    first: float
    """Clone, reward and whatever else a method does before its iterations."""
    training: float
    evaluations: float
    dataset: float = 0.0
    """Making the default dataset, if it does not exist."""

    @property
    def total(self) -> float:
        """The seconds of all."""
        return self.start + self.first + self.training + self.evaluations + self.dataset


def load_factor(workers: int) -> float:
    """Return by how much the machine's present load stretches a run: processes that want a core, per core."""
    return max(1.0, (os.getloadavg()[0] + workers) / len(os.sched_getaffinity(0)))


def estimate(
    run_spec: RunSpec, spec: EnvSpec, workers: int, dataset: Callable[[], Dataset], known: bool = False
) -> Expected | None:
    """Return how long a run takes on an idle machine. `dataset` returns data to time it on.

    What was timed before is read from the cache folder. If nothing was, None is returned where only `known` times are
    wanted; otherwise it is timed now, which takes seconds, and kept. None, too, if the method refuses the data.
    """
    seeds = run_spec.seeds[: -(-len(run_spec.seeds) // workers)]
    part = dataclasses.replace(run_spec, seeds=seeds)
    key = _key(part, spec)
    stored = _read_timings().get(key)
    if stored is None and not known:
        stored = _measure(part, dataset, spec)
        if stored is not None:
            _keep(key, stored)
    return Expected(**stored) if stored else None


def dataset_seconds(cfg: DataConfig, spec: EnvSpec) -> float:
    """Return how long it takes to make a dataset: all its episodes at full length."""
    n = cfg.demos + len(cfg.levels) * len(cfg.noise) * cfg.episodes + 40  # 20 of the expert, 20 of random actions
    return RECORDING * n * spec.horizon * seconds_of_a_step(spec)


def _key(part: RunSpec, spec: EnvSpec) -> str:
    about = {**versions(), "processor": processor(), "spec": jsonable(spec.as_dict())}
    settings = {**dataclasses.asdict(part), "seeds": len(part.seeds)}
    return sha256(json.dumps([about, jsonable(settings)], sort_keys=True, default=str).encode())[:16]


def _read_timings() -> dict[str, Any]:
    """Return the kept times; none if there is no cache folder, or the file cannot be read."""
    try:
        timings = read_json(cache_folder() / TIMINGS)
    except (OSError, RuntimeError, BadInput):
        return {}
    fields = {f.name for f in dataclasses.fields(Expected)}
    known = timings if isinstance(timings, dict) else {}
    return {key: x for key, x in known.items() if isinstance(x, dict) and x.keys() == fields and _are_seconds(x)}


def _are_seconds(stored: dict[str, Any]) -> bool:
    return all(isinstance(x, int | float) and 0 <= x < 1e9 for x in stored.values())


def _keep(key: str, stored: dict[str, float]) -> None:
    """Add times to those that are kept. Without a cache folder they are not."""
    try:
        write_json(cache_folder() / TIMINGS, {**_read_timings(), key: stored})
    except (OSError, RuntimeError, BadInput):
        return


# ------------------------------------------------------------------------------------------------------------- timing


def _measure(part: RunSpec, dataset: Callable[[], Dataset], spec: EnvSpec) -> dict[str, float] | None:
    """Time a short run of some lanes; None if the method refuses the data."""
    n = max(1, min(MOST, part.steps // SHORTEST))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        phases, training, policy = _time_short_run(part, dataset(), n)
        each = part_of_episode(policy, spec, part.eval_episodes) * spec.horizon
    except BadInput:
        return None
    finally:
        torch.set_num_threads(threads)
    again = _trials(part.cfg)
    episodes = 2 * part.final_episodes + (part.evaluations - 1) * part.eval_episodes
    expected = Expected(2 * _seconds_of_a_start(), phases + each * again, training, each * episodes)
    return dataclasses.asdict(expected)


def _trials(cfg: Any) -> int:
    """Return the episodes per lane that a method plays to compare policies: two clones, and the best one so far."""
    tilt, best = getattr(cfg, "tilt", None), getattr(cfg, "best", None)
    clones = 2 * tilt.episodes if tilt and tilt.share else 0
    return clones + ((1 + cfg.steps // best.every) * best.episodes if best and best.every else 0)


def _time_short_run(part: RunSpec, dataset: Dataset, n: int) -> tuple[float, float, Policy]:
    """Return the seconds of all phases before the iterations, and of the iterations, of the whole run; and a policy."""
    cfg = shorten(part.cfg, n)
    task, watch = task_of(part, dataset), _Stopwatch(part.device)
    with listening(watch, every=0.0):
        steps = methods.load(part.method).train(task, cfg)
        policy = next(steps).policy
        phases, warmup = watch.scaled(n), getattr(cfg, "warmup", 0)
        watch.clear()
        times = []
        for _ in range(cfg.steps):
            begun = watch.now()
            next(steps)
            times.append(watch.now() - begun)
    held = watch.total("holding the actor")
    played = watch.total("playing segments")
    times = np.array(times)
    before, after = times[: warmup + 1], times[warmup + 1 :]
    usual = float(np.median(before)) * warmup if warmup else 0.0
    rest = after if len(after) else before
    per_step = max(0.0, float(rest.sum()) - played) / len(rest)
    left = max(0, part.steps - getattr(part.cfg, "warmup", 0))
    return phases, n * (usual + held) + per_step * left + played, policy


class _Stopwatch:
    """A listener that adds up how long each phase takes."""

    def __init__(self, device: str):
        self.device = torch.device(device)
        self.clear()

    def clear(self) -> None:
        """Forget what was timed."""
        self.units: dict[str, list[float]] = {}
        self.open: tuple[str, float] | None = None

    def now(self) -> float:
        """Return the time on the processor, or on the clock if another device computes."""
        synchronize(self.device)
        return time.process_time() if self.device.type == "cpu" else time.monotonic()

    def __call__(self, name: str, done: int, total: int) -> None:
        now = self.now()
        if self.open and self.open[0] == name:
            self.units.setdefault(name, []).append(now - self.open[1])
        self.open = (name, now) if done < total else None

    def total(self, name: str) -> float:
        """Return the seconds of a phase; the first unit, which allocates memory, counts as the median one."""
        units = self.units.get(name, [])
        return float(np.median(units) + np.sum(units[1:])) if units else 0.0

    def scaled(self, n: int) -> float:
        """Return n times the seconds of all phases but those that play episodes, which do not grow with n."""
        return n * sum(self.total(name) for name in self.units if name not in PLAYING)


def shorten(cfg: Any, n: int) -> Any:
    """Return a method's config with 1 / n of all its iterations and gradient steps."""
    short: dict[str, Any] = {}
    for f in dataclasses.fields(cfg):
        value = getattr(cfg, f.name)
        if dataclasses.is_dataclass(value):
            short[f.name] = shorten(value, n)
        elif isinstance(value, int) and (f.name in COUNTS or f.name.endswith("updates")):
            short[f.name] = value and max(1, round(value / n))
    try:
        return dataclasses.replace(cfg, **short)
    except BadInput:  # bc, whose clone must keep its number of updates
        return dataclasses.replace(cfg, steps=short["steps"])


def part_of_episode(policy: Policy, spec: EnvSpec, n: int) -> float:
    """Return the seconds of a step of an evaluation with `n` episodes per lane, per episode of a lane."""
    lanes = policy.mean.bias.shape[0]
    obs = torch.zeros(lanes, n, spec.n_obs, device=policy.mean.bias.device)
    begun = time.process_time()
    for _ in range(PLAYED):
        policy.act(obs)
    acting = (time.process_time() - begun) / PLAYED
    return (acting + lanes * n * seconds_of_a_step(spec)) / n


def seconds_of_a_step(spec: EnvSpec) -> float:
    """Return how long a step of an environment takes, with random actions."""
    envs, rng = Envs(spec, 1), np.random.default_rng(0)
    envs.reset(0, 0)
    begun = time.process_time()
    for _ in range(10 * PLAYED):
        _, _, terminated, truncated = envs.step(rng.uniform(-1, 1, (1, spec.n_act)))
        if terminated[0] or truncated[0]:
            envs.reset(0)
    return (time.process_time() - begun) / (10 * PLAYED)


@functools.cache
def _seconds_of_a_start() -> float:
    """Return how long a process of a run takes to start."""
    before = _children()
    subprocess.run([sys.executable, "-c", "import aihf_control.training.workers"], check=True)
    return _children() - before


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def small_dataset_config(demos: int, pairs: int, horizon: int) -> DataConfig:
    """Return settings of a dataset that is made in seconds, of which lanes draw so many demonstrations and pairs."""
    sizes: dict[str, Any] = {"demos": demos, "pairs": pairs, "test_pairs": 1, "episodes": 4, "clip": min(50, horizon)}
    return DataConfig(levels=("expert",), noise=(0.3,), **sizes)
