"""A judge that compares segments by principles, as the language model of SALMON does (arXiv 2310.05910).

It sees the simulator's states and the actions, not the true reward.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from aihf_control.core.errors import BadInput
from aihf_control.core.types import Trajectory
from aihf_control.data.pairs import references

Array = np.ndarray
PRINCIPLES = ("speed", "effort", "height", "smoothness")
"""Mean of a segment's steps of: the first velocity of the simulator, which is the forward one of the MuJoCo robots; the
squared size of the action; the height of the root; minus the squared change of the action since the step before."""


def features(episode: Trajectory, start: int, length: int) -> Array:
    """Return the value of each principle in a segment, (m,). Raises BadInput if the simulator's states are unknown."""
    if episode.qpos is None or episode.qvel is None:
        raise BadInput("the judge of principles needs the simulator's states, which these episodes lack")
    stop = min(start + length, len(episode))
    act, qpos = episode.act[start:stop], episode.qpos[start:stop]
    free = episode.qpos.shape[1] > episode.qvel.shape[1]  # a root that turns freely has a quaternion
    height = qpos[:, 2 if free else min(1, qpos.shape[1] - 1)]
    turn = np.diff(act, axis=0) if len(act) > 1 else np.zeros_like(act)
    columns = episode.qvel[start:stop, 0], (act**2).sum(1), height, -(turn**2).sum(1)
    return np.array([column.mean() for column in columns])


def gaps(pool: Sequence[Trajectory], rows: pd.DataFrame) -> Array:
    """Return by how much the first segment of each comparison is above the second in each principle, (N, m)."""
    sides = [
        [features(pool[i], start, length) for i, start, length in references(rows, side)] for side in ("win", "lose")
    ]
    win, lose = (np.array(side).reshape(-1, len(PRINCIPLES)) for side in sides)
    return win - lose
