"""Episodes from other sources: dataset folders, Minari datasets, and npz or hdf5 files of transitions.

Actions are in the environment's units, except in our own folders. All contents are checked, no code in them is
executed, and every fault is reported with its row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aihf_control.core.errors import BadInput, BadLines
from aihf_control.core.types import Trajectory
from aihf_control.data.dataset import Dataset
from aihf_control.data.minari import MINARI, read_minari
from aihf_control.data.minari_metadata import read_recorded_environment
from aihf_control.data.transitions import read_transitions
from aihf_control.environments.gym import EnvSpec


def read_stated_options(source: str, env: str) -> dict[str, Any] | None:
    """Return the environment options that a source states, None if it states none (npz, hdf5).

    Raises BadInput if it states another environment, or wrappers whose effect cannot be undone.
    """
    if source.startswith(MINARI):
        return read_recorded_environment(source.removeprefix(MINARI), env)
    if not Path(source).is_dir():
        return None
    meta = Dataset.load(source).meta
    if meta["env"] != env:
        raise BadInput(f"{source} was recorded with env {meta['env']}, not {env}; give --env {meta['env']}")
    return meta["options"]


def read_episodes(source: str, spec: EnvSpec, notes: list[str] | None = None) -> list[Trajectory]:
    """Read the episodes of a source: "minari:ID", a dataset folder, FILE.npz or FILE.hdf5.

    Notes on derived and dropped steps are appended to `notes`. Episodes recorded without the seeds of their resets get
    the seeds -1, -2, ... Raises BadInput; BadLines with every fault.
    """
    notes = [] if notes is None else notes
    if source.startswith(MINARI):
        episodes = read_minari(source.removeprefix(MINARI), spec, notes)
    elif Path(source).is_dir():
        episodes = _read_folder(source, spec)
    else:
        episodes = read_transitions(Path(source), spec, notes)
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
    """Describe why an episode cannot come from this environment; None if it can."""
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


def assign_unknown_seeds(episodes: Sequence[Trajectory]) -> list[Trajectory]:
    """Replace unknown (negative) seeds by the distinct seeds -1, -2, ..."""
    unknown = iter(range(-1, -1 - len(episodes), -1))
    return [dataclasses.replace(t, seed=next(unknown)) if t.seed < 0 else t for t in episodes]
