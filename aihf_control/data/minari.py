"""Export to and import from Minari (Farama's format of offline data), stored under MINARI_DATASETS_PATH.

Needs `pip install 'aihf_control[minari]'`. Exported datasets can be imported bit for bit: simulator states and actions
in (-1, 1) are stored in the infos, level and seed in the metadata of the episode.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from aihf_control.core.errors import BadInput, BadLines
from aihf_control.core.types import Trajectory
from aihf_control.data.arrays import read_json_table
from aihf_control.data.dataset import Dataset
from aihf_control.environments.gym import EnvSpec, make_env, spec_of

Array = np.ndarray
MINARI = "minari:"  # prefix of a source
NAME = re.compile(r"(?:[-_\w]{2,}/)*[-_\w]+-v\d+", re.ASCII)
NEUTRAL = {
    "Autoreset",
    "DataCollector",
    "FlattenObservation",
    "OrderEnforcing",
    "PassiveEnvChecker",
    "RecordEpisodeStatistics",
    "RecordVideo",
    "RenderCollection",
    "HumanRendering",
}
"""Wrappers that change neither observations (beyond their shape), nor actions, nor rewards."""
ACTION_WRAPPERS = {"ClipAction", "RescaleAction"}
"""Wrappers whose recorded actions are converted to those of the environment."""


def write_minari(dataset: Dataset, name: str) -> Path:
    """Write the episodes of the pool, in order, as the Minari dataset `name`; return its folder.

    Raises BadInput for a name that is taken, or that Minari refuses (after having written files).
    """
    minari = _import_minari()
    if not NAME.fullmatch(name):
        raise BadInput(f"--minari {name}: write the id as NAME-v0 or NAMESPACE/NAME-v0 (letters, digits, - and _)")
    folder = _root() / name
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


# ------------------------------------------------------------------------------------------------- recorded environment


def read_recorded_environment(name: str, env: str) -> dict[str, Any] | None:
    """Return the options of the environment in which a Minari dataset was recorded, None if it states none.

    Raises BadInput if it was recorded in another environment, or with wrappers that change what cannot be restored.
    """
    spec = _read_recorded_spec(name)
    if spec is None:
        return None
    if spec.get("id") != env.rpartition(":")[2]:
        raise BadInput(f"minari:{name} was recorded in {spec.get('id')}; give --env {spec.get('id')}")
    unknown = [w for w in _wrappers(spec) if w not in NEUTRAL | ACTION_WRAPPERS]
    if unknown:
        raise BadInput(
            f"minari:{name} was recorded through {', '.join(unknown)}, which cannot be undone: its observations, "
            f"actions or rewards are not those of {env}; register the wrapped environment under an id of its own"
        )
    kwargs = spec.get("kwargs") or {}
    if not isinstance(kwargs, dict):
        raise BadInput(f"minari:{name} states kwargs that are no table: {kwargs!r}")
    here = make_env(spec_of(env))
    usual = here.spec.kwargs if here.spec else {}
    here.close()
    options = {k: v for k, v in kwargs.items() if k != "render_mode" and not (k in usual and usual[k] == v)}
    limit = spec.get("max_episode_steps")
    if isinstance(limit, int) and not isinstance(limit, bool) and limit > 0 and limit != spec_of(env).horizon:
        options["max_episode_steps"] = limit
    return options


def _read_recorded_spec(name: str) -> dict[str, Any] | None:
    """Return the environment spec in the metadata as plain JSON; Gymnasium does not decode it."""
    text = _read_metadata(name).get("env_spec")
    try:
        spec = json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError) as e:
        raise BadInput(f"minari:{name} has an env_spec that is not valid JSON: {e}") from e
    if spec is not None and not isinstance(spec, dict):
        raise BadInput(f"minari:{name} has an env_spec that is no JSON object")
    return spec


def _wrappers(spec: dict[str, Any]) -> list[str]:
    wrappers = spec.get("additional_wrappers") or []
    names = [
        w.get("name") if isinstance(w, dict) else w for w in (wrappers if isinstance(wrappers, list) else [wrappers])
    ]
    return [name if isinstance(name, str) else repr(name) for name in names]


def _read_recorded_box(name: str, spec: EnvSpec) -> tuple[Array, Array]:
    """Return the bounds of recorded actions, (A,) each; ClipAction's are infinite.

    Raises BadInput if they differ from the environment's and no wrapper that changes them is recorded.
    """
    box = _read_metadata(name)["action_space"]
    try:
        box = json.loads(box) if isinstance(box, str) else box
        low, high = (np.array(box[side], np.float64).ravel() for side in ("low", "high"))
    except (ValueError, TypeError, KeyError, RecursionError) as e:
        raise BadInput(f"minari:{name} has no Box of actions: {' '.join(str(box).split())[:100]}") from e
    if low.size != spec.n_act or high.size != spec.n_act:
        return spec.low, spec.high  # the sizes are compared and reported per episode
    same = np.allclose(low, spec.low, 1e-6) and np.allclose(high, spec.high, 1e-6)
    if not same and not ACTION_WRAPPERS & set(_wrappers(_read_recorded_spec(name) or {})):
        raise BadInput(
            f"minari:{name} has actions from {low.tolist()} to {high.tolist()}, {spec.id} from {spec.low.tolist()} to "
            f"{spec.high.tolist()}, and no wrapper that explains it is recorded; convert the actions and record anew"
        )
    if not np.isfinite(low).all() and "RescaleAction" in _wrappers(_read_recorded_spec(name) or {}):
        raise BadInput(
            f"minari:{name} was recorded through RescaleAction inside ClipAction; record it without ClipAction"
        )
    return (spec.low, spec.high) if same else (low, high)


def _read_metadata(name: str) -> dict[str, Any]:
    """Read metadata.json of a dataset that states its spaces.

    If spaces are missing, Minari builds the environment of the spec, which may name any callable with any arguments:
    such a dataset is refused with BadInput.
    """
    if not NAME.fullmatch(name):
        raise BadInput(f"minari:{name} is no id of a Minari dataset; it looks like NAME-v0 or NAMESPACE/NAME-v0")
    path = _root() / name / "data" / "metadata.json"
    fields = read_json_table(path)
    if not {"observation_space", "action_space"} <= fields.keys():
        raise BadInput(f"{path} does not state the spaces of observations and actions, so it cannot be opened safely")
    return fields


# -------------------------------------------------------------------------------------------------------------- reading


def read_minari(name: str, spec: EnvSpec, notes: list[str] | None = None) -> list[Trajectory]:
    """Read the episodes of a local Minari dataset, actions converted to (-1, 1).

    Raises BadInput if it cannot be opened or was recorded elsewhere, BadLines with every episode that cannot be read.
    """
    minari = _import_minari()
    recorded = read_recorded_environment(name, spec.id)
    if recorded is not None and recorded != json.loads(json.dumps(spec.options, default=str)):
        raise BadInput(f"minari:{name} was recorded with options {recorded}, not {spec.options}")
    low, high = _read_recorded_box(name, spec)
    notes = [] if notes is None else notes
    if low is not spec.low:
        notes.append(f"minari:{name}: actions from {low.tolist()} to {high.tolist()} are converted to {spec.id}'s")
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
        os.environ["MINARI_DATASETS_PATH"] = str(_root())
    try:
        import minari
    except ImportError as e:
        raise BadInput(f"{e}; Minari datasets need: pip install 'aihf_control[minari]'") from e
    return minari


def _root() -> Path:
    return Path(os.environ.get("MINARI_DATASETS_PATH") or "~/.minari/datasets").expanduser().absolute()
