"""Digests of short runs of every method, to show that a change of the code does not change results.

    python -m tests.laws.golden --record     # digests of this machine, into tests/golden.json
    python -m tests.laws.golden              # compares; exit code 1 where a digest differs

A digest covers the log and the weights of policy and reward, to the last bit. Bits depend on the processor and on
library versions, so digests are stored by machine; `test_golden.py` skips machines that have none. Record again, and
say so under *changes results* in CHANGELOG.md, only when a change of results is intended.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch

from aihf_control import methods
from aihf_control.data.dataset import Dataset
from aihf_control.data.generate import make_dataset
from aihf_control.learning import task
from aihf_control.learning.best import BestConfig
from aihf_control.models import kernel_library
from aihf_control.training.events import Evaluated, Finished
from aihf_control.training.run import RunSpec, train_lanes
from tests.helpers import SMALL_DATA, goals_for_tests, random_policies, small_config

STORE = Path(__file__).with_name("golden.json")
ENVS = ("Hopper-v4", "HalfCheetah-v4")
STEPS, SEEDS = 300, (0, 1)
LIBRARIES = ("torch", "numpy", "mujoco", "gymnasium", "scipy")


def machine() -> str:
    """Name what the bits of a run depend on besides the code: processor, kernel, Python and libraries."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    fields = dict(line.replace("\t", "").split(":", 1) for line in lines if ":" in line)
    model = " ".join(fields.get(name, "").strip() for name in ("model name", "cpu family", "model"))
    return " ".join(
        [
            model,
            kernel_library.state("float32"),
            platform.python_version(),
            *(f"{name} {version(name)}" for name in LIBRARIES),
        ]
    )


def golden_data(env: str, folder: Path) -> Dataset:
    """Make a small dataset of untrained policies, half of whose labels are random enough to matter."""
    policies = random_policies(env, folder / f"{env}-policies")
    make_dataset(env, SMALL_DATA, policies=policies, out=folder / env)
    return Dataset.load(folder / env)


def digest(method: str, data: Dataset) -> str:
    """Train a method for a few hundred iterations and hash its log and its weights."""
    cfg = small_config(method, STEPS)
    if hasattr(cfg, "best"):
        cfg = dataclasses.replace(cfg, best=BestConfig(every=STEPS // 2, episodes=1))  # whole episodes take long
    cell = RunSpec(method, cfg, SEEDS, 2, 20, STEPS, 3, 2, 2)
    total = hashlib.sha256()
    for event in train_lanes(cell, data):
        if isinstance(event, Evaluated):
            total.update(json.dumps(event.rows, sort_keys=True).encode())
        if isinstance(event, Finished):
            for state in (event.policy, event.reward.tensors if event.reward else {}):
                for name in sorted(state):
                    total.update(name.encode() + state[name].contiguous().numpy().tobytes())
    return total.hexdigest()[:16]


def digests() -> dict[str, str]:
    """Compute all digests, method by environment."""
    torch.set_num_threads(1)
    task.goals_of = goals_for_tests
    with tempfile.TemporaryDirectory() as folder:
        data = {env: golden_data(env, Path(folder)) for env in ENVS}
        return {f"{method} {env}": digest(method, data[env]) for method in methods.names() for env in ENVS}


def stored() -> dict[str, dict[str, str]]:
    """Read the digests of all machines."""
    return json.loads(STORE.read_text()) if STORE.exists() else {}


def differing(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Name the runs whose digests are not those stored, and those that have none."""
    return [name for name in sorted(before | after) if before.get(name) != after.get(name)]


if __name__ == "__main__":
    now = digests()
    if "--record" in sys.argv:
        STORE.write_text(json.dumps({**stored(), machine(): now}, indent=1, sort_keys=True) + "\n")
        print(f"{len(now)} digests recorded")
    else:
        changed = differing(stored().get(machine(), {}), now)
        print(f"{len(now) - len(changed)} of {len(now)} digests are those stored; differing: {changed or 'none'}")
        sys.exit(bool(changed))
