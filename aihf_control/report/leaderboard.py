"""Leaderboard: the finished methods of many grids and runs, grouped by experts and data, as a page, csv and Markdown.

Only what the same experts score and the same data teach can be compared, so a group has its own ranking.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from aihf_control.core.errors import BadInput
from aihf_control.core.files import write_bytes
from aihf_control.core.statistics import Estimate, aggregate, iqm_of_all
from aihf_control.core.text import count
from aihf_control.report.check import check_folder
from aihf_control.report.formats import cell_text, escape_markdown, format_csv
from aihf_control.report.grid_results import FINISHED, GridResults, Run, Setting, numbers, rng
from aihf_control.report.load import load_grid, load_runs
from aihf_control.report.page import template
from aihf_control.report.plotting import setting_text
from aihf_control.report.runs import find_grids_and_runs
from aihf_control.report.tables import Row, Table

Place = tuple[tuple[str, float, float, str], ...]  # environment, returns of random actions and the expert, dataset
COLUMNS = ("method", "score", "environments", "n", "labels", "env steps", "commit", "command", "results")
ABOUT = (
    "Score: the interquartile mean of the last policies over all environments and seeds, 0 is random actions and 1 the "
    "expert, with a 95 % bootstrap interval. Rows are compared within a group only: a group has the same experts, by "
    "whose returns its scores are measured, and the same data. The bundled experts have become better over time, so "
    "scores of different groups differ in meaning. A name with a suffix, such as rlhf-loose, is a method with other "
    "settings, which the experiment file of the row has."
)
OUTSIDE = (
    "To add a row, put a folder with finished runs (config.json, log.jsonl and summary.json of each) below results/, "
    "check it with `python -m aihf_control.report --check FOLDER`, and make these files again."
)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A method with its score on some environments."""

    row: Row
    place: Place
    data: tuple[int, int]
    """Demonstrations and comparisons of a seed."""

    @property
    def score(self) -> float:
        score = self.row.cells["score"]
        assert isinstance(score, Estimate)
        return score.value


@dataclasses.dataclass(frozen=True)
class Group:
    """Entries that can be compared, best first, and the environments, experts and data that they share."""

    title: str
    experts: str
    place: Place
    table: Table


def write_leaderboard(folders: Sequence[Path], out: Path) -> list[Path]:
    """Check the runs below some folders and write page.html, leaderboard.csv and README.md; return their paths.

    Raises BadLines with every number that does not agree with its log, or BadInput if nothing has finished; nothing is
    written then.
    """
    for folder in folders:
        check_folder(folder)
    entries = [entry for folder in folders for entry in find_entries(folder)]
    if not entries:
        raise BadInput(f"no method has finished below {' '.join(map(str, folders))}")
    groups = group_entries(entries)
    command = f"python -m aihf_control.report {' '.join(map(str, folders))} --leaderboard {out}"
    page = template("leaderboard.html").render(groups=groups, about=ABOUT, outside=OUTSIDE, command=command)
    texts = {
        "page.html": page,
        "leaderboard.csv": format_csv(_whole_table(groups)),
        "README.md": format_page(groups, command),
    }
    for name, text in texts.items():
        write_bytes(out / name, text.encode())
    return [out / name for name in texts]


# ------------------------------------------------------------------------------------------------------------- entries


def find_entries(folder: Path) -> Iterator[Entry]:
    """Yield an entry for each method of each grid below a folder, and of the runs there that belong to no grid."""
    grids, runs = find_grids_and_runs(folder)
    for path in grids:
        grid = load_grid(path)
        yield from _entries_of(grid.with_results(), f"python -m aihf_control.bench experiments/{grid.name}.toml")
    if runs:
        yield from _entries_of(load_runs(folder, runs), None)


def _entries_of(grid: GridResults, command: str | None) -> Iterator[Entry]:
    for setting in grid.settings:
        for method in grid.methods:
            runs = [run for run in grid.select(method, setting) if run.state == FINISHED]
            if grid.scores(method, setting) is not None:
                yield _make_entry(grid, method, setting, runs, command or _command_of(runs))


