"""Settings of a run, and the run specification and dataset that they name."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal

from aihf_control.core.config import CHANGES_NO_NUMBER, OF_PEOPLE
from aihf_control.core.errors import BadInput, above_zero, at_least_one
from aihf_control.core.help import rare
from aihf_control.core.live import show_progress
from aihf_control.data.dataset import Dataset, check_sizes
from aihf_control.data.generate import DataConfig, default_folder, make_dataset
from aihf_control.data.pool import explain_missing, find_bundled_policies
from aihf_control.environments.making import check_known
from aihf_control.environments.modules import check_module
from aihf_control.environments.watchdog import DEFAULT_TIMEOUT, check_limit
from aihf_control.models.device import device_of, matmul_precision
from aihf_control.training.run import RunSpec

DATASETS, RUNS = Path("results/datasets"), Path("results/runs")
MAY_DIFFER = (CHANGES_NO_NUMBER - {"out", "dataset"}) | (OF_PEOPLE - {"annotator"})
"""Flags that may differ when a run is resumed."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings of a run that are not the method's."""

    env: str = "Hopper-v4"
    """Gymnasium id."""
    method: str = "aihf"
    """A file of aihf_control/methods or a plug-in: aihf, bc, dpo, irl, rlhf, ..."""
    seeds: int = 5
    """Number of seeds; each is a lane with its own data, networks and environment."""
    first_seed: int = rare(0)
    """The first seed."""
    demos: int | None = None
    """Demonstrations of each seed; by default 1, or all of an imported dataset."""
    pairs: int | None = None
    """Comparisons of each seed; by default 200, or all of an imported dataset."""
    dataset: Path | None = None
    """Folder made by `aihf_control.data make`. Without it the environment's default dataset is made, once."""
    evaluations: int = rare(8)
    """Number of evaluations during training."""
    eval_episodes: int = rare(5)
    """Episodes of each such evaluation."""
    final_episodes: int = rare(20)
    """Episodes of the first and last evaluation."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes an accelerator where there is one."""
    precision: Literal["auto", "float32", "bfloat16"] = rare("auto")
    """Type of the inner matrix products; auto takes bfloat16 where the hardware multiplies it."""
    workers: int = 0
    """Worker processes that the seeds are split across, one thread each; 0 is one a core."""
    out: Path = rare(RUNS)
    """Folder for runs; each gets <env>/<method>/<time> in it."""
    folder: Path | None = None
    """Folder of this run, instead of one in `out`."""
    tensorboard: bool = False
    """Also write the log for TensorBoard into the run folder. Needs `pip install 'aihf_control[tensorboard]'`."""
    wandb: bool = False
    """Also send the log to Weights & Biases. Needs `pip install 'aihf_control[wandb]'`."""
    checkpoint: float = rare(3.0)
    """Minutes between checkpoints; a run that is killed resumes from the last."""
    step_timeout: float = rare(DEFAULT_TIMEOUT)
    """Seconds after which a run ends if its environment does not return from one call; 0 is no limit."""
    annotator: Literal["teacher", "page"] = "teacher"
    """Annotator of methods that ask while they train: the dataset's synthetic teacher, or people on a local page. The
    page needs `pip install 'aihf_control[label]'`."""
    annotators: int = rare(1)
    """With --annotator page: number of people; each gets a link and every so many-th question."""
    wait: float = rare(math.inf)
    """With --annotator page: minutes that the run waits for answers before it goes on with those that there are."""
    port: int = rare(8321)
    """With --annotator page: port of the page; 0 takes a free one."""
    reuse: Path | None = None
    """Folder of clones and fitted rewards that runs of one version on the same data share, to the same numbers."""
    resume: Path | None = None
    """Folder of a run to resume, to the same numbers as without the interruption. Needs no other flag."""


def run_spec_of(options: Options, cfg: Any) -> RunSpec:
    """Return the run specification that the settings name on this machine. Raises BadInput."""
    above_zero("--checkpoint", options.checkpoint, "minutes")
    above_zero("--wait", options.wait, "minutes")
    at_least_one({"--annotators": options.annotators})
    if options.workers < 0:
        raise BadInput(f"--workers must be at least 0, got {options.workers}")
    check_limit(options.step_timeout)
    device = device_of(options.device)
    return RunSpec(
        options.method,
        cfg,
        tuple(range(options.first_seed, options.first_seed + options.seeds)),
        RunSpec.demos if options.demos is None else options.demos,
        RunSpec.pairs if options.pairs is None else options.pairs,
        cfg.steps,
        options.evaluations,
        options.eval_episodes,
        options.final_episodes,
        device,
        matmul_precision(options.precision, device),
    )


def sizes_of(options: Options, dataset: Dataset) -> tuple[int, int]:
    """Return the numbers of demonstrations and comparisons of each seed: those given, or the defaults."""
    demos, pairs = dataset.sizes if "brought" in dataset.meta else (RunSpec.demos, RunSpec.pairs)
    return demos if options.demos is None else options.demos, pairs if options.pairs is None else options.pairs


def with_sizes(options: Options, run_spec: RunSpec, dataset: Dataset) -> tuple[Options, RunSpec]:
    """Replace the defaults of demonstrations and comparisons by numbers. Raises BadInput if the dataset has fewer."""
    demos, pairs = sizes_of(options, dataset)
    check_sizes(demos, pairs, dataset.sizes)
    changed = {"demos": demos, "pairs": pairs}
    return dataclasses.replace(options, **changed), dataclasses.replace(run_spec, **changed)


def locate_dataset(options: Options) -> tuple[Path, bool]:
    """Return the dataset's folder, and whether it is the default one and has to be made.

    Raises BadInput if it cannot be made.
    """
    folder = options.dataset or default_folder(options.env, DataConfig(), DATASETS)
    if options.dataset is not None or (folder / "meta.json").exists():
        return folder, False
    check_module(options.env)  # it may have been read from a file
    if not find_bundled_policies(options.env):
        check_known(options.env)
        raise BadInput(
            f"{explain_missing(options.env)}, so no default dataset; make one with `aihf data make "
            f"--env {options.env} --policy expert=FILE.zip --levels expert --out FOLDER` or `aihf data import`, "
            "and give it with --dataset FOLDER"
        )
    return folder, True


def dataset_of(options: Options) -> tuple[Dataset, Path]:
    """Return the dataset and its folder; the environment's default is made if it does not exist. Raises BadInput."""
    folder, to_make = locate_dataset(options)
    if to_make:
        print(f"making the default dataset of {options.env}, once", flush=True)
        with show_progress("dataset"):
            make_dataset(options.env, DataConfig(), out=folder)
    dataset = Dataset.load(folder)
    if dataset.meta["env"] != options.env:
        raise BadInput(f"{folder} is a dataset of {dataset.meta['env']}; give --env {dataset.meta['env']}")
    return dataset, folder
