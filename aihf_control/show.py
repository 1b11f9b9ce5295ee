"""What a person sees of a run: the plan, the progress, the table, the curves."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from aihf_control import kernel
from aihf_control.cell import Cell, Evaluated, Event
from aihf_control.dataset import Dataset
from aihf_control.environments import EnvSpec, spec_of
from aihf_control.files import write_bytes
from aihf_control.lanes import Dims
from aihf_control.machine import finished
from aihf_control.replay import Batch
from aihf_control.results import Collector, Result
from aihf_control.sac import SAC
from aihf_control.stats import Estimate, estimate, iqm, mean

Array = np.ndarray


class Display:
    """Prints a run to the terminal. As a context, it shows the live line; where there is no terminal, a line for each
    evaluation."""

    def __init__(self, cell: Cell, dataset: Dataset, workers: int):
        self.cell, self.dataset, self.workers = cell, dataset, workers
        self.console = Console(highlight=False)
        if not self.console.is_terminal:
            self.console.width = 132
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[line]}"))
        self.progress = Progress(*columns, console=self.console, transient=True)
        self.bar = self.progress.add_task(cell.method, total=cell.steps * len(cell.seeds), line="starting")
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
        c, p = self.cell, self.console.print
        p(f"[bold]{c.method}[/] on {self.dataset.meta['env']}: {len(c.seeds)} seeds, {c.steps:,} iterations each")
        p(f"  learns from  {c.demos} demonstrations and {c.pairs} comparisons a seed")
        p(f"  of dataset   {where} ({self.dataset.digest()})")
        by = f" ({kernel.state(c.products)})" if c.on_cpu else ""
        p(f"  runs on      {c.device}, {self.workers} processes, {c.products} products{by}")
        p(f"  writes to    {folder}")
        meta = self.dataset.meta
        seconds = estimate_seconds(c, spec_of(meta["env"], **meta["options"]), self.workers)
        if seconds:
            p(f"  takes about  {duration(seconds)} of training, and the evaluations")

    def show(self, event: Event, collector: Collector) -> None:
        done = sum(collector.steps.values())
        if self.begun is None and done:
            self.begun = time.monotonic(), done
        if isinstance(event, Evaluated):
            self.returns |= {row["seed"]: (event.step, row["return"]) for row in event.rows}
        latest = f"  return {np.mean([r for _, r in self.returns.values()]):.0f}" if self.returns else ""
        line = f"step {min(collector.steps.values()):,}{latest}{self._pace(done)}"
        self.progress.update(self.bar, completed=done, line=line)
        judged = min((step for step, _ in self.returns.values()), default=-1)
        if not self.console.is_terminal and len(self.returns) == len(self.cell.seeds) and judged > self.shown:
            self.shown = judged
            self.console.print(line)

    def _pace(self, done: int) -> str:
        if self.begun is None or done <= self.begun[1]:
            return ""
        pace = (done - self.begun[1]) / max(1e-9, time.monotonic() - self.begun[0])
        left = (self.cell.steps * len(self.cell.seeds) - done) / max(1e-9, pace)
        return f"  {pace:.0f} steps/s over all seeds  {duration(left)} left"

    def table(self, result: Result, folder: Path) -> None:
        s = summary(result)
        title = f"{s['env']}: {s['demos']} demonstrations, {s['pairs']} comparisons a seed"
        table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        for name in ("", "return", "score", "n", "env steps", "labels", "pair accuracy", "rank corr."):
            table.add_column(name, justify="left" if not name else "right", no_wrap=True)
        for row in s["rows"]:
            table.add_row(*(_cell(row.get(k)) for k in ("name", "return", "score")), *_details(row))
        self.console.print(table)
        self.console.print("IQM over n seeds (of the first two: mean over n episodes), 95 % intervals.")
        self.console.print("Last 5 means: of each seed the mean of its last five evaluations, not one of them.")
        self.console.print("Score: 0 random, 1 expert. Accuracy and correlation of the reward: on held-out data.")
        if s["diverged"]:
            self.console.print(f"[red]diverged, and left out above: seeds {s['diverged']}[/]")
        if s["overvalued"]:
            seeds = s["overvalued"]
            self.console.print(f"[red]critics of seeds {seeds} claim more than any policy can earn: they diverge[/]")
        self.console.print(f"policy, reward, log and curves: {folder}")


def _cell(x: Any) -> str:
    return x if isinstance(x, str) else str(Estimate(**x)) if x else "-"


def _details(row: dict[str, Any]) -> tuple[str, ...]:
    counts = (f"{row[k]:,}" if row.get(k) is not None else "-" for k in ("n", "env_steps", "labels"))
    return (*counts, *(_cell(row.get(k)) for k in ("pair_accuracy", "rank_correlation")))


def overvalued(last: pd.DataFrame) -> list[int]:
    """Seeds whose critics' last values are beyond every reachable return."""
    if "q_of_reach" not in last:
        return []
    return [int(seed) for seed in last.index[last["q_of_reach"].to_numpy(np.float64) > 1]]


