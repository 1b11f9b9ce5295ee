"""Make the policy bundled for aihf/PointMaze-v0: a network that imitates a planner of shortest paths.

    python docs/make_maze_expert.py        # 2 minutes; writes envs/aihf__PointMaze-v0/expert.zip

The planner knows the wall of the "u" maze: it moves at full speed to the goal where nothing is between, else to the
wall's free end. The policy defines score 1 and, with random actions, plays the data of `metric_rl`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aihf_control.data.pool import evaluate_returns
from aihf_control.environments.cards import envs_folder
from aihf_control.environments.gym import make_env, spec_of
from aihf_control.models.expert import expert_of
from aihf_control.models.lanes import Dims
from aihf_control.models.networks import Policy
from aihf_control.models.optim import Adam
from aihf_control.models.sb3 import read_zip
from aihf_control.models.sb3_writer import write_zip

Array = np.ndarray
ENV = "aihf/PointMaze-v0"
MARGIN, UPDATES, BATCH = 0.2, 15_000, 1024
CORNERS = np.array([[0.5 + MARGIN, -0.1 - MARGIN], [0.5 + MARGIN, 0.1 + MARGIN]])  # around the free end of the wall


def is_clear(a: Array, b: Array) -> Array:
    """Return whether the straight way from a (N, 2) to b (N, 2) passes the wall, which ends at x = 0.5, y = 0."""
    crosses = a[:, 1] * b[:, 1] < 0
    at = a[:, 0] + (b[:, 0] - a[:, 0]) * a[:, 1] / np.where(crosses, a[:, 1] - b[:, 1], 1)
    return ~crosses | (at > 0.5 + MARGIN)


def plan(place: Array, goal: Array) -> Array:
    """Return actions (N, 2) on the shortest way from the places to the goals."""
    below = place[:, 1:] < 0
    near, far = np.where(below, CORNERS[:1], CORNERS[1:]), np.where(below, CORNERS[1:], CORNERS[:1])
    past = place[:, :1] > CORNERS[0, 0] - 0.05
    target = np.where(is_clear(place, goal)[:, None], goal, np.where(past, far, near))
    way = target - place
    return way / np.maximum(np.abs(way).max(1, keepdims=True), 0.1)


def train() -> Policy:
    """Return a policy that imitates the planner at random places and goals, at random velocities."""
    spec, rng = spec_of(ENV), np.random.default_rng(0)
    inner: Any = make_env(spec).unwrapped
    places = rng.uniform(-1.5, 1.5, (200_000, 2))
    places = places[[inner.is_free(place) for place in places]]
    policy = Policy(Dims((0,), spec.n_obs, spec.n_act), (128, 128))
    opt = Adam([*policy.body.parameters(), *policy.mean.parameters()], 1e-3)
    for k in range(UPDATES):
        opt.lr = 1e-3 * (1 - k / UPDATES)
        place, goal = places[rng.integers(len(places), size=(2, BATCH))]
        obs = np.concatenate([place, rng.uniform(-1, 1, (BATCH, 2)), goal], 1)
        to_tensor = (torch.as_tensor(x, dtype=torch.float32)[None] for x in (obs, plan(place, goal)))
        x, act = to_tensor
        opt.descend((policy.greedy(x) - act).square().mean((1, 2)))
    return policy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=envs_folder() / "aihf__PointMaze-v0")
    out, spec = parser.parse_args().out, spec_of(ENV)
    write_zip(out / "expert.zip", expert_of(train(), 0), spec)
    lines = [
        "# The expert is a network that imitates a planner: `python docs/make_maze_expert.py`. Returns are successes."
    ]
    for name, expert in (("random", None), ("expert", read_zip(out / "expert.zip", spec))):
        returns = np.array(evaluate_returns(spec, expert, 200))
        lines.append(f"{name}_return = {returns.mean():.3f}  # n {len(returns)}")
    (out / "card.toml").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
