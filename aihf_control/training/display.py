"""The terminal view of a run: progress and table."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from aihf_control.core.cli import make_console
from aihf_control.core.statistics import Estimate
from aihf_control.core.text import count
from aihf_control.report.run_files import method_row
from aihf_control.training.estimate import duration
from aihf_control.training.events import Evaluated, Event
from aihf_control.training.result import Collector, Result
from aihf_control.training.run import RunSpec
from aihf_control.training.summary import summarise

Array = np.ndarray


class Display:
    """Prints a run to the terminal: as a context a live line, or without a terminal one line an evaluation."""

    def __init__(self, run_spec: RunSpec):
        self.run_spec = run_spec
        self.console = make_console()
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=12), TextColumn("{task.fields[line]}"))
        self.progress = Progress(*columns, console=self.console, transient=True)
        self.bar = self.progress.add_task(run_spec.method, total=run_spec.steps * len(run_spec.seeds), line="starting")
        self.returns: dict[int, tuple[int, float]] = {}
        self.begun: tuple[float, int] | None = None
        self.shown = -1

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self.progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.progress.stop()

    def show(self, event: Event, collector: Collector) -> None:
        """Update the live line, or print a line when all seeds were evaluated at a step."""
        done = sum(collector.steps.values())
        if self.begun is None and done:
            self.begun = time.monotonic(), done
        if isinstance(event, Evaluated):
            self.returns |= {row["seed"]: (event.step, row["return"]) for row in event.rows}
        latest = f"  return {np.mean([r for _, r in self.returns.values()]):.0f}" if self.returns else ""
        line = f"step {min(collector.steps.values()):,}{latest}{self._pace(done)}"
        self.progress.update(self.bar, completed=done, line=line)
        judged = min((step for step, _ in self.returns.values()), default=-1)
        if not self.console.is_terminal and len(self.returns) == len(self.run_spec.seeds) and judged > self.shown:
            self.shown = judged
            self.console.print(line)

    def _pace(self, done: int) -> str:
        if self.begun is None or done <= self.begun[1]:
            return ""
        pace = (done - self.begun[1]) / max(1e-9, time.monotonic() - self.begun[0])
        left = (self.run_spec.steps * len(self.run_spec.seeds) - done) / max(1e-9, pace)
        return f"  {pace:.0f} steps/s in all  {duration(left)} left"

    def table(self, result: Result, folder: Path) -> None:
        """Print the summary table."""
        s = summarise(result)
        title = f"{s['env']}: {count(s['demos'], 'demonstration')}, {count(s['pairs'], 'comparison')} a seed"
        table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        for name in ("", "return", "score", "n"):
            table.add_column(name, justify="left" if not name else "right", no_wrap=bool(name))
        for row in s["rows"]:
            table.add_row(*(_cell(row.get(k)) for k in ("name", "return", "score")), f"{row['n']:,}")
        self.console.print(table)
        for line in _details(method_row(s)):
            self.console.print(f"  {line}")
        self.console.print()
        self.console.print("IQM over n seeds (expert, demonstrations: mean over n episodes), 95 % intervals.")
        self.console.print("Last 5 means: the mean of each seed's last five evaluations.")
        self.console.print("Score: 0 is random actions, 1 the expert.")
        if s["diverged"]:
            self.console.print(f"[red]seeds that diverged, not in the table: {s['diverged']}[/]")
        if s["overvalued"]:
            seeds = s["overvalued"]
            self.console.print(f"[red]critics of seeds {seeds} predict more than any policy can earn: they diverge[/]")
        self.console.print(f"policy, reward, log and curves: {folder}", soft_wrap=True)


def _cell(x: Any) -> str:
    return x if isinstance(x, str) else str(Estimate(**x)) if x else "-"


def _details(row: dict[str, Any]) -> list[str]:
    """Format what the method's runs used, and how well their reward, if any, fits held-out data."""
    lines = []
    if row.get("env_steps") is not None:
        steps, labels = count(row["env_steps"], "environment step"), count(row["labels"], "label")
        lines.append(f"{'used':<16}  {steps} and {labels} a seed")
    for key in ("pair_accuracy", "rank_correlation"):
        if row.get(key):
            lines.append(f"{key.replace('_', ' '):<16}  {_cell(row[key])} of the reward, on held-out data")
    return lines
