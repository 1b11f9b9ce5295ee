"""Table and figure of runs that belong to no grid."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from aihf_control.core.errors import BadInput
from aihf_control.core.files import read_bytes, read_json, write_bytes
from aihf_control.core.statistics import STAR_NOTE, Estimate, format_count, iqm
from aihf_control.report.page import write_report

HEAD = ("return", "score", "n", "env_steps", "labels", "pair_accuracy", "rank_correlation")


KINDS = {"env": str, "method": str, "demos": int, "pairs": int, "dataset": str, "steps": int, "interrupted": bool}


KINDS |= {"diverged": list, "rows": list}


def report_runs(folder: Path, summaries: dict[Path, dict[str, Any]]) -> str:
    """Writes the table and the figure of runs into `folder`, and returns the table."""
    text = table(summaries)
    write_bytes(folder / "table.md", text.encode())
    write_bytes(folder / "curves.png", figure(summaries))
    return text


def _read(path: Path) -> dict[str, Any]:
    summary = read_json(path)
    given = summary if isinstance(summary, dict) else {}
    wrong = sorted(name for name, kind in KINDS.items() if type(given.get(name)) is not kind)
    if wrong:
        raise BadInput(f"{path} is not a run's summary: {', '.join(wrong)} missing or wrong")
    if len(summary["rows"]) < 3 or not all(map(_fits, summary["rows"])) or not summary["rows"][0].get("return"):
        raise BadInput(f"{path} is not a run's summary: its rows are wrong")
    return summary


def _fits(row: Any) -> bool:
    """Whether a row has a name, and in its cells nothing, a number, or an estimate."""

    def number(x: Any) -> bool:
        return x is None or (isinstance(x, int | float) and not isinstance(x, bool))

    def cell(x: Any) -> bool:
        return number(x) or (isinstance(x, dict) and set(x) == set(Estimate._fields) and all(map(number, x.values())))

    named = isinstance(row, dict) and isinstance(row.get("name"), str)
    return named and all(cell(row.get(name)) for name in HEAD) and isinstance(row.get("return"), dict | None)


def table(summaries: dict[Path, dict[str, Any]]) -> str:
    """Markdown: the references once for each environment and dataset, then a row a run, best score first."""
    lines = []
    for key, group in _by_data(summaries).items():
        env, demos, pairs, dataset = key
        lines += [f"**{env}**, {demos} demonstrations and {pairs} comparisons a seed (dataset {dataset})", ""]
        lines += [f"| | {' | '.join(name.replace('_', ' ') for name in HEAD)} | diverged |"]
        lines += ["|---" * (len(HEAD) + 2) + "|"]
        lines += [_line(row, "") for row in next(iter(group.values()))["rows"][:-2]]
        for s in sorted(group.values(), key=_score, reverse=True):
            cut = ", cut short" if s["interrupted"] else ""
            row = {**s["rows"][-2], "name": f"{s['method']} ({s['steps']:,} iterations{cut})"}
            lines.append(_line(row, str(len(s["diverged"]))))
        lines.append("")
    return "\n".join([*lines, STAR_NOTE, ""])


def _score(summary: dict[str, Any]) -> float:
    value = (summary["rows"][-2].get("score") or {}).get("value")
    return -np.inf if value is None else value


def _by_data(summaries: dict[Path, dict[str, Any]]) -> dict[tuple, dict[Path, dict[str, Any]]]:
    groups: dict[tuple, dict[Path, dict[str, Any]]] = {}
    for path, s in summaries.items():
        groups.setdefault((s["env"], s["demos"], s["pairs"], s["dataset"]), {})[path] = s
    return groups


def _line(row: dict[str, Any], diverged: str) -> str:
    cells = [_cell(name, row.get(name)) for name in HEAD]
    return f"| {row['name']} | {' | '.join(cells)} | {diverged} |"


def _cell(name: str, x: Any) -> str:
    if isinstance(x, dict):
        return str(Estimate.read(x))
    if x is None:
        return "-"
    return format_count(x) if name == "n" else f"{x:,}"


def figure(summaries: dict[Path, dict[str, Any]]) -> bytes:
    """PNG: a panel for each dataset, each run's return over its iterations, IQM and range over its lanes."""
    groups = _by_data(summaries)
    fig = Figure(figsize=(6 * len(groups), 4))
    axes = fig.subplots(1, len(groups), squeeze=False)
    for ax, (key, group) in zip(axes[0], groups.items(), strict=True):
        for path, s in group.items():
            steps, returns = _curve(path)
            ax.plot(steps, iqm(returns), marker=".", lw=1.5, label=s["method"])
            ax.fill_between(steps, returns.min(-1), returns.max(-1), alpha=0.12)
        expert = next(iter(group.values()))["rows"][0]["return"]["value"]
        ax.axhline(expert, color="black", ls="--", lw=1, label="expert")
        ax.set(xlabel="iterations", ylabel="greedy return", title=f"{key[0]}: {key[1]} demos, {key[2]} pairs")
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8)
    out = io.BytesIO()
    fig.savefig(out, dpi=130, bbox_inches="tight", metadata={"Software": None})
    return out.getvalue()


def _curve(run: Path) -> tuple[np.ndarray, np.ndarray]:
    """Steps (K,) and returns (K, lanes) of a run's log: the lanes that stayed finite, the steps that all reached."""
    path = run / "log.jsonl"
    try:
        rows = pd.DataFrame([json.loads(line) for line in read_bytes(path).splitlines()])
        rows[["seed", "step", "return"]] = rows[["seed", "step", "return"]].astype(float)
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise BadInput(f"{path} is not a run's log: {' '.join(str(e).split())[:100]}") from e
    wide = rows.drop_duplicates(["seed", "step"], keep="last").pivot(index="step", columns="seed", values="return")
    diverged = rows.groupby("seed")["return"].apply(lambda r: r.isna().any())
    wide = wide.loc[:, ~diverged].dropna()
    return wide.index.to_numpy(), wide.to_numpy()


def report_folder(folder: Path) -> None:
    """Reports every grid below `folder`, and all runs there that belong to none. Raises BadInput without either."""
    grids = [path.parent for path in sorted(folder.rglob("grid.json"))]
    runs = [path for path in sorted(folder.rglob("summary.json")) if not any(path.is_relative_to(g) for g in grids)]
    if not grids and not runs:
        raise BadInput(f"no finished run below {folder}; make some with `python -m aihf_control.run --out {folder}`")
    for grid in grids:
        print(f"report: {write_report(grid)}")
    if runs:
        text = report_runs(folder, {path.parent: _read(path) for path in runs})
        print(text)
