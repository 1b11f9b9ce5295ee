"""Experiment files: TOML with environments, methods, data, seeds and budget, expanded to a grid of cells.

    title = "Demonstrations against comparisons"
    environments = ["Hopper-v4"]
    methods = ["aihf", "rlhf", "aihf-plain"]       # or "all": every file of aihf_control/methods
    seeds = 10
    demos = [1, 10]                                # a list is swept
    pairs = [50, 200, 800]

    [run]                                          # flags of aihf_control.run
    evaluations = 20

    [dataset]                                      # settings of the data (DataConfig); a list is swept, here too
    error = [0.0, 0.1]

    [method.aihf-plain]                            # settings of a method; `of` makes it a variant
    of = "aihf"
    kl_to_clone = false

    [environment.Hopper-v4.method.aihf]            # the same for one environment
    steps = 60_000

    [environment.Walker2d-v4]                      # an existing dataset, for instance an imported one
    data = "my_data"

    [environment.Ant-v5.options]                   # options of the environment, with which its data is made
    include_cfrc_ext_in_observation = false

    [report]
    baseline = "rlhf"

Several tables `[[dataset]]` are swept one by one, instead of every combination of their values.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aihf_control import methods
from aihf_control.core.config import check_known, convert, override, read_toml, table_of
from aihf_control.core.errors import BadInput
from aihf_control.data.generate import DataConfig
from aihf_control.report.config import ReportConfig
from aihf_control.report.figures import FIGURES
from aihf_control.report.tables import TABLES
from aihf_control.training.options import Options, run_spec_of
from aihf_control.training.run import RunSpec

MAX_SEEDS, MAX_CELLS = 10_000, 100_000  # more than these is a mistake, and is refused before it takes memory
OWN = {"env", "method", "seeds", "first_seed", "demos", "pairs", "dataset", "workers", "out", "folder", "resume"}


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


Setting = tuple[int, int, DataConfig]  # demonstrations, comparisons, data


@dataclasses.dataclass(frozen=True)
class GridCell:
    """A cell of the grid: everything except the code that determines its numbers."""

    name: str
    """Name of the method or its variant in the experiment."""
    options: Options
    """Options of its run; `dataset` is None if the data is to be made."""
    cfg: Any
    data: DataConfig
    env_options: dict[str, Any]
    """Options of the environment that its data is made with."""
    swept: dict[str, Any]
    """Value of every swept factor."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Content of an experiment file."""

    name: str
    title: str
    about: str
    report: ReportConfig
    cells: list[GridCell]


def read(path: Path) -> Experiment:
    """Read an experiment file. Raises BadInput with the place in it that is wrong."""
    where, sheet = path.name, _sheet(read_toml(path), path.name)
    names, settings = _names(sheet, where), _settings(sheet, where)
    check_known(sheet.method, names, f"{where}, method")
    _check_environments(sheet, names, settings, where)
    report = override(ReportConfig(), sheet.report, f"{where}, report")
    check_known(report.tables or (), list(TABLES), f"{where}, report.tables")
    check_known(report.figures or (), list(FIGURES), f"{where}, report.figures")
    if report.baseline is not None:
        check_known([report.baseline], names, f"{where}, report.baseline")
    n = len(sheet.environments) * len(settings) * len(names)
    if n > MAX_CELLS:
        raise BadInput(f"{where} has {n} cells; give at most {MAX_CELLS}")
    swept = _swept_values(settings)
    grid = itertools.product(sheet.environments, zip(settings, swept, strict=True), names)
    cells = [_cell(sheet, env, setting, name, values, where) for env, (setting, values), name in grid]
    return Experiment(path.stem, sheet.title or path.stem, sheet.about, report, cells)


def _sheet(given: dict[str, Any], where: str) -> Sheet:
    """Check the top level of the file. Raises BadInput."""
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


def _names(sheet: Sheet, where: str) -> tuple[str, ...]:
    """Return the methods' names in the experiment."""
    if sheet.methods == "all":
        return tuple(methods.names())
    names = convert(tuple[str, ...], sheet.methods, f"{where}, methods")
    if not names or len(set(names)) < len(names):
        raise BadInput(f"{where}, methods = {list(names)}: give at least one, each once")
    _check_printable(names, f"{where}, methods")
    return names


def _check_environments(sheet: Sheet, names: tuple[str, ...], settings: list[Setting], where: str) -> None:
    """Check the tables [environment.*]. Raises BadInput."""
    check_known(sheet.environment, sheet.environments, f"{where}, environment")
    swept = _swept_values(settings)[0]
    for env, own in sheet.environment.items():
        here = f"{where}, environment.{env}"
        check_known(table_of(own, here), ("run", "dataset", "data", "method", "options"), here)
        if "data" in own and ("dataset" in own or any(data != DataConfig() for _, _, data in settings)):
            raise BadInput(
                f"{here}.data: the dataset exists, and [dataset] describes how to make one; remove one of the two"
            )
        if "data" in own and "options" in own:
            raise BadInput(f"{here}.options: the dataset exists and has its own options; remove data or options")
        _check_options(table_of(own.get("options", {}), f"{here}.options"), f"{here}.options")
        check_known(table_of(own.get("method", {}), f"{here}.method"), names, f"{here}.method")
        for name in table_of(own.get("dataset", {}), f"{here}.dataset"):
            if f"dataset.{name}" in swept:
                raise BadInput(f"{here}.dataset.{name}: it is swept, so an environment cannot set it")


