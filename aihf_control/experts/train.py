"""Training of graded expert policies on the true reward: a resumable session, then the levels of its snapshots."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import torch

from aihf_control.core.errors import BadInput, above_zero, at_least_one
from aihf_control.core.files import check_writable, read_bytes, sha256
from aihf_control.core.provenance import commit
from aihf_control.environments.gym import EnvSpec, spec_of
from aihf_control.environments.modules import allow_module
from aihf_control.environments.watchdog import DEFAULT_TIMEOUT, StepTimeout
from aihf_control.experts.levels import default_folder, format_command, save_levels
from aihf_control.experts.session import TrainingSession
from aihf_control.experts.snapshots import Snapshots
from aihf_control.experts.true_reward import Learner, TrueRewardConfig, TrueRewardTrainer
from aihf_control.models.device import matmul_precision, use_one_thread
from aihf_control.models.sb3 import read_zip

REPRODUCING = ("env", "seeds", "first_seed", "every", "episodes", "start")  # options in the command of a card


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """Options of `experts train` besides the settings of the learner."""

    env: str = "Hopper-v4"
    """Gymnasium id."""
    out: Path | None = None
    """Folder to write; results/experts/<env> if not given."""
    seeds: int = 3
    """Number of seeds; each is a lane."""
    first_seed: int = 100
    """First seed; the others follow it."""
    episodes: int = 5
    """Greedy episodes per evaluation during training."""
    every: int = 10_000
    """Updates between evaluations."""
    enough: float = float("inf")
    """Return at which training ends, of any lane's evaluation."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of matrix products: float32, bfloat16, or auto (bfloat16 where the hardware multiplies it)."""
    start: Path | None = None
    """SB3 zip of a SAC or TQC policy to start from, instead of a new policy."""
    checkpoint: float = 10.0
    """Minutes between checkpoints."""
    step_timeout: StepTimeout = DEFAULT_TIMEOUT

    @property
    def lanes(self) -> tuple[int, ...]:
        """The seeds."""
        return tuple(range(self.first_seed, self.first_seed + self.seeds))

    @property
    def folder(self) -> Path:
        """The folder to write."""
        return self.out or default_folder(self.env)


def train_experts(options: TrainOptions, cfg: TrueRewardConfig) -> None:
    """Train to the last update, to the return `enough` or to Ctrl-C, and save the levels. Raises BadInput."""
    use_one_thread()
    _check(options, cfg)
    allow_module(options.env)
    spec = spec_of(options.env)
    session = _open_session(spec, options, cfg)
    print(f"{_describe(options, cfg)}; writes to {options.folder}", flush=True)
    if k := session.restore(print):
        print(f"Resuming at update {k:,}", flush=True)
    _run(session, options)
    if not session.record.entries:
        session.close()
        raise BadInput(f"training ended before its first evaluation, at update {options.every}; give a smaller --every")
    given = {name: getattr(options, name) for name in REPRODUCING}
    command = format_command("train", given, cfg, TrueRewardConfig())
    about = f"Trained at commit {commit()}, ended at update {session.trainer.k:,}:\n  {command}"
    save_levels(session.record, spec, options.folder, about)
    session.close()


def _check(options: TrainOptions, cfg: TrueRewardConfig) -> None:
    counts = {"--seeds": options.seeds, "--episodes": options.episodes, "--every": options.every}
    at_least_one({**counts, "--updates": cfg.updates})
    above_zero("--checkpoint", options.checkpoint, "minutes")


def _open_session(spec: EnvSpec, options: TrainOptions, cfg: TrueRewardConfig) -> TrainingSession[Snapshots]:
    products = getattr(torch, matmul_precision(options.precision, "cpu"))
    start = read_zip(options.start, spec) if options.start else None
    trainer = TrueRewardTrainer(spec, options.lanes, cfg, start, products=products)
    snapshots = Snapshots(spec, options.lanes, options.every, options.episodes)
    settings: dict[str, Any] = {
        "env": options.env,
        "lanes": options.lanes,
        "episodes": options.episodes,
        "every": options.every,
        "start": options.start and sha256(read_bytes(options.start)),
        "precision": str(products),
        **dataclasses.asdict(cfg),
    }
    check_writable(options.folder)
    return TrainingSession(trainer, snapshots, options.folder, settings, options.checkpoint)


def _describe(options: TrainOptions, cfg: TrueRewardConfig) -> str:
    return f"{cfg.learner} on the true reward of {options.env}: seeds {options.lanes}, {cfg.updates:,} updates"


def _run(session: TrainingSession[Snapshots], options: TrainOptions) -> None:
    """Train to the last update, to the return `enough`, or to Ctrl-C; evaluate every `every` updates."""

    def evaluate(k: int, learner: Learner) -> bool:
        if k % options.every:
            return False
        returns = session.record.evaluate(k, learner)
        print(f"update {k:,}  returns {' '.join(f'{r:.0f}' for r in returns)}", flush=True)
        return bool(returns.max() >= options.enough)

    try:
        session.run(evaluate)
    except KeyboardInterrupt:
        print("Interrupted: saving the best snapshots so far")
