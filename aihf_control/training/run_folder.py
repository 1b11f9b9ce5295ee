"""The run folder: what a run leaves on the disk, and what is read back from it to resume the run."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from aihf_control import methods
from aihf_control.core.config import OF_PEOPLE, jsonable, rebuild
from aihf_control.core.errors import BadInput
from aihf_control.core.files import lock, read_json, remove_temporary_files, replace_nonfinite, write_json, writing
from aihf_control.core.provenance import commit, versions
from aihf_control.data.dataset import Dataset
from aihf_control.environments.watchdog import DEFAULT_TIMEOUT
from aihf_control.models import kernel_library
from aihf_control.models.device import device_of
from aihf_control.training.options import MAY_DIFFER, Options
from aihf_control.training.result import Result
from aihf_control.training.run import RunSpec
from aihf_control.training.summary import draw_curves, summarise

CHECKPOINT = "checkpoint"  # subfolder of an unfinished run

# ------------------------------------------------------------------------------------------------------------- locking


def lock_run(folder: Path) -> IO[bytes]:
    """Lock a run folder until the returned file is closed. Raises BadInput if another process holds the lock."""
    return lock(folder / CHECKPOINT / "lock", f"{folder} is in use by a running process; wait for it or end it first")


@contextlib.contextmanager
def run_in(folder: Path) -> Iterator[None]:
    """Lock a run folder, made if it does not exist, for a run that is started or resumed.

    Afterwards checkpoints are removed of a run that is finished, or that never began; a folder that is then empty is
    removed, too. Raises BadInput if another process holds the lock.
    """
    made = [path for path in (folder, *folder.absolute().parents) if not path.exists()]
    file = lock_run(folder)
    try:
        yield
    finally:
        if (folder / "summary.json").exists() or not (folder / "config.json").exists():
            shutil.rmtree(folder / CHECKPOINT, ignore_errors=True)
        file.close()
        for path in made:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


def clear_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of an earlier run that never began, but not the lock, which this process has."""
    for path in (folder / CHECKPOINT).iterdir():
        if path.is_dir():
            shutil.rmtree(path)


def check_not_running(folder: Path) -> None:
    """Raise BadInput if a process has locked the run folder. Creates nothing."""
    if (folder / CHECKPOINT / "lock").exists():
        lock_run(folder).close()


def is_running(folder: Path) -> bool:
    """Return whether a process has locked the run folder."""
    try:
        check_not_running(folder)
    except BadInput:
        return True
    return False


def check_unused(folder: Path) -> None:
    """Raise BadInput if `folder` holds a run already."""
    if (folder / "config.json").exists() or (folder / "summary.json").exists():
        raise BadInput(f"{folder} holds a run already; resume it with --resume {folder}, or choose another folder")


# ------------------------------------------------------------------------------------------------------------- writing


def begin(folder: Path, options: Options, run_spec: RunSpec, dataset: Dataset, where: Path, workers: int) -> None:
    """Write config.json: flags, versions, commit, and the hashes of the data."""
    config = {
        "options": jsonable(dataclasses.asdict(options)),
        "workers": workers,
        "cell": jsonable(dataclasses.asdict(run_spec)),
        "dataset": {"folder": where, "digest": dataset.digest(), "sha256": dataset.meta["sha256"]},
        "versions": versions_of(run_spec),
        "commit": commit(),
    }
    write_json(folder / "config.json", config)


def versions_of(run_spec: RunSpec) -> dict[str, str]:
    """Return the versions behind a run's numbers, with the kernel that computes the products."""
    return versions() | ({"products": kernel_library.state(run_spec.products)} if run_spec.on_cpu else {})


def append(path: Path, rows: list[dict[str, Any]]) -> None:
    """Append rows to log.jsonl, one a line."""
    with writing(path), path.open("a") as f:
        f.writelines(json.dumps(replace_nonfinite(row), allow_nan=False) + "\n" for row in rows)