def _check_options(options: dict[str, Any], where: str) -> None:
    """Check options of an environment, which the commands write as KEY=VALUE. Raises BadInput."""
    for name, value in options.items():
        items = value if isinstance(value, list) else [value]
        if not name.isidentifier() or not all(isinstance(x, bool | int | float | str) for x in items):
            raise BadInput(f"{where}.{name} = {value!r}: give a name and a number, text, true, false or a list of them")


def _existing_data(sheet: Sheet, env: str, where: str) -> Path | None:
    """Return the folder of an environment's existing data; None if the data is to be made. Raises BadInput."""
    own = table_of(sheet.environment.get(env, {}), f"{where}, environment.{env}")
    if "data" not in own:
        return None
    folder = convert(Path, own["data"], f"{where}, environment.{env}.data")
    if folder == Path():
        raise BadInput(f"{where}, environment.{env}.data = {own['data']!r}: give the folder of a dataset")
    return folder


def _settings(sheet: Sheet, where: str) -> list[Setting]:
    """Return every combination of demonstrations, comparisons and data, each once. Raises BadInput."""
    demos, pairs = (_swept(int, getattr(sheet, name), f"{where}, {name}") for name in ("demos", "pairs"))
    if sheet.dataset == []:
        raise BadInput(f"{where}, dataset = []: give at least one table [[dataset]]")
    tables = sheet.dataset if isinstance(sheet.dataset, list) else [sheet.dataset or {}]
    data = [config for table in tables for config in _data(table, f"{where}, dataset")]
    if len(demos) * len(pairs) * len(data) > MAX_CELLS:
        raise BadInput(f"{where} sweeps over {len(demos) * len(pairs) * len(data)} settings; give at most {MAX_CELLS}")
    settings = list(dict.fromkeys(itertools.product(demos, pairs, data)))
    made = [env for env in sheet.environments if _existing_data(sheet, env, where) is None]
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


def _swept_values(settings: list[Setting]) -> list[dict[str, Any]]:
    """Return for each setting the values that are not the same in all settings."""
    flat = [
        {"demos": demos, "pairs": pairs}
        | {f"dataset.{f.name}": getattr(data, f.name) for f in dataclasses.fields(data)}
        for demos, pairs, data in settings
    ]
    swept = [name for name in flat[0] if any(values[name] != flat[0][name] for values in flat)]
    return [{name: values[name] for name in swept} for values in flat]


def _cell(sheet: Sheet, env: str, setting: Setting, name: str, swept: dict[str, Any], where: str) -> GridCell:
    """Return a cell of the grid. Raises BadInput."""
    demos, pairs, data = setting
    own, here = sheet.environment.get(env, {}), f"{where}, environment.{env}"
    method, cfg = _method(sheet, env, name, where)
    existing = _existing_data(sheet, env, where)
    options = Options(env, method, sheet.seeds, sheet.first_seed, demos, pairs, existing, workers=1)
    for table, place in ((sheet.run, f"{where}, run"), (own.get("run", {}), f"{here}.run")):
        check_known(table_of(table, place), [f.name for f in dataclasses.fields(Options) if f.name not in OWN], place)
        options = override(options, table, place)
    try:
        run_spec_of(dataclasses.replace(options, device="cpu", precision="float32"), cfg)  # raises now for bad settings
    except BadInput as e:
        raise BadInput(f"{where}, {name} on {env}: {e}") from e
    data = override(data, own.get("dataset", {}), f"{here}.dataset")
    return GridCell(name, options, cfg, data, own.get("options", {}), swept)


def _method(sheet: Sheet, env: str, name: str, where: str) -> tuple[str, Any]:
    """Return the method's name, and its config in this experiment and environment. Raises BadInput."""
    table = dict(table_of(sheet.method.get(name, {}), f"{where}, method.{name}"))
    method = convert(str, table.pop("of", name), f"{where}, method.{name}.of")
    try:
        cfg = methods.load(method).Config()
    except BadInput as e:
        raise BadInput(f"{where}: {e}; a variant names its method by `of` in [method.{name}]") from e
    own = sheet.environment.get(env, {}).get("method", {}).get(name, {})
    cfg = override(cfg, table, f"{where}, method.{name}")
    return method, override(cfg, own, f"{where}, environment.{env}.method.{name}")
