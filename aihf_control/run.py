"""Trains one method on one environment, a lane for each seed, and reports how good it is.

python -m aihf_control.run --env Hopper-v4
python -m aihf_control.run --env Hopper-v4 --method rlhf --pairs 50 --seeds 10
python -m aihf_control.run --env Hopper-v4 --dry-run        # checks the input, prints the plan, writes nothing
python -m aihf_control.run --method dpo --help
python -m aihf_control.run --resume results/runs/Hopper-v4/aihf/20261121-072237-495
"""

from __future__ import annotations

import contextlib
import itertools
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import tyro

from aihf_control import methods
from aihf_control.core.cli import ends_with_reader, exit_code, make_console, program_name
from aihf_control.core.files import check_writable
from aihf_control.core.signals import signal_handlers
from aihf_control.data.dataset import Dataset, check_sizes
from aihf_control.environments.cards import folder_name
from aihf_control.environments.checks import determinism_note
from aihf_control.environments.gym import EnvSpec, spec_of
from aihf_control.environments.modules import allow_module
from aihf_control.environments.watchdog import TIMEOUT_CODE, EnvTimeout, watch
from aihf_control.learning.annotators import Annotator
from aihf_control.models.device import default_workers
from aihf_control.training.display import Display
from aihf_control.training.estimate import load_factor
from aihf_control.training.options import Options, dataset_of, locate_dataset, run_spec_of, with_sizes
from aihf_control.training.plan import expect, planned_data, planned_default, print_plan
from aihf_control.training.recorder import Recorder, boards_of
from aihf_control.training.result import train_run
from aihf_control.training.run import CheckpointPlace, RunSpec
from aihf_control.training.run_folder import (
    CHECKPOINT,
    begin,
    check_not_running,
    check_resume,
    check_same,
    check_unused,
    clear_checkpoints,
    clear_for_resume,
    read_begun,
    run_in,
    save,
)
from aihf_control.training.start import check_asks, check_start


@ends_with_reader
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 2 for bad input, 130 if aborted, 143 if paused."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        return exit_code(lambda: _run_watched(*parse(argv)))
    except EnvTimeout as e:
        print(f"error: {e}", file=sys.stderr)
        return TIMEOUT_CODE
    except KeyboardInterrupt:
        print("aborted", file=sys.stderr)
        return 130


def _run_watched(options: Options, cfg: Any, dry_run: bool) -> int:
    with watch(options.env, options.step_timeout):  # making the default data, and whatever else is done here
        return run(options, cfg, dry_run)


def parse(argv: list[str]) -> tuple[Options, Any, bool]:
    """Parse the options, the config of the method that they name, and whether the run is only planned (--dry-run).

    With --resume the defaults are the settings of that run. Raises BadInput for a flag that differs from them.
    """
    allow_module(_flag(argv, "--env", ""))  # typed by a person; an id out of config.json is not allowed by this
    resumed = _flag(argv, "--resume", "")
    options, cfg = read_begun(Path(resumed)) if resumed else (Options(), None)
    method = methods.load(_flag(argv, "--method", options.method))
    about = f"{(__doc__ or '').splitlines()[0]} {(method.__doc__ or '').splitlines()[0]}"
    command = _command_of(options, cfg or method.Config())
    given = tyro.cli(command, args=argv, prog=program_name("run"), description=about)
    if resumed:
        check_same(Path(resumed), (options, cfg), given[:2])
    return given


def _command_of(options: Options, cfg: Any) -> Callable[..., tuple[Options, Any, bool]]:
    """Return a function whose arguments tyro makes flags of: the options, a method's config, and --dry-run."""

    def command(options, cfg, dry_run):
        return options, cfg, dry_run

    command.__defaults__ = (options, cfg, False)
    unnamed, about = tyro.conf.arg(name=""), tyro.conf.arg(help="Only check the input and print the plan.")
    kinds = {"options": Annotated[Options, unnamed], "cfg": Annotated[type(cfg), unnamed]}
    command.__annotations__ = kinds | {"dry_run": Annotated[bool, about]}
    return command


def _flag(argv: list[str], name: str, default: str) -> str:
    """Return the value of a flag before tyro knows the flags; the last one counts, as for tyro."""
    value = default
    for word, following in itertools.pairwise([*argv, default]):
        if word.startswith(f"{name}="):
            value = word.partition("=")[2]
        elif word == name:
            value = following
    return value