def save(folder: Path, result: Result, interrupted: bool) -> None:
    """Write policy, reward, curves and summary of a run that has ended."""
    result.policy.save(folder / "policy.safetensors")
    for lane, seed in enumerate(result.run_spec.seeds):
        result.policy.export(folder / f"policy_seed{seed}.zip", lane)
    if result.reward is not None:
        result.reward.save(folder / "reward.safetensors")
    draw_curves(result, folder / "curves.png")
    # last, because a run folder with a summary is complete
    write_json(folder / "summary.json", summarise(result) | {"interrupted": interrupted})


# ------------------------------------------------------------------------------------------------------------ resuming


def read_begun(folder: Path) -> tuple[Options, Any]:
    """Read the options of a run and the config of its method. Raises BadInput if `folder` holds no run."""
    config = _config(folder)
    newer = {"step_timeout": DEFAULT_TIMEOUT, "wandb": False} | {name: getattr(Options, name) for name in OF_PEOPLE}
    before_flag = jsonable(newer)  # missing in runs that were started before these flags existed
    given = rebuild(Options, before_flag | config["options"], folder)
    return given, rebuild(methods.load(given.method).Config, config["cell"].get("cfg"), folder)


def check_same(folder: Path, begun: tuple[Any, Any], given: tuple[Any, Any]) -> None:
    """Raise BadInput that names the differences if flags are not those the run was started with."""
    before, now = ({k: v for part in pair for k, v in _flags(part).items()} for pair in (begun, given))
    changed = [f"{k} is {before.get(k)} there and {v} here" for k, v in now.items() if before.get(k) != v]
    if changed:
        raise BadInput(f"cannot resume {folder} with other settings: {'; '.join(changed)}; leave the flags out")


def check_resume(folder: Path, run_spec: RunSpec, dataset: Dataset) -> tuple[RunSpec, int]:
    """Check that a run can be resumed; return its original specification and number of workers. Raises BadInput."""
    config = _config(folder)
    if config["dataset"]["digest"] != dataset.digest():
        raise BadInput(f"{folder} was started on dataset {config['dataset']['digest']}, but this is {dataset.digest()}")
    was, then = config["cell"], config["versions"]
    run_spec = dataclasses.replace(run_spec, device=device_of(was["device"]), products=was["products"])
    changed = [f"{k} {then.get(k)} -> {v}" for k, v in versions_of(run_spec).items() if then.get(k) != v]
    if changed:
        print(f"note: versions differ from those at the start, so the bits will too: {', '.join(changed)}")
    return run_spec, config["workers"]


def clear_for_resume(folder: Path) -> None:
    """Remove what a killed run has left besides its checkpoints. Raises BadInput if that is not possible."""
    with writing(folder):
        remove_temporary_files(folder)
        (folder / "log.jsonl").unlink(missing_ok=True)  # written again from the rows in the checkpoints


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise BadInput(
            f"there is no run to resume in {folder}: it has no config.json, which the first evaluation writes; "
            "start the run again with its first command"
        )
    config = read_json(path)
    kinds = {"options": dict, "workers": int, "cell": dict, "dataset": dict, "versions": dict}
    for name, kind in kinds.items():
        if not isinstance(config, dict) or not isinstance(config.get(name), kind):
            raise BadInput(f"{path} is not the config of a run: {name} is missing or wrong")
    for where, name in (("dataset", "digest"), ("cell", "device"), ("cell", "products")):
        if not isinstance(config[where].get(name), str):
            raise BadInput(f"{path} is not the config of a run: {where} has no {name}")
    if config["cell"]["products"] not in ("float32", "bfloat16") or config["workers"] < 1:
        raise BadInput(f"{path} is not the config of a run: its products or workers are impossible")
    return config


def _flags(part: Any, prefix: str = "--") -> dict[str, Any]:
    """Return every field that changes a number, by the flag that sets it."""
    flags: dict[str, Any] = {}
    for f in dataclasses.fields(part):
        value, name = getattr(part, f.name), f"{prefix}{f.name.replace('_', '-')}"
        if dataclasses.is_dataclass(value):
            flags |= _flags(value, f"{name}.")
        elif f.name not in MAY_DIFFER:
            flags[name] = value
    return flags
