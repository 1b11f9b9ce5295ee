"""Export to and import from Minari (Farama's format of offline data), stored under MINARI_DATASETS_PATH.

Needs `pip install 'aihf_control[minari]'`. Exported datasets can be imported bit for bit: simulator states and actions
in (-1, 1) are stored in the infos, level and seed in the metadata of the episode.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from aihf_control.core.errors import BadInput, BadLines
from aihf_control.core.types import Trajectory
from aihf_control.data.dataset import Dataset
from aihf_control.data.minari_metadata import (
    NAME,
    check_stored,
    datasets_root,
    read_recorded_environment,
    recorded_box,
)
from aihf_control.environments.gym import EnvSpec, make_env, spec_of

Array = np.ndarray
MINARI = "minari:"  # prefix of a source


def write_minari(dataset: Dataset, name: str) -> Path:
    """Write the episodes of the pool, in order, as the Minari dataset `name`; return its folder.

    Raises BadInput for a name that is taken, or that Minari refuses (after having written files).
    """
    minari = _import_minari()
    if not NAME.fullmatch(name):
        raise BadInput(f"--minari {name}: write the id as NAME-v0 or NAMESPACE/NAME-v0 (letters, digits, - and _)")
    folder = datasets_root() / name
    if folder.exists():
        raise BadInput(f"there is a Minari dataset {name} already, in {folder}; choose another id")
    fresh = next(p for p in (*reversed(folder.parents), folder) if not p.exists())
    spec = spec_of(dataset.meta["env"], **dataset.meta["options"])
    env = make_env(spec)
    try:
        episodes = [
            minari.data_collector.EpisodeBuffer(id=i, **_episode_columns(t, spec, env))
            for i, t in enumerate(dataset.pool)
        ]
        with warnings.catch_warnings(action="ignore"):  # about missing authors and permalinks
            fields = {**_describe(dataset), **_environment_fields(env)}
            out = minari.create_dataset_from_buffers(name, episodes, data_format="hdf5", **fields)
        out.storage.update_episode_metadata([{"level": t.level} for t in dataset.pool])
    except BaseException as e:
        shutil.rmtree(fresh, ignore_errors=True)
        if isinstance(e, OSError | ImportError):
            raise BadInput(f"cannot write {folder}: {' '.join(str(e).split())}") from e
        raise
    finally:
        env.close()
    return folder


def _describe(dataset: Dataset) -> dict[str, Any]:
    made_with = dataset.meta.get("versions", {})
    libraries = [f"{name}=={made_with[name]}" for name in ("gymnasium", "mujoco") if name in made_with]
    return {
        "description": f"aihf_control dataset {dataset.digest()}; infos hold qpos, qvel and act, the action in (-1, 1)",
        "requirements": libraries,
        "algorithm_name": ", ".join(sorted({t.level for t in dataset.pool})),
    }


def _environment_fields(env: Any) -> dict[str, Any]:
    """Return the environment for Minari to store its spec, or only its spaces if the spec cannot be serialised."""
    try:
        env.spec.to_json()
    except (TypeError, ValueError):
        return {"observation_space": env.observation_space, "action_space": env.action_space}
    return {"env": env}


def _episode_columns(t: Trajectory, spec: EnvSpec, env: Any) -> dict[str, Any]:
    last = np.arange(len(t)) == len(t) - 1
    infos = {"act": np.concatenate([t.act, np.zeros_like(t.act[:1])])}  # Minari's infos are as long as observations
    if t.qpos is not None and t.qvel is not None:
        infos |= {"qpos": t.qpos, "qvel": t.qvel}
    return {
        "seed": t.seed if t.seed >= 0 else None,
        "observations": t.obs.reshape(-1, *env.observation_space.shape),
        "actions": _to_env_units(t.act, spec).reshape(-1, *env.action_space.shape),
        "rewards": t.reward.tolist(),
        "terminations": (last & t.terminated).tolist(),
        "truncations": (last & (not t.terminated)).tolist(),
        "infos": infos,
    }


def read_minari(name: str, spec: EnvSpec, notes: list[str] | None = None) -> list[Trajectory]:
    """Read the episodes of a local Minari dataset, actions converted to (-1, 1).

    Raises BadInput if it cannot be opened or was recorded elsewhere, BadLines with every episode that cannot be read.
    """
    minari = _import_minari()
    recorded = read_recorded_environment(name, spec.id)
    if recorded is not None and recorded != json.loads(json.dumps(spec.options, default=str)):
        raise BadInput(f"minari:{name} was recorded with options {recorded}, not {spec.options}")
    low, high = recorded_box(name, spec)
    notes = [] if notes is None else notes
    if low is not spec.low:
        notes.append(f"minari:{name}: actions from {low.tolist()} to {high.tolist()} are converted to {spec.id}'s")
    check_stored(name)
    try:
        with warnings.catch_warnings(action="ignore"):
            found = minari.load_dataset(name)
        metadata = list(found.storage.get_episode_metadata(found.episode_indices))
        episodes = list(found.iterate_episodes())
    except Exception as e:  # Minari and h5py raise many kinds for files that are missing or damaged
        raise BadInput(f"cannot read the Minari dataset {name!r}: {' '.join(str(e).split())[:200]}") from e
    read: list[Trajectory] = []
    faults: list[str] = []
    for i, (episode, fields) in enumerate(zip(episodes, metadata, strict=True)):
        try:
            read.append(_read_episode(name, i, episode, fields, spec, (low, high), notes))
        except (TypeError, ValueError, IndexError) as e:
            faults.append(f"minari:{name}, episode {i} is not of arrays as Box spaces give them: {e}")
    if faults:
        raise BadLines(f"minari:{name}", faults)
    return read


def _read_episode(
    name: str,
    i: int,
    episode: Any,
    metadata: dict[str, Any],
    spec: EnvSpec,
    box: tuple[Array, Array],
    notes: list[str],
) -> Trajectory:
    infos, seed, level = episode.infos or {}, metadata.get("seed"), metadata.get("level")
    obs, actions = (np.asarray(x, float).reshape(len(x), -1) for x in (episode.observations, episode.actions))
    reward = np.asarray(episode.rewards, np.float64).reshape(-1)
    flags = np.asarray(episode.terminations, bool).reshape(-1)
    if not len(obs) - 1 == len(actions) == len(reward) == len(flags) > 0:
        raise ValueError(f"{len(obs)} observations, {len(actions)} actions and {len(reward)} rewards")
    states = [np.asarray(infos[key], np.float64) if key in infos else np.zeros(0) for key in ("qpos", "qvel")]
    qpos, qvel = states if all(s.ndim and len(s) == len(obs) for s in states) else (None, None)
    act = _convert_actions(actions, infos.get("act"), spec, box)
    n = int(flags.argmax()) + 1 if flags.any() else len(flags)
    if n < len(flags):
        notes.append(f"minari:{name}: episode {i} terminates at step {n} of {len(flags)} and is cut there")
    return Trajectory(
        obs[: n + 1].astype(np.float32),
        act[:n],
        reward[:n],
        bool(flags.any()),
        -1 - i if seed is None else int(seed),
        level if isinstance(level, str) else name,
        qpos if qpos is None else qpos[: n + 1],
        qvel if qvel is None else qvel[: n + 1],
    )


def _convert_actions(actions: Array, stored: Any, spec: EnvSpec, box: tuple[Array, Array]) -> Array:
    """Convert actions (T, A) to (-1, 1); use those `stored` in the infos, (T + 1, A), if they give the same actions."""
    if actions.shape[1] != spec.n_act:
        return actions
    low, high = box
    if all(math.isfinite(x) for x in (*low, *high)):
        act = (2 * (actions - low) / (high - low) - 1).astype(np.float32)
    else:  # ClipAction: the environment received the actions clipped to its own bounds
        act = spec.from_env(np.clip(actions, spec.low, spec.high))
    if stored is None or np.shape(stored) != (len(act) + 1, spec.n_act):
        return act
    exact = np.asarray(stored, np.float32)[:-1]
    return exact if np.array_equal(_to_env_units(exact, spec), actions.astype(np.float32)) else act


def _to_env_units(act: Array, spec: EnvSpec) -> Array:
    """Convert actions from (-1, 1) to those that the environment receives, bit for bit."""
    return spec.to_env(act).astype(np.float32)


def _import_minari() -> Any:
    """Import Minari with an absolute path to its datasets; it resolves a relative one twice."""
    if os.environ.get("MINARI_DATASETS_PATH"):
        os.environ["MINARI_DATASETS_PATH"] = str(datasets_root())
    try:
        import minari
    except ImportError as e:
        raise BadInput(f"{e}; Minari datasets need: pip install 'aihf_control[minari]'") from e
    return minari
