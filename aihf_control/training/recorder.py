"""Writes the log, the boards and the terminal of a run while it trains."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from aihf_control.core.config import jsonable
from aihf_control.training.display import Display
from aihf_control.training.events import Evaluated, Event, Notice
from aihf_control.training.options import Options
from aihf_control.training.result import Collector
from aihf_control.training.run_folder import append
from aihf_control.training.tensorboard import TensorBoard
from aihf_control.training.wandb import WandB


class Board(Protocol):
    """A log besides log.jsonl."""

    def add(self, rows: list[dict[str, Any]]) -> None: ...

    def close(self) -> None: ...


def boards_of(options: Options, cfg: Any, folder: Path) -> list[Board]:
    """Return the boards that the options name. Raises BadInput if their packages are not installed."""
    boards: list[Board] = [TensorBoard(folder)] if options.tensorboard else []
    if options.wandb:
        config = {"options": jsonable(dataclasses.asdict(options)), "method": jsonable(dataclasses.asdict(cfg))}
        boards.append(WandB(folder, f"{options.env} {options.method}", config))
    return boards


class Recorder:
    """Writes a run's events to its folder, its boards and the terminal."""

    def __init__(self, folder: Path, display: Display, boards: list[Board], write_config: Callable[[], None]):
        self.folder, self.display, self.boards, self.write_config = folder, display, boards, write_config

    def __call__(self, event: Event, collector: Collector) -> None:
        if isinstance(event, Notice):
            print(f"note: {event.message}", file=sys.stderr)
        if isinstance(event, Evaluated):
            if not (self.folder / "config.json").exists():
                self.write_config()
            append(self.folder / "log.jsonl", event.rows)
            for board in self.boards:
                board.add(event.rows)
        self.display.show(event, collector)

    def close(self) -> None:
        """End the boards."""
        for board in self.boards:
            board.close()
