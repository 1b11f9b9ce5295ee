"""Episodes from npz or hdf5 files of consecutive transitions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from aihf_control.core.errors import BadInput, BadLines
from aihf_control.core.types import Trajectory
from aihf_control.data.arrays import read_hdf5, read_npz
from aihf_control.data.states import STATES, episode_states, read_states
from aihf_control.environments.gym import EnvSpec

Array = np.ndarray
HDF5 = (".hdf5", ".h5")
NAMES = {
    "obs": ("obs", "observations"),
    "act": ("act", "actions", "acts"),
    "reward": ("reward", "rewards", "rews"),
    "next_obs": ("next_obs", "next_observations"),
    "terminated": ("terminated", "terminations", "terminals", "terminal"),
    "truncated": ("truncated", "truncations", "timeouts"),
    "done": ("done", "dones"),
    "length": ("length", "lengths", "episode_lengths"),
    "indices": ("indices",),
    **{name: (name,) for name in STATES},
}
"""Accepted names of the columns of transitions: ours, Minari's, D4RL's and imitation's."""
HINTS = {
    "obs": "observations (N, O), or (N + 1 per episode, O) with lengths",
    "act": "actions (N, A) in the environment's units",
    "reward": "rewards (N,); zeros suffice, rewards are only used to evaluate results",
}


def read_transitions(path: Path, spec: EnvSpec, notes: list[str] | None = None) -> list[Trajectory]:
    """Read episodes from consecutive transitions in an npz or hdf5 file (columns: `NAMES`).

    Needed are observations, actions and rewards of N steps; observations may have one more row per episode. Episodes
    end by terminals and timeouts, dones, stated lengths (or imitation's `indices`), or, with next_observations,
    where a row does not continue the one before it. Without next_observations they are derived inside an episode.
    """
    notes = [] if notes is None else notes
    columns = _read_columns(path)
    lengths = _stated_lengths(path, columns)
    if lengths is not None and len(columns["obs"]) == len(columns["act"]) + len(lengths):
        return _split_stacked(path, columns, lengths, spec, notes)
    if len(columns["obs"]) != len(columns["act"]):
        raise BadInput(
            f"{path}: obs has {len(columns['obs'])} rows and act {len(columns['act'])}; they need the same number, or "
            "one more observation per episode with the column lengths"
        )
    terminated, ends = _episode_ends(path, columns, lengths, spec, notes)
    if "next_obs" in columns:
        _check_continuity(path, columns, ends)
    parts = _slices(ends) if lengths is None else _cut_rows(path, terminated, lengths, notes)
    act = _rescale_actions(columns["act"], spec)
    episodes = [_build_episode(columns, act, p, bool(terminated[p][-1]), -1 - i, path) for i, p in enumerate(parts)]
    if "next_obs" not in columns:
        _note_derived(path, episodes, parts, notes)
    return [t for t in episodes if len(t)]


def _build_episode(columns: dict[str, Array], act: Array, p: slice, terminated: bool, seed: int, path: Path):
    obs, reward = columns["obs"][p].astype(np.float32), columns["reward"][p]
    if "next_obs" in columns:
        obs = np.concatenate([obs, columns["next_obs"][p][-1:].astype(np.float32)])
        return Trajectory(obs, act[p], reward, terminated, seed, path.stem, **episode_states(columns, p, len(reward)))
    if terminated:  # learners mask the state after a termination, so its observation has no effect
        states = episode_states(columns, p, len(reward))
        return Trajectory(np.concatenate([obs, obs[-1:]]), act[p], reward, True, seed, path.stem, **states)
    states = episode_states(columns, p, len(reward) - 1)
    return Trajectory(obs, act[p][:-1], reward[:-1], False, seed, path.stem, **states)


def _note_derived(path: Path, episodes: Sequence[Trajectory], parts: Sequence[slice], notes: list[str]) -> None:
    dropped = sum(not t.terminated for t in episodes)
    notes.append(
        f"{path}: next observations are derived; the last step of {dropped} of {len(episodes)} episodes, after which "
        "no observation is recorded, is dropped"
    )
    empty = sum(not len(t) for t in episodes)
    if empty:
        notes.append(f"{path}: {empty} episodes of a single step without next observation are dropped")


