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

    [[claim]]                                      # what a paper predicts; the report judges it
    text = "Demonstrations and comparisons together are better than comparisons alone."
    paper = "2406.06874"
    better = "aihf"
    than = "rlhf"
    where = { demos = 1, pairs = 200, error = 0.0 }    # one setting of the swept factors
    control = { demos = 1, pairs = 200, error = 0.1 }  # where the gain must be smaller

`aihf_control/report/config.py` lists the keys of a claim.

Several tables `[[dataset]]` are swept one by one, instead of every combination of their values.
"""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

from aihf_control import methods
from aihf_control.bench.sheet import Sheet, existing_data, method_names, read_sheet
from aihf_control.bench.sweep import MAX_CELLS, Setting, settings_of, swept_values
from aihf_control.core.config import OF_PEOPLE, check_known, convert, override, read_toml, table_of
from aihf_control.core.errors import BadInput
from aihf_control.data.generate import DataConfig
from aihf_control.report.claims import check_claim
from aihf_control.report.config import Claim, ReportConfig
from aihf_control.report.figures import FIGURES
from aihf_control.report.tables import TABLES
from aihf_control.training.options import Options, run_spec_of

ELSEWHERE = {"env", "method", "seeds", "first_seed", "demos", "pairs", "dataset", "workers", "out", "folder", "resume"}
ELSEWHERE |= OF_PEOPLE
IN_RUN = [f.name for f in dataclasses.fields(Options) if f.name not in ELSEWHERE]  # what the table [run] may set


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
    claims: list[Claim]


def name_of(path: Path) -> str:
    """Return the name of an experiment, by which its folder of results is called.

    It is the path of its file without the ending: relative to the nearest folder `experiments` that it is in, or the
    file's name alone if there is none. So `experiments/main.toml` is `main` and `experiments/regimes/dpo.toml` is
    `regimes/dpo`, whose results lie beside those of the other regimes and not beside `main`.
    """
    parts = path.absolute().with_suffix("").parts
    above = [i for i, part in enumerate(parts[:-1]) if part == "experiments"]
    return "/".join(parts[above[-1] + 1 :] if above else parts[-1:])


def read(path: Path) -> Experiment:
    """Read an experiment file. Raises BadInput with the place in it that is wrong."""
    where, sheet = path.name, read_sheet(read_toml(path), path.name)
    names, settings = method_names(sheet, where), settings_of(sheet, where)
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
    swept = swept_values(settings)
    grid = itertools.product(sheet.environments, zip(settings, swept, strict=True), names)
    cells = [_cell(sheet, env, setting, name, values, where) for env, (setting, values), name in grid]
    claims = _claims(sheet, names, swept, where)
    return Experiment(name_of(path), sheet.title or path.stem, sheet.about, report, cells, claims)


def _claims(sheet: Sheet, names: tuple[str, ...], swept: list[dict[str, Any]], where: str) -> list[Claim]:
    """Return the claims of the file. Raises BadInput for one that is not about its grid."""
    if not isinstance(sheet.claim, list | tuple):
        raise BadInput(f"{where}, claim: write it as [[claim]], for there may be several")
    places = [f"{where}, claim {i}" for i in range(1, len(sheet.claim) + 1)]
    claims = [override(Claim(), table, place) for table, place in zip(sheet.claim, places, strict=True)]
    for claim, place in zip(claims, places, strict=True):
        check_claim(claim, names, sheet.environments, swept, place)
    return claims


def _check_environments(sheet: Sheet, names: tuple[str, ...], settings: list[Setting], where: str) -> None:
    """Check the tables [environment.*]. Raises BadInput."""
    check_known(sheet.environment, sheet.environments, f"{where}, environment")
    swept = swept_values(settings)[0]
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


def _cell(sheet: Sheet, env: str, setting: Setting, name: str, swept: dict[str, Any], where: str) -> GridCell:
    """Return a cell of the grid. Raises BadInput."""
    demos, pairs, data = setting
    own, here = sheet.environment.get(env, {}), f"{where}, environment.{env}"
    method, cfg = _method(sheet, env, name, where)
    existing = existing_data(sheet, env, where)
    options = Options(env, method, sheet.seeds, sheet.first_seed, demos, pairs, existing, workers=1)
    for table, place in ((sheet.run, f"{where}, run"), (own.get("run", {}), f"{here}.run")):
        check_known(table_of(table, place), IN_RUN, place)
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
