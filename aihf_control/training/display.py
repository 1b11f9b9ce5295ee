"""The terminal view of a run: plan, progress and table."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from aihf_control.core.statistics import Estimate
from aihf_control.data.dataset import Dataset
from aihf_control.environments.gym import spec_of
from aihf_control.models import kernel
from aihf_control.training.estimate import duration, estimate_seconds
from aihf_control.training.result import Collector, Result
from aihf_control.training.run import Evaluated, Event, RunSpec
from aihf_control.training.summary import summary

Array = np.ndarray


class Display:
    """Prints a run to the terminal: as a context a live line, or without a terminal one line an evaluation."""

    def __init__(self, run_spec: RunSpec, dataset: Dataset, workers: int):
        self.run_spec, self.dataset, self.workers = run_spec, dataset, workers
        self.console = Console(highlight=False)
        if not self.console.is_terminal:
            self.console.width = 132
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[line]}"))
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

    def plan(self, where: Path, folder: Path) -> None:
        """Print what the run does, where, and how long it takes."""
        c, p = self.run_spec, self.console.print
        p(f"[bold]{c.method}[/] on {self.dataset.meta['env']}: {len(c.seeds)} seeds, {c.steps:,} iterations each")
        n_demos, n_pairs = (_share(n, there) for n, there in zip((c.demos, c.pairs), self.dataset.sizes, strict=True))
        p(f"  learns from  {n_demos} demonstrations and {n_pairs} comparisons a seed")
        p(f"  dataset      {where} ({self.dataset.digest()})")
        by = f" ({kernel.state(c.products)})" if c.on_cpu else ""
        p(f"  runs on      {c.device}, {self.workers} workers, {c.products} products{by}")
        p(f"  writes to    {folder}")
        meta = self.dataset.meta
        seconds = estimate_seconds(c, spec_of(meta["env"], **meta["options"]), self.workers)
        if seconds:
            p(f"  takes about  {duration(seconds)} of training, and the evaluations")

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
        return f"  {pace:.0f} steps/s over all seeds  {duration(left)} left"

    def table(self, result: Result, folder: Path) -> None:
        """Print the summary table."""
        s = summary(result)
        title = f"{s['env']}: {s['demos']} demonstrations, {s['pairs']} comparisons a seed"
        table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        for name in ("", "return", "score", "n", "env steps", "labels", "pair accuracy", "rank corr."):
            table.add_column(name, justify="left" if not name else "right", no_wrap=True)
        for row in s["rows"]:
            table.add_row(*(_cell(row.get(k)) for k in ("name", "return", "score")), *_details(row))
        self.console.print(table)
        self.console.print("IQM over n seeds (expert, demonstrations: mean over n episodes) with 95 % intervals.")
        self.console.print("Last 5 means: the mean of each seed's last five evaluations.")
        self.console.print(
            "Score: 0 is random, 1 the expert. Accuracy and rank correlation: the reward on held-out data."
        )
        if s["diverged"]:
            self.console.print(f"[red]seeds that diverged, not in the table: {s['diverged']}[/]")
        if s["overvalued"]:
            seeds = s["overvalued"]
            self.console.print(f"[red]critics of seeds {seeds} predict more than any policy can earn: they diverge[/]")
        self.console.print(f"policy, reward, log and curves: {folder}")


def _cell(x: Any) -> str:
    return x if isinstance(x, str) else str(Estimate(**x)) if x else "-"


def _details(row: dict[str, Any]) -> tuple[str, ...]:
    counts = (f"{row[k]:,}" if row.get(k) is not None else "-" for k in ("n", "env_steps", "labels"))
    return (*counts, *(_cell(row.get(k)) for k in ("pair_accuracy", "rank_correlation")))


def _share(n: int, there: int) -> str:
    """Format a number that is drawn of those that there are."""
    return f"{n}" if n == there else f"{n} of {there}"
