"""Our learner beside Stable-Baselines3's on the true reward: same task, same budget, same settings.

    python -m aihf_control.yardstick --env Hopper-v4 --learner ours
    python -m aihf_control.yardstick --env Hopper-v4 --learner sb3
    python -m aihf_control.yardstick --table

Each measurement is a csv in results/yardstick; `--table` compares what is there. After a kill or SIGTERM the
same command resumes: ours from its last checkpoint, SB3's from its last whole seed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import tyro

from aihf_control.core.cli import exit_code
from aihf_control.core.errors import BadInput, at_least_one
from aihf_control.core.files import check_writable, lock, read_json, write_bytes
from aihf_control.core.provenance import commit, versions
from aihf_control.environments.cards import folder_name
from aihf_control.environments.gym import EVALUATION_SEED, EnvSpec, spec_of
from aihf_control.environments.modules import allow_module
from aihf_control.environments.rollout import rollout
from aihf_control.experts.session import TrainingSession
from aihf_control.experts.true_reward import Learner, TrueRewardConfig, TrueRewardTrainer
from aihf_control.learning.evaluation import greedy_returns
from aihf_control.learning.sac import SACConfig
from aihf_control.models.device import use_one_thread
from aihf_control.training.run_folder import CHECKPOINT
from aihf_control.yardstick.table import Rows, compare, read

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
    steps: int = 100_000
    """Environment steps, each with one update from the 1000th on."""
    evaluations: int = 20
    """How often it is evaluated on the way."""
    width: int = 128
    """Width of the two hidden layers."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Type of our inner products. SB3's are float32."""
    checkpoint: float = 3.0
    """Minutes between states of ours from which it can go on."""
    out: Path = Path("results/yardstick")
    """Folder of the csv files."""
    table: bool = False
    """Only compares what is in the folder."""
    reach: float = 0.8
    """Share of the bundled expert's return to which the table tells the time."""

    @property
    def csv(self) -> Path:
        what = "" if self.learner == "sb3" else f"-{self.precision}"
        return self.out / f"{folder_name(self.env)}_{self.learner}{what}.csv"

    @property
    def about(self) -> dict[str, Any]:
        """The columns that are the same in every row."""
        precision = "float32" if self.learner == "sb3" else self.precision
        return {"env": self.env, "learner": self.learner, "precision": precision, "width": self.width}


def main(argv: Sequence[str] | None = None) -> int:
    options = tyro.cli(
        Options, args=argv, prog="python -m aihf_control.yardstick", description=(__doc__ or "").splitlines()[0]
    )
    try:
        return exit_code(compare, options.out, options.reach) if options.table else exit_code(measure, options)
    except KeyboardInterrupt:
        print("broken off; the same command goes on from the last state that was written", file=sys.stderr)
        return 130


def measure(options: Options) -> None:
    """Makes the measurement's csv. Raises BadInput where one of other settings is in its place."""
    at_least_one({f"--{name}": getattr(options, name) for name in ("seeds", "steps", "evaluations", "width")})
    if options.steps % options.evaluations:
        raise BadInput(f"--steps {options.steps}: give a multiple of --evaluations, {options.evaluations}")
    if not options.checkpoint > 0:
        raise BadInput(f"--checkpoint {options.checkpoint}: give minutes above 0")
    allow_module(options.env)
    spec = spec_of(options.env)
    _there(options)  # says now what is in the way
    check_writable(options.out)
    use_one_thread()
    with _alone(options):
        there, about = _there(options), options.about | _made_with()
        for new in (_ours if options.learner == "ours" else _sb3)(spec, options, {row["seed"] for row in there}):
            there += [row | about for row in new]
            frame = pd.DataFrame(there).round(1)
            write_bytes(options.csv, frame.to_csv(index=False, lineterminator="\n").encode())
    print(f"{options.csv}: {len({row['seed'] for row in there})} seeds")


def _made_with() -> dict[str, str]:
    """The columns that say with what the rows of this call are measured; a later one may add seeds with another."""
    return {"commit": commit()} | {name: versions()[name] for name in ("torch", "stable_baselines3", "mujoco")}


@contextlib.contextmanager
def _alone(options: Options) -> Iterator[None]:
    """While it lasts, no other measurement writes the same csv. Raises BadInput where one does."""
    path = options.csv.with_suffix(".lock")
    with lock(path, f"{options.csv} is being measured; wait for it or give another --out"):
        try:
            yield
        finally:
            path.unlink()