def _split_stacked(
    path: Path, columns: dict[str, Array], lengths: Array, spec: EnvSpec, notes: list[str]
) -> list[Trajectory]:
    """Split columns with one more observation than action per episode."""
    n, stops = len(lengths), np.cumsum(lengths)
    act, steps = _rescale_actions(columns["act"], spec), np.split(np.arange(len(columns["act"])), stops[:-1])
    obs = np.split(columns["obs"].astype(np.float32), np.cumsum(lengths + 1)[:-1])
    rows = [slice(int(stop - n), int(stop)) for stop, n in zip(np.cumsum(lengths + 1), lengths + 1, strict=True)]
    flags = columns.get("terminated", columns.get("done"))
    if flags is None:
        raise BadInput(f"{path} lacks terminals or terminal: whether each of its {n} episodes terminated")
    if len(flags) == n:
        terminal = flags
    else:
        _need_rows(path, "terminated", flags, len(act))
        terminal = flags[stops - 1]
        steps = _cut_at_terminations(path, flags, steps, notes)
        terminal = np.array([flags[s[-1]] for s in steps])
    return [
        Trajectory(
            *(obs[i][: len(s) + 1], act[s], columns["reward"][s], bool(terminal[i]), -1 - i, path.stem),
            **episode_states(columns, rows[i], len(s)),
        )
        for i, s in enumerate(steps)
    ]


def _episode_ends(
    path: Path, columns: dict[str, Array], lengths: Array | None, spec: EnvSpec, notes: list[str]
) -> tuple[Array, Array]:
    """Find the rows (N,) that terminate and the rows that end an episode."""
    n = len(columns["act"])
    for name in ("terminated", "truncated", "done"):
        if name in columns:
            _need_rows(path, name, columns[name], n)
    terminated = columns.get("terminated", np.zeros(n, bool))
    truncated = _truncations(path, columns, lengths, notes)
    if "done" in columns and "terminated" not in columns:
        terminated = _terminations_of_dones(path, columns["done"], truncated, spec, notes)
        truncated = truncated | columns["done"]
    elif "terminated" not in columns:
        raise BadInput(f"{path} lacks {' or '.join(NAMES['terminated'][:3])} (or dones): the rows that end in a fall")
    ends = terminated | truncated
    ends[-1] = True
    return terminated, ends


def _truncations(path: Path, columns: dict[str, Array], lengths: Array | None, notes: list[str]) -> Array:
    n = len(columns["act"])
    if "truncated" in columns:
        return columns["truncated"]
    if lengths is not None:
        return np.isin(np.arange(n), np.cumsum(lengths) - 1)
    if "next_obs" in columns:
        broken = np.append(_breaks(columns), False)
        notes.append(f"{path}: no timeouts; episodes end at terminals and where a row does not continue the last one")
        return broken
    if "done" in columns:
        return columns["done"]
    raise BadInput(
        f"{path} lacks {' or '.join(NAMES['truncated'])}: without them give lengths (steps per episode) or "
        "next_observations, from which the ends of episodes are derived"
    )


def _terminations_of_dones(path: Path, done: Array, truncated: Array, spec: EnvSpec, notes: list[str]) -> Array:
    """Take dones as terminations, except after the full horizon, where time ran out."""
    stops = np.flatnonzero(done | truncated)
    full = stops[np.diff(np.append(-1, stops)) >= spec.horizon]
    terminated = done & ~np.isin(np.arange(len(done)), full)
    notes.append(
        f"{path}: dones are taken as terminations ({int(terminated.sum())}), and as time limits after "
        f"{spec.horizon} steps ({int((done & ~terminated).sum())})"
    )
    return terminated


def _breaks(columns: dict[str, Array]) -> Array:
    """Mark the rows (N - 1,) whose next observation is not the observation of the next row."""
    here, then = columns["next_obs"][:-1].astype(np.float32), columns["obs"][1:].astype(np.float32)
    return ((here != then) & ~np.isnan(here)).any(1)


def _check_continuity(path: Path, columns: dict[str, Array], ends: Array) -> None:
    broken = np.flatnonzero(_breaks(columns) & ~ends[:-1])
    if len(broken):
        why = "the next row does not continue this one, and neither terminals nor timeouts marks an end"
        raise BadLines(str(path), [f"{path}, row {row}: {why}" for row in broken])


