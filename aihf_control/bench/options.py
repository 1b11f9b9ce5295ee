"""Flags of the bench command."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from aihf_control.core.help import rare

BENCH = Path("results/bench")


@dataclasses.dataclass(frozen=True)
class Options:
    """Grids to run, and where."""

    experiments: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Experiment files, for instance those of experiments/regimes/; their grids run one after the other."""
    list: bool = False
    """Only print the commands that the grid consists of."""
    dry_run: bool = False
    """Only print the cells and how long they will take."""
    only: tuple[str, ...] = ()
    """NAME=VALUE: only cells with this env, method, demos, pairs, swept factor or key. A name may be repeated."""
    env: tuple[str, ...] = rare(())
    """Environments of the experiment whose ids have a module part: confirms that these modules may be imported."""
    workers: int = 0
    """Cells that run at the same time; 0 is one per core, or one on an accelerator."""
    retries: int = rare(3)
    """Number of times that a cell that died is started again; it resumes from its last checkpoint."""
    engine: Literal["local", "ray"] = "local"
    """Run on this machine, or on a Ray cluster (needs `pip install 'aihf_control[ray]'`)."""
    address: str | None = rare(None)
    """HOST:PORT of the Ray cluster; without it RAY_ADDRESS, or else a cluster of this machine alone."""
    cores: float = rare(1.0)
    """Cores that a cell reserves on the Ray cluster."""
    gpu: float = rare(0.0)
    """Share of a GPU that a cell reserves on the Ray cluster."""
    any_code: bool = rare(False)
    """Use finished cells of the same settings even if other code of the package made them."""
    out: Path = BENCH
    """Folder for grids; each gets one named like its file, below `experiments/`."""
