"""Cells of an experiment as jobs: each has a key, a folder named by it, and a command.

A key is two hashes with a dash between: of the settings and the data, and of the code that a run of the method
executes. Cells with the same key are the same cell; one that is finished is never run again.
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
from aihf_control.bench.fingerprint import code_of, whole_package
from aihf_control.bench.local import Job
from aihf_control.core.config import CHANGES_NO_NUMBER, OF_PEOPLE, as_word, check_known, flags, jsonable
from aihf_control.core.errors import BadInput
from aihf_control.core.files import read_bytes, sha256, write_bytes
from aihf_control.data.dataset import Dataset
from aihf_control.data.generate import DataConfig, default_folder
from aihf_control.environments.cards import folder_name
from aihf_control.environments.gym import spec_of
from aihf_control.environments.watchdog import DEFAULT_TIMEOUT, watch
from aihf_control.models.device import device_of, matmul_precision
from aihf_control.training.options import DATASETS, Options, dataset_of, sizes_of


@dataclasses.dataclass(frozen=True)
class CellJob:
    """A cell of the grid with its key and its folders."""

    key: str
    cell: GridCell
    """The cell with complete options: device, precision, dataset and folder."""
    source: Path | None
    """Existing data that its dataset is copied from; None if the dataset is made from `cell.data`."""
    by_other_code: bool = False
    """Whether its finished run was made by other code of the package (--any-code)."""

    @property
    def dataset(self) -> Path:
        assert self.cell.options.dataset
        return self.cell.options.dataset

    @property
    def folder(self) -> Path:
        assert self.cell.options.folder
        return self.cell.options.folder

    def words(self) -> list[str]:
        """Return the arguments of `python -m aihf_control.run`."""
        return words_of(self.cell.options, self.cell.cfg)


def jobs_of(experiment: Experiment, out: Path, any_code: bool = False) -> list[CellJob]:
    """Return the grid's cells with folders below `out`. With `any_code`, cells that other code finished count as done.

    Raises BadInput if two cells are the same under different names, if existing data is missing or too small, or if an
    environment does not take its options.
    """
    jobs: dict[str, CellJob] = {}
    for cell in {cell.options.env: cell for cell in experiment.cells if cell.env_options}.values():
        with watch(cell.options.env, cell.options.step_timeout):
            spec_of(cell.options.env, **cell.env_options)
    digests, finished = _digests(experiment), finished_keys(out)
    for cell in experiment.cells:
        job = _job(cell, out, finished if any_code else {}, digests)
        if job.key in jobs:
            raise BadInput(f"{experiment.name}: {jobs[job.key].cell.name} and {cell.name} are the same; leave one out")
        jobs[job.key] = job
    return list(jobs.values())


def _job(cell: GridCell, out: Path, finished: dict[str, list[str]], digests: dict[Path, str]) -> CellJob:
    """Return a cell's job. Of its `finished` keys, by settings, the own one is used, or else the latest."""
    options, source = _resolved(cell.options), cell.options.dataset
    if source:  # a copy: the source may be edited while the grid runs, or moved before a cell resumes
        dataset = DATASETS / folder_name(options.env) / digests[source]
    else:
        dataset = default_folder(options.env, cell.data, DATASETS, cell.env_options)
    key = f"{_settings_key(options, cell.cfg, dataset)}-{code_of(options.method)}"
    done = finished.get(key.partition("-")[0], [])
    used = done[-1] if done and key not in done else key
    reuse = options.reuse or out / "shared" / whole_package()
    options = dataclasses.replace(options, dataset=dataset, folder=out / "cells" / used, reuse=reuse)
    return CellJob(used, dataclasses.replace(cell, options=options), source, by_other_code=used != key)


def _digests(experiment: Experiment) -> dict[Path, str]:
    """Return the digests of existing datasets. Raises BadInput if one is missing or too small for a cell."""
    opened: dict[tuple[Path, str], Dataset] = {}
    for options in (cell.options for cell in experiment.cells):
        if options.dataset is None:
            continue
        at = options.dataset, options.env
        try:
            if at not in opened:
                opened[at], _ = dataset_of(options)
            opened[at].draw(0, *sizes_of(options, opened[at]))  # raises now if there are too few
        except BadInput as e:
            raise BadInput(f"{experiment.name}.toml, environment.{options.env}.data: {e}") from e
    return {folder: dataset.digest() for (folder, _), dataset in opened.items()}


def copy_data(jobs: Sequence[CellJob]) -> None:
    """Copy existing data into the folders that the cells read, named by digest.

    Raises BadInput if the data has changed since the jobs were built.
    """
    for folder, source in {job.dataset: job.source for job in jobs if job.source}.items():
        if (folder / "meta.json").exists():
            continue
        if Dataset.load(source).digest() != folder.name:
            raise BadInput(f"{source} has changed since the bench started; start it again")
        for name in ("pool.npz", "preferences.csv", "meta.json"):  # meta.json last: a folder that has it is complete
            write_bytes(folder / name, read_bytes(source / name))