def _make_entry(grid: GridResults, method: str, setting: Setting, runs: list[Run], command: str) -> Entry:
    scores, lanes = grid.scores(method, setting), grid.lanes_of(runs)
    assert scores is not None
    commits = dict.fromkeys(str(run.config["commit"]) for run in runs if run.config and run.config.get("commit"))
    cells: dict[str, Any] = {
        "method": f"{method}{setting_text(setting)}",
        "score": aggregate(scores, iqm_of_all, rng()),
        "environments": len(runs),
        "n": len(scores),
        "labels": int(numbers(lanes, "labels").max()),
        "env steps": int(numbers(lanes, "env_steps").max()),
        "commit": " ".join(commits) or "-",
        "command": command,
        "results": str(grid.folder),
    }
    data = {(_number(run, "demos"), _number(run, "pairs")) for run in runs}
    return Entry(Row(cells, tuple(run.key for run in runs)), tuple(sorted(map(_place_of, runs))), max(data))


def _place_of(run: Run) -> tuple[str, float, float, str]:
    assert run.summary
    return run.env, run.summary["random_return"], run.summary["expert_return"], run.summary["dataset"]


def _number(run: Run, name: str) -> int:
    value = run.config["cell"].get(name) if run.config else None
    return value if isinstance(value, int) else 0


def _command_of(runs: Iterable[Run]) -> str:
    """Return the command of runs that belong to no grid; other settings than these are in their config.json."""
    options = [run.config["options"] for run in runs if run.config]
    flags = ("env", "method", "seeds", "first_seed", "demos", "pairs")
    lines = (" ".join(f"--{n.replace('_', '-')} {o[n]}" for n in flags if o.get(n) is not None) for o in options)
    return "; ".join(f"python -m aihf_control.run {line}" for line in lines)


# -------------------------------------------------------------------------------------------------------------- groups


def group_entries(entries: Iterable[Entry]) -> list[Group]:
    """Group entries by experts and data, largest groups first; the same cells count once."""
    found: dict[tuple[Place, tuple[int, int]], dict[tuple[str, ...], Entry]] = {}
    for entry in entries:
        found.setdefault((entry.place, entry.data), {}).setdefault(entry.row.runs, entry)
    largest = sorted(found.items(), key=lambda item: (-len(item[0][0]), -len(item[1])))
    return [_make_group(place, data, list(own.values())) for (place, data), own in largest]


def _make_group(place: Place, data: tuple[int, int], entries: list[Entry]) -> Group:
    name = hash_of([place, data])
    envs = ", ".join(env for env, *_ in place)
    title = f"{envs}: {count(data[0], 'demonstration')}, {count(data[1], 'comparison')} (data {name[:4]})"
    rows = [entry.row for entry in sorted(entries, key=lambda entry: -entry.score)]
    return Group(title, hash_of(x[:3] for x in place), place, Table(f"data-{name}", title, "", rows))


def hash_of(parts: Iterable[Any]) -> str:
    """Return a short hash of what the entries of a group share."""
    return hashlib.sha256(repr(list(parts)).encode()).hexdigest()[:8]


def _whole_table(groups: Sequence[Group]) -> Table:
    """Return one table of all groups, with columns for what a group shares."""
    rows = []
    for group in groups:
        shared = {
            "experts": group.experts,
            "data": " ".join(dataset for *_, dataset in group.place),
            "environment names": " ".join(env for env, *_ in group.place),
        }
        rows += [Row({**shared, **row.cells}, row.runs) for row in group.table.rows]
    return Table("leaderboard", "Leaderboard", "", rows)


def format_page(groups: Sequence[Group], command: str) -> str:
    """Format the leaderboard as Markdown."""
    lines = ["# Leaderboard", "", ABOUT, "", OUTSIDE, "", f"Made by `{command}`; the same with sorting: page.html.", ""]
    for group in groups:
        experts = "; ".join(f"{env} {expert:.0f}, random {random:.0f}" for env, random, expert, _ in group.place)
        lines += [
            f"## {escape_markdown(group.title)}",
            "",
            f"Experts `{group.experts}`: {escape_markdown(experts)}.",
            "",
        ]
        lines += [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
        for row in group.table.rows:
            lines.append(f"| {' | '.join(escape_markdown(cell_text(row, name)) for name in COLUMNS)} |")
        lines.append("")
    return "\n".join(lines)
