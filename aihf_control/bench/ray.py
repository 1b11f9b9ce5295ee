"""Ray engine: runs jobs on a Ray cluster with the code of the local engine. Needs pip install 'aihf_control[ray]'.

Machines need to share only the package. Folders that a job reads are sent with it; the files that it writes are sent
back, also those of a job that was asked to stop. If a machine dies, the state of its jobs is lost and they start again
on another one. The result of each job is stored here once, even if it ran several times.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import shutil
import signal
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from aihf_control.bench.fingerprint import whole_package
from aihf_control.bench.local import BAD_INPUT, Advanced, Attempted, Event, Job, Started, run_here
from aihf_control.core.errors import BadInput
from aihf_control.core.files import read_bytes, write_bytes, writing

SYNC_EVERY = 1.0  # seconds between messages of a task and the driver
Files = dict[str, bytes]


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A cluster's address, and the resources that each job reserves on it."""

    address: str | None
    at_a_time: int
    """Largest number of jobs at the same time; 0 is as many as the cluster has resources for."""
    cores: float
    gpu: float


@dataclasses.dataclass(frozen=True)
class Done:
    """The result of a task: its attempts, the files of its folder, its output."""

    attempts: list[Attempted]
    files: Files
    output: bytes


class ProgressActor:
    """An actor beside the driver: tasks send it their progress and receive whether to stop."""

    def __init__(self):
        self.shares: dict[str, float] = {}
        self.stopping = False

    def update(self, key: str, share: float) -> bool:
        """Store a job's progress; return whether it is to stop."""
        self.shares[key] = share
        return self.stopping

    def get_shares(self) -> dict[str, float]:
        return self.shares

    def stop(self) -> None:
        self.stopping = True


def run_on_ray(jobs: Sequence[Job], cluster: Cluster, retries: int, stop: Any) -> Iterator[Event]:
    """Run all jobs as `run_here` does. Raises BadInput without Ray or without a cluster."""
    ray = _connect(cluster)
    try:
        if not _capacity(ray, cluster):
            raise BadInput(
                f"no machine of the cluster has the {cluster.cores:g} cores and {cluster.gpu:g} GPUs of a cell"
            )
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), False
        )
        actor = ray.remote(ProgressActor).options(num_cpus=0, scheduling_strategy=here).remote()
        task = ray.remote(run_task).options(num_cpus=cluster.cores, num_gpus=cluster.gpu, max_retries=retries)
        data = {folder: ray.put(pack(folder)) for job in jobs for folder in job.needs}
        waiting, pending, shares = list(jobs), {}, {}
        while pending or (waiting and not stop.is_set()):
            while waiting and len(pending) < max(1, _capacity(ray, cluster)) and not stop.is_set():
                job = waiting.pop(0)
                needed = [data[folder] for folder in job.needs]
                pending[task.remote(job, pack(job.folder), whole_package(), retries, actor, *needed)] = job
            for ref in ray.wait(list(pending), num_returns=1, timeout=SYNC_EVERY)[0] if pending else ():
                job = pending.pop(ref)
                yield from _receive(ray, ref, job, job.key in shares)
            if stop.is_set():
                actor.stop.remote()
            for key, share in ray.get(actor.get_shares.remote()).items():
                yield from _find_advances({j.key: j for j in pending.values()}.get(key), share, shares)
    finally:
        ray.shutdown()


def _connect(cluster: Cluster) -> Any:
    """Connect to the cluster; return the module `ray`. Raises BadInput without Ray or without a cluster."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would send usage statistics
    try:
        ray = importlib.import_module("ray")
        importlib.import_module("ray.util.scheduling_strategies")
    except ImportError as e:
        raise BadInput("--engine ray needs Ray; install it with pip install 'aihf_control[ray]'") from e
    handler = signal.getsignal(signal.SIGTERM)  # Ray replaces it
    address = cluster.address or os.environ.get("RAY_ADDRESS") or "local"
    own = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error", **own)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as e:
        raise BadInput(f"no Ray cluster at {address}: {' '.join(str(e).split())[:200]}") from e
    signal.signal(signal.SIGTERM, handler)
    return ray


def _capacity(ray: Any, cluster: Cluster) -> int:
    """Return how many jobs the cluster can run now; each needs one machine with all its resources."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    needed = {"CPU": cluster.cores, "GPU": cluster.gpu}
    capacity = sum(min(int(machine.get(name, 0) / n) for name, n in needed.items() if n) for machine in machines)
    return min(capacity, cluster.at_a_time or capacity)


