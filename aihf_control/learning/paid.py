"""True rewards that an environment paid, beside a replay buffer, which has no column for rewards."""

from __future__ import annotations

import torch
from torch import Tensor

from aihf_control.learning.replay import Batch
from aihf_control.models.lanes import Dims
from aihf_control.models.networks import RewardFn


class PaidRewards:
    """The true reward of each transition of a buffer of this capacity, (L, capacity); the oldest are overwritten."""

    def __init__(self, dims: Dims, capacity: int):
        self.rewards = torch.zeros(dims.n_lanes, capacity, device=dims.device)
        self.count = 0

    def add(self, reward: Tensor) -> None:
        """Add the reward (L,) of the transition that was added to the buffer last."""
        self.rewards[:, self.count % self.rewards.shape[1]] = reward
        self.count += 1

    def of(self, batch: Batch) -> RewardFn:
        """Return a reward function for a batch of the buffer, and no other."""
        return lambda obs, act: self.rewards.gather(1, batch.index)

    def state_dict(self) -> dict:
        return {"count": self.count, "rewards": self.rewards[:, : self.count].clone()}

    def load_state_dict(self, state: dict) -> None:
        self.count = state["count"]
        self.rewards[:, : self.count] = state["rewards"].to(self.rewards.device)
