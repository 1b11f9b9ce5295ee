"""Transitions with goals drawn from the data, and an embedding of states whose distances estimate numbers of steps."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from aihf_control.environments.goals import Goals
from aihf_control.learning.replay import Batch
from aihf_control.learning.task import Task
from aihf_control.models.lanes import Dims, Random
from aihf_control.models.networks import Body, Linear, ObsNormalizer


class GoalBatch(NamedTuple):
    """Transitions, (L, B, ...), whose observations have the goal `goal`, (L, B, G)."""

    obs: Tensor
    act: Tensor
    next_obs: Tensor
    goal: Tensor


class GoalDemos:
    """The demonstrations' transitions with goals drawn from the data, whatever goals they were recorded with."""

    def __init__(self, task: Task):
        self.demos, self.columns, self.ends = task.demos, task.goals(), task.demo_ends()
        self.rng = Random(task.dims, "goals")

    def sample(self, n: int) -> GoalBatch:
        """Draw `n` transitions per lane, and as their goals the positions in `n` others."""
        return self._relabel(self.demos.sample(n), self.demos.sample(n).obs)

    def sample_reached(self, n: int) -> GoalBatch:
        """Draw `n` transitions per lane, and as their goals later positions of their own episodes, uniformly."""
        batch = self.demos.sample(n)
        left = self.ends.gather(1, batch.index) - batch.index
        later = batch.index + (self.rng.uniform(n) * (left + 1)).long().minimum(left)
        return self._relabel(batch, self.demos.read(later).next_obs)

    def _relabel(self, batch: Batch, reached: Tensor) -> GoalBatch:
        goal = reached[..., self.columns.position]
        obs, next_obs = (with_goal(x, goal, self.columns) for x in (batch.obs, batch.next_obs))
        return GoalBatch(obs, batch.act, next_obs, goal)

    def state_dict(self) -> dict:
        return {"rng": self.rng.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.rng.load_state_dict(state["rng"])


def with_goal(obs: Tensor, goal: Tensor, columns: Goals) -> Tensor:
    """Return observations (L, B, O) with their goals replaced by (L, B, G)."""
    obs = obs.clone()
    obs[..., columns.goal] = goal
    return obs


class Embedding(nn.Module):
    """An embedding of states, (L, B, O) to (L, B, D). It ignores the goal's columns of an observation."""

    kept: Tensor

    def __init__(self, dims: Dims, hidden: tuple[int, ...], size: int, columns: Goals):
        super().__init__()
        rng = Random(dims, "embedding")
        self.columns, self.units = columns, ObsNormalizer(dims)
        self.body, self.out = Body(rng, dims.n_obs, hidden), Linear(rng, hidden[-1], size)
        kept = torch.ones(dims.n_obs, device=dims.device)
        kept[list(columns.goal)] = 0
        self.register_buffer("kept", kept)

    def forward(self, obs: Tensor) -> Tensor:
        h = self.units(obs) * self.kept
        for layer in self.body.layers:
            h = layer(h).relu()
        return self.out(h)

    def embed_goal(self, goal: Tensor) -> Tensor:
        """Return the embedding of the state whose position is the goal, (L, B, G), and whose other columns are 0."""
        obs = torch.zeros(*goal.shape[:2], self.kept.numel(), device=goal.device)
        obs[..., self.columns.position] = goal
        return self(obs)
