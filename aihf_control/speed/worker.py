"""What a process of the speed command measures: the learners answer turn by turn, the rest of the work is done once."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aihf_control.data.generate import DataConfig, make_dataset
from aihf_control.environments.gym import spec_of
from aihf_control.environments.modules import allow_module
from aihf_control.environments.rollout import rollout
from aihf_control.experts.true_reward import TrueRewardConfig, TrueRewardTrainer
from aihf_control.learning.bc import CloneConfig, clone
from aihf_control.learning.replay import Buffer
from aihf_control.learning.reward_model import RewardConfig, RewardModel
from aihf_control.learning.sac import SACConfig
from aihf_control.learning.task import Task
from aihf_control.methods import aihf
from aihf_control.models import kernel
from aihf_control.models.cuda_graphs import WARMUP_RUNS, GraphRunner
from aihf_control.models.device import synchronize, use_one_thread
from aihf_control.models.functional import product
from aihf_control.speed import baselines as rivals
from aihf_control.speed.baselines import BATCH, STEPS, timed
from aihf_control.training.checkpoint import Checkpoints

OURS, BY_TORCH, FLOOR = "ours", "ours by torch", "products alone"  # by torch: without kernel.c
Row = dict[str, Any]
Works = dict[str, Callable[[int], Any]]


def turn(what: Row) -> None:
    """Serves a learner (`rivals.serve`), or measures another work once and prints it as JSON: rates a second, and the
    peak memory in MiB."""
    use_one_thread()
    allow_module(what["env"])
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    learners = {OURS: _ours, BY_TORCH: _ours, FLOOR: _floor}
    if what["learner"] in learners:
        rivals.serve(learners[what["learner"]](what), max(1, 20 // what["lanes"]) if what["device"] == "cpu" else 20)
        return
    works = {"rollout": _rollout, "evaluate_policy": _evaluate_policy, "checkpoint": _checkpoint, "reward": _reward}
    print(json.dumps(works[what["learner"]](what) | {"memory": rivals.peak_memory()}))


def _ours(what: Row) -> Works:
    """SB3's defaults in our learner: no layer normalisation, automatic entropy weight, a step an update."""
    spec, n = spec_of(what["env"]), what["lanes"]
    sac = SACConfig(hidden=(what["width"],) * 2, alpha=(), layer_norm=False, tau=0.005)
    cfg = TrueRewardConfig(updates=1_000_000, envs=1, warmup=STEPS, sac=sac, capacity=100_000)
    device = torch.device(what["device"])
    pupil = TrueRewardTrainer(spec, range(n), cfg, device=device, products=getattr(torch, what["precision"]))
    for _ in range(STEPS):
        pupil.step(random=True)
    for _ in range(WARMUP_RUNS + 1):  # until a GPU has its recording
        pupil.update()

    def both() -> None:
        pupil.step()
        pupil.update()

    works = {"updates": pupil.update, "loop": both, "steps": pupil.step}
    return {name: _times(work, device) for name, work in works.items()}


def _floor(what: Row) -> Works:
    """The matrix products of one update and nothing else, by what multiplies in the learner."""
    spec, width, n, device = spec_of(what["env"]), what["width"], what["lanes"], torch.device(what["device"])
    rounded = what["precision"] == "bfloat16"
    dtype = getattr(torch, what["precision"])
    if device.type == "cpu" and kernel.library(dtype):
        sizes = [
            (nets * times, a, b, c)
            for nets, times, of_pass in _products_of_an_update(spec.n_obs, spec.n_act, width, n)
            for (a, b, c), _ in of_pass
        ]
        return {"updates": _times(lambda: [kernel.multiply(*size, products=dtype) for size in sizes], device)}
    pairs = [
        (torch.randn(nets, a, b, device=device), torch.randn(nets, b, c, device=device), rounded and inner)
        for nets, times, sizes in _products_of_an_update(spec.n_obs, spec.n_act, width, n)
        for (a, b, c), inner in sizes
        for _ in range(times)
    ]

    def all_of_them(*_: torch.Tensor) -> dict[str, torch.Tensor]:
        for a, b, r in pairs:
            product(a, b, r)
        return {}

    replayed, nothing = GraphRunner(), torch.zeros(1, device=device)
    return {"updates": _times(lambda: replayed(all_of_them, nothing), device)}


