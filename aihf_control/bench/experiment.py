"""An experiment: a TOML file that names environments, methods, data, seeds and budget, and the grid of cells it spans.

    title = "Demonstrations against comparisons"
    environments = ["Hopper-v4"]
    methods = ["aihf", "rlhf", "aihf-plain"]       # or "all": every file of aihf_control/methods
    seeds = 10
    demos = [1, 10]                                # a list is swept
    pairs = [50, 200, 800]

    [run]                                          # flags of aihf_control.run
    evaluations = 20

    [dataset]                                      # what the data is made of (DataConfig); a list is swept, here too
    error = [0.0, 0.1]

    [method.aihf-plain]                            # settings of a method; `of` makes it a variant
    of = "aihf"
    kl_to_clone = false

    [environment.Hopper-v4.method.aihf]            # and for one environment alone
    steps = 60_000

    [environment.Walker2d-v4]                      # a dataset that is there already, for instance an imported one
    data = "my_data"

    [report]
    baseline = "rlhf"

`[[dataset]]`, several times, sweeps over tables instead of over every combination.
"""

from __future__ import annotations

import dataclasses
import itertools
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aihf_control import methods
from aihf_control.core.config import check_known, convert, override, read_toml, table_of
from aihf_control.core.errors import BadInput
from aihf_control.data.generate import DataConfig
from aihf_control.report.load import ReportConfig
from aihf_control.training.options import Options, run_spec_of

OWN = {"env", "method", "seeds", "first_seed", "demos", "pairs", "dataset", "workers", "out", "folder", "resume"}


@dataclasses.dataclass(frozen=True)
class Sheet:
    """The top level of the file."""

    environments: tuple[str, ...]
    """Gymnasium ids."""
    methods: Any
    """Files of aihf_control/methods, or variants of them; "all" is every file."""
    title: str = ""
    about: str = ""
    seeds: int = Options.seeds
    first_seed: int = Options.first_seed
    demos: Any = Options.demos
    """Demonstrations a seed; a list is swept."""
    pairs: Any = Options.pairs
    """Comparisons a seed; a list is swept."""
    run: dict = dataclasses.field(default_factory=dict)
    dataset: Any = None
    method: dict = dataclasses.field(default_factory=dict)
    environment: dict = dataclasses.field(default_factory=dict)
    report: dict = dataclasses.field(default_factory=dict)


Setting = tuple[int, int, DataConfig]  # demonstrations, comparisons, data


@dataclasses.dataclass(frozen=True)
class GridCell:
    """One cell of the grid: all that determines its numbers, but for the code."""

    name: str
    """Of the method in the experiment: the method's own, or a variant's."""
    options: Options
    """Its `dataset` is None where the data is to be made."""
    cfg: Any
    data: DataConfig
    dials: dict[str, Any]
    """What is swept, and its value here."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A file, read and checked."""

    name: str
    title: str
    about: str
    report: ReportConfig
    cells: list[GridCell]


def read(path: Path) -> Experiment:
    """An experiment out of its file. Raises BadInput with the place in it that is wrong."""
    where, sheet = path.name, _sheet(read_toml(path), path.name)
    names, settings = _names(sheet, where), _settings(sheet, where)
    check_known(sheet.method, names, f"{where}, method")
    _check_environments(sheet, names, settings, where)
    report = override(ReportConfig(), sheet.report, f"{where}, report")
    if report.baseline is not None:
        check_known([report.baseline], names, f"{where}, report.baseline")
    grid = itertools.product(sheet.environments, settings, names)
    cells = [_cell(sheet, env, setting, name, _dials(setting, settings), where) for env, setting, name in grid]
    return Experiment(path.stem, sheet.title or path.stem, sheet.about, report, cells)


def _sheet(given: dict[str, Any], where: str) -> Sheet:
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
    return sheet


def _names(sheet: Sheet, where: str) -> tuple[str, ...]:
    """The methods' names in the experiment."""
    if sheet.methods == "all":
        return tuple(methods.names())
    names = convert(tuple[str, ...], sheet.methods, f"{where}, methods")
    if not names or len(set(names)) < len(names):
        raise BadInput(f"{where}, methods = {list(names)}: give at least one, each once")
    return names


def _check_environments(sheet: Sheet, names: tuple[str, ...], settings: list[Setting], where: str) -> None:
    """What the file says for one environment alone."""
    check_known(sheet.environment, sheet.environments, f"{where}, environment")
    swept = _dials(settings[0], settings)
    for env, own in sheet.environment.items():
        here = f"{where}, environment.{env}"
        check_known(table_of(own, here), ("run", "dataset", "data", "method"), here)
        if "data" in own and ("dataset" in own or any(data != DataConfig() for _, _, data in settings)):
            raise BadInput(f"{here}.data: it is there already, and [dataset] says how data is made; leave one out")
        check_known(table_of(own.get("method", {}), f"{here}.method"), names, f"{here}.method")
        for dial in table_of(own.get("dataset", {}), f"{here}.dataset"):
            if f"dataset.{dial}" in swept:
                raise BadInput(f"{here}.dataset.{dial}: it is swept, so an environment cannot set it")


