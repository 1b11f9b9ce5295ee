"""What a run was begun with, read back from its folder, so that it can go on."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from pathlib import Path
from typing import IO, Any

from aihf_control import kernel, methods
from aihf_control.cell import Cell
from aihf_control.checkpoint import sweep
from aihf_control.dataset import Dataset
from aihf_control.files import BadInput, lock, plain, read_json, writing
from aihf_control.generate import versions
from aihf_control.machine import device_of

CHECKPOINT = "checkpoint"  # in a run's folder, while it is not finished
FREE = {"resume", "checkpoint", "folder", "tensorboard"}  # flags that change no number


def begun_with(folder: Path, options: type) -> tuple[Any, Any]:
    """The options of a run and the config of its method. Raises BadInput where `folder` holds no run."""
    config = _config(folder)
    given = rebuild(options, config["options"], folder)
    return given, rebuild(methods.load(given.method).Config, config["cell"].get("cfg"), folder)


def check_same(folder: Path, begun: tuple[Any, Any], given: tuple[Any, Any]) -> None:
    """Raises BadInput with the difference where flags say other than what the run was begun with."""
    before, now = ({k: v for part in pair for k, v in _flags(part).items()} for pair in (begun, given))
    changed = [f"{k} is {before.get(k)} there and {v} here" for k, v in now.items() if before.get(k) != v]
    if changed:
        raise BadInput(f"cannot resume {folder} with other settings: {'; '.join(changed)}; leave the flags out")


def take_up(folder: Path, cell: Cell, dataset: Dataset) -> tuple[Cell, int]:
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


def versions_of(cell: Cell) -> dict[str, str]:
    """What a run's numbers are made with, and by what its products are if that is not said by their type."""
    return versions() | ({"products": kernel.state(cell.products)} if cell.on_cpu else {})


def check_unused(folder: Path) -> None:
    """Raises BadInput where a run is in `folder` already."""
    if (folder / "config.json").exists() or (folder / "summary.json").exists():
        raise BadInput(
            f"there is a run in {folder} already; go on with it by --resume {folder}, or choose another folder"
        )


def held(folder: Path) -> bool:
    """Whether a run is going on in a folder."""
    if not (folder / CHECKPOINT / "lock").exists():
        return False
    try:
        hold(folder).close()
    except BadInput:
        return True
    return False


def hold(folder: Path) -> IO[bytes]:
    """Takes hold of a run's folder for as long as what is returned stays open. Raises BadInput where another has it."""
    return lock(folder / CHECKPOINT / "lock", f"{folder} is still running; wait for it or end it first")


def spelled(tree: Any) -> Any:
    """The same with words for the numbers for which JSON has none."""
    if isinstance(tree, dict):
        return {name: spelled(x) for name, x in tree.items()}
    if isinstance(tree, list | tuple):
        return [spelled(x) for x in tree]
    return str(tree) if isinstance(tree, float) and not math.isfinite(tree) else tree


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


def rebuild(kind: Any, tree: Any, where: Path) -> Any:
    """A value of a type out of what JSON kept of it. Raises BadInput where the two do not fit."""
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        if not isinstance(tree, dict) or set(tree) != set(hints):
            raise BadInput(
                f"{where}/config.json does not fit this version's settings ({getattr(kind, '__name__', kind)})"
            )
        return kind(**{name: rebuild(hint, tree[name], where) for name, hint in hints.items()})  # type: ignore[operator]
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        fitting = type(None) if tree is None else next(a for a in args if a is not type(None))
        return None if fitting is type(None) and type(None) in args else rebuild(fitting, tree, where)
    if origin is tuple and isinstance(tree, list):
        return tuple(rebuild(args[0], x, where) for x in tree)
    if origin is typing.Literal and tree in args:
        return tree
    if kind is Path and isinstance(tree, str):
        return Path(tree)
    if kind is float and tree in ("inf", "-inf", "nan"):
        return float(tree)
    if kind is float and isinstance(tree, int | float) and not isinstance(tree, bool):
        return float(tree)
    if kind in (bool, int, str) and type(tree) is kind:
        return tree
    raise BadInput(f"{where}/config.json: {plain(tree)!r} is not what this version's settings hold there")
