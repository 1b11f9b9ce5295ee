"""Has people compare clips of a dataset on a local web page, and writes their answers as comparisons to train on.

python -m aihf_control.label my_data
python -m aihf_control.label my_data --pairs 100 --query disagreement --annotators 3
python -m aihf_control.label my_data --export my_labelled_data
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from aihf_control.core.cli import ends_with_reader, exit_code, program_name
from aihf_control.core.errors import BadInput, at_least_one
from aihf_control.core.signals import signal_handlers
from aihf_control.data.dataset import Dataset
from aihf_control.environments.modules import allow_module, check_module
from aihf_control.environments.watchdog import DEFAULT_TIMEOUT, TIMEOUT_CODE, EnvTimeout, StepTimeout, check_limit
from aihf_control.label.hosts import check_host
from aihf_control.label.plan import SECONDS, Plan
from aihf_control.label.process import Background, DatasetWork, running
from aihf_control.label.server import Links, Server, bind, check_installed, locked, serve_until
from aihf_control.label.store import FILE, Store

LABELS = "labels"  # subfolder of a dataset
PLAN = Plan()
MAX_ANNOTATORS = 1000


@dataclasses.dataclass(frozen=True)
class Options:
    """Dataset, annotators, and where the page is served."""

    dataset: tyro.conf.Positional[Path]
    """Dataset folder; answers and clips are kept in its subfolder `labels`."""
    annotators: int = 1
    """Number of annotators; each gets a link."""
    ask: str = "Which one does better?"
    """The question above the clips."""
    frames: Path | None = None
    """npz with `frames` (N, H, W, 3) uint8, one a step of all episodes in order, for episodes that cannot be drawn."""
    export: Path | None = None
    """Serve no page; write the answers so far as the training comparisons of a dataset in this folder."""
    keep: bool = False
    """With --export: keep the dataset's own training comparisons, too."""
    host: str = "127.0.0.1"
    """Address to listen on; others than 127.0.0.1 need --trust-network."""
    port: int = 8321
    """Port; 0 takes a free one."""
    trust_network: bool = False
    """Accept that the page can be reached from other machines, without encryption."""
    env: str = ""
    """The dataset's environment, if its id has a module part: confirms that the module may be imported."""
    step_timeout: StepTimeout = DEFAULT_TIMEOUT


@ends_with_reader
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    try:
        return exit_code(lambda: label(*_parse(argv)))
    except EnvTimeout as e:
        print(f"error: {e}", file=sys.stderr)
        return TIMEOUT_CODE
    except KeyboardInterrupt:
        print("aborted", file=sys.stderr)
        return 130


def _parse(argv: Sequence[str] | None) -> tuple[Options, Plan]:
    def command(
        options: Annotated[Options, tyro.conf.arg(name="")], plan: Annotated[Plan, tyro.conf.arg(name="")] = PLAN
    ) -> tuple[Options, Plan]:
        return options, plan

    description = (__doc__ or "").partition("\n")[0]
    return tyro.cli(command, args=argv, prog=program_name("label"), description=description)


def label(options: Options, plan: Plan) -> None:
    """Serve the page until Ctrl-C, or export the answers. Raises BadInput."""
    allow_module(options.env)
    check_limit(options.step_timeout)
    if options.keep and not options.export:
        raise BadInput("--keep is of --export: it keeps the dataset's own comparisons beside the answers")
    dataset, folder = Dataset.load(options.dataset), options.dataset / LABELS
    if options.export:
        _export(options, dataset, folder)
        return
    check_installed()
    from aihf_control.label.app import Page
    from aihf_control.label.clips import check_drawable
    from aihf_control.label.questions import segment_pool

    _check_annotators(options.annotators)
    check_module(dataset.meta["env"])
    pool = segment_pool(dataset, plan.clip)
    if options.frames is None:
        check_drawable([dataset.pool[i] for i in pool.episodes])
    hosts = check_host(options.host, options.trust_network)
    with (
        bind(options.host, options.port) as listening,
        locked(folder),
        contextlib.closing(Store(folder)) as store,
    ):
        prepare(store, dataset, options, plan)
        work = DatasetWork(options.dataset, plan, options.frames)
        with running(folder, work) as background:
            background.wait_until_ready(options.step_timeout)
            page = Page(dataset.meta["env"], options.ask, plan.pairs, plan.checks)
            with Server(store, page, listening, hosts) as server:
                _print_links(server.links, options, plan)
                _wait_for_signal(server, background, options)
        print(f"{len(store.answers())} answers in {store.path}")


def _check_annotators(n: int) -> None:
    at_least_one({"--annotators": n})
    if n > MAX_ANNOTATORS:
        raise BadInput(f"--annotators must be at most {MAX_ANNOTATORS}, got {n}")


def prepare(store: Store, dataset: Dataset, options: Options, plan: Plan) -> None:
    """Add the annotators to a store. Raises BadInput if its questions are about other episodes or another length."""
    now, begun = {"pool": dataset.meta["sha256"]["pool.npz"], "clip": plan.clip}, bool(store.sources())
    for name, value in now.items():
        if not begun:
            store.set_fact(name, value)
        elif (before := store.fact(name, value)) != value:
            raise BadInput(
                f"{store.path} has questions with {name} {before}, not {value}; give the same settings, or "
                f"move {store.folder} away"
            )
    store.add_annotators([f"person{i + 1}" for i in range(options.annotators)])
    store.clear_faults()


def _print_links(links: Links, options: Options, plan: Plan) -> None:
    print(f"{plan.pairs} pairs for each annotator: about {plan.minutes:.1f} minutes, at {SECONDS:g} seconds a label")
    for name, link in links.annotators.items():
        print(f"{name}: {link}")
    print(f"results: {links.results}")
    print("each link is a key: give it to one person only; Ctrl-C ends the page, and every answer is kept", flush=True)
    if options.trust_network:
        print(
            f"warning: {options.host} can be reached from other machines, and links and answers are sent unencrypted",
            file=sys.stderr,
        )


def _wait_for_signal(server: Server, background: Background, options: Options) -> None:
    ended = threading.Event()
    with signal_handlers({signal.SIGINT: ended.set, signal.SIGTERM: ended.set}):
        serve_until(server, background, ended.is_set, options.step_timeout)


def _export(options: Options, dataset: Dataset, folder: Path) -> None:
    from aihf_control.label.export import export

    assert options.export
    if not (folder / FILE).exists():
        raise BadInput(f"{options.dataset} has no answers; label it first: aihf label {options.dataset}")
    with contextlib.closing(Store(folder)) as store:
        written = export(dataset, store, options.export, options.keep)
    n = written.sizes[1]
    print(f"wrote {options.export}: {n} training comparisons; train on them with")
    print(f"python -m aihf_control.run --env {dataset.meta['env']} --dataset {options.export} --pairs {n}")


if __name__ == "__main__":
    sys.exit(main())
