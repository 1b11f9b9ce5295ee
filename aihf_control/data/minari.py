"""Minari datasets (Farama's format of offline data), in and out; they lie under MINARI_DATASETS_PATH.

Needs `pip install 'aihf_control[minari]'`. Ours go out with all that it takes to come back bit for bit: simulator
states and actions in (-1, 1) among the infos, level and seed as the episode's metadata.
"""

from __future__ import annotations

import os
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from aihf_control.core.errors import BadInput
from aihf_control.core.files import read_json
from aihf_control.core.types import Trajectory
from aihf_control.data.dataset import Dataset
from aihf_control.environments.gym import EnvSpec, make_env, spec_of

Array = np.ndarray
NAME = re.compile(r"(?:[-_\w]{2,}/)*[-_\w]+-v\d+", re.ASCII)


def write_minari(dataset: Dataset, name: str) -> Path:
    """Writes the pool's episodes, in their order, as the Minari dataset `name`; returns its folder.

    Raises BadInput for a name that Minari does not take (it would write first and then raise) or that is taken.
    """
    minari = _minari()
    if not NAME.fullmatch(name):
        raise BadInput(f"--minari {name}: write the id as NAME-v0 or NAMESPACE/NAME-v0 (letters, digits, - and _)")
    folder = _root() / name
    if folder.exists():
        raise BadInput(f"there is a Minari dataset {name} already, in {folder}; choose_pairs another id")
    fresh = next(p for p in (*reversed(folder.parents), folder) if not p.exists())
    spec = spec_of(dataset.meta["env"], **dataset.meta["options"])
    env = make_env(spec)
    try:
        episodes = [
            minari.data_collector.EpisodeBuffer(id=i, **_columns(t, spec, env)) for i, t in enumerate(dataset.pool)
        ]
        with warnings.catch_warnings(action="ignore"):  # on authors and permalinks, which nobody asked for
            about = {**_describe(dataset), **_environment_fields(env)}
            out = minari.create_dataset_from_buffers(name, episodes, data_format="hdf5", **about)
        out.storage.update_episode_metadata([{"level": t.level} for t in dataset.pool])
    except BaseException as e:
        shutil.rmtree(fresh, ignore_errors=True)
        if isinstance(e, OSError | ImportError):
            raise BadInput(f"cannot write {folder}: {' '.join(str(e).split())}") from e
        raise
    finally:
        env.close()
    return folder


def read_minari(name: str, spec: EnvSpec) -> list[Trajectory]:
    """The episodes of a local Minari dataset, actions in (-1, 1). Raises BadInput."""
    minari = _minari()
    _check_metadata(name, spec)
    try:
        with warnings.catch_warnings(action="ignore"):
            found = minari.load_dataset(name)
        metadata = list(found.storage.get_episode_metadata(found.episode_indices))
        episodes = list(found.iterate_episodes())
    except Exception as e:  # Minari and h5py raise a dozen kinds on what is not there or is damaged
        raise BadInput(f"cannot read the Minari dataset {name!r}: {' '.join(str(e).split())[:200]}") from e
    return [_trajectory(name, i, e, m, spec) for i, (e, m) in enumerate(zip(episodes, metadata, strict=True))]


def _check_metadata(name: str, spec: EnvSpec) -> None:
    """Minari makes the environment that a dataset describes where it says no spaces, and a description may name any
    callable with any arguments: such a dataset is not opened."""
    if not NAME.fullmatch(name):
        raise BadInput(f"minari:{name} is no id of a Minari dataset; it looks like NAME-v0 or NAMESPACE/NAME-v0")
    path = _root() / name / "data" / "metadata.json"
    about = read_json(path)
    if not isinstance(about, dict) or not {"observation_space", "action_space"} <= about.keys():
        raise BadInput(f"{path} does not say the spaces of observations and actions, so it cannot be opened safely")
    found = re.search(r'"id": "([^"]*)"', str(about.get("env_spec")))
    if found and found[1] != spec.id.rpartition(":")[2]:
        raise BadInput(f"minari:{name} was recorded in {found[1]}; give --env {found[1]}")


