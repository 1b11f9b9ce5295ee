"""What a run was begun with, read back from its folder, so that it can go on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import IO, Any

from aihf_control import methods
from aihf_control.core.config import jsonable, rebuild
from aihf_control.core.errors import BadInput
from aihf_control.core.files import lock, read_json, replace_nonfinite, write_json, writing
from aihf_control.core.provenance import commit, versions
from aihf_control.data.dataset import Dataset
from aihf_control.environments.watchdog import DEFAULT_TIMEOUT
from aihf_control.models import kernel
from aihf_control.models.device import device_of
from aihf_control.training.checkpoint import sweep
from aihf_control.training.result import Result
from aihf_control.training.run import RunSpec
from aihf_control.training.summary import curves, summary

CHECKPOINT = "checkpoint"  # in a run's folder, while it is not finished


FREE = {"resume", "checkpoint", "folder", "tensorboard", "step_timeout"}  # flags that change no number


def read_begun(folder: Path, options: type) -> tuple[Any, Any]:
    """The options of a run and the config of its method. Raises BadInput where `folder` holds no run."""
    config = _config(folder)
    before_flag = {"step_timeout": DEFAULT_TIMEOUT}  # missing in runs that were started before the flag existed
    given = rebuild(options, before_flag | config["options"], folder)
    return given, rebuild(methods.load(given.method).Config, config["cell"].get("cfg"), folder)


def check_same(folder: Path, begun: tuple[Any, Any], given: tuple[Any, Any]) -> None:
    """Raises BadInput with the difference where flags say other than what the run was begun with."""
    before, now = ({k: v for part in pair for k, v in _flags(part).items()} for pair in (begun, given))
    changed = [f"{k} is {before.get(k)} there and {v} here" for k, v in now.items() if before.get(k) != v]
    if changed:
        raise BadInput(f"cannot resume {folder} with other settings: {'; '.join(changed)}; leave the flags out")


def prepare_resume(folder: Path, cell: RunSpec, dataset: Dataset) -> tuple[RunSpec, int]:
    """Makes a run's folder ready to go on: the cell as it was on its machine, and its number of processes."""
    config = _config(folder)
    if config["dataset"]["digest"] != dataset.digest():
        raise BadInput(f"{folder} was begun on dataset {config['dataset']['digest']}, and this is {dataset.digest()}")
    was, then = config["cell"], config["versions"]
    cell = dataclasses.replace(cell, device=device_of(was["device"]), products=was["products"])
    changed = [f"{k} {then.get(k)} -> {v}" for k, v in versions_of(cell).items() if then.get(k) != v]
    if changed:
        print(f"note: other versions than the run was begun with, so not the same bits: {', '.join(changed)}")
    with writing(folder):
        sweep(folder)
        (folder / "log.jsonl").unlink(missing_ok=True)  # it is told again, as far as the states remember
    return cell, config["workers"]


def versions_of(cell: RunSpec) -> dict[str, str]:
    """What a run's numbers are made with, and by what its products are if that is not said by their type."""
    return versions() | ({"products": kernel.state()} if cell.rounds_on_cpu else {})


def check_unused(folder: Path) -> None:
    """Raises BadInput where a run is in `folder` already."""
    if (folder / "config.json").exists() or (folder / "summary.json").exists():
        raise BadInput(
            f"there is a run in {folder} already; go on with it by --resume {folder}, or choose another folder"
        )


def is_running(folder: Path) -> bool:
    """Whether a run is going on in a folder."""
    if not (folder / CHECKPOINT / "lock").exists():
        return False
    try:
        lock_run(folder).close()
    except BadInput:
        return True
    return False


def lock_run(folder: Path) -> IO[bytes]:
    """Takes hold of a run's folder for as long as what is returned stays open. Raises BadInput where another has it."""
    return lock(folder / CHECKPOINT / "lock", f"{folder} is still running; wait for it or end it first")


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise BadInput(f"there is no run to resume in {folder}: it has no config.json")
    config = read_json(path)
    kinds = {"options": dict, "workers": int, "cell": dict, "dataset": dict, "versions": dict}
    for name, kind in kinds.items():
        if not isinstance(config, dict) or not isinstance(config.get(name), kind):
            raise BadInput(f"{path} is not a run's: its {name} is missing or wrong")
    for where, name in (("dataset", "digest"), ("cell", "device"), ("cell", "products")):
        if not isinstance(config[where].get(name), str):
            raise BadInput(f"{path} is not a run's: its {where} has no {name}")
    if config["cell"]["products"] not in ("float32", "bfloat16") or config["workers"] < 1:
        raise BadInput(f"{path} is not a run's: its products or its workers are impossible")
    return config


def _flags(part: Any, prefix: str = "--") -> dict[str, Any]:
    """Every field as the flag that sets it."""
    flags: dict[str, Any] = {}
    for f in dataclasses.fields(part):
        value, name = getattr(part, f.name), f"{prefix}{f.name.replace('_', '-')}"
        if dataclasses.is_dataclass(value):
            flags |= _flags(value, f"{name}.")
        elif f.name not in FREE:
            flags[name] = value
    return flags


def begin(folder: Path, options: Any, cell: RunSpec, dataset: Dataset, where: Path, workers: int) -> None:
    """config.json: flags, versions, commit, and the hash of the data."""
    config = {
        "options": jsonable(dataclasses.asdict(options)),
        "workers": workers,
        "cell": jsonable(dataclasses.asdict(cell)),
        "dataset": {"folder": where, "digest": dataset.digest(), "sha256": dataset.meta["sha256"]},
        "versions": versions_of(cell),
        "commit": commit(),
    }
    write_json(folder / "config.json", config)


def append(path: Path, rows: list[dict[str, Any]]) -> None:
    """A line a row at the end of log.jsonl."""
    with writing(path), path.open("a") as f:
        f.writelines(json.dumps(replace_nonfinite(row), allow_nan=False) + "\n" for row in rows)


def save(folder: Path, result: Result, interrupted: bool) -> None:
    """Policy, reward, curves and table of a run that has ended."""
    result.policy.save(folder / "policy.safetensors")
    for lane, seed in enumerate(result.cell.seeds):
        result.policy.export(folder / f"policy_seed{seed}.zip", lane)
    if result.reward is not None:
        result.reward.save(folder / "reward.safetensors")
    curves(result, folder / "curves.png")
    write_json(
        folder / "summary.json", summary(result) | {"interrupted": interrupted}
    )  # last: it says that all is there