def finished_keys(out: Path) -> dict[str, list[str]]:
    """Return the keys of all finished cells by their settings' hash, in the order in which they finished."""
    finished: dict[str, list[str]] = {}
    for path in sorted((out / "cells").glob("*/summary.json"), key=lambda path: path.stat().st_mtime):
        finished.setdefault(path.parent.name.partition("-")[0], []).append(path.parent.name)
    return finished


def _resolved(options: Options) -> Options:
    """Return options with this machine's device and precision in place of `auto`, for all machines to use."""
    device = device_of("auto") if options.device == "auto" else options.device
    if options.precision == "auto" and device != "cpu" and not torch.cuda.is_available():
        raise BadInput(f"run.device = {device}: this machine has none to choose a precision by; set run.precision, too")
    return dataclasses.replace(options, device=device, precision=matmul_precision(options.precision, device))


def _settings_key(options: Options, cfg: Any, dataset: Path) -> str:
    """Return a hash of all flags that change a number, and of the data, which its folder is named by."""
    given = {n: x for n, x in dataclasses.asdict(options).items() if n not in CHANGES_NO_NUMBER | OF_PEOPLE}
    tree = [given, dataclasses.asdict(cfg), dataset.name]
    return sha256(json.dumps(jsonable(tree), sort_keys=True, default=str).encode())[:12]


def select(jobs: list[CellJob], only: Sequence[str]) -> list[CellJob]:
    """Return the jobs that match all `NAME=VALUE` words. Raises BadInput for unknown names, or if no job matches."""
    wanted: dict[str, set[str]] = {}
    for word in only:
        name, equals, value = word.partition("=")
        if not equals:
            raise BadInput(f"--only {word}: write it as NAME=VALUE, for instance method=aihf")
        wanted.setdefault(name, set()).add(value)
    names = [names_of(job) for job in jobs]
    check_known(wanted, list(names[0]), "--only")
    for name, values in wanted.items():
        known = {own[name] for own in names}
        if values - known:
            raise BadInput(f"--only {name}={min(values - known)}: it is none of {', '.join(sorted(known))}")
    selected = [
        job for job, own in zip(jobs, names, strict=True) if all(own[name] in values for name, values in wanted.items())
    ]
    if not selected:
        raise BadInput(f"--only {' '.join(only)}: no cell matches all of them; give fewer")
    return selected


def names_of(job: CellJob) -> dict[str, str]:
    """Return the names and values by which --only selects a cell; a swept factor also by its short name."""
    cell = job.cell
    named = {"env": cell.options.env, "method": cell.name, "demos": cell.options.demos, "pairs": cell.options.pairs}
    short = {name.removeprefix("dataset."): value for name, value in cell.swept.items()}
    return {name: str(as_word(value)) for name, value in {**short, **named, **cell.swept, "key": job.key}.items()}


def words_of(options: Options, cfg: Any) -> list[str]:
    """Return the command line that gives these options and this config."""
    named = ["--env", options.env, "--method", options.method]
    plain = dataclasses.replace(options, env=Options.env, method=Options.method)
    return [*named, *flags(plain, Options()), *flags(cfg, methods.load(options.method).Config())]


def data_words(job: CellJob) -> list[str]:
    """Return the arguments of `python -m aihf_control.data`."""
    env, out = job.cell.options.env, str(job.dataset)
    options = [f"{name}={json.dumps(value)}" for name, value in job.cell.env_options.items()]  # as in TOML
    words = ["make", "--env", env, "--out", out, *flags(job.cell.data, DataConfig())]
    if job.cell.options.step_timeout != DEFAULT_TIMEOUT:
        words += ["--step-timeout", str(job.cell.options.step_timeout)]
    return [*words, "--env-option", *options] if options else words


def command_lines(jobs: Sequence[CellJob]) -> list[str]:
    """Return the commands that do the same as the bench, one per line: datasets first."""
    data = {job.dataset: _data_line(job) for job in jobs}
    runs = {job.key: f"python -m aihf_control.run {shlex.join(job.words())}" for job in jobs}
    return [*data.values(), *runs.values()]


def _data_line(job: CellJob) -> str:
    if job.source:
        copy = shlex.quote(str(job.dataset))
        return f"mkdir -p {copy} && cp -rT {shlex.quote(str(job.source))} {copy}"
    return f"python -m aihf_control.data {shlex.join(data_words(job))}"


def jobs_from(jobs: Sequence[CellJob], out: Path) -> list[Job]:
    """Return the cells as jobs of an engine."""
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
    """Return the cells' datasets that do not exist yet as jobs of an engine, each once."""
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