def _minari() -> Any:
    """The library, told an absolute path: with a relative one it looks in a doubled one."""
    if os.environ.get("MINARI_DATASETS_PATH"):
        os.environ["MINARI_DATASETS_PATH"] = str(_root())
    try:
        import minari
    except ImportError as e:
        raise BadInput(f"{e}; Minari datasets need: pip install 'aihf_control[minari]'") from e
    return minari


def _root() -> Path:
    return Path(os.environ.get("MINARI_DATASETS_PATH") or "~/.minari/datasets").expanduser().absolute()


def _describe(dataset: Dataset) -> dict[str, Any]:
    made_with = dataset.meta.get("versions", {})
    libraries = [f"{name}=={made_with[name]}" for name in ("gymnasium", "mujoco") if name in made_with]
    return {
        "description": f"aihf_control dataset {dataset.digest()}; infos hold qpos, qvel and act, the action in (-1, 1)",
        "requirements": libraries,
        "algorithm_name": ", ".join(sorted({t.level for t in dataset.pool})),
    }


def _environment_fields(env: Any) -> dict[str, Any]:
    """The environment, from which Minari writes down how to make it; its spaces alone where nobody can write that."""
    try:
        env.spec.to_json()
    except (TypeError, ValueError):
        return {"observation_space": env.observation_space, "action_space": env.action_space}
    return {"env": env}


def _columns(t: Trajectory, spec: EnvSpec, env: Any) -> dict[str, Any]:
    last = np.arange(len(t)) == len(t) - 1
    infos = {"act": np.concatenate([t.act, np.zeros_like(t.act[:1])])}  # as long as observations, as Minari has it
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


def _trajectory(name: str, i: int, episode: Any, metadata: dict[str, Any], spec: EnvSpec) -> Trajectory:
    infos, seed, level = episode.infos or {}, metadata.get("seed"), metadata.get("level")
    try:
        obs, actions = (np.asarray(x, float).reshape(len(x), -1) for x in (episode.observations, episode.actions))
        reward = np.asarray(episode.rewards, np.float64).reshape(-1)
        if not len(obs) - 1 == len(actions) == len(reward) > 0:
            raise ValueError(f"{len(obs)} observations, {len(actions)} actions and {len(reward)} rewards")
        states = [np.asarray(infos[key], np.float64) if key in infos else np.zeros(0) for key in ("qpos", "qvel")]
        qpos, qvel = states if all(s.ndim and len(s) == len(obs) for s in states) else (None, None)
        act = _act(actions, infos.get("act"), spec)
        seed = -1 - i if seed is None else int(seed)
    except (TypeError, ValueError, IndexError) as e:
        raise BadInput(f"minari:{name}, episode {i} is not of arrays as Box spaces give them: {e}") from e
    terminated = bool(np.ravel(episode.terminations)[-1:].any())
    level = level if isinstance(level, str) else name
    return Trajectory(obs.astype(np.float32), act, reward, terminated, seed, level, qpos, qvel)


def _act(actions: Array, kept: Any, spec: EnvSpec) -> Array:
    """Actions (T, A) in (-1, 1): those `kept` among the infos, (T + 1, A), where they are what was played."""
    if actions.shape[1] != spec.n_act:
        return actions
    act = spec.from_env(actions)
    if kept is None or np.shape(kept) != (len(act) + 1, spec.n_act):
        return act
    exact = np.asarray(kept, np.float32)[:-1]
    return exact if np.array_equal(_to_env_units(exact, spec), actions.astype(np.float32)) else act


def _to_env_units(act: Array, spec: EnvSpec) -> Array:
    """Actions from (-1, 1) to what the environment is given, bit for bit."""
    return spec.to_env(act).astype(np.float32)
