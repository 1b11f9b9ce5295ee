"""Settings of a run, and the run specification and dataset that they name."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from aihf_control.core.errors import BadInput
from aihf_control.data.dataset import Dataset
from aihf_control.data.generate import DataConfig, default_folder, make_dataset
from aihf_control.data.pool import bundled
from aihf_control.environments.modules import check_module
from aihf_control.environments.watchdog import DEFAULT_TIMEOUT
from aihf_control.models.device import device_of, matmul_precision
from aihf_control.training.run import RunSpec

DATASETS, RUNS = Path("results/datasets"), Path("results/runs")


@dataclasses.dataclass(frozen=True)
class Options:
    """What is run, and on what."""

    env: str = "Hopper-v4"
    """Gymnasium id."""
    method: str = "aihf"
    """A file of aihf_control/methods: aihf, bc, dpo, irl, rlhf, ..."""
    seeds: int = 5
    """How many seeds; each is a lane with its own data, network and environment."""
    first_seed: int = 0
    """The first of them."""
    demos: int = 1
    """Demonstrations that each seed gets."""
    pairs: int = 200
    """Comparisons that each seed gets."""
    dataset: Path | None = None
    """A folder made by `aihf_control.data make`. Without it the default dataset of the environment is made, once."""
    evaluations: int = 8
    """How often the policy is evaluated on the way."""
    eval_episodes: int = 5
    """Episodes of each such evaluation."""
    final_episodes: int = 20
    """Episodes of the first and last evaluation."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes an accelerator where there is one."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the inner matrix products; auto takes bfloat16 where the hardware multiplies it."""
    workers: int = 0
    """Processes that the seeds are dealt to, one thread each; 0 is one a core."""
    out: Path = RUNS
    """Folder for runs; each gets <env>/<method>/<time> in it."""
    folder: Path | None = None
    """The run's own folder, in place of one in `out`."""
    tensorboard: bool = False
    """Also writes the log for TensorBoard, into the run's folder. Needs `pip install 'aihf_control[tensorboard]'`."""
    checkpoint: float = 3.0
    """Minutes from one checkpoint to the next; a run that is killed goes on from the last."""
    step_timeout: float = DEFAULT_TIMEOUT
    """Seconds after which a run ends if its environment does not return from one call; 0 is no limit."""
    resume: Path | None = None
    """The folder of a run to go on with, to the same numbers as if it had never been killed. Needs no other flag."""


def cell_of(options: Options, cfg: Any) -> RunSpec:
    if not options.checkpoint > 0:
        raise BadInput(f"--checkpoint {options.checkpoint}: give minutes above 0")
    if options.workers < 0:
        raise BadInput(f"--workers {options.workers}: give at least 0")
    if not options.step_timeout >= 0:
        raise BadInput(f"--step-timeout must be at least 0 seconds, got {options.step_timeout}")
    device = device_of(options.device)
    return RunSpec(
        options.method,
        cfg,
        tuple(range(options.first_seed, options.first_seed + options.seeds)),
        options.demos,
        options.pairs,
        cfg.steps,
        options.evaluations,
        options.eval_episodes,
        options.final_episodes,
        device,
        matmul_precision(options.precision, device),
    )


def dataset_of(options: Options) -> tuple[Dataset, Path]:
    """The dataset asked for, or the environment's default, made if it is not there yet; and its folder."""
    folder = options.dataset or default_folder(options.env, DataConfig(), DATASETS)
    if options.dataset is None and not (folder / "meta.json").exists():
        check_module(options.env)  # it may have been read from a file
        if not bundled(options.env):
            raise BadInput(
                f"there is no bundled policy for {options.env}, so no default dataset; make one with `aihf data make "
                f"--env {options.env} --policy expert=FILE.zip --levels expert --out FOLDER` or `aihf data import`, "
                "and give it with --dataset FOLDER"
            )
        print(f"making the default dataset of {options.env} in {folder}", flush=True)
        make_dataset(options.env, DataConfig(), out=folder)
    dataset = Dataset.load(folder)
    if dataset.meta["env"] != options.env:
        raise BadInput(f"{folder} is a dataset of {dataset.meta['env']}; give --env {dataset.meta['env']}")
    return dataset, folder
