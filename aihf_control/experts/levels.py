"""Graded policies of a training: their files, the model card's numbers, and the command that reproduces them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from aihf_control.core.config import flags
from aihf_control.core.files import write_bytes
from aihf_control.core.statistics import estimate, mean
from aihf_control.data.pool import evaluate_returns
from aihf_control.environments.cards import folder_name
from aihf_control.environments.gym import EnvSpec
from aihf_control.experts.snapshots import Snapshot, Snapshots
from aihf_control.learning.evaluation import expert_returns
from aihf_control.models.expert import Expert
from aihf_control.models.sb3_writer import write_zip

SHARES = {"medium": 0.6, "weak": 0.3}  # of the way from random actions to the expert
SELECTION_SEED, SELECTION_EPISODES = 30_000, 20  # levels are selected on other episodes than they are evaluated on
CARD_EPISODES = 50


def default_folder(env: str) -> Path:
    """Return the folder that levels of an environment are written to by default."""
    return Path("results/experts") / folder_name(env)


def save_levels(snapshots: Snapshots, spec: EnvSpec, folder: Path, about: str = "") -> None:
    """Write a zip per level, training.csv, and card.toml, which begins with the comment lines `about`."""

    def play(policy: Expert) -> np.ndarray:
        return expert_returns(policy, spec, SELECTION_EPISODES, SELECTION_SEED)

    random = random_returns(spec, CARD_EPISODES)
    levels = snapshots.select_levels(SHARES, float(random.mean()), play)
    lines = [f"# {line}" for line in about.splitlines()]
    lines += [f"random_return = {random.mean():.1f}  # {format_spread(random)}"]
    lines += [_save_level(level, snapshot, spec, folder) for level, snapshot in levels.items()]
    write_bytes(folder / "card.toml", ("\n".join(lines) + "\n").encode())
    csv = snapshots.to_frame().round(1).to_csv(index=False, lineterminator="\n")
    write_bytes(folder / "training.csv", csv.encode())
    print(f"policies, card.toml and training.csv: {folder}")


def _save_level(level: str, snapshot: Snapshot, spec: EnvSpec, folder: Path) -> str:
    """Write the zip of a level and print its return; return its line of card.toml."""
    write_zip(folder / f"{level}.zip", snapshot.policy, spec)
    returns = expert_returns(snapshot.policy, spec, CARD_EPISODES)
    details = f"seed {snapshot.seed}, update {snapshot.step}, {format_spread(returns)}"
    print(f"{level}: {returns.mean():.0f}, {details}")
    return f"{level}_return = {returns.mean():.1f}  # {details}"


def format_spread(returns: np.ndarray) -> str:
    """Format standard deviation, 95 % interval of the mean, and number of returns (n,)."""
    about = estimate(returns, mean)
    return f"std {returns.std():.1f}, 95 % [{about.low:.0f}, {about.high:.0f}], n {about.n}"


def random_returns(spec: EnvSpec, n: int) -> np.ndarray:
    """Return the true returns of n episodes of uniformly random actions, (n,)."""
    return np.array(evaluate_returns(spec, None, n))


def format_command(verb: str, options: dict[str, Any], config: Any, default: Any) -> str:
    """Format the command that reproduces a training: all `options` but None, and the changed fields of `config`."""
    words = [
        word
        for name, value in options.items()
        if value is not None
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    return " ".join([f"python -m aihf_control.experts {verb}", *words, *flags(config, default)])