def _there(options: Options) -> Rows:
    """The rows of the seeds that were measured before."""
    if not options.csv.exists():
        return []
    frame, every = read(options.csv), options.steps // options.evaluations
    asked = set(range(every, options.steps + 1, every))
    widths = {int(x) for x in frame["width"]}
    if widths != {options.width} or any(set(at["step"]) != asked for _, at in frame.groupby("seed")):
        raise BadInput(
            f"{options.csv} holds {frame['step'].max()} steps at width {', '.join(map(str, widths))}, "
            f"evaluated at {frame['step'].nunique()} of them; remove it or give another --out"
        )
    return frame.to_dict("records")  # pyright: ignore[reportReturnType]


# ----------------------------------------------------------------------------------------------------------- learners


class Book:
    """Rows of returns, and the processor seconds a seed that the training took until then, without evaluations."""

    def __init__(self, seeds: Sequence[int], options: Options):
        self.seeds, self.options = seeds, options
        self.rows: Rows = []
        self.spent, self.since = 0.0, time.process_time()

    def note(self, step: int, returns_of: Callable[[int], np.ndarray]) -> bool:
        """Evaluates where it is due: `returns_of(n)` gives n returns of each seed, (seeds, n). Never enough."""
        every = self.options.steps // self.options.evaluations
        if step % every == 0:
            self.spent += time.process_time() - self.since
            returns, seconds = returns_of(FINAL if step == self.options.steps else 5), self.spent / len(self.seeds)
            for seed, row in zip(self.seeds, returns, strict=True):
                of = {"seed": seed, "step": step, "seconds": seconds}
                self.rows += [{**of, "episode": k, "return": float(x)} for k, x in enumerate(row)]
            print(f"step {step:,}  returns {returns.mean(1).round()}  {seconds:.0f} s a seed", flush=True)
            self.since = time.process_time()
        return False

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "spent": self.spent + time.process_time() - self.since}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows, self.spent, self.since = list(state["rows"]), state["spent"], time.process_time()


def _ours(spec: EnvSpec, options: Options, done: set[int]) -> Iterator[Rows]:
    """SB3's defaults in our learner: automatic entropy weight, no layer normalisation, the actor itself evaluated."""
    folder, seeds = options.csv.with_suffix(""), [seed for seed in range(options.seeds) if seed not in done]
    _forget(folder, done)
    if not seeds:
        return
    sac = SACConfig(hidden=(options.width,) * 2, alpha=(), layer_norm=False, tau=0.005)
    cfg = TrueRewardConfig(options.steps, envs=1, warmup=1000, sac=sac)
    pupil, book = TrueRewardTrainer(spec, seeds, cfg, products=getattr(torch, options.precision)), Book(seeds, options)
    settings = {**options.about, "seeds": seeds, "steps": options.steps, "evaluations": options.evaluations}
    training = TrainingSession(pupil, book, folder, settings, options.checkpoint)
    if k := training.restore(print):
        print(f"going on at update {k:,}", flush=True)

    def look(step: int, learner: Learner) -> bool:
        return book.note(step, lambda n: greedy_returns(learner.policy, spec, n))

    training.run(look)
    yield book.rows
    training.close()


def _forget(folder: Path, done: set[int]) -> None:
    """Removes the state of a training whose seeds are all in the csv: it was killed before it could."""
    path = folder / CHECKPOINT / "begun.json"
    begun = read_json(path) if path.exists() else None
    if isinstance(begun, dict) and set(begun.get("seeds", ())) <= done:
        shutil.rmtree(folder)


def _sb3(spec: EnvSpec, options: Options, done: set[int]) -> Iterator[Rows]:
    import gymnasium as gym
    import stable_baselines3

    for seed in range(options.seeds):
        if seed in done:
            continue
        kwargs = {"net_arch": [options.width] * 2}
        env = gym.make(spec.id)
        model = stable_baselines3.SAC(
            "MlpPolicy", env, learning_starts=1000, policy_kwargs=kwargs, seed=seed, device="cpu"
        )

        def returns_of(n: int, model: stable_baselines3.SAC = model) -> np.ndarray:
            def act(obs: np.ndarray) -> np.ndarray:
                return spec.from_env(model.predict(obs, deterministic=True)[0])

            episodes = rollout(spec, act, range(EVALUATION_SEED, EVALUATION_SEED + n))
            return np.array([[t.reward.sum() for t in episodes]])

        book = Book([seed], options)
        for _ in range(options.evaluations):
            model.learn(options.steps // options.evaluations, reset_num_timesteps=False)
            book.note(model.num_timesteps, returns_of)
        yield book.rows


if __name__ == "__main__":
    sys.exit(main())
