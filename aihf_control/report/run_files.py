"""Readers of the files of one run, config.json, summary.json and log.jsonl, which check every field.

A damaged file is refused with BadInput, which names the file and the field.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aihf_control.core.errors import BadInput
from aihf_control.core.files import read_bytes
from aihf_control.report.columns import COLUMNS, LogColumn

Array = np.ndarray
LARGEST = 1e100  # numbers beyond it cannot be drawn
CONFIG_KINDS = {"options": dict, "cell": dict, "dataset": dict, "versions": dict}
SPEC_KINDS = {"seeds": list, "products": str, "device": str}
DATASET_KINDS = {"digest": str, "sha256": dict}
SUMMARY_KINDS = {"seeds": list, "steps": int, "interrupted": bool, "dataset": str, "overvalued": list}
SUMMARY_KINDS |= {"diverged": list, "random_return": float, "expert_return": float, "demo_returns": list}


def read_table(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds a table. Raises BadInput if it cannot be read, parsed or printed."""
    if path.exists() and not path.is_file():
        raise BadInput(f"cannot read {path}: not a regular file")
    table = _parse(read_bytes(path), str(path))
    if not isinstance(table, dict):
        raise BadInput(f"{path} is damaged: it holds no table")
    return table


def _parse(data: bytes, where: str) -> Any:
    """Parse JSON. Raises BadInput if it is invalid, too deeply nested, or has characters that cannot be written."""
    try:
        tree = json.loads(data)
        json.dumps(tree, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as e:
        reason = " ".join(str(e).split())[:100]
        raise BadInput(f"{where} is not valid JSON: {reason}") from e
    return tree


def check_fields(given: Any, kinds: dict[str, type], where: Any) -> dict[str, Any]:
    """Return a table that has these fields with these types. Raises BadInput with the names of the others."""
    fields = given if isinstance(given, dict) else {}
    wrong = sorted(name for name, kind in kinds.items() if not _is(fields.get(name), kind))
    if wrong:
        raise BadInput(f"{where} is damaged, or of another version: {', '.join(wrong)} missing or wrong")
    return fields


def _is(x: Any, kind: type) -> bool:
    return is_number(x) if kind is float else type(x) is kind


def is_number(x: Any) -> bool:
    """Whether a JSON value is a finite number that can be computed with."""
    return isinstance(x, int | float) and not isinstance(x, bool) and -LARGEST <= x <= LARGEST


def _all_strings(table: dict[str, Any]) -> bool:
    return all(isinstance(x, str) for x in table.values())


def read_config(path: Path) -> dict[str, Any]:
    """Read the config of a run. Raises BadInput."""
    config = check_fields(read_table(path), CONFIG_KINDS, path)
    check_fields(config["cell"], SPEC_KINDS, f"{path}, cell,")
    check_fields(config["dataset"], DATASET_KINDS, f"{path}, dataset,")
    if not _all_strings(config["versions"]) or not _all_strings(config["dataset"]["sha256"]):
        raise BadInput(f"{path} is damaged: its versions or its sha256 are no words")
    return config


def read_summary(path: Path, n: int) -> dict[str, Any]:
    """Read the summary of a run with n lanes. Raises BadInput."""
    summary = check_fields(read_table(path), SUMMARY_KINDS, path)
    seeds = [seed for name in ("seeds", "diverged", "overvalued") for seed in summary[name]]
    if any(type(seed) is not int for seed in seeds) or len(set(summary["seeds"])) < len(summary["seeds"]):
        raise BadInput(f"{path} is damaged: its seeds are not different whole numbers")
    if not len(summary["seeds"]) == len(summary["demo_returns"]) == n:
        raise BadInput(f"{path} is not of this grid: it has {len(summary['seeds'])} seeds, not {n}")
    if not all(x is None or is_number(x) for x in summary["demo_returns"]):
        raise BadInput(f"{path} is damaged: its demo_returns are no numbers")
    if summary["random_return"] == summary["expert_return"]:
        raise BadInput(f"{path}: random_return equals expert_return, so that scores are undefined")
    return summary


def read_complete_log(path: Path, summary: dict[str, Any]) -> pd.DataFrame:
    """Read the log of a finished run. Raises BadInput unless all seeds have the same steps, up to the last one."""
    log, seeds = read_log(path), summary["seeds"]
    steps = {seed: rows["step"].tolist() for seed, rows in log.groupby("seed")}
    if set(steps) != set(seeds):
        raise BadInput(f"{path} has seeds {' '.join(map(str, steps))}, and its run has {' '.join(map(str, seeds))}")
    if any(steps[seed] != steps[seeds[0]] or steps[seed][-1] != summary["steps"] for seed in seeds):
        raise BadInput(f"{path} is not complete: its seeds are not all evaluated to step {summary['steps']}")
    return log


def read_log(path: Path) -> pd.DataFrame:
    """Read a run's log, sorted by seed and step. Raises BadInput with the line that is damaged."""
    if path.exists() and not path.is_file():
        raise BadInput(f"cannot read {path}: not a regular file")
    rows = []
    for i, line in enumerate(read_bytes(path).splitlines(), 1):
        row = _parse(line, f"{path}, line {i},")
        wrong = [c.name for c in COLUMNS if not _fits(row, c)]
        if wrong:
            raise BadInput(f"{path}, line {i}, is not of a run's log: {', '.join(wrong)} missing or wrong")
        rows.append(row)
    if not rows:
        raise BadInput(f"{path} is empty")
    columns = [c for c in COLUMNS if c.required or any(c.name in row for row in rows)]
    log = pd.DataFrame({c.name: _column(rows, c) for c in columns})
    log = log.drop_duplicates(["seed", "step"], keep="last")
    return log.sort_values(["seed", "step"], kind="stable", ignore_index=True)


def _fits(row: Any, column: LogColumn) -> bool:
    """Whether a line of a log has the column's value, or may lack it."""
    if not isinstance(row, dict) or column.name not in row:
        return isinstance(row, dict) and not column.required
    x = row[column.name]
    if column.kind == "count":
        return is_number(x) and x == int(x) and 0 <= x < 2**53
    return x is None or is_number(x) or (isinstance(x, float) and not math.isfinite(x))


def _column(rows: Sequence[dict[str, Any]], column: LogColumn) -> Array:
    if column.kind == "count":
        return np.array([int(row[column.name]) for row in rows], np.int64)
    values = [row.get(column.name) for row in rows]
    return np.array([np.nan if x is None or not math.isfinite(x) else x for x in values], np.float64)


def method_row(summary: dict[str, Any]) -> dict[str, Any]:
    """Return the row of a run's summary with the result of its last policy, named after the method. Raises BadInput."""
    for row in reversed(summary["rows"]):
        if row["name"] == summary["method"]:
            return row
    raise BadInput(f"the summary has no row of its method, {summary['method']}")
