"""One unit for all learned rewards."""

from __future__ import annotations

import torch
from torch import Tensor

from aihf_control.models.lanes import Dims
from aihf_control.models.networks import RewardFn

RATE = 0.01  # of the running mean and deviation
SMALLEST = 1e-3


class RewardUnit:
    """A learned reward minus its running mean, divided by its running standard deviation, over the sampled batches.

    It is the reward itself unless `on`. `absorbing()` shifts the reward of the absorbing state by the same
    constant. As a terminated episode continues for ever in that state, the optimal policy stays the same (reward
    centering, Naik et al., arXiv 2405.09999).
    """

    def __init__(self, dims: Dims, r: RewardFn, on: bool):
        self.r, self.on = r, on
        self.mean, self.std = torch.zeros(2, dims.n_lanes, 1, device=dims.device)

    @torch.no_grad()
    def __call__(self, obs: Tensor, act: Tensor) -> Tensor:
        """Return the reward (L, B) in the unit, after the mean and the deviation have moved towards the batch's."""
        reward = self.r(obs, act)
        if not self.on:
            return reward
        mean, std = reward.mean(-1, keepdim=True), reward.std(-1, keepdim=True).clamp(min=SMALLEST)
        rate = torch.where(self.std > 0, RATE, 1.0)
        self.mean.lerp_(mean, rate)
        self.std.lerp_(std, rate)
        return (reward - self.mean) / self.std

    def absorbing(self) -> Tensor:
        """Return the reward of the absorbing state, whose own is 0, in the unit, (L, 1)."""
        return -self.mean / self.std if self.on else torch.zeros_like(self.mean)

    def state_dict(self) -> dict:
        return {"mean": self.mean, "std": self.std}

    def load_state_dict(self, state: dict) -> None:
        self.mean.copy_(state["mean"])
        self.std.copy_(state["std"])
