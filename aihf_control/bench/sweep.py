"""Swept factors of an experiment: every combination of demonstrations, comparisons and data."""

from __future__ import annotations

import dataclasses
import itertools
import math
import typing
from collections.abc import Iterator
from typing import Any

from aihf_control.bench.sheet import Sheet, existing_data
from aihf_control.core.config import check_known, convert, table_of
from aihf_control.core.errors import BadInput
from aihf_control.data.generate import DataConfig

MAX_CELLS = 100_000  # more is a mistake, and is refused before it takes memory

Setting = tuple[int, int, DataConfig]  # demonstrations, comparisons, data


def settings_of(sheet: Sheet, where: str) -> list[Setting]:
    """Return every combination of demonstrations, comparisons and data, each once. Raises BadInput."""
    demos, pairs = (_swept(int, getattr(sheet, name), f"{where}, {name}") for name in ("demos", "pairs"))
    if sheet.dataset == []:
        raise BadInput(f"{where}, dataset = []: give at least one table [[dataset]]")
    tables = sheet.dataset if isinstance(sheet.dataset, list) else [sheet.dataset or {}]
    data = [config for table in tables for config in _data(table, f"{where}, dataset")]
    if len(demos) * len(pairs) * len(data) > MAX_CELLS:
        raise BadInput(f"{where} sweeps over {len(demos) * len(pairs) * len(data)} settings; give at most {MAX_CELLS}")
    settings = list(dict.fromkeys(itertools.product(demos, pairs, data)))
    made = [env for env in sheet.environments if existing_data(sheet, env, where) is None]
    for n_demos, n_pairs, config in settings if made else ():
        for name, n, available in (("demos", n_demos, config.demos), ("pairs", n_pairs, config.pairs)):
            if not 0 <= n <= available:
                raise BadInput(f"{where}, {name} = {n}: the data has {available}; set dataset.{name} to as many")
    return settings


def _data(table: Any, where: str) -> Iterator[DataConfig]:
    """Yield the data that a table describes, one for each combination of its lists. Raises BadInput."""
    hints = typing.get_type_hints(DataConfig)
    check_known(table_of(table, where), list(hints), where)
    lists = [_swept(hints[name], value, f"{where}.{name}") for name, value in table.items()]
    if math.prod(map(len, lists)) > MAX_CELLS:
        raise BadInput(f"{where} sweeps over {math.prod(map(len, lists))} settings; give at most {MAX_CELLS}")
    for values in itertools.product(*lists):
        yield dataclasses.replace(DataConfig(), **dict(zip(table, values, strict=True)))


def _swept(kind: Any, value: Any, where: str) -> list[Any]:
    """Return the values of a swept factor: the given one, or each of a list.

    A factor whose values are lists may get a single list.
    """
    if isinstance(value, list):
        if typing.get_origin(kind) is tuple and not any(isinstance(x, list) for x in value):
            return [convert(kind, value, where)]
        if not value:
            raise BadInput(f"{where} = []: give at least one value")
        return [convert(kind, x, where) for x in value]
    return [convert(kind, value, where)]


def swept_values(settings: list[Setting]) -> list[dict[str, Any]]:
    """Return for each setting the values that are not the same in all settings."""
    flat = [
        {"demos": demos, "pairs": pairs}
        | {f"dataset.{f.name}": getattr(data, f.name) for f in dataclasses.fields(data)}
        for demos, pairs, data in settings
    ]
    swept = [name for name in flat[0] if any(values[name] != flat[0][name] for values in flat)]
    return [{name: values[name] for name in swept} for values in flat]
