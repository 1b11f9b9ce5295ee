"""Worker process of the speed command: serves a learner turn by turn, or measures another case once."""

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
from aihf_control.environments.watchdog import DEFAULT_TIMEOUT, watch
from aihf_control.experts.true_reward import TrueRewardConfig, TrueRewardTrainer
from aihf_control.learning.bc import CloneConfig, clone
from aihf_control.learning.replay import Buffer
from aihf_control.learning.reward_model import RewardConfig, RewardModel
from aihf_control.learning.sac import SACConfig
from aihf_control.learning.task import Task
from aihf_control.methods import aihf
from aihf_control.models import kernel, kernel_library
from aihf_control.models.cuda_graphs import WARMUP_RUNS, GraphRunner
from aihf_control.models.device import synchronize, use_one_thread
from aihf_control.models.functional import product
from aihf_control.speed import baselines
from aihf_control.speed.baselines import BATCH, STEPS, measure_rate
from aihf_control.training.checkpoint import Checkpoints

OURS, BY_TORCH = "ours", "ours by torch"  # by torch: without kernel.c
PRODUCTS = "products alone"  # the matrix products of an update and nothing else
Row = dict[str, Any]  # a case (what is measured), later with its figures
Tasks = dict[str, Callable[[int], Any]]  # a task is repeated n times by task(n)


def run_worker(case: Row, step_timeout: float = DEFAULT_TIMEOUT) -> None:
    """Serve a learner (`baselines.serve`), or measure another case once and print its figures as JSON.

    Figures are rates per second and the peak memory in MiB. The process is pinned to one core, and ends with code 124
    if one call of the environment takes longer than `step_timeout` seconds (0: no limit).
    """
    use_one_thread()
    allow_module(case["env"])
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with watch(case["env"], step_timeout):
        _measure(case)


