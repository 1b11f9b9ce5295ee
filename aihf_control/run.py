"""Trains one method on one environment, a lane for each seed, and says how good it is.

python -m aihf_control.run --env Hopper-v4
python -m aihf_control.run --env Hopper-v4 --method rlhf --pairs 50 --seeds 10
python -m aihf_control.run --method dpo --help
python -m aihf_control.run --resume results/runs/Hopper-v4/aihf/20261121-072237-495
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import tyro

from aihf_control import methods
from aihf_control.core.errors import BadInput
from aihf_control.core.files import check_writable
from aihf_control.data.dataset import Dataset
from aihf_control.environments.cards import folder_name
from aihf_control.environments.checks import determinism_note
from aihf_control.environments.gym import spec_of
from aihf_control.environments.modules import allow_module
from aihf_control.environments.watchdog import TIMEOUT_CODE, EnvTimeout
from aihf_control.models.device import default_workers
from aihf_control.training.display import Display
from aihf_control.training.options import Options, cell_of, dataset_of
from aihf_control.training.result import Collector
from aihf_control.training.run import CheckpointPlace, Evaluated, Notice, Paused
from aihf_control.training.run_folder import (
    CHECKPOINT,
    append,
    begin,
    check_same,
    check_unused,
    lock_run,
    prepare_resume,
    read_begun,
    save,
)
from aihf_control.training.tensorboard import TensorBoard
from aihf_control.training.workers import run_workers


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code: 0, or 2 for bad input."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        return run(*parse(argv))
    except BadInput as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    except EnvTimeout as e:
        print(f"error: {e}", file=sys.stderr)
        return TIMEOUT_CODE
    except KeyboardInterrupt:
        print("broken off", file=sys.stderr)
        return 130


def parse(argv: list[str]) -> tuple[Options, Any]:
    """The options, and the config of the method that they name: its fields are flags too.

    Those of a run that is resumed are the run's own; a flag that says otherwise raises BadInput.
    """
    allow_module(_flag(argv, "--env", ""))  # typed by a person; an id out of config.json is not allowed by this
    resumed = _flag(argv, "--resume", "")
    options, cfg = read_begun(Path(resumed), Options) if resumed else (Options(), None)
    method = methods.load(_flag(argv, "--method", options.method))

    def both(options, cfg):
        return options, cfg

    both.__defaults__ = (options, cfg or method.Config())
    both.__annotations__ = {
        "options": Annotated[Options, tyro.conf.arg(name="")],
        "cfg": Annotated[method.Config, tyro.conf.arg(name="")],
    }
    about = f"{(__doc__ or '').splitlines()[0]} {(method.__doc__ or '').splitlines()[0]}"
    given = tyro.cli(both, args=argv, prog="python -m aihf_control.run", description=about)
    if resumed:
        check_same(Path(resumed), (options, cfg), given)
    return given


def _flag(argv: list[str], name: str, default: str) -> str:
    """The value of a flag; of one that is given twice the last counts, as for tyro."""
    value = default
    for word, following in itertools.pairwise([*argv, default]):
        if word.startswith(f"{name}="):
            value = word.partition("=")[2]
        elif word == name:
            value = following
    return value


def run(options: Options, cfg: Any) -> int:
    """One run from start to table, or from where it was killed. Returns its exit code. Raises BadInput."""
    if options.resume and (options.resume / "summary.json").exists():
        print(f"{options.resume} is finished: there is nothing to resume")
        return 0
    cell = cell_of(options, cfg)
    folder = options.resume or options.folder or options.out / folder_name(options.env) / options.method / _now()
    if not options.resume:
        check_unused(folder)
    check_writable(folder)
    board = TensorBoard(folder) if options.tensorboard else None
    dataset, where = dataset_of(options)
    for seed in cell.seeds:
        dataset.draw(seed, cell.demos, cell.pairs)  # says now what is lacking
    workers = options.workers or default_workers(cell.device, len(cell.seeds))
    lock = lock_run(folder) if options.resume else None
    if options.resume:
        cell, workers = prepare_resume(folder, cell, dataset)
    else:
        shutil.rmtree(folder / CHECKPOINT, ignore_errors=True)  # of a run that was killed before it had a config
    display = Display(cell, dataset, workers)
    display.plan(where, folder)
    _print_determinism(dataset)

    collector, stop, pause, paused = Collector(cell, dataset), threading.Event(), threading.Event(), False
    home = CheckpointPlace(folder / CHECKPOINT, options.checkpoint)
    with _interrupts(stop, pause, folder), display:
        for event in run_workers(cell, dataset, workers, stop, pause, home, options.step_timeout):
            collector.add(event)
            paused = paused or isinstance(event, Paused)
            if isinstance(event, Notice):
                print(f"note: {event.message}", file=sys.stderr)
            if isinstance(event, Evaluated):
                if not (folder / "config.json").exists():
                    lock = lock_run(folder)
                    begin(folder, options, cell, dataset, where, workers)
                append(folder / "log.jsonl", event.rows)
                if board:
                    board.add(event.rows)
            display.show(event, collector)
    if paused:
        print(_resume_hint(folder, options.env))
        return 143
    result = collector.result()
    save(folder, result, interrupted=stop.is_set())
    shutil.rmtree(folder / CHECKPOINT, ignore_errors=True)
    if lock:
        lock.close()
    display.table(result, folder)
    return 0


def _print_determinism(dataset: Dataset) -> None:
    """Print a note if the environment is not deterministic."""
    if note := determinism_note(spec_of(dataset.meta["env"], **dataset.meta["options"])):
        print(f"note: {note}", file=sys.stderr)


def _resume_hint(folder: Path, env: str) -> str:
    if not (folder / "config.json").exists():
        return "left off before there was anything to keep"
    return f"left off; go on with: python -m aihf_control.run --resume {folder}{f' --env {env}' * (':' in env)}"


def _now() -> str:
    """A name for the run's folder; to the millisecond, so that runs started together do not share one."""
    return f"{datetime.now():%Y%m%d-%H%M%S-%f}"[:-3]


@contextlib.contextmanager
def _interrupts(stop: threading.Event, pause: threading.Event, folder: Path) -> Iterator[None]:
    """While it lasts, Ctrl-C asks for an early end and SIGTERM for a checkpoint; a second Ctrl-C breaks off."""

    def end(*_: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        print("\nending with what there is; Ctrl-C again to break off", file=sys.stderr)

    def leave_off(*_: Any) -> None:
        pause.set()
        print(f"\nleaving off; what {folder} needs to go on is being written", file=sys.stderr)

    before = {which: signal.signal(which, do) for which, do in ((signal.SIGINT, end), (signal.SIGTERM, leave_off))}
    try:
        yield
    finally:
        for which, old in before.items():
            signal.signal(which, old)


if __name__ == "__main__":
    sys.exit(main())
