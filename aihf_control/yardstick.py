"""Our learner beside Stable-Baselines3's on the true reward: same task, same budget, same settings.

    python -m aihf_control.yardstick --env Hopper-v4 --learner ours
    python -m aihf_control.yardstick --env Hopper-v4 --learner sb3
    python -m aihf_control.yardstick --table

Each call adds a csv to results/yardstick; `--table` compares what is there.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import tyro

from aihf_control.environments import EVALUATION_SEED, EnvSpec, rollout, spec_of
from aihf_control.evaluate import greedy_returns
from aihf_control.files import BadInput, at_least_one, exit_code, write_bytes
from aihf_control.machine import one_thread
from aihf_control.sac import SACConfig
from aihf_control.stats import estimate
from aihf_control.truth import TruthConfig, learn

FINAL = 20  # episodes of the last evaluation; the others have 5


@dataclasses.dataclass(frozen=True)
class Options:
    """What is measured."""

    env: str = "Hopper-v4"
    """Gymnasium id."""
    learner: Literal["ours", "sb3"] = "ours"
    """Whose SAC."""
    seeds: int = 5
    """Seeds 0, 1, ...; lanes of ours, one after another of SB3's."""
    steps: int = 50_000
    """Environment steps, each with one update from the 1000th on."""
    width: int = 128
    """Width of the two hidden layers."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Type of our inner products. SB3's are float32."""
    out: Path = Path("results/yardstick")
    """Folder of the csv files."""
    table: bool = False
    """Only compares what is in the folder."""


def main(argv: Sequence[str] | None = None) -> int:
    options = tyro.cli(
        Options, args=argv, prog="python -m aihf_control.yardstick", description=(__doc__ or "").splitlines()[0]
    )
    return exit_code(compare, options.out) if options.table else exit_code(measure, options)


def measure(options: Options) -> None:
    if options.steps % 5 or options.steps < 5:
        raise BadInput(f"--steps {options.steps}: give a multiple of 5, for it is evaluated five times")
    at_least_one({"--seeds": options.seeds, "--width": options.width})
    one_thread()
    spec = spec_of(options.env)
    rows = list((ours if options.learner == "ours" else sb3)(spec, options))
    frame = pd.DataFrame(rows).assign(env=options.env, learner=options.learner)
    path = options.out / f"{options.env.replace('/', '__')}_{options.learner}.csv"
    write_bytes(path, frame.round(1).to_csv(index=False, lineterminator="\n").encode())
    print(f"written: {path}")


def ours(spec: EnvSpec, options: Options) -> Iterator[dict[str, Any]]:
    """SB3's defaults in our learner: automatic entropy weight, no layer normalisation, the actor itself evaluated."""
    sac = SACConfig(hidden=(options.width,) * 2, alpha=(), layer_norm=False, tau=0.005)
    cfg = TruthConfig(options.steps, envs=1, warmup=1000, sac=sac)
    seeds, began = range(options.seeds), time.monotonic()
    for k, learner in learn(spec, seeds, cfg, products=getattr(torch, options.precision)):
        if k % (options.steps // 5) == 0:
            returns = greedy_returns(learner.policy, spec, FINAL if k == options.steps else 5)
            print(k, returns.mean(1).round(), f"{time.monotonic() - began:.0f} s", flush=True)
            for seed in seeds:
                yield from _rows(seed, k, returns[seed], time.monotonic() - began)


def sb3(spec: EnvSpec, options: Options) -> Iterator[dict[str, Any]]:
    import gymnasium as gym
    from stable_baselines3 import SAC

    for seed in range(options.seeds):
        began = time.monotonic()
        kwargs = {"net_arch": [options.width] * 2}
        env = gym.make(spec.id)
        model = SAC("MlpPolicy", env, learning_starts=1000, policy_kwargs=kwargs, seed=seed, device="cpu")
        for k in range(1, 6):
            model.learn(options.steps // 5, reset_num_timesteps=False)
            n = FINAL if k == 5 else 5

            def act(obs: np.ndarray, model=model) -> np.ndarray:
                return spec.from_env(model.predict(obs, deterministic=True)[0])

            episodes = rollout(spec, act, range(EVALUATION_SEED, EVALUATION_SEED + n))
            returns = np.array([t.reward.sum() for t in episodes])
            print(seed, model.num_timesteps, returns.mean().round(), f"{time.monotonic() - began:.0f} s", flush=True)
            yield from _rows(seed, model.num_timesteps, returns, time.monotonic() - began)


def _rows(seed: int, step: int, returns: np.ndarray, seconds: float) -> Iterator[dict[str, Any]]:
    for episode, value in enumerate(returns):
        yield {"seed": seed, "step": step, "episode": episode, "return": value, "seconds": seconds}


COLUMNS = ("seed", "step", "episode", "return", "seconds", "env", "learner")


def compare(folder: Path) -> None:
    """Prints the final returns of all files in the folder, a mean a seed, and writes them to table.md beside them."""
    files = sorted(folder.glob("*_*.csv"))
    if not files:
        raise BadInput(f"{folder} has no measurements; make some with --env and --learner")
    frame = pd.concat([_read(path) for path in files])
    head = ("environment", "learner", "steps", "n", "IQM of returns [95 %]", "of each seed")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for names, rows in frame.groupby(["env", "learner"]):
        lines.append(f"| {' | '.join([*names, *_cells(rows)])} |")  # pyright: ignore[reportGeneralTypeIssues]
    text = "\n".join(lines) + "\n"
    write_bytes(folder / "table.md", text.encode())
    print(text)


def _read(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_csv(path)
        frame["return"] = frame["return"].astype(float)
    except (ValueError, KeyError) as e:
        raise BadInput(f"cannot read {path}: {e}") from e
    if not set(COLUMNS) <= set(frame.columns):
        raise BadInput(f"{path} lacks the columns {', '.join(sorted(set(COLUMNS) - set(frame.columns)))}")
    return frame


def _cells(rows: pd.DataFrame) -> list[str]:
    step = rows["step"].max()
    last = rows.loc[rows["step"] == step].groupby("seed")
    seeds = np.asarray(last["return"].mean(), np.float64)
    each = " ".join(f"{x:.0f}" for x in seeds)
    return [f"{step:,}", str(len(seeds)), str(estimate(seeds)), each]


if __name__ == "__main__":
    sys.exit(main())