def _measure(case: Row) -> None:
    learners = {OURS: _make_ours, BY_TORCH: _make_ours, PRODUCTS: _make_products}
    if case["learner"] in learners:
        baselines.serve(learners[case["learner"]](case), max(1, 20 // case["lanes"]) if case["device"] == "cpu" else 20)
        return
    measures = {
        "rollout": _measure_rollout,
        "evaluate_policy": _measure_evaluate_policy,
        "checkpoint": _measure_checkpoint,
        "reward": _measure_reward,
    }
    print(json.dumps(measures[case["learner"]](case) | {"memory": baselines.peak_memory()}))


def _make_ours(case: Row) -> Tasks:
    """Return the tasks of our learner with SB3's defaults.

    No layer normalisation, automatic entropy weight, one step per update.
    """
    spec, n = spec_of(case["env"]), case["lanes"]
    sac = SACConfig(hidden=(case["width"],) * 2, alpha=(), layer_norm=False, tau=0.005)
    cfg = TrueRewardConfig(updates=1_000_000, envs=1, warmup=STEPS, sac=sac, capacity=100_000)
    device = torch.device(case["device"])
    trainer = TrueRewardTrainer(spec, range(n), cfg, device=device, products=getattr(torch, case["precision"]))
    for _ in range(STEPS):
        trainer.step(random=True)
    for _ in range(WARMUP_RUNS + 1):  # then a GPU replays its recorded graph
        trainer.update()

    def step_and_update() -> None:
        trainer.step()
        trainer.update()

    calls = {"updates": trainer.update, "loop": step_and_update, "steps": trainer.step}
    return {name: _repeat(call, device) for name, call in calls.items()}


def _make_products(case: Row) -> Tasks:
    """Return the task of only the matrix products of an update, by the same kernel as in the learner."""
    spec, width, n, device = spec_of(case["env"]), case["width"], case["lanes"], torch.device(case["device"])
    rounded = case["precision"] == "bfloat16"
    dtype = getattr(torch, case["precision"])
    if device.type == "cpu" and kernel_library.library(dtype):
        sizes = [
            (nets * times, a, b, c)
            for nets, times, products in _list_products(spec.n_obs, spec.n_act, width, n)
            for (a, b, c), _ in products
        ]
        return {"updates": _repeat(lambda: [kernel.multiply(*size, products=dtype) for size in sizes], device)}
    pairs = [
        (torch.randn(nets, a, b, device=device), torch.randn(nets, b, c, device=device), rounded and inner)
        for nets, times, sizes in _list_products(spec.n_obs, spec.n_act, width, n)
        for (a, b, c), inner in sizes
        for _ in range(times)
    ]

    def multiply_all(*_: torch.Tensor) -> dict[str, torch.Tensor]:
        for a, b, r in pairs:
            product(a, b, r)
        return {}

    runner, nothing = GraphRunner(), torch.zeros(1, device=device)
    return {"updates": _repeat(lambda: runner(multiply_all, nothing), device)}


def _list_products(o: int, a: int, w: int, n: int) -> Iterator[tuple[int, int, list]]:
    """Yield (networks, repetitions, [((rows, inner, columns), whether a hidden layer)]) of each pass of an update.

    `o`, `a`, `w` are the numbers of observations, actions and hidden units, `n` the number of lanes.
    """

    def forward(i: int, out: int) -> list:
        return [((BATCH, i, w), False), ((BATCH, w, w), True), ((BATCH, w, out), False)]

    def to_input(out: int) -> list:
        return [((BATCH, out, w), False), ((BATCH, w, w), True)]

    def to_weights(i: int, out: int) -> list:
        return [((i, BATCH, w), False), ((w, BATCH, w), True), ((w, BATCH, out), False)]

    yield n, 2, forward(o, 2 * a)  # the actor at both observations
    yield n, 1, to_input(2 * a) + to_weights(o, 2 * a)
    yield 2 * n, 3, forward(o + a, 1)  # the targets, the critics, and the critics at the actor's action
    yield 2 * n, 2, to_input(1)
    yield 2 * n, 1, to_weights(o + a, 1)
    yield 2 * n, 1, [((BATCH, w, o + a), False)]  # the actor's gradient through the critics' input


def _measure_rollout(case: Row) -> Row:
    """Measure steps per second of 32 simultaneous episodes with a network."""
    policy, spec = _make_model(case), spec_of(case["env"])

    def act(obs: np.ndarray) -> np.ndarray:
        return spec.from_env(policy.predict(obs, deterministic=True)[0])

    return {"steps": _measure_steps(lambda: sum(len(t) for t in rollout(spec, act, range(32))), case["seconds"])}


def _measure_evaluate_policy(case: Row) -> Row:
    """Measure steps per second of Stable-Baselines3's `evaluate_policy` with the same network."""
    from stable_baselines3.common.evaluation import evaluate_policy

    policy = _make_model(case)

    def episodes() -> int:
        _, lengths = evaluate_policy(policy, policy.get_env(), 32, return_episode_rewards=True)
        return int(np.sum(lengths))

    return {"steps": _measure_steps(episodes, case["seconds"])}


def _measure_checkpoint(case: Row) -> Row:
    """Measure a checkpoint of AIHF: seconds, MiB of a state, bytes of the replay buffer per lane and step."""
    with tempfile.TemporaryDirectory() as folder:
        small = DataConfig(demos=1, episodes=4, noise=(0.0,), pairs=10, test_pairs=4)
        task = Task(make_dataset(case["env"], small), range(case["lanes"]), 1, 10, case["device"])
        cfg = aihf.Config(warmup=10, clone=CloneConfig(updates=1))
        for _, _ in zip(range(200), aihf.train(task, cfg), strict=False):
            pass
        checkpoints, seconds = Checkpoints(Path(folder)), []
        for k in range(10):
            began = time.perf_counter()
            checkpoints.save(200 + k, [], task)
            seconds.append(time.perf_counter() - began)
        state = max(path.stat().st_size for path in Path(folder).glob("*.state"))
        row = (Path(folder) / "buffer.rows").stat().st_size / 199 / case["lanes"]
    return {"save": float(np.median(seconds)), "state": state / 2**20, "row": row}


def _measure_reward(case: Row) -> Row:
    """Measure reward steps of AIHF per second, and the seconds to make the default dataset.

    On segments of 50 steps (clips) and on whole trajectories.
    """
    began = time.perf_counter()
    clips = make_dataset(case["env"], DataConfig(clip=50))
    row: Row = {"make": time.perf_counter() - began}
    for name, dataset in (("clips", clips), ("whole", make_dataset(case["env"], DataConfig(clip=0)))):
        task = Task(dataset, range(case["lanes"]), 1, 200, case["device"])
        r, buffer = RewardModel(task, RewardConfig()), Buffer(task.dims, 1000)
        policy = clone(task, CloneConfig(updates=1), (case["width"],) * 2)
        for _ in range(STEPS):
            task.collect(policy, into=buffer)

        def step(r: RewardModel = r, buffer: Buffer = buffer) -> None:
            gap, penalty = r.demo_term(buffer)
            r.descend(gap + r.pair_term() + penalty)

        row[name] = measure_rate(_repeat(step, task.dims.device), case["seconds"])
    return row


def _make_model(case: Row) -> Any:
    """Return an untrained SAC model of Stable-Baselines3."""
    import gymnasium as gym
    from stable_baselines3 import SAC

    kwargs = {"net_arch": [case["width"]] * 2}
    return SAC("MlpPolicy", gym.make(case["env"]), policy_kwargs=kwargs, buffer_size=1000, seed=0, device="cpu")


def _measure_steps(play: Callable[[], int], seconds: float) -> float:
    """Return steps per second, where `play()` plays episodes and returns their number of steps."""
    counted: list[int] = []
    rate = measure_rate(lambda n: counted.extend(play() for _ in range(n)), seconds, 1)
    return rate * float(np.mean(counted))


def _repeat(call: Callable[[], Any], device: torch.device) -> Callable[[int], None]:
    """Return a function that repeats a call n times and waits until the device is done."""

    def repeat(n: int) -> None:
        for _ in range(n):
            call()
        synchronize(device)

    return repeat