def _cut_at_terminations(path: Path, flags: Array, steps: Sequence[Array], notes: list[str]) -> list[Array]:
    """Cut the steps of each episode after its first termination."""
    cut = [s[: int(flags[s].argmax()) + 1] if flags[s].any() else s for s in steps]
    shorter = sum(len(a) < len(b) for a, b in zip(cut, steps, strict=True))
    if shorter:
        notes.append(f"{path}: {shorter} episodes terminate before their stated end and are cut there")
    return cut


def _cut_rows(path: Path, terminated: Array, lengths: Array, notes: list[str]) -> list[slice]:
    steps = np.split(np.arange(len(terminated)), np.cumsum(lengths)[:-1])
    return [slice(int(s[0]), int(s[-1]) + 1) for s in _cut_at_terminations(path, terminated, steps, notes)]


def _slices(ends: Array) -> list[slice]:
    stops = np.flatnonzero(ends) + 1
    return [slice(int(a), int(b)) for a, b in zip([0, *stops], stops, strict=False)]


def _rescale_actions(act: Array, spec: EnvSpec) -> Array:
    """Convert actions to (-1, 1); those of another size are left for `find_misfit` to report."""
    return (spec.from_env(act) if act.shape[1] == spec.n_act else act).astype(np.float32)


# -------------------------------------------------------------------------------------------------------------- columns


def _read_columns(path: Path) -> dict[str, Array]:
    """Read the columns under our names: rows of numbers, flags as (N,) booleans, reward as (N,) float64."""
    known = {name for names in NAMES.values() for name in names}
    arrays = read_hdf5(path, known) if path.suffix.lower() in HDF5 else read_npz(path, names=known)
    columns = {name: arrays[n] for name, names in NAMES.items() for n in names if n in arrays}
    lacking = [f"{' or '.join(NAMES[name])}: {hint}" for name, hint in HINTS.items() if name not in columns]
    if lacking:
        raise BadInput(f"{path} lacks {'; '.join(lacking)}. It has {', '.join(sorted(arrays)) or 'none of the names'}")
    for name, array in columns.items():
        if array.dtype.kind not in "fiub" or not array.ndim:
            raise BadInput(f"{path}: {name} has the shape {array.shape} of {array.dtype}; it needs rows of numbers")
    n = len(columns["act"])
    if not n:
        raise BadInput(f"{path} has no rows")
    _need_rows(path, "reward", columns["reward"], n)
    rows = {
        name: columns[name].reshape(len(columns[name]), -1) for name in ("obs", "act", "next_obs") if name in columns
    }
    if "next_obs" in rows and rows["next_obs"].shape != rows["obs"].shape:
        raise BadInput(f"{path}: next_obs has another shape than obs, {rows['next_obs'].shape} and {rows['obs'].shape}")
    rows |= read_states(path, columns)
    flags = {name: columns[name] for name in ("terminated", "truncated", "done") if name in columns}
    flags = {name: _flatten(path, name, flag).astype(bool) for name, flag in flags.items()}
    return {**columns, **rows, **flags, "reward": _flatten(path, "reward", columns["reward"]).astype(np.float64)}


def _flatten(path: Path, name: str, column: Array) -> Array:
    if column.size != len(column):
        raise BadInput(f"{path}: {name} has the shape {column.shape}; it needs one number per row")
    return column.reshape(-1)


def _need_rows(path: Path, name: str, column: Array, n: int) -> None:
    if len(column) != n:
        raise BadInput(f"{path}: {name} has the shape {column.shape} of {column.dtype}; it needs {n} rows of numbers")


def _stated_lengths(path: Path, columns: dict[str, Array]) -> Array | None:
    """Return the stated steps of each episode, (E,) int64, or None. Raises BadInput if they do not sum to N."""
    n = len(columns["act"])
    if "length" in columns:
        lengths = columns["length"].reshape(-1)
    elif "indices" in columns:
        lengths = np.diff(np.concatenate([[0], columns["indices"].reshape(-1).astype(np.float64), [n]]))
    else:
        return None
    counts = lengths.astype(np.float64)
    if (counts != np.floor(counts)).any() or (counts < 1).any() or (counts > n).any() or counts.sum() != n:
        raise BadInput(f"{path}: the stated lengths of episodes must be whole numbers from 1 up that sum to {n}")
    return lengths.astype(np.int64)
