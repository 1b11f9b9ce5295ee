"""A csv of comparisons of segments (clips): read it, and report every bad line."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aihf_control.core.errors import BadInput, BadLines
from aihf_control.core.files import read_bytes
from aihf_control.core.types import Trajectory
from aihf_control.data.arrays import MAX_TEXT
from aihf_control.data.pairs import PAIR_COLUMNS, REFERENCE_COLUMNS, references
from aihf_control.data.ties import find_ties

DEFAULTS = {"weight": "1", "split": "train", "annotator": "imported", "tie": "0"}
WHOLE = re.compile(r"(\d{1,15})(?:\.0*)?", re.ASCII)
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


def read_comparisons(
    path: Path, pool: Sequence[Trajectory], horizon: int | None = None, notes: list[str] | None = None
) -> pd.DataFrame:
    """Read the comparisons of a csv into the columns of `PAIR_COLUMNS`; a line with tie = 1 becomes two rows.

    Segments are at most `horizon` steps long. Raises BadInput, or BadLines with every bad line.
    """
    lines = _read_lines(path)
    rows: list[dict[str, str]] = []
    numbers: list[int] = []
    faults, length = [], _number(lines[0][1].get("length", ""))
    for number, line in lines:
        row = {name: line.get(name) or DEFAULTS.get(name) or "" for name in (*PAIR_COLUMNS, "tie")}
        row |= {name: _number(row[name]) for name in (*REFERENCE_COLUMNS, "tie")}
        fault = "it has more cells than the header" if None in line else _find_fault(row, pool, length, horizon)
        faults += [f"{path}, line {number}: {fault}"] if fault else []
        rows += _split_tie(row) if not fault and row["tie"] == "1" else [row]
        numbers += [number] * (len(rows) - len(numbers))
    if faults:
        raise BadLines(str(path), faults)
    types: dict[str, Any] = {name: int for name in REFERENCE_COLUMNS} | {"weight": float}
    pairs = pd.DataFrame(rows, columns=list(PAIR_COLUMNS)).astype(types)
    faults = [f"{path}, line {numbers[i]}: {fault}" for i, fault in _find_overlaps(pairs, numbers)]
    if faults:
        raise BadLines(str(path), faults)
    single = int(((pairs["weight"] == 0.5).to_numpy() & ~find_ties(pairs)).sum())
    if single and notes is not None:
        notes.append(
            f"{path}: {single} lines of weight 0.5 have no mirrored line after them; each is a preference of half "
            "weight, not a tie. For ties give the column tie = 1"
        )
    return pairs


def _read_lines(path: Path) -> list[tuple[int, dict[Any, Any]]]:
    """Read the lines of a csv with their numbers, all cells stripped. Raises BadInput."""
    try:
        text = read_bytes(path, MAX_TEXT).decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        header = [str(name).strip() for name in reader.fieldnames or ()]
        reader.fieldnames = header
        lines = [(reader.line_num, line) for line in reader]
    except (UnicodeDecodeError, csv.Error) as e:
        raise BadInput(f"cannot read {path} as a csv: {e}") from e
    lacking = set(REFERENCE_COLUMNS) - set(header)
    if lacking:
        used = next((word for mark, word in SEPARATORS.items() if any(mark in name for name in header)), None)
        hint = f"; its columns are separated by {used}, write commas" if used else ""
        raise BadInput(
            f"{path} lacks the columns {', '.join(sorted(lacking))}; it needs {', '.join(REFERENCE_COLUMNS)}{hint}"
        )
    if len(set(header)) < len(header):
        raise BadInput(f"{path} has the same column twice: {', '.join(header)}")
    if not lines:
        raise BadInput(f"{path} has no line of comparisons")
    return [(n, {k: v.strip() if isinstance(v, str) else v for k, v in line.items()}) for n, line in lines]


def _number(cell: str | None) -> str:
    """Write a whole number without a decimal part, "50.0" as "50"; other text is returned as it is."""
    whole = WHOLE.fullmatch(cell or "")
    return str(int(whole[1])) if whole else cell or ""


def _split_tie(row: dict[str, str]) -> list[dict[str, str]]:
    other = {"win": "lose", "lose": "win"}
    mirrored = {f"{a}_{what}": row[f"{b}_{what}"] for a, b in other.items() for what in ("episode", "start")}
    half = {"weight": str(float(row["weight"]) / 2)}
    return [row | half, row | mirrored | half]


def _find_fault(row: dict[str, str], pool: Sequence[Trajectory], length: str, horizon: int | None) -> str | None:
    """Describe what is wrong with a line; None if it is valid."""
    for name in REFERENCE_COLUMNS:
        if not WHOLE.fullmatch(row[name]):
            return f"{name} is {row[name]!r}, no whole number from 0 up" if row[name] else f"{name} is empty"
    if row["length"] != length:
        return f"length is {row['length']}, that of the first line is {length}; all segments must be of one length"
    if horizon is not None and int(length) > horizon:
        return f"length is {length}, an episode has at most {horizon} steps"
    sides = [(int(row[f"{side}_episode"]), int(row[f"{side}_start"])) for side in ("win", "lose")]
    for episode, start in sides:
        if episode >= len(pool):
            return f"there is no episode {episode}; --pool has {len(pool)}, numbered from 0"
        if int(row["length"]) < 1 or start >= pool[episode].starts(int(row["length"])):
            ending = f"{'falls' if pool[episode].terminated else 'ends'} after {len(pool[episode])} steps"
            return f"no clip of {row['length']} steps begins at {start} of episode {episode}, which {ending}"
    if sides[0] == sides[1]:
        return "a clip is compared with itself"
    if row["split"] not in ("train", "test"):
        return f"split is {row['split']!r}, neither train nor test"
    if row["tie"] not in ("0", "1"):
        return f"tie is {row['tie']!r}, neither 0 nor 1"
    return None if _is_weight(row["weight"]) else f"weight is {row['weight']!r}, no number above 0"


def _is_weight(cell: str) -> bool:
    try:
        return 0 < float(cell) < math.inf
    except ValueError:
        return False


def _find_overlaps(pairs: pd.DataFrame, numbers: Sequence[int]) -> Iterator[tuple[int, str]]:
    """Find the test rows with a segment that shares steps with a training segment."""
    training: dict[int, list[tuple[int, int, int]]] = {}
    for side in ("win", "lose"):
        clips = references(pairs, side)
        for i in np.flatnonzero(pairs["split"] == "train").tolist():
            episode, start, length = clips[i]
            training.setdefault(episode, []).append((start, start + length, numbers[i]))
    sides = [references(pairs, side) for side in ("win", "lose")]
    for i in np.flatnonzero(pairs["split"] == "test").tolist():
        for episode, start, length in (side[i] for side in sides):
            spans = training.get(episode, ())
            shared = next((n for a, b, n in spans if a < start + length and start < b), None)
            if shared:
                yield (
                    i,
                    (
                        f"split is test, but its segment at {start} of episode {episode} shares steps with the "
                        f"training segment of line {shared}; compare other steps or make it train"
                    ),
                )
                break
