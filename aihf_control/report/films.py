"""Films in the folders of runs, which `python -m aihf_control.play` makes, for the report page."""

from __future__ import annotations

import base64
import dataclasses
from pathlib import Path

from aihf_control.core.files import read_bytes
from aihf_control.report.grid_results import FINISHED, GridResults, Run
from aihf_control.report.plotting import setting_text

RANKS = ("best", "middle", "worst")  # of the seeds of a run, by the return of their last policies
MOST_BYTES = 12 * 2**20  # of all films inside one page; the page links to the others


@dataclasses.dataclass(frozen=True)
class Film:
    """A film of one seed of a run."""

    text: str
    source: str
    """Data of the film as a link, or its place relative to the page."""
    inside: bool
    """Whether the page contains it."""
    run: str


def film_path(run: Path, rank: str) -> Path:
    """Return the place of a film of a run."""
    return run / "films" / f"{rank}.mp4"


def find_films(grid: GridResults) -> list[Film]:
    """Return the films of the finished runs of a grid."""
    found, left = [], MOST_BYTES
    for run in (run for run in grid.runs if run.state == FINISHED):
        for rank in RANKS:
            path = film_path(grid.folder / "cells" / run.key, rank)
            if path.is_file():
                size = path.stat().st_size
                found.append(_film(run, rank, path, inside=size <= left))
                left -= size if size <= left else 0
    return found


def _film(run: Run, rank: str, path: Path, inside: bool) -> Film:
    text = f"{run.name} on {run.env}{setting_text(run.swept)}, {rank} seed"
    if not inside:
        return Film(text, f"../cells/{run.key}/films/{rank}.mp4", False, run.key)
    return Film(text, f"data:video/mp4;base64,{base64.b64encode(read_bytes(path)).decode()}", True, run.key)
