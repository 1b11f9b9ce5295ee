"""The cells of an experiment as work: each with a key, a folder of that name, and the command that does it.

A key is two hashes with a dash between: of the settings and the data, and of the code that a run of the method
executes. Cells of the same key are the same cell; one that is finished is never run again.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from aihf_control import methods
from aihf_control.bench.experiment import Experiment, GridCell
from aihf_control.bench.fingerprint import code_of
from aihf_control.bench.local import Job
from aihf_control.core.config import as_word, check_known, flags, jsonable
from aihf_control.core.errors import BadInput
from aihf_control.core.files import read_bytes, sha256, write_bytes
from aihf_control.data.dataset import Dataset
from aihf_control.data.generate import DataConfig, default_folder
from aihf_control.environments.cards import folder_name
from aihf_control.models.device import device_of, matmul_precision
from aihf_control.training.options import DATASETS, Options, dataset_of
from aihf_control.training.run_folder import FREE


@dataclasses.dataclass(frozen=True)
class CellJob:
    """A cell of the grid with its place."""

    key: str
    cell: GridCell
    """Its options complete: device, type, dataset and folder."""
    source: Path | None
    """The data that was there already, of which its dataset is a copy; None where it is made out of `cell.data`."""

    @property
    def dataset(self) -> Path:
        assert self.cell.options.dataset
        return self.cell.options.dataset

    @property
    def folder(self) -> Path:
        assert self.cell.options.folder
        return self.cell.options.folder

    def words(self) -> list[str]:
        """What follows `python -m aihf_control.run`, exactly."""
        return words_of(self.cell.options, self.cell.cfg)


def jobs_of(experiment: Experiment, out: Path, any_code: bool = False) -> list[CellJob]:
    """The grid's cells in their folders below `out`. With `any_code` those that other code made count as well.

    Raises BadInput where two of them are the same under different names, and where data that is said to be there
    already is not, or has too little for a cell.
    """
    jobs: dict[str, CellJob] = {}
    digests = _digests(experiment)
    for cell in experiment.cells:
        job = _job(cell, out, any_code, digests)
        if job.key in jobs:
            raise BadInput(f"{experiment.name}: {jobs[job.key].cell.name} and {cell.name} are the same; leave one out")
        jobs[job.key] = job
    return list(jobs.values())


def _job(cell: GridCell, out: Path, any_code: bool, digests: dict[Path, str]) -> CellJob:
    options, source = _resolved(cell.options), cell.options.dataset
    if source:  # a copy: it may be edited while the grid runs, or be elsewhere when a cell goes on
        dataset = DATASETS / folder_name(options.env) / digests[source]
    else:
        dataset = default_folder(options.env, cell.data, DATASETS)
    key = f"{_settings_key(options, cell.cfg, dataset)}-{code_of(options.method)}"
    if any_code:
        key = (by_other_code(out, key) or [key])[-1]
    options = dataclasses.replace(options, dataset=dataset, folder=out / "cells" / key)
    return CellJob(key, dataclasses.replace(cell, options=options), source)


def _digests(experiment: Experiment) -> dict[Path, str]:
    """What the datasets hold that are there already. Raises BadInput where one has not what a cell asks for."""
    opened: dict[tuple[Path, str], Dataset] = {}
    for options in (cell.options for cell in experiment.cells):
        if options.dataset is None:
            continue
        at = options.dataset, options.env
        try:
            if at not in opened:
                opened[at], _ = dataset_of(options)
            opened[at].draw(0, options.demos, options.pairs)  # says now what is lacking
        except BadInput as e:
            raise BadInput(f"{experiment.name}.toml, environment.{options.env}.data: {e}") from e
    return {folder: dataset.digest() for (folder, _), dataset in opened.items()}


def copy_data(jobs: Sequence[CellJob]) -> None:
    """Copies data that was there already to where the cells read it, a folder named by what it holds. Raises BadInput
    where it is not what it was when the grid was spanned."""
    for folder, source in {job.dataset: job.source for job in jobs if job.source}.items():
        if (folder / "meta.json").exists():
            continue
        if Dataset.load(source).digest() != folder.name:
            raise BadInput(f"{source} has just changed; begin again")
        for name in ("pool.npz", "preferences.csv", "meta.json"):  # the last makes it whole
            write_bytes(folder / name, read_bytes(source / name))


def by_other_code(out: Path, key: str) -> list[str]:
    """Keys of the cells with the same settings that only other code has finished, in the order that it did."""
    if (out / "cells" / key / "summary.json").exists():
        return []
    finished = (out / "cells").glob(f"{key.partition('-')[0]}-*/summary.json")
    return [path.parent.name for path in sorted(finished, key=lambda path: path.stat().st_mtime)]


def _resolved(options: Options) -> Options:
    """With the device and the type that this machine takes for `auto`, so that every machine takes the same."""
    device = device_of("auto") if options.device == "auto" else options.device
    if options.precision == "auto" and device != "cpu" and not torch.cuda.is_available():
        raise BadInput(f"run.device = {device}: there is none here to ask for its type; set run.precision, too")
    return dataclasses.replace(options, device=device, precision=matmul_precision(options.precision, device))


def _settings_key(options: Options, cfg: Any, dataset: Path) -> str:
    """Hash of all flags that change a number, and of the data: of its settings and policies, or of what it holds, which
    name its folder."""
    given = {name: x for name, x in dataclasses.asdict(options).items() if name not in FREE | {"out", "dataset"}}
    tree = [given, dataclasses.asdict(cfg), dataset.name]
    return sha256(json.dumps(jsonable(tree), sort_keys=True, default=str).encode())[:12]


def chosen(jobs: list[CellJob], only: Sequence[str]) -> list[CellJob]:
    """The jobs that `NAME=VALUE` words leave. Raises BadInput for unknown names and where none is left."""
    wanted: dict[str, set[str]] = {}
    for word in only:
        name, equals, value = word.partition("=")
        if not equals:
            raise BadInput(f"--only {word}: write it as NAME=VALUE, for instance method=aihf")
        wanted.setdefault(name, set()).add(value)
    check_known(wanted, list(names_of(jobs[0])), "--only")
    for name, values in wanted.items():
        there = {names_of(job)[name] for job in jobs}
        if values - there:
            raise BadInput(f"--only {name}={min(values - there)}: it is none of {', '.join(sorted(there))}")
    left = [job for job in jobs if all(names_of(job)[name] in values for name, values in wanted.items())]
    if not left:
        raise BadInput(f"--only {' '.join(only)}: no cell is left")
    return left


def names_of(job: CellJob) -> dict[str, str]:
    """By what a cell can be asked for: a dial by its own name, too, as tables and lists print it."""
    cell = job.cell
    named = {"env": cell.options.env, "method": cell.name, "demos": cell.options.demos, "pairs": cell.options.pairs}
    short = {name.removeprefix("dataset."): value for name, value in cell.dials.items()}
    return {name: str(as_word(value)) for name, value in {**short, **named, **cell.dials, "key": job.key}.items()}


def words_of(options: Options, cfg: Any) -> list[str]:
    """A command line that gives these options and this config."""
    named = ["--env", options.env, "--method", options.method]
    plain = dataclasses.replace(options, env=Options.env, method=Options.method)
    return [*named, *flags(plain, Options()), *flags(cfg, methods.load(options.method).Config())]


def data_words(job: CellJob) -> list[str]:
    """What follows `python -m aihf_control.data`, exactly."""
    env, out = job.cell.options.env, str(job.dataset)
    return ["make", "--env", env, "--out", out, *flags(job.cell.data, DataConfig())]


def command_lines(jobs: Sequence[CellJob]) -> list[str]:
    """The commands that do the same, one a line: datasets first."""
    data = {job.dataset: _data_line(job) for job in jobs}
    runs = {job.key: f"python -m aihf_control.run {shlex.join(job.words())}" for job in jobs}
    return [*data.values(), *runs.values()]


def _data_line(job: CellJob) -> str:
    if job.source:
        there = shlex.quote(str(job.dataset))
        return f"mkdir -p {there} && cp -rT {shlex.quote(str(job.source))} {there}"
    return f"python -m aihf_control.data {shlex.join(data_words(job))}"


def jobs_from(jobs: Sequence[CellJob], out: Path) -> list[Job]:
    """The cells as work."""
    return [
        Job(
            job.key,
            job.folder,
            ("-m", "aihf_control.run", *job.words()),
            ("-m", "aihf_control.run", "--resume", str(job.folder), "--env", job.cell.options.env),
            output=out / "output" / f"{job.key}.txt",
            steps=job.cell.cfg.steps,
            needs=(job.dataset,),
        )
        for job in jobs
    ]


def data_jobs_from(jobs: Sequence[CellJob], out: Path) -> list[Job]:
    """Their datasets that are not there yet as work, each once."""
    missing = {job.dataset: job for job in jobs if not job.source and not (job.dataset / "meta.json").exists()}
    return [
        Job(
            f"{job.cell.options.env}-{folder.name}",
            folder,
            ("-m", "aihf_control.data", *data_words(job)),
            done="meta.json",
            output=out / "output" / f"data-{folder.name}.txt",
        )
        for folder, job in missing.items()
    ]
