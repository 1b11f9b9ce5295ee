"""The terminal view of a run: progress and table."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from aihf_control.core.cli import print_table
from aihf_control.core.live import make_bar
from aihf_control.core.statistics import Estimate
from aihf_control.core.text import count, duration
from aihf_control.report.run_files import method_row
from aihf_control.training.events import Evaluated, Event, Phase
from aihf_control.training.pace import EVALUATIONS, Pace
from aihf_control.training.result import Collector, Result
from aihf_control.training.run import RunSpec
from aihf_control.training.summary import summarise

Array = np.ndarray


class Display:
    """Prints a run to the terminal: as a context a live line; without a terminal a line a phase and an evaluation."""

    def __init__(self, run_spec: RunSpec, estimate: float | None = None):
        """`estimate` is how many seconds the run is expected to take."""
        self.run_spec, self.pace = run_spec, Pace(run_spec, estimate)
        self.bar = make_bar()
        self.console = self.bar.console
        self.task = self.bar.add_task(run_spec.method, total=1.0, line="starting")
        self.returns: dict[int, tuple[int, float]] = {}
        self.shown, self.phases = -1, set()

    def __enter__(self) -> Display:
        self.bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.bar.stop()

    def show(self, event: Event, collector: Collector) -> None:
        """Update the live line, or print a line when a phase begins or all seeds were evaluated at a step."""
        self.pace.observe(event)
        if isinstance(event, Evaluated):
            self.returns |= {row["seed"]: (event.step, row["return"]) for row in event.rows}
        self.bar.update(self.task, completed=self._share(collector), line=self._line())
        if not self.console.is_terminal:
            self._print_line(event)

    def _share(self, collector: Collector) -> float:
        """Return the share of the run's time that has passed, or of its steps if the time is not known."""
        left = self.pace.left()
        if left is None:
            return sum(collector.steps.values()) / (self.run_spec.steps * len(self.run_spec.seeds))
        elapsed = time.monotonic() - self.pace.begun
        return elapsed / (elapsed + left)

    def _line(self) -> str:
        latest = f"  return {np.mean([r for _, r in self.returns.values()]):.0f}" if self.returns else ""
        left = self.pace.left()
        return f"{self.pace.doing()}{latest}" + (f"  {duration(left)} left" if left is not None else "")

    def _print_line(self, event: Event) -> None:
        if isinstance(event, Phase) and event.name not in (*self.phases, *EVALUATIONS):
            self.phases.add(event.name)
            self.console.print(f"{event.name} ({event.total:,})")
        judged = min((step for step, _ in self.returns.values()), default=-1)
        if len(self.returns) == len(self.run_spec.seeds) and judged > self.shown:
            self.shown = judged
            mean, left = np.mean([r for _, r in self.returns.values()]), self.pace.left()
            time_left = f"  {duration(left)} left" if left is not None else ""
            self.console.print(f"step {judged:,}  return {mean:.0f}{time_left}")

    def table(self, result: Result, folder: Path) -> None:
        """Print the summary table."""
        s = summarise(result)
        data = f"{count(s['demos'], 'demonstration')}, {count(s['pairs'], 'comparison')} a seed"
        self.console.print(f"\n{s['env']}: {data}", style="bold")
        rows = [[*(_cell(row.get(k)) for k in ("name", "return", "score")), f"{row['n']:,}"] for row in s["rows"]]
        print_table(self.console, ("", "return", "score", "n"), rows)
        for line in _details(method_row(s)):
            self.console.print(f"  {line}")
        self.console.print()
        self.console.print("IQM over n seeds (expert, demonstrations: mean over n episodes), 95 % intervals.")
        self.console.print("Last 5 means: the mean of each seed's last five evaluations.")
        self.console.print("Score: 0 is random actions, 1 the expert.")
        if s["diverged"]:
            self.console.print(f"seeds that diverged, not in the table: {s['diverged']}", style="red")
        if s["overvalued"]:
            seeds = s["overvalued"]
            line = f"critics of seeds {seeds} predict more than any policy can earn: they diverge"
            self.console.print(line, style="red")
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
