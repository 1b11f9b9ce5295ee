"""The summary of a run as data, and its figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from aihf_control.core.files import write_bytes
from aihf_control.core.statistics import estimate, iqm, mean
from aihf_control.report.plotting import png_of
from aihf_control.training.result import Result

Array = np.ndarray


def find_overvalued(last: pd.DataFrame) -> list[int]:
    """Return the seeds whose critics' last values exceed every reachable return."""
    if "q_of_reach" not in last:
        return []
    return [int(seed) for seed in last.index[last["q_of_reach"].to_numpy(np.float64) > 1]]


def summarise(result: Result) -> dict[str, Any]:
    """Return the table of a run as data, for summary.json and the terminal."""
    meta, run_spec = result.dataset.meta, result.run_spec
    shown = [result.dataset.draw(seed, run_spec.demos, 0).demos for seed in run_spec.seeds]
    drawn = {t.seed: t for lane in shown for t in lane}
    last = result.last()
    alive = np.isfinite(result.final())
    rows = [_row("expert", np.array(meta["expert_returns"]), result, mean)]
    if drawn:  # each once, however many lanes drew it
        rows.append(_row("demonstrations", np.array([t.reward.sum() for t in drawn.values()]), result, mean))
    if run_spec.method != "bc":
        rows.append(_row("clone (bc)", result.start(), result, env_steps=0, labels=0))
    counts = {name: int(np.max(last[name].to_numpy())) for name in ("env_steps", "labels")}
    quality = {
        name: estimate(last[name].to_numpy()[alive])._asdict()
        for name in ("pair_accuracy", "rank_correlation")
        if name in last and alive.any()
    }
    rows.append(_row(run_spec.method, result.final()[alive], result, **counts, **quality))
    rows.append(_row(f"{run_spec.method}, last 5 means", result.late()[alive], result, **counts))
    return {
        "env": meta["env"],
        "method": run_spec.method,
        "seeds": list(run_spec.seeds),
        "steps": int(np.min(last["step"].to_numpy())),
        "demos": run_spec.demos,
        "pairs": run_spec.pairs,
        "dataset": result.dataset.digest(),
        "diverged": [s for s, ok in zip(run_spec.seeds, alive, strict=True) if not ok],
        "overvalued": find_overvalued(last),
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


def draw_curves(result: Result, path: Path) -> None:
    """Write the figure of `curves_of` as a PNG."""
    write_bytes(path, png_of(curves_of(result), dpi=130))


def curves_of(result: Result) -> Figure:
    """Plot the return of every lane over iterations, with the expert's."""
    fig = Figure(figsize=(7, 4))
    ax = fig.subplots()
    for seed, rows in result.frame.groupby("seed"):
        ax.plot(rows["step"], rows["return"], marker=".", lw=1, label=f"seed {seed}")
    ax.axhline(float(np.mean(result.dataset.meta["expert_returns"])), color="black", ls="--", lw=1, label="expert")
    ax.set(xlabel="iterations", ylabel="greedy return", title=f"{result.run_spec.method} on {result.spec.id}")
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return fig