def run(options: Options, cfg: Any, dry_run: bool = False) -> int:
    """Run from start, or from the last checkpoint, to the table. Returns the exit code. Raises BadInput.

    With `dry_run` the run is only checked, and its plan printed.
    """
    if options.resume and (options.resume / "summary.json").exists():
        print(f"{options.resume} is finished: there is nothing to resume")
        return 0
    run_spec = run_spec_of(options, cfg)
    folder = options.resume or options.folder or options.out / folder_name(options.env) / options.method / _now()
    if not options.resume:
        check_unused(folder)
    check_writable(folder)
    boards = boards_of(options, cfg, folder)
    if dry_run:
        _print_dry_run(options, run_spec, folder)
        return 0
    dataset, where = dataset_of(options)
    options, run_spec = with_sizes(options, run_spec, dataset)
    if options.annotator == "page":
        check_asks(run_spec, dataset, votes=1)
    with run_in(folder):
        if options.resume:
            run_spec, workers = check_resume(folder, run_spec, dataset)
            clear_for_resume(folder)
        else:
            check_unused(folder)  # a run that has begun since
            clear_checkpoints(folder)
            workers = _workers_of(options, run_spec)
        console, data = make_console(), planned_data(dataset, where)
        expected = expect(run_spec, data, workers, known=not console.is_terminal)
        print_plan(console, run_spec, data, workers, folder, expected)
        display = Display(run_spec, expected.total * load_factor(workers) if expected and not options.resume else None)
        _print_determinism(data.spec)
        recorder = Recorder(folder, display, boards, lambda: begin(folder, options, run_spec, dataset, where, workers))
        place = CheckpointPlace(folder / CHECKPOINT, options.checkpoint, options.reuse)
        return _train(run_spec, dataset, workers, recorder, place, options)


def _print_dry_run(options: Options, run_spec: RunSpec, folder: Path) -> None:
    """Check all that can be checked without training, and print the plan. Writes nothing. Raises BadInput."""
    check_not_running(folder)
    workers = _workers_of(options, run_spec)
    where, to_make = locate_dataset(options)
    if to_make:
        data = planned_default(options.env, where)
        check_sizes(run_spec.demos, run_spec.pairs, data.sizes)
    else:
        dataset, _ = dataset_of(options)
        options, run_spec = with_sizes(options, run_spec, dataset)
        if options.resume:
            run_spec, workers = check_resume(folder, run_spec, dataset)
        if options.annotator == "page":
            check_asks(run_spec, dataset, votes=1)
        else:
            check_start(run_spec, dataset)
        data = planned_data(dataset, where)
    print_plan(make_console(), run_spec, data, workers, folder, expect(run_spec, data, workers))
    _print_determinism(data.spec)
    print("dry run: nothing was trained, and nothing was written")


def _workers_of(options: Options, run_spec: RunSpec) -> int:
    return options.workers or default_workers(run_spec.device, len(run_spec.seeds))


def _train(
    run_spec: RunSpec, dataset: Dataset, workers: int, recorder: Recorder, place: CheckpointPlace, options: Options
) -> int:
    """Train to the end, an early end (Ctrl-C) or a pause (SIGTERM), and save the result. Returns the exit code."""
    folder, stop, pause = recorder.folder, threading.Event(), threading.Event()

    def end_early() -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        print("\nending early with the present policies; Ctrl-C again to abort", file=sys.stderr)

    def write_and_pause() -> None:
        pause.set()
        print(f"\npausing; writing a checkpoint to {folder}", file=sys.stderr)

    with (
        signal_handlers({signal.SIGINT: end_early, signal.SIGTERM: write_and_pause}),
        _annotator_of(options, dataset, folder, pause.set) as annotator,
        recorder.display,
        contextlib.closing(recorder),
    ):
        timeout = options.step_timeout
        result = train_run(run_spec, dataset, workers, recorder, stop, pause, place, timeout, annotator)
    if result is None:
        print(_resume_hint(folder, options.env))
        return 143
    save(folder, result, interrupted=stop.is_set())
    recorder.display.table(result, folder)
    return 0


def _annotator_of(
    options: Options, dataset: Dataset, folder: Path, failed: Callable[[], None]
) -> contextlib.AbstractContextManager[Annotator | None]:
    """Return a context of the annotator that the options name, None for the teacher; people's page is served in it."""
    if options.annotator == "teacher":
        return contextlib.nullcontext()
    from aihf_control.label.online import page_of_run  # its packages are an extra

    spec = spec_of(dataset.meta["env"], **dataset.meta["options"])
    served = options.annotators, options.port, options.wait, options.step_timeout
    return page_of_run(folder / "labels", spec, *served, failed)


def _print_determinism(spec: EnvSpec) -> None:
    """Print a note if the environment is not deterministic."""
    if note := determinism_note(spec):
        print(f"note: {note}", file=sys.stderr)


def _resume_hint(folder: Path, env: str) -> str:
    if not (folder / "config.json").exists():
        return "paused before the first evaluation: start again with the same command"
    return f"paused; resume with: python -m aihf_control.run --resume {folder}{f' --env {env}' * (':' in env)}"


def _now() -> str:
    """Name a run folder by the time in milliseconds, so that runs started together do not share one."""
    return f"{datetime.now():%Y%m%d-%H%M%S-%f}"[:-3]


if __name__ == "__main__":
    sys.exit(main())
