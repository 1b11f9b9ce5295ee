"""Runs pieces of work on a Ray cluster, by the same code as on this machine. An extra: pip install 'aihf_control[ray]'.

Machines need share nothing but the package: what a piece of work reads is sent along, what it leaves comes back, and so
does its state where it was asked to leave off. A machine that dies takes the state of its cells with it; they begin
again elsewhere. Each piece of work is stored here once, however often it was done.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from aihf_control.bench.fingerprint import whole_package
from aihf_control.bench.local import BAD_INPUT, Advanced, Attempted, Event, Job, Started, run_here
from aihf_control.core.errors import BadInput
from aihf_control.core.files import read_bytes, write_bytes, writing

ASK_EVERY = 1.0  # seconds from one word between a task and the driver to the next
Files = dict[str, bytes]


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Where, and what each piece of work asks of it."""

    address: str | None
    at_a_time: int
    """How many pieces of work at most; 0 is as many as it has room for."""
    cores: float
    gpu: float


@dataclasses.dataclass(frozen=True)
class Done:
    """What comes back of a piece of work."""

    attempts: list[Attempted]
    files: Files
    output: bytes


class Board:
    """An actor beside the driver: tasks tell it how far they are, and hear from it whether to leave off."""

    def __init__(self):
        self.shares: dict[str, float] = {}
        self.stopping = False

    def tell(self, key: str, share: float) -> bool:
        self.shares[key] = share
        return self.stopping

    def told(self) -> dict[str, float]:
        return self.shares

    def stop(self) -> None:
        self.stopping = True


def run_on_ray(works: Sequence[Job], cluster: Cluster, retries: int, stop: Any) -> Iterator[Event]:
    """Does all the works as `run_here` does. Raises BadInput where there is no Ray, or no cluster."""
    ray = _connected(cluster)
    try:
        if not _room(ray, cluster):
            raise BadInput(
                f"no machine of the cluster has the {cluster.cores:g} cores and {cluster.gpu:g} GPUs of a cell"
            )
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), False
        )
        board = ray.remote(Board).options(num_cpus=0, scheduling_strategy=here).remote()
        task = ray.remote(attempt).options(num_cpus=cluster.cores, num_gpus=cluster.gpu, max_retries=retries)
        data = {folder: ray.put(packed(folder)) for work in works for folder in work.needs}
        waiting, pending, shares = list(works), {}, {}
        while pending or (waiting and not stop.is_set()):
            while waiting and len(pending) < max(1, _room(ray, cluster)) and not stop.is_set():
                work = waiting.pop(0)
                needed = [data[folder] for folder in work.needs]
                pending[task.remote(work, packed(work.folder), whole_package(), retries, board, *needed)] = work
            for ref in ray.wait(list(pending), num_returns=1, timeout=ASK_EVERY)[0] if pending else ():
                work = pending.pop(ref)
                yield from _received(ray, ref, work, work.key in shares)
            if stop.is_set():
                board.stop.remote()
            for key, share in ray.get(board.told.remote()).items():
                yield from _advances({w.key: w for w in pending.values()}.get(key), share, shares)
    finally:
        ray.shutdown()


def _connected(cluster: Cluster) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers
    try:
        ray = importlib.import_module("ray")
        importlib.import_module("ray.util.scheduling_strategies")
    except ImportError as e:
        raise BadInput("--engine ray needs Ray; install it with pip install 'aihf_control[ray]'") from e
    ended_by = signal.getsignal(signal.SIGTERM)  # Ray puts its own in place of it
    address = cluster.address or os.environ.get("RAY_ADDRESS") or "local"
    own = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error", **own)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as e:
        raise BadInput(f"no Ray cluster at {address}: {' '.join(str(e).split())[:200]}") from e
    signal.signal(signal.SIGTERM, ended_by)
    return ray