def _products_of_an_update(o: int, a: int, w: int, n: int) -> Iterator[tuple[int, int, list]]:
    """(networks, how often, [((rows, inner, columns), whether an inner layer)]) of the passes of one update."""

    def forward(i: int, out: int) -> list:
        return [((BATCH, i, w), False), ((BATCH, w, w), True), ((BATCH, w, out), False)]

    def to_input(out: int) -> list:
        return [((BATCH, out, w), False), ((BATCH, w, w), True)]

    def to_weights(i: int, out: int) -> list:
        return [((i, BATCH, w), False), ((w, BATCH, w), True), ((w, BATCH, out), False)]

    yield n, 2, forward(o, 2 * a)  # the actor at the next and at this observation
    yield n, 1, to_input(2 * a) + to_weights(o, 2 * a)
    yield 2 * n, 3, forward(o + a, 1)  # the targets, the critics, and the critics at the actor's action
    yield 2 * n, 2, to_input(1)
    yield 2 * n, 1, to_weights(o + a, 1)
    yield 2 * n, 1, [((BATCH, w, o + a), False)]  # the actor's gradient through the critics' input


def _rollout(what: Row) -> Row:
    """Steps a second of 32 episodes at once, acting with a network."""
    policy, spec = _model(what), spec_of(what["env"])

    def act(obs: np.ndarray) -> np.ndarray:
        return spec.from_env(policy.predict(obs, deterministic=True)[0])

    return {"steps": _steps_a_second(lambda: sum(len(t) for t in rollout(spec, act, range(32))), what["seconds"])}


def _evaluate_policy(what: Row) -> Row:
    """Steps a second of Stable-Baselines3's evaluation loop with the same network."""
    from stable_baselines3.common.evaluation import evaluate_policy

    policy = _model(what)

    def episodes() -> int:
        _, lengths = evaluate_policy(policy, policy.get_env(), 32, return_episode_rewards=True)
        return int(np.sum(lengths))

    return {"steps": _steps_a_second(episodes, what["seconds"])}


def _checkpoint(what: Row) -> Row:
    """What it takes to save AIHF's state: seconds, MiB of a state, bytes of the replay a lane and step."""
    with tempfile.TemporaryDirectory() as there:
        small = DataConfig(demos=1, episodes=4, noise=(0.0,), pairs=10, test_pairs=4)
        task = Task(make_dataset(what["env"], small), range(what["lanes"]), 1, 10, what["device"])
        cfg = aihf.Config(warmup=10, clone=CloneConfig(updates=1))
        for _, _ in zip(range(200), aihf.train(task, cfg), strict=False):
            pass
        kept, seconds = Checkpoints(Path(there)), []
        for k in range(10):
            began = time.perf_counter()
            kept.save(200 + k, [], task)
            seconds.append(time.perf_counter() - began)
        state = max(path.stat().st_size for path in Path(there).glob("*.state"))
        row = (Path(there) / "buffer.rows").stat().st_size / 199 / what["lanes"]
    return {"save": float(np.median(seconds)), "state": state / 2**20, "row": row}


def _reward(what: Row) -> Row:
    """Reward steps of AIHF a second: on clips of 50, on whole trajectories; and seconds to make the default dataset."""
    began = time.perf_counter()
    clips = make_dataset(what["env"], DataConfig(clip=50))
    row: Row = {"make": time.perf_counter() - began}
    for name, dataset in (("clips", clips), ("whole", make_dataset(what["env"], DataConfig(clip=0)))):
        task = Task(dataset, range(what["lanes"]), 1, 200, what["device"])
        r, buffer = RewardModel(task, RewardConfig()), Buffer(task.dims, 1000)
        policy = clone(task, CloneConfig(updates=1), (what["width"],) * 2)
        for _ in range(STEPS):
            task.collect(policy, into=buffer)

        def step(r: RewardModel = r, buffer: Buffer = buffer) -> None:
            gap, penalty = r.demo_term(buffer)
            r.descend(gap + r.pair_term() + penalty)

        row[name] = timed(_times(step, task.dims.device), what["seconds"])
    return row


def _model(what: Row) -> Any:
    import gymnasium as gym
    from stable_baselines3 import SAC

    kwargs = {"net_arch": [what["width"]] * 2}
    return SAC("MlpPolicy", gym.make(what["env"]), policy_kwargs=kwargs, buffer_size=1000, seed=0, device="cpu")


def _steps_a_second(episodes: Callable[[], int], seconds: float) -> float:
    counted: list[int] = []
    rate = timed(lambda n: counted.extend(episodes() for _ in range(n)), seconds, 1)
    return rate * float(np.mean(counted))


def _times(work: Callable[[], Any], device: torch.device) -> Callable[[int], None]:
    """Does it n times, to the end."""

    def repeat(n: int) -> None:
        for _ in range(n):
            work()
        synchronize(device)

    return repeat
