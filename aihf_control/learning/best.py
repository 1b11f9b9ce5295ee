"""The best policy of a run so far, as a reward that is fitted to the comparisons sees it."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from aihf_control.core.errors import BadInput, at_least_one
from aihf_control.core.types import Clips
from aihf_control.learning.reward_model import RewardModel
from aihf_control.learning.task import Task
from aihf_control.models.networks import Policy


@dataclasses.dataclass(frozen=True)
class BestConfig:
    """Settings of the choice of the best policy so far."""

    every: int = 3000
    """Environment steps between two trials of the newest policy. 0: no trials, the newest policy is the result."""
    episodes: int = 3
    """Greedy episodes of each trial; their steps are counted."""

    def __post_init__(self):
        if self.every < 0:
            raise BadInput(f"--best.every must be at least 0, got {self.every}")
        at_least_one({"--best.episodes": self.episodes})


class BestPolicy:
    """The policy of each lane whose greedy episodes return most under a fixed reward.

    A policy that learns from a changing or imperfect reward can lose for thousands of steps what it could do before.
    All policies are tried from the same initial states.
    """

    def __init__(self, task: Task, r: RewardModel, first: Policy, cfg: BestConfig):
        self.task, self.r, self.cfg = task, r, cfg
        self.policy = first.frozen_copy()
        self.clips = task.play_greedy(first, cfg.episodes) if cfg.every else None

    def offer(self, step: int, policy: Policy) -> Policy:
        """Return the best policy after environment step `step`, at which `policy` is the newest."""
        if self.clips is None:
            return policy
        if step % self.cfg.every == 0:
            self._try(policy, self.clips)
        return self.policy

    @torch.no_grad()
    def _try(self, policy: Policy, best: Clips) -> None:
        clips = self.task.play_greedy(policy, self.cfg.episodes)
        better = self._learned_return(clips) > self._learned_return(best)
        better |= ~all_finite(policy)  # a lane that has diverged shows it
        choose_by_lane(better, policy, self.policy)
        self.clips = Clips(*(torch.where(_spread(better, new), new, old) for new, old in zip(clips, best, strict=True)))

    def _learned_return(self, clips: Clips) -> Tensor:
        return self.r.clip_returns(*clips).mean(-1)

    def state_dict(self) -> dict[str, Any]:
        return {"policy": self.policy.state_dict(), "clips": self.clips and self.clips._asdict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.policy.load_state_dict(state["policy"])
        self.clips = state["clips"] and Clips(**{k: x.to(self.task.dims.device) for k, x in state["clips"].items()})


@torch.no_grad()
def choose_by_lane(first: Tensor, a: Policy, b: Policy) -> Policy:
    """Overwrite `b` by `a` in the lanes where `first`, (L,), is True; return `b`."""
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        q.copy_(torch.where(_spread(first, p), p, q))
    return b


def all_finite(policy: Policy) -> Tensor:
    """Return whether all parameters of a lane are finite, (L,)."""
    return torch.stack([p.isfinite().flatten(1).all(1) for p in policy.parameters()]).all(0)


def _spread(of_lane: Tensor, x: Tensor) -> Tensor:
    """Return (L,) with as many axes as x."""
    return of_lane.view(-1, *[1] * (x.dim() - 1))