def _room(ray: Any, cluster: Cluster) -> int:
    """How many pieces of work the cluster, as it is now, has room for; each needs a machine with all it asks for."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    asked = {"CPU": cluster.cores, "GPU": cluster.gpu}
    room = sum(min(int(there.get(name, 0) / n) for name, n in asked.items() if n) for there in machines)
    return min(room, cluster.at_a_time or room)


def _received(ray: Any, ref: Any, work: Job, started: bool) -> Iterator[Event]:
    """What a task has come to: stored, and told attempt by attempt."""
    try:
        done = ray.get(ref)
    except ray.exceptions.RayError as e:  # its machines died too often, or do not have the package
        text = str(e).strip()
        write_bytes(work.output, text.encode())
        done = Done([Attempted(work, 1, 1, 0.0, text.splitlines()[-1] if text else type(e).__name__, True)], {}, b"")
    if done.output:
        write_bytes(work.output, done.output)
    if done.files and not work.finished():
        unpack(done.files, work.folder)
    for i, attempted in enumerate(done.attempts):
        if i or not started:
            yield Started(work, attempted.attempt)
        yield dataclasses.replace(attempted, work=work)


def _advances(work: Job | None, share: float, shares: dict[str, float]) -> Iterator[Event]:
    if work is None or shares.get(work.key) == share:
        return
    if work.key not in shares:
        yield Started(work, 1)
    shares[work.key] = share
    yield Advanced(work, share)


# --------------------------------------------------------------------------------------------------- on the other side


def attempt(work: Job, begun: Files, package: str, retries: int, board: Any, *needed: Files) -> Done:
    """A piece of work, on whatever machine of the cluster this runs."""
    ray = importlib.import_module("ray")
    if whole_package() != package:
        message = "a machine of the cluster has other code of aihf_control; install the same on all"
        return Done([Attempted(work, 1, BAD_INPUT, 0.0, message, True)], {}, b"")
    place = Path(tempfile.gettempdir()) / "aihf_control" / ray.get_runtime_context().get_node_id()
    place.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(place):
        for folder, files in zip(work.needs, needed, strict=True):
            unpack(files, folder, over=False)
        if begun and not (work.folder / "config.json").exists():
            unpack(begun, work.folder)
        asked, attempts = _Asked(ray, board, work.key), []
        for event in run_here([work], [()], retries, asked):
            if isinstance(event, Advanced):
                asked.share = event.share
            if isinstance(event, Attempted):
                attempts.append(event)
        done = Done(attempts, packed(work.folder), read_bytes(work.output) if work.output.is_file() else b"")
        shutil.rmtree(work.folder, ignore_errors=True)
    return done


class _Asked:
    """Set once the driver wants this task to leave off."""

    def __init__(self, ray: Any, board: Any, key: str):
        self.ray, self.board, self.key = ray, board, key
        self.share, self.asked, self.last = 0.0, False, 0.0

    def is_set(self) -> bool:
        if not self.asked and time.monotonic() - self.last > ASK_EVERY:
            self.last = time.monotonic()
            self.asked = self.ray.get(self.board.tell.remote(self.key, self.share))
        return self.asked


# ---------------------------------------------------------------------------------------------------- folders as bytes


def packed(folder: Path) -> Files:
    """Every file of a folder by its name in it; locks and temporaries are left out."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "lock" and not p.name.endswith(".tmp"))
    return {str(path.relative_to(folder)): read_bytes(path) for path in paths}


def unpack(files: Files, folder: Path, over: bool = True) -> None:
    """Puts files into a folder that is there whole or not at all; what was there goes, or with `over` false stays."""
    if folder.exists() and not over:
        return
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".tmp"))
        try:
            for name, data in files.items():
                if not (fresh / name).resolve().is_relative_to(fresh.resolve()):
                    raise BadInput(f"what came back for {folder} has a file outside of it: {name}")
                write_bytes(fresh / name, data)
            fresh.chmod(0o755)
            if over and folder.exists():
                shutil.rmtree(folder)
            if not folder.exists():  # somebody may have been faster with the same
                fresh.rename(folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
