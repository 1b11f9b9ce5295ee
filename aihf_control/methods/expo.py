"""ExPO: extrapolation from the clone through the aligned policy (Zheng et al., arXiv 2404.16792, equation 3).

Demonstrations D, comparisons P, reward r_theta of P, pi_0 = clone of D with weights w_0, w those of DPO (`dpo`):

    theta <- ascend  E_P log sigmoid(R_theta(win) - R_theta(lose))
    for k = 1, 2, ...:
        w <- one gradient step of DPO
        every so often:
            step <- of those on offer the one whose policy's clips have the highest R_theta
        the policy is  w + step (w - w_0)

Step 0 is on offer, so that what DPO spoils is not spoilt further. The choice costs env steps, and no true return.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from aihf_control.core.errors import BadInput, at_least_one
from aihf_control.learning.bc import CloneConfig
from aihf_control.learning.direct import DirectConfig, DirectTrainer
from aihf_control.learning.online import OnlineConfig
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
    """Gradient steps of the reward, before the policy's first."""
    step_sizes: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5, 1.0)
    """Steps of extrapolation on offer."""
    tries: int = 4
    """Clips that each of them plays to be chosen by."""
    direct: DirectConfig = DirectConfig()
    online: OnlineConfig = OnlineConfig(length=1000, phases=4)
    reward: RewardConfig = RewardConfig()
    clone: CloneConfig = CloneConfig()

    def __post_init__(self):
        at_least_one({"--tries": self.tries})
        if not self.step_sizes:
            raise BadInput("--step-sizes: give at least one")


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    pairs = task.comparisons()
    trainer, r = DirectTrainer(task, cfg.direct, cfg.clone), RewardModel(task, cfg.reward)
    r.fit(cfg.reward_updates)
    chosen = Chosen(torch.zeros(task.dims.n_lanes, device=task.dims.device))
    yield Progress(trainer.reference, {}, r)
    for k in task.iterations(trainer=trainer, r=r, chosen=chosen):
        scores = trainer.score(pairs.draw(cfg.direct.pair_steps))
        loss = bradley_terry(scores.h_win, scores.h_lose, scores.weight)
        trainer.descend(loss)
        if k % max(1, cfg.steps // cfg.online.phases) == 0:
            chosen.step.copy_(choose(task, trainer, r, cfg))
        policy = extrapolated(trainer.reference, trainer.policy, chosen.step)
        info = trainer.report(loss, scores).info | {"step_size": chosen.step.clone()}
        yield Progress(policy, info, r)


@dataclasses.dataclass(frozen=True)
class Chosen:
    """The step that each lane takes, (L,)."""

    step: Tensor

    def state_dict(self) -> dict:
        return {"step": self.step}

    def load_state_dict(self, state: dict) -> None:
        self.step.copy_(state["step"])


def choose(task: Task, trainer: DirectTrainer, r: RewardModel, cfg: Config) -> Tensor:
    """Each lane's step, (L,): the one whose clips, all from the same starts, have the highest learned return."""
    starts, found = task.draw_starts(cfg.tries, cfg.online.length), []
    for size in cfg.step_sizes:
        step = torch.full((task.dims.n_lanes,), size, device=task.dims.device)
        policy = extrapolated(trainer.reference, trainer.policy, step)
        found.append(r.clip_returns(*task.rollout(policy, starts, cfg.online.length).clips).detach().mean(-1))
    return torch.tensor(cfg.step_sizes, device=task.dims.device)[torch.stack(found).argmax(0)]


def extrapolated(start: Policy, aligned: Policy, step: Tensor) -> Policy:
    """The policy with weights w + step (w - w_0), step (L,)."""
    policy = aligned.frozen_copy()
    with torch.no_grad():
        for p, w_0 in zip(policy.parameters(), start.parameters(), strict=True):
            p += step[:, None, None] * (p - w_0)
    return policy
