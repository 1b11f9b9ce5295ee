"""ExPO: extrapolation from the clone beyond the aligned policy (Zheng et al., arXiv 2404.16792, equation 3).

Demonstrations D, comparisons P, weights w of DPO's policy, reward r_theta, returns R_theta of segments:

    w, w_0 <- weights of the clone of D
    theta <- ascend  E_P log sigmoid(R_theta(win) - R_theta(lose))   reward, constant from here on
    for k = 1, 2, ...:
        w <- one gradient step of DPO
        at the end of a phase:
            step <- the candidate whose policy plays segments of the highest R_theta
        the policy is  w + step (w - w_0)

Candidate 0 is the policy of DPO. A candidate -1 is the clone, for the case that DPO has made it worse. The choice needs
environment steps, but no true returns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from aihf_control.core.errors import BadInput, at_least_one
from aihf_control.learning.bc import CloneConfig
from aihf_control.learning.direct import DirectConfig, DirectTrainer
from aihf_control.learning.online import PlayConfig
from aihf_control.learning.reward_model import RewardConfig, RewardModel
from aihf_control.learning.task import Progress, Task
from aihf_control.models.losses import bradley_terry
from aihf_control.models.networks import Policy


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of ExPO."""

    steps: int = 2000
    """Gradient steps."""
    reward_updates: int = 3000
    """Gradient steps of the reward before the first of the policy."""
    step_sizes: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5, 1.0)
    """Candidate steps of extrapolation, at least -1, which is the clone."""
    tries: int = 4
    """Segments per candidate from which the step is chosen."""
    direct: DirectConfig = DirectConfig()
    online: PlayConfig = PlayConfig(length=1000, phases=4)
    reward: RewardConfig = RewardConfig()
    clone: CloneConfig = CloneConfig()

    def __post_init__(self):
        at_least_one({"--tries": self.tries})
        if min(self.step_sizes, default=-2) < -1:
            raise BadInput("--step-sizes: give at least one, and none below -1")


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    pairs = task.comparisons()
    trainer, r = DirectTrainer(task, cfg.direct, cfg.clone), RewardModel(task, cfg.reward)
    r.fit(cfg.reward_updates)
    chosen = StepSizes(torch.zeros(task.dims.n_lanes, device=task.dims.device))
    yield Progress(trainer.reference, {}, r)
    for k in task.iterations(trainer=trainer, r=r, chosen=chosen):
        scores = trainer.score(pairs.draw(cfg.direct.pair_steps))
        loss = bradley_terry(scores.h_win, scores.h_lose, scores.weight)
        trainer.descend(loss)
        if k % max(1, cfg.steps // cfg.online.phases) == 0:
            chosen.step.copy_(choose_steps(task, trainer, r, cfg))
        policy = extrapolate(trainer.reference, trainer.policy, chosen.step)
        info = trainer.report(loss, scores).info | {"step_size": chosen.step.clone()}
        yield Progress(policy, info, r)


@dataclasses.dataclass(frozen=True)
class StepSizes:
    """The extrapolation step of each lane, (L,)."""

    step: Tensor

    def state_dict(self) -> dict:
        return {"step": self.step}

    def load_state_dict(self, state: dict) -> None:
        self.step.copy_(state["step"])


def choose_steps(task: Task, trainer: DirectTrainer, r: RewardModel, cfg: Config) -> Tensor:
    """Return the step of each lane whose segments, from the same starts, have the highest learned return, (L,)."""
    starts, found = cfg.online.draw_starts(task, cfg.tries), []
    for size in cfg.step_sizes:
        step = torch.full((task.dims.n_lanes,), size, device=task.dims.device)
        policy = extrapolate(trainer.reference, trainer.policy, step)
        found.append(r.clip_returns(*task.rollout(policy, starts, cfg.online.length).clips).detach().mean(-1))
    return torch.tensor(cfg.step_sizes, device=task.dims.device)[torch.stack(found).argmax(0)]


def extrapolate(start: Policy, aligned: Policy, step: Tensor) -> Policy:
    """Return the policy with weights w + step (w - w_0), step (L,)."""
    policy = aligned.frozen_copy()
    with torch.no_grad():
        for p, w_0 in zip(policy.parameters(), start.parameters(), strict=True):
            p += step[:, None, None] * (p - w_0)
    return policy
