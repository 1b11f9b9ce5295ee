"""Episodes from elsewhere: one of our dataset folders, a Minari dataset, or an npz of transitions.

Actions come in the environment's own units there, but for our own folders. Everything is checked, nothing is executed,
and what is wrong is said row by row.
"""

from __future__ import annotations

import dataclasses
import io
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from aihf_control.core.errors import BadInput, BadLines
from aihf_control.core.files import read_bytes
from aihf_control.core.types import Trajectory
from aihf_control.data.dataset import Dataset
from aihf_control.data.minari import read_minari
from aihf_control.environments.gym import EnvSpec

Array = np.ndarray
MAX_BYTES = 4 * 2**30
NAMES = {
    "obs": ("obs", "observations"),
    "act": ("act", "actions", "acts"),
    "reward": ("reward", "rewards"),
    "next_obs": ("next_obs", "next_observations"),
    "terminated": ("terminated", "terminations", "terminals"),
    "truncated": ("truncated", "truncations", "timeouts"),
}
"""What the columns of an npz of transitions may be called: ours, Minari's and D4RL's names."""


def read_episodes(source: str, spec: EnvSpec) -> list[Trajectory]:
    """The episodes of a source: "minari:ID", a dataset folder, or FILE.npz. Raises BadInput, BadLines.

    Those of an npz were recorded without the seeds of their resets; theirs are -1, -2, ...
    """
    if source.startswith("minari:"):
        episodes = read_minari(source.removeprefix("minari:"), spec)
    elif Path(source).is_dir():
        episodes = _read_folder(source, spec)
    else:
        episodes = read_transitions(Path(source), spec)
    faults = [f"{source}, episode {i}: {fault}" for i, t in enumerate(episodes) if (fault := find_misfit(t, spec))]
    if faults:
        raise BadLines(source, faults)
    if not episodes:
        raise BadInput(f"{source} has no episode")
    return episodes


def _read_folder(folder: str, spec: EnvSpec) -> list[Trajectory]:
    dataset = Dataset.load(folder)
    for name, here in (("env", spec.id), ("options", spec.options)):
        if dataset.meta[name] != here:
            raise BadInput(f"{folder} was recorded with {name} {dataset.meta[name]}, not {here}")
    return dataset.pool


def find_misfit(t: Trajectory, spec: EnvSpec) -> str | None:
    """Why an episode cannot be one of this environment, if it cannot."""
    if t.obs.shape[1:] != (spec.n_obs,) or t.act.shape[1:] != (spec.n_act,):
        sizes = f"{t.obs.shape[1:]} observations and {t.act.shape[1:]} actions"
        return f"it has {sizes}, {spec.id} has ({spec.n_obs},) and ({spec.n_act},)"
    if not 1 <= len(t) <= spec.horizon:
        return f"it has {len(t)} steps, in {spec.id} an episode has 1 to {spec.horizon}"
    for name in ("obs", "act", "reward"):
        rows = getattr(t, name).reshape(len(getattr(t, name)), -1)
        bad = np.flatnonzero(~np.isfinite(rows).all(1))
        if len(bad):
            return f"{name} is not finite at step {bad[0]}" + (f" and {len(bad) - 1} more" if len(bad) > 1 else "")
    bad = np.flatnonzero((np.abs(t.act) > 1 + 1e-5).any(1))
    return f"the action at step {bad[0]} is out of the environment's bounds (of {len(bad)})" if len(bad) else None


def read_transitions(path: Path, spec: EnvSpec) -> list[Trajectory]:
    """Episodes from an npz of transitions, one after the other (`NAMES`): observations and next_observations (N, O),
    actions (N, A) in the environment's units, rewards, terminals and timeouts (N,). The last may be cut short."""
    columns = _columns(path)
    ends = columns["terminated"] | columns["truncated"]
    ends[-1] = True
    here, then = columns["next_obs"][:-1].astype(np.float32), columns["obs"][1:].astype(np.float32)
    torn = np.flatnonzero(((here != then) & ~np.isnan(here)).any(1) & ~ends[:-1])
    if len(torn):
        why = "the next row does not begin where this one ends, and neither terminals nor timeouts says so"
        raise BadLines(str(path), [f"{path}, row {row}: {why}" for row in torn])
    parts = [slice(a, b) for a, b in zip([0, *np.flatnonzero(ends) + 1], np.flatnonzero(ends) + 1, strict=False)]
    act = spec.from_env(columns["act"]) if columns["act"].shape[1] == spec.n_act else columns["act"]
    return [
        Trajectory(
            np.concatenate([columns["obs"][p], columns["next_obs"][p][-1:]]).astype(np.float32),
            act[p].astype(np.float32),
            columns["reward"][p],
            bool(columns["terminated"][p][-1]),
            -1 - i,
            path.stem,
        )
        for i, p in enumerate(parts)
    ]


def _columns(path: Path) -> dict[str, Array]:
    arrays = _arrays(path)
    found = {name: next((arrays[n] for n in names if n in arrays), None) for name, names in NAMES.items()}
    lacking = [" or ".join(NAMES[name][:2]) for name, array in found.items() if array is None]
    if lacking:
        raise BadInput(f"{path} lacks {', '.join(lacking)}; reward may be zeros, it is only used to judge")
    columns = {name: np.asarray(array) for name, array in found.items() if array is not None}
    n = len(columns["act"]) if columns["act"].ndim else 0
    for name, array in columns.items():
        if array.dtype.kind not in "fiub" or array.shape[:1] != (n,) or not n:
            raise BadInput(f"{path}: {name} has the shape {array.shape} of {array.dtype}; it needs {n} rows of numbers")
    for name in ("obs", "next_obs", "act"):
        columns[name] = columns[name].reshape(n, -1)
    if columns["obs"].shape != columns["next_obs"].shape:
        raise BadInput(f"{path}: next_obs has another shape than obs")
    flags = {name: columns[name].reshape(n, -1)[:, 0].astype(bool) for name in ("terminated", "truncated")}
    return {**columns, **flags, "reward": columns["reward"].reshape(n, -1)[:, 0].astype(np.float64)}


def _arrays(path: Path) -> dict[str, Array]:
    raw = read_bytes(path)
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as z:
            if sum(i.file_size for i in z.infolist()) > MAX_BYTES:
                raise BadInput(f"{path} unpacks to more than {MAX_BYTES >> 30} GiB; give it in parts")
        with np.load(io.BytesIO(raw), allow_pickle=False) as f:
            return {name: f[name] for names in NAMES.values() for name in names if name in f.files}
    except (
        ValueError,
        TypeError,
        EOFError,
        OSError,
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,
        MemoryError,
    ) as e:
        raise BadInput(f"cannot read {path} as an npz: {' '.join(str(e).split())}") from e


def assign_unknown_seeds(episodes: Sequence[Trajectory]) -> list[Trajectory]:
    """The same with different seeds -1, -2, ... for those whose own is not known."""
    unknown = iter(range(-1, -1 - len(episodes), -1))
    return [dataclasses.replace(t, seed=next(unknown)) if t.seed < 0 else t for t in episodes]
