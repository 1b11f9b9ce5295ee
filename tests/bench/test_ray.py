"""The Ray engine on a cluster of two nodes on loopback addresses, with tokens: one is killed midway, nothing is lost.

Runs where Ray is installed: pip install -e '.[ray]' && pytest tests/bench/test_ray.py -s
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

pytest.importorskip("ray")
pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
HEAD, OTHER, PORT = "127.0.0.2", "127.0.0.3", 6399

EXPERIMENT = """
environments = ["Hopper-v4"]
methods = ["aihf", "bc"]
seeds = 2
pairs = [20, 40]
run = {evaluations = 4, eval_episodes = 1, final_episodes = 2}
dataset = {demos = 2, levels = ["expert"], noise = [0.3], episodes = 4, pairs = 40, test_pairs = 10, clip = 50}
method.aihf = {steps = 600, warmup = 50, clone.updates = 100}
method.bc = {steps = 2000}
report = {baseline = "bc"}
"""


class Node:
    """A node of a Ray cluster in processes of its own, its temporary files in a folder of its own."""

    def __init__(self, address: str, place: Path, token: str, sockets: str):
        self.place = place
        place.mkdir()
        self.env = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_USAGE_STATS_ENABLED": "0"}
        self.env |= {"TMPDIR": str(place), "RAY_TMPDIR": sockets, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        head = ["--head", f"--port={PORT}", "--include-dashboard=false"]
        where = head if address == HEAD else [f"--address={HEAD}:{PORT}"]
        words = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", f"--node-ip-address={address}"]
        memory = ["--num-cpus=1", "--object-store-memory=100000000"]
        out = (place / "output.txt").open("wb")
        self.process = subprocess.Popen(
            [*words, *where, *memory], env=self.env, stdout=out, stderr=out, start_new_session=True
        )

    def cells(self) -> list[Path]:
        """Return the runs in progress on this node."""
        return list(self.place.glob("aihf_control-*/*/results/*/*/cells/*/config.json"))

    def processes(self) -> list[int]:
        """Return the processes of this node, by their environment."""
        mark, found = f"TMPDIR={self.place}".encode(), []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if mark in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
            except OSError:
                continue  # it has ended, or is another user's
        return found

    def kill(self) -> None:
        for pid in self.processes():
            if pid != os.getpid():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        self.process.wait()


def bench(engine: list[str], out: str, where: Path, env: dict[str, str]) -> subprocess.Popen:
    words = [sys.executable, "-m", "aihf_control.bench", "grid.toml", "--out", out, *engine]
    return subprocess.Popen(words, cwd=where, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(process: subprocess.Popen, seconds: float = 280) -> str:
    text, _ = process.communicate(timeout=seconds)
    assert process.returncode == 0, text
    return text


@pytest.fixture
def sockets():
    """A folder with a path that is short enough for Ray's sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="r", ignore_cleanup_errors=True) as folder:
        yield folder


def test_a_node_that_is_killed_costs_nothing_but_time(tmp_path, sockets):
    (tmp_path / "grid.toml").write_text(EXPERIMENT)
    token = secrets.token_hex(32)
    head = Node(HEAD, tmp_path / "head", token, sockets)
    nodes = [head]
    try:
        time.sleep(12)
        nodes.append(other := Node(OTHER, tmp_path / "other", token, sockets))
        time.sleep(8)
        env = {k: v for k, v in head.env.items() if k != "TMPDIR"}
        running = bench(["--engine", "ray", "--address", f"{HEAD}:{PORT}"], "results/ray", tmp_path, env)
        began = time.monotonic()
        while not other.cells() and running.poll() is None and time.monotonic() - began < 200:
            time.sleep(0.2)
        assert other.cells(), running.communicate()[0] if running.poll() is not None else "no cell reached the node"
        other.kill()
        print("killed", OTHER, "with", [path.parent.name for path in other.cells()], "under way")
        print(wait_for(running))
    finally:
        for node in nodes:
            node.kill()
    print(wait_for(bench([], "results/local", tmp_path, env)))
    ray, local = (tmp_path / "results" / name / "grid" for name in ("ray", "local"))
    attempts = [json.loads(line) for line in (ray / "attempts.jsonl").read_text().splitlines()]
    finished = [line["key"] for line in attempts if line["code"] == 0]
    assert len(finished) == len(set(finished)) == len(list((ray / "cells").iterdir())) == 4
    for name in ("runs.csv", "evaluations.csv", "scores.md", "scores.csv", "environments.csv", "improvement.tex"):
        assert (ray / "report" / name).read_bytes() == (local / "report" / name).read_bytes(), name
