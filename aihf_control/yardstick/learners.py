"""Training of both learners of the yardstick on the true reward, with evaluations at equal intervals."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from aihf_control.core.files import read_json
from aihf_control.environments import watchdog
from aihf_control.environments.gym import EVALUATION_SEED, EnvSpec
from aihf_control.environments.rollout import rollout
from aihf_control.experts.session import SETTINGS, TrainingSession
from aihf_control.experts.true_reward import Learner, TrueRewardConfig, TrueRewardTrainer
from aihf_control.learning.evaluation import greedy_returns
from aihf_control.learning.sac import SACConfig
from aihf_control.training.run_folder import CHECKPOINT
from aihf_control.yardstick.options import Options
from aihf_control.yardstick.table import Rows

EPISODES, FINAL_EPISODES = 5, 20  # per evaluation


class ReturnLog:
    """Rows of returns, with the processor seconds per seed spent on training until then (evaluations not counted)."""

    def __init__(self, seeds: Sequence[int], options: Options):
        self.seeds, self.options = seeds, options
        self.rows: Rows = []
        self.spent, self.since = 0.0, time.process_time()

    def evaluate(self, step: int, returns_of: Callable[[int], np.ndarray]) -> None:
        """Add rows if an evaluation is due; `returns_of(n)` plays n episodes of each seed, (seeds, n)."""
        if step % self.options.every:
            return
        self.spent += time.process_time() - self.since
        returns = returns_of(FINAL_EPISODES if step == self.options.steps else EPISODES)
        seconds = self.spent / len(self.seeds)
        for seed, row in zip(self.seeds, returns, strict=True):
            common = {"seed": seed, "step": step, "seconds": seconds}
            self.rows += [{**common, "episode": k, "return": float(x)} for k, x in enumerate(row)]
        print(f"step {step:,}  returns {returns.mean(1).round()}  {seconds:.0f} s a seed", flush=True)
        self.since = time.process_time()

    def state_dict(self) -> dict[str, Any]:
        """Return the rows and the seconds spent."""
        return {"rows": self.rows, "spent": self.spent + time.process_time() - self.since}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.rows, self.spent, self.since = list(state["rows"]), state["spent"], time.process_time()


def train_ours(spec: EnvSpec, options: Options, done: set[int]) -> Iterator[Rows]:
    """Train our SAC with SB3's defaults on all seeds that are not done, as lanes; yield their rows.

    Automatic entropy weight, no layer normalisation; the actor itself is evaluated, not its average.
    """
    folder, seeds = options.csv.with_suffix(""), [seed for seed in range(options.seeds) if seed not in done]
    _remove_finished(folder, done)
    if not seeds:
        return
    session = _open_session(spec, options, folder, seeds)
    if k := session.restore(print):
        print(f"Resuming at update {k:,}", flush=True)

    def evaluate(step: int, learner: Learner) -> bool:
        session.record.evaluate(step, lambda n: greedy_returns(learner.policy, spec, n))
        return False

    session.run(evaluate)
    yield session.record.rows
    session.close()


def _open_session(spec: EnvSpec, options: Options, folder: Path, seeds: list[int]) -> TrainingSession[ReturnLog]:
    sac = SACConfig(hidden=(options.width,) * 2, alpha=(), layer_norm=False, tau=0.005)
    cfg = TrueRewardConfig(options.steps, envs=1, warmup=1000, sac=sac)
    trainer = TrueRewardTrainer(spec, seeds, cfg, products=getattr(torch, options.precision))
    settings = {**options.about, "seeds": seeds, "steps": options.steps, "evaluations": options.evaluations}
    return TrainingSession(trainer, ReturnLog(seeds, options), folder, settings, options.checkpoint)


def _remove_finished(folder: Path, done: set[int]) -> None:
    """Remove the checkpoints of a training that was killed after its rows were written."""
    path = folder / CHECKPOINT / SETTINGS
    settings = read_json(path) if path.exists() else None
    if isinstance(settings, dict) and set(settings.get("seeds", ())) <= done:
        shutil.rmtree(folder)


class MarkedEnv(gym.Wrapper):
    """An environment whose calls are marked for the watchdog, as `Envs` marks them."""

    def reset(self, **kwargs: Any) -> Any:
        with watchdog.calling():
            return self.env.reset(**kwargs)

    def step(self, action: Any) -> Any:
        with watchdog.calling():
            return self.env.step(action)


def train_sb3(spec: EnvSpec, options: Options, done: set[int]) -> Iterator[Rows]:
    """Train Stable-Baselines3's SAC on each seed that is not done; yield the rows of each."""
    import stable_baselines3

    for seed in range(options.seeds):
        if seed in done:
            continue
        model = stable_baselines3.SAC(
            "MlpPolicy",
            MarkedEnv(gym.make(spec.id)),
            learning_starts=1000,
            policy_kwargs={"net_arch": [options.width] * 2},
            seed=seed,
            device="cpu",
        )
        log = ReturnLog([seed], options)
        for _ in range(options.evaluations):
            model.learn(options.every, reset_num_timesteps=False)
            log.evaluate(model.num_timesteps, lambda n, model=model: _sb3_returns(model, spec, n))
        yield log.rows


def _sb3_returns(model: Any, spec: EnvSpec, n: int) -> np.ndarray:
    """Return the returns of n greedy episodes of a model, (1, n)."""

    def act(obs: np.ndarray) -> np.ndarray:
        return spec.from_env(model.predict(obs, deterministic=True)[0])

    episodes = rollout(spec, act, range(EVALUATION_SEED, EVALUATION_SEED + n))
    return np.array([[t.reward.sum() for t in episodes]])
