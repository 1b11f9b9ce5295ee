"""Checks of an environment before it is used for long."""

from __future__ import annotations

import numpy as np

from aihf_control.core.errors import BadInput
from aihf_control.environments.gym import Envs, EnvSpec

STEPS = 12


def determinism_note(spec: EnvSpec) -> str | None:
    """Return a note if the environment does not repeat an episode from the same reset and the same actions.

    It is played as a resumed run plays it: a second instance replays the episode of a first one, then both continue.
    """
    acts = np.random.default_rng(0).uniform(-1, 1, (3 * STEPS, 1, spec.n_act))
    first, second = Envs(spec, 1), Envs(spec, 1)
    first.reset(0, seed=0)
    _play(first, acts[:STEPS])
    first.reset(0)  # as at the end of an episode: the generator continues
    _play(first, acts[STEPS : 2 * STEPS])
    try:
        second.load_state_dict(first.state_dict())
        same = _play(first, acts[2 * STEPS :]) == _play(second, acts[2 * STEPS :])
    except BadInput:
        same = False
    for env in (*first.envs, *second.envs):
        env.close()
    return (
        None
        if same
        else (
            f"{spec.id} is not deterministic: the same reset and actions gave other numbers, so a run on it cannot be "
            "resumed, and repeating it gives other results"
        )
    )


def _play(envs: Envs, acts: np.ndarray) -> list[bytes]:
    """Step until the actions or the episode end; return observations and rewards as bytes."""
    seen = []
    for act in acts:
        obs, reward, terminated, truncated = envs.step(act)
        seen.append(obs.tobytes() + reward.tobytes())
        if terminated[0] or truncated[0]:
            break
    return seen