def _there(sheet: Sheet, env: str, where: str) -> Path | None:
    """What the file names as an environment's data that is there already."""
    own = table_of(sheet.environment.get(env, {}), f"{where}, environment.{env}")
    if "data" not in own:
        return None
    folder = convert(Path, own["data"], f"{where}, environment.{env}.data")
    if folder == Path():
        raise BadInput(f"{where}, environment.{env}.data = {own['data']!r}: give the folder of a dataset")
    return folder


def _settings(sheet: Sheet, where: str) -> list[Setting]:
    """Every combination of numbers of demonstrations, of comparisons, and data, each once."""
    demos, pairs = (_swept(int, getattr(sheet, name), f"{where}, {name}") for name in ("demos", "pairs"))
    tables = sheet.dataset if isinstance(sheet.dataset, list) else [sheet.dataset or {}]
    data = [config for table in tables for config in _data(table, f"{where}, dataset")]
    every = list(itertools.product(demos, pairs, data))
    settings = [setting for i, setting in enumerate(every) if setting not in every[:i]]
    made = [env for env in sheet.environments if _there(sheet, env, where) is None]
    for n_demos, n_pairs, config in settings if made else ():
        for name, asked, there in (("demos", n_demos, config.demos), ("pairs", n_pairs, config.pairs)):
            if not 0 <= asked <= there:
                raise BadInput(f"{where}, {name} = {asked}: the data has {there}; set dataset.{name} to as many")
    return settings


def _data(table: Any, where: str) -> Iterator[DataConfig]:
    """The data that a table describes, one for each combination of its lists."""
    hints = typing.get_type_hints(DataConfig)
    check_known(table_of(table, where), list(hints), where)
    lists = [_swept(hints[name], value, f"{where}.{name}") for name, value in table.items()]
    for values in itertools.product(*lists):
        yield dataclasses.replace(DataConfig(), **dict(zip(table, values, strict=True)))


def _swept(kind: Any, value: Any, where: str) -> list[Any]:
    """The values that a dial takes: the one given, or each of a list. A dial whose values are lists takes one list."""
    if isinstance(value, list):
        if typing.get_origin(kind) is tuple and not any(isinstance(x, list) for x in value):
            return [convert(kind, value, where)]
        if not value:
            raise BadInput(f"{where} = []: give at least one value")
        return [convert(kind, x, where) for x in value]
    return [convert(kind, value, where)]


def _dials(setting: Setting, settings: list[Setting]) -> dict[str, Any]:
    """Of a setting the values that are not the same in all."""

    def flat(setting: Setting) -> dict[str, Any]:
        demos, pairs, data = setting
        return {"demos": demos, "pairs": pairs} | {
            f"dataset.{f.name}": getattr(data, f.name) for f in dataclasses.fields(data)
        }

    every = [flat(s) for s in settings]
    return {name: value for name, value in flat(setting).items() if any(other[name] != value for other in every)}


def _cell(sheet: Sheet, env: str, setting: Setting, name: str, dials: dict[str, Any], where: str) -> GridCell:
    demos, pairs, data = setting
    own, here = sheet.environment.get(env, {}), f"{where}, environment.{env}"
    method, cfg = _method(sheet, env, name, where)
    there = _there(sheet, env, where)
    options = Options(env, method, sheet.seeds, sheet.first_seed, demos, pairs, there, workers=1)
    for table, place in ((sheet.run, f"{where}, run"), (own.get("run", {}), f"{here}.run")):
        check_known(table_of(table, place), [f.name for f in dataclasses.fields(Options) if f.name not in OWN], place)
        options = override(options, table, place)
    try:
        run_spec_of(dataclasses.replace(options, device="cpu", precision="float32"), cfg)  # says now what is wrong
    except BadInput as e:
        raise BadInput(f"{where}, {name} on {env}: {e}") from e
    return GridCell(name, options, cfg, override(data, own.get("dataset", {}), f"{here}.dataset"), dials)


def _method(sheet: Sheet, env: str, name: str, where: str) -> tuple[str, Any]:
    """The method's file, and its config in this experiment and environment."""
    table = dict(table_of(sheet.method.get(name, {}), f"{where}, method.{name}"))
    method = convert(str, table.pop("of", name), f"{where}, method.{name}.of")
    try:
        cfg = methods.load(method).Config()
    except BadInput as e:
        raise BadInput(f"{where}: {e}; a variant of one names it by `of` in [method.{name}]") from e
    own = sheet.environment.get(env, {}).get("method", {}).get(name, {})
    cfg = override(cfg, table, f"{where}, method.{name}")
    return method, override(cfg, own, f"{where}, environment.{env}.method.{name}")