def _receive(ray: Any, ref: Any, job: Job, started: bool) -> Iterator[Event]:
    """Store the result of a task, and yield its attempts."""
    try:
        done = ray.get(ref)
    except ray.exceptions.RayError as e:  # its machines died too often, or do not have the package
        text = str(e).strip()
        write_bytes(job.output, text.encode())
        done = Done([Attempted(job, 1, 1, 0.0, text.splitlines()[-1] if text else type(e).__name__, True)], {}, b"")
    if done.output:
        write_bytes(job.output, done.output)
    if done.files and not job.finished():
        unpack(done.files, job.folder)
    for i, attempted in enumerate(done.attempts):
        if i or not started:
            yield Started(job, attempted.attempt)
        yield dataclasses.replace(attempted, job=job)


def _find_advances(job: Job | None, share: float, shares: dict[str, float]) -> Iterator[Event]:
    if job is None or shares.get(job.key) == share:
        return
    if job.key not in shares:
        yield Started(job, 1)
    shares[job.key] = share
    yield Advanced(job, share)


# ---------------------------------------------------------------------------------------------- on a cluster's machine


def run_task(job: Job, begun: Files, package: str, retries: int, actor: Any, *needed: Files) -> Done:
    """Run a job on a machine of the cluster. `begun` are the files of an earlier attempt, `needed` its inputs."""
    ray = importlib.import_module("ray")
    if whole_package() != package:
        return _refuse(job, "a machine of the cluster has other code of aihf_control; install the same on all")
    try:
        place = private_folder(Path(tempfile.gettempdir()) / f"aihf_control-{os.getuid()}")
    except BadInput as e:
        return _refuse(job, str(e))
    place /= ray.get_runtime_context().get_node_id()
    place.mkdir(mode=0o700, exist_ok=True)
    with contextlib.chdir(place):
        for folder, files in zip(job.needs, needed, strict=True):
            unpack(files, folder, overwrite=False)
        if begun and not (job.folder / "config.json").exists():
            unpack(begun, job.folder)
        stop, attempts = _RemoteStop(ray, actor, job.key), []
        for event in run_here([job], [()], retries, stop):
            if isinstance(event, Advanced):
                stop.share = event.share
            if isinstance(event, Attempted):
                attempts.append(event)
        done = Done(attempts, pack(job.folder), read_bytes(job.output) if job.output.is_file() else b"")
        shutil.rmtree(job.folder, ignore_errors=True)
    return done


def _refuse(job: Job, message: str) -> Done:
    return Done([Attempted(job, 1, BAD_INPUT, 0.0, message, True)], {}, b"")


def private_folder(path: Path) -> Path:
    """Create a folder that only this user can use, and return it. Raises BadInput if it exists and is not private.

    In a temporary folder that users share, another user could have made it, and could put files into it.
    """
    with writing(path), contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    info = path.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or stat.S_IMODE(info.st_mode) & 0o077:
        raise BadInput(
            f"{path} must be a folder of this user with mode 700; remove it, or set TMPDIR to another folder"
        )
    return path


class _RemoteStop:
    """An event that is set once the driver asks this task to stop."""

    def __init__(self, ray: Any, actor: Any, key: str):
        self.ray, self.actor, self.key = ray, actor, key
        self.share, self.stopping, self.last = 0.0, False, 0.0

    def is_set(self) -> bool:
        if not self.stopping and time.monotonic() - self.last > SYNC_EVERY:
            self.last = time.monotonic()
            self.stopping = self.ray.get(self.actor.update.remote(self.key, self.share))
        return self.stopping


# ---------------------------------------------------------------------------------------------------- folders as bytes


def pack(folder: Path) -> Files:
    """Return the content of every file of a folder by its name in it, without locks and temporary files."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "lock" and not p.name.endswith(".tmp"))
    return {str(path.relative_to(folder)): read_bytes(path) for path in paths}


def unpack(files: Files, folder: Path, overwrite: bool = True) -> None:
    """Write files into a folder at once. If the folder exists, it is replaced, or kept if `overwrite` is false."""
    if folder.exists() and not overwrite:
        return
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".tmp"))
        try:
            for name, data in files.items():
                if not (fresh / name).resolve().is_relative_to(fresh.resolve()):
                    raise BadInput(f"the result for {folder} has a file outside of it: {name}")
                write_bytes(fresh / name, data)
            fresh.chmod(0o755)
            if overwrite and folder.exists():
                shutil.rmtree(folder)
            if not folder.exists():  # another process may have written the same
                fresh.rename(folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
