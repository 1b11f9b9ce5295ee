"""`meta.json` of a dataset folder: its fields, and the check of each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from aihf_control.core.errors import BadInput
from aihf_control.data.arrays import read_json_table

SCHEMA = 1
REQUIRED = (
    "schema",
    "sha256",
    "env",
    "options",
    "horizon",
    "demonstrations",
    "held_out",
    "expert_returns",
    "random_returns",
)


def read_meta(path: Path) -> dict[str, Any]:
    """Read and check `meta.json`. Raises BadInput that names the wrong field."""
    try:
        meta = read_json_table(path)
    except BadInput as e:
        if isinstance(e.__cause__, FileNotFoundError):
            raise BadInput(f"{e}; {path.parent} is no dataset, `aihf data make` makes one") from e
        raise
    missing = set(REQUIRED) - set(meta)
    if missing:
        raise BadInput(f"{path} lacks {', '.join(sorted(missing))}")
    if type(meta["schema"]) is not int or meta["schema"] != SCHEMA:
        raise BadInput(f"{path} has schema {meta['schema']}, this version reads {SCHEMA}; make the dataset anew")
    wrong = [name for name, (valid, _) in FIELDS.items() if name in meta and not valid(meta[name])]
    if wrong:
        raise BadInput(f"{path}: {wrong[0]} is no {FIELDS[wrong[0]][1]}, got {str(meta[wrong[0]])[:60]!r}")
    return meta


def _is_whole(value: Any, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _is_list(value: Any, valid: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(valid, value))


def _is_table(value: Any, valid: Callable[[Any], bool] = lambda _: True) -> bool:
    return isinstance(value, dict) and all(map(valid, value.values()))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_annotator(value: Any) -> bool:
    return _is_table(value, lambda x: x is None or _is_number(x))


FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "env": (_is_text, "text"),
    "options": (_is_table, "table"),
    "sha256": (lambda x: _is_table(x, _is_text), "table of text"),
    "horizon": (lambda x: _is_whole(x, 1), "whole number from 1 up"),
    "demo_every": (lambda x: _is_whole(x, 1), "whole number from 1 up"),
    "demonstrations": (lambda x: _is_list(x, _is_whole), "list of episode numbers"),
    "held_out": (lambda x: _is_list(x, _is_whole), "list of episode numbers"),
    "expert_returns": (lambda x: _is_list(x, _is_number) and bool(x), "list of finite numbers"),
    "random_returns": (lambda x: _is_list(x, _is_number) and bool(x), "list of finite numbers"),
    "config": (_is_table, "table"),
    "annotator": (_is_annotator, "table of numbers"),
    "versions": (lambda x: _is_table(x, _is_text), "table of text"),
    "notes": (lambda x: _is_list(x, _is_text), "list of text"),
}
"""Check of each field of meta.json, and its type in words."""
