"""The top level of an experiment file, checked."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path
from typing import Any

from aihf_control import methods
from aihf_control.core.config import check_known, convert, table_of
from aihf_control.core.errors import BadInput
from aihf_control.training.options import Options
from aihf_control.training.run import RunSpec

MAX_SEEDS = 10_000  # more is a mistake, and is refused before it takes memory


@dataclasses.dataclass(frozen=True)
class Sheet:
    """Top level of the file."""

    environments: tuple[str, ...]
    """Gymnasium ids."""
    methods: Any
    """Methods or their variants; "all" is every file of aihf_control/methods."""
    title: str = ""
    about: str = ""
    seeds: int = Options.seeds
    first_seed: int = Options.first_seed
    demos: Any = RunSpec.demos
    """Demonstrations per seed; a list is swept."""
    pairs: Any = RunSpec.pairs
    """Comparisons per seed; a list is swept."""
    run: dict = dataclasses.field(default_factory=dict)
    dataset: Any = None
    method: dict = dataclasses.field(default_factory=dict)
    environment: dict = dataclasses.field(default_factory=dict)
    report: dict = dataclasses.field(default_factory=dict)
    claim: Any = ()
    """Tables [[claim]]."""


def read_sheet(given: dict[str, Any], where: str) -> Sheet:
    """Check the top level of a file that was parsed. Raises BadInput."""
    hints = typing.get_type_hints(Sheet)
    check_known(given, list(hints), where)
    for name, example in (("environments", "Hopper-v4"), ("methods", "aihf")):
        if name not in given:
            raise BadInput(f"{where} names no {name}; give for instance {name} = [{example!r}]")
    for name in ("run", "method", "environment", "report"):
        table_of(given.get(name, {}), f"{where}, {name}")
    free = {name: value for name, value in given.items() if hints[name] in (Any, dict)}
    sheet = Sheet(
        **free, **{name: convert(hints[name], x, f"{where}, {name}") for name, x in given.items() if name not in free}
    )
    if len(set(sheet.environments)) < len(sheet.environments) or not sheet.environments:
        raise BadInput(f"{where}, environments = {list(sheet.environments)}: give at least one, each once")
    if not 1 <= sheet.seeds <= MAX_SEEDS:
        raise BadInput(f"{where}, seeds must be from 1 to {MAX_SEEDS}, got {sheet.seeds}")
    _check_printable(sheet.environments, f"{where}, environments")
    return sheet


def _check_printable(names: tuple[str, ...], where: str) -> None:
    """Raise BadInput for a name that is empty or has control characters, which tables and terminals cannot show."""
    for name in names:
        if not name or not name.isprintable():
            raise BadInput(f"{where}: {name!r} must not be empty or have control characters")


def method_names(sheet: Sheet, where: str) -> tuple[str, ...]:
    """Return the methods' names in the experiment."""
    if sheet.methods == "all":
        return tuple(methods.names())
    names = convert(tuple[str, ...], sheet.methods, f"{where}, methods")
    if not names or len(set(names)) < len(names):
        raise BadInput(f"{where}, methods = {list(names)}: give at least one, each once")
    _check_printable(names, f"{where}, methods")
    return names


def existing_data(sheet: Sheet, env: str, where: str) -> Path | None:
    """Return the folder of an environment's existing data; None if the data is to be made. Raises BadInput."""
    own = table_of(sheet.environment.get(env, {}), f"{where}, environment.{env}")
    if "data" not in own:
        return None
    folder = convert(Path, own["data"], f"{where}, environment.{env}.data")
    if folder == Path():
        raise BadInput(f"{where}, environment.{env}.data = {own['data']!r}: give the folder of a dataset")
    return folder
