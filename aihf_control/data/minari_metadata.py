"""Metadata of Minari datasets: the environment and the wrappers in which they were recorded.

Read as plain JSON. Neither Minari nor Gymnasium decodes it, since it may name any callable.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from aihf_control.core.errors import BadInput
from aihf_control.data.arrays import check_hdf5, read_json_table
from aihf_control.environments.gym import EnvSpec, make_env, spec_of

Array = np.ndarray
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


def read_recorded_environment(name: str, env: str) -> dict[str, Any] | None:
    """Return the options of the environment in which a Minari dataset was recorded, None if it states none.

    Raises BadInput if it was recorded in another environment, or with wrappers that change what cannot be restored.
    """
    spec = _recorded_spec(name)
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


def _recorded_spec(name: str) -> dict[str, Any] | None:
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


def recorded_box(name: str, spec: EnvSpec) -> tuple[Array, Array]:
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
    if not same and not ACTION_WRAPPERS & set(_wrappers(_recorded_spec(name) or {})):
        raise BadInput(
            f"minari:{name} has actions from {low.tolist()} to {high.tolist()}, {spec.id} from {spec.low.tolist()} to "
            f"{spec.high.tolist()}, and no wrapper that explains it is recorded; convert the actions and record anew"
        )
    if not np.isfinite(low).all() and "RescaleAction" in _wrappers(_recorded_spec(name) or {}):
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
    path = datasets_root() / name / "data" / "metadata.json"
    fields = read_json_table(path)
    if not {"observation_space", "action_space"} <= fields.keys():
        raise BadInput(f"{path} does not state the spaces of observations and actions, so it cannot be opened safely")
    return fields


def check_stored(name: str) -> None:
    """Check the data of a dataset in hdf5 before Minari reads it: see `check_hdf5`. Raises BadInput."""
    if _read_metadata(name).get("data_format") == "hdf5":
        check_hdf5(datasets_root() / name / "data" / "main_data.hdf5")


def datasets_root() -> Path:
    """Return the folder of all Minari datasets."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or "~/.minari/datasets").expanduser().absolute()
