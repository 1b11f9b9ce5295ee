"""Limits of a grid's numbers in words: runs that are missing, diverged, or not made in the same way."""

from __future__ import annotations

import dataclasses
import itertools
import string
from collections.abc import Iterable, Iterator

from aihf_control.report.grid_results import BEGUN, CUT_SHORT, EXCLUDED, FINISHED, TO_DO, GridResults, Run
from aihf_control.report.tables import keys_of

UNFINISHED = {TO_DO: "have not begun", BEGUN: "are not finished", CUT_SHORT: "were cut short"}
Versions = dict[str, dict[str, str]]  # sets of versions by letter


@dataclasses.dataclass(frozen=True)
class Note:
    """A limit of the numbers, and the runs that it is about."""

    text: str
    runs: tuple[str, ...] = ()


def find_versions(grid: GridResults) -> Versions:
    """Return the different sets of versions that runs were made with, by letter: A to Z, AA, AB, ..."""
    found = {_frozen(run.config["versions"]): run.config["versions"] for run in grid.runs if run.config}
    letters = ("".join(x) for n in itertools.count(1) for x in itertools.product(string.ascii_uppercase, repeat=n))
    return dict(zip(letters, found.values(), strict=False))


def _frozen(versions: dict[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset(versions.items())


def find_notes(grid: GridResults, versions: Versions) -> Iterator[Note]:
    """Yield the limits of the numbers: runs that are missing, excluded, diverged, or not made in the same way."""
    missing = [
        f"{sum(run.state == state for run in grid.runs)} {what}"
        for state, what in UNFINISHED.items()
        if any(run.state == state for run in grid.runs)
    ]
    if missing:
        empty = sorted(set(grid.envs) - {run.env for run in grid.runs if run.state == FINISHED})
        none = f" No cell of {_some(empty)} has finished, so it is left out of all scores." if empty else ""
        text = f"Of {len(grid.runs)} cells {', '.join(missing)}; rows that need them are left out.{none}"
        yield Note(text, keys_of([run for run in grid.runs if run.state in (BEGUN, CUT_SHORT)]))
    for run in grid.runs:
        if run.state == EXCLUDED:
            yield Note(f"excluded: cells/{run.key}: {run.reason}; rows that need it are left out.", (run.key,))
    diverged = grid.lanes[grid.lanes["diverged"]]
    if len(diverged):
        text = f"{len(diverged)} of {len(grid.lanes)} runs diverged; they count as a score of 0."
        yield Note(text, tuple(dict.fromkeys(diverged["cell"])))
    done = [run for run in grid.runs if run.summary]
    overvalued = [run for run in done if run.summary and run.summary["overvalued"]]
    if overvalued:
        yield Note("The critics of some runs claim more than any policy can earn.", keys_of(overvalued))
    yield from _mixture_notes(done, versions)


def _mixture_notes(done: list[Run], versions: Versions) -> Iterator[Note]:
    """Yield a note for commits, versions, code and data that are not the same in all runs."""
    commits = {str(run.config["commit"]) for run in done if run.config and run.config.get("commit")}
    if len(commits) > 1:
        yield Note(f"Not all runs are of one commit ({_some(commits)}); the numbers may differ by rounding.")
    if len(versions) > 1:
        names = {name for a in versions.values() for b in versions.values() for name in a if a[name] != b.get(name)}
        yield Note(
            f"The runs were made with {len(versions)} sets of versions, which differ in {_some(names)}; "
            "the numbers may differ by rounding."
        )
    older = [run for run in done if run.code and run.code != _code_of(run)]
    if older:
        text = f"{len(older)} of {len(done)} cells come from other code than the package had when the bench last ran"
        yield Note(f"{text}; CHANGELOG.md lists what changes results.", keys_of(older))
    mixed = {name: values for name, values in _by_code(done).items() if len(values) > 1}
    if mixed:
        yield Note(f"Not all runs of {_some(mixed)} come from the same code; CHANGELOG.md lists what changes results.")
    for name, values in _by_data(done).items():
        if len(values) > 1:
            yield Note(f"The data of {name} is not the same in all its runs ({_some(values)}), so do not compare them.")


def _some(words: Iterable[str], most: int = 8) -> str:
    """List words in order, at most so many."""
    shown = sorted(words)
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")


def _code_of(run: Run) -> str:
    return run.key.partition("-")[2]


def _by_code(runs: list[Run]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for run in runs:
        found.setdefault(run.name, set()).add(_code_of(run))
    return found


def _by_data(runs: list[Run]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for run in runs:
        assert run.config and run.summary
        found.setdefault(str(run.config["dataset"].get("folder")), set()).add(run.summary["dataset"])
    return found