def summary(result: Result) -> dict[str, Any]:
    """The table of a run as data."""
    meta, cell = result.dataset.meta, result.cell
    shown = [result.dataset.draw(seed, cell.demos, 0).demos for seed in cell.seeds]
    drawn = {t.seed: t for lane in shown for t in lane}
    last = result.last()
    alive = np.isfinite(result.final())
    rows = [_row("expert", np.array(meta["expert_returns"]), result, mean)]
    if drawn:  # each once, however many lanes drew it
        rows.append(_row("demonstrations", np.array([t.reward.sum() for t in drawn.values()]), result, mean))
    if cell.method != "bc":
        rows.append(_row("clone (bc)", result.start(), result, env_steps=0, labels=0))
    counts = {name: int(np.max(last[name].to_numpy())) for name in ("env_steps", "labels")}
    quality = {
        name: estimate(last[name].to_numpy()[alive])._asdict()
        for name in ("pair_accuracy", "rank_correlation")
        if name in last and alive.any()
    }
    rows.append(_row(cell.method, result.final()[alive], result, **counts, **quality))
    rows.append(_row(f"{cell.method}, last 5 means", result.late()[alive], result, **counts))
    return {
        "env": meta["env"],
        "method": cell.method,
        "seeds": list(cell.seeds),
        "steps": int(np.min(last["step"].to_numpy())),
        "demos": cell.demos,
        "pairs": cell.pairs,
        "dataset": result.dataset.digest(),
        "diverged": [s for s, ok in zip(cell.seeds, alive, strict=True) if not ok],
        "overvalued": overvalued(last),
        "random_return": float(np.mean(meta["random_returns"])),
        "expert_return": float(np.mean(meta["expert_returns"])),
        "demo_returns": [float(np.mean([t.reward.sum() for t in lane])) if lane else None for lane in shown],
        "rows": rows,
    }


def _row(name: str, returns: Array, result: Result, statistic: Any = iqm, **more: Any) -> dict[str, Any]:
    if not len(returns):
        return {"name": name, "n": 0, **more}
    score = estimate(result.score(returns), statistic)._asdict()
    return {"name": name, "return": estimate(returns, statistic)._asdict(), "score": score, "n": len(returns), **more}


def curves(result: Result, path: Path) -> None:
    """Return of every lane over iterations, with the expert's and the demonstrations'."""

    fig = Figure(figsize=(7, 4))
    ax = fig.subplots()
    for seed, rows in result.frame.groupby("seed"):
        ax.plot(rows["step"], rows["return"], marker=".", lw=1, label=f"seed {seed}")
    ax.axhline(float(np.mean(result.dataset.meta["expert_returns"])), color="black", ls="--", lw=1, label="expert")
    ax.set(xlabel="iterations", ylabel="greedy return", title=f"{result.cell.method} on {result.spec.id}")
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    out = io.BytesIO()
    fig.savefig(out, dpi=130, bbox_inches="tight")
    write_bytes(path, out.getvalue())


def duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )


def estimate_seconds(cell: Cell, spec: EnvSpec, workers: int) -> float | None:
    """How long the training will take on a core of its own, from a second of updates on random numbers.

    None for methods without SAC.
    """
    if not hasattr(cell.cfg, "sac"):
        return None
    n = -(-len(cell.seeds) // workers)
    dims = Dims(tuple(range(n)), spec.n_obs, spec.n_act, torch.device(cell.device), getattr(torch, cell.products))
    sac, size = SAC(dims, cell.cfg.sac), cell.cfg.replay.batch
    obs, act = (
        torch.randn(n, size, spec.n_obs, device=dims.device),
        torch.zeros(n, size, spec.n_act, device=dims.device),
    )
    batch = Batch(obs, act, obs, act[..., 0], act[..., 0].long())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times, clock = [], time.process_time if cell.device == "cpu" else time.monotonic
    for _ in range(30):
        begun = clock()
        sac.update(batch, lambda obs, act: act[..., 0])
        finished(dims.device)
        times.append(clock() - begun)
    torch.set_num_threads(threads)
    return float(np.median(times)) * 1.5 * cell.steps  # the rest of the loop costs about half as much again
