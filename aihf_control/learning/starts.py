"""Steps of demonstrations at which segments may start, and the choice among them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aihf_control.core.types import Trajectory

Array = np.ndarray


def draw_lane_starts(demos: Sequence[Trajectory], u: Array, length: int, restart: bool) -> Array:
    """Return starts (n, 2) chosen by uniform numbers u (n, 2) among demonstrations that are long enough, if any."""
    enough = np.array([i for i, demo in enumerate(demos) if demo.starts(length)] or range(len(demos)))
    which = enough[(u[:, 0] * len(enough)).astype(int)]
    steps = [_list_start_steps(demos[i], length, restart) for i in which]
    return np.stack([which, [at[int(x * len(at))] for at, x in zip(steps, u[:, 1], strict=True)]], 1)


def _list_start_steps(demo: Trajectory, length: int, restart: bool) -> Array:
    """List the steps of a demonstration at which segments may start, among those that a learner receives."""
    stop = 1 if restart and demo.qpos is None else max(1, demo.starts(length))
    steps = np.arange(demo.first, stop, demo.every)
    return steps if len(steps) else np.zeros(1, int)
