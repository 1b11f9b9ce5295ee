"""LIRE: listwise reward enhancement (Zhu et al., arXiv 2405.13516, equations 3 to 5).

Demonstrations D, comparisons P, policy pi, reward r_theta, returns R_theta of segments:

    pi <- clone of D
    theta <- ascend  E_P log sigmoid(R_theta(win) - R_theta(lose))   reward, constant from here on
    for k = 1, 2, ...:
        at the start of a phase:
            lists <- n segments ~ pi from each of some states of D
        segments 1 .. n ~ lists,  p_j <- softmax over j of  beta log pi(segment_j) / temperature
        descend  - sum_j p_j softmax_j(R_theta) - w_best beta log pi(segment of highest R_theta)

The log likelihood is averaged over the steps of a segment; the paper has a sum over tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from aihf_control.core.errors import BadInput, at_least_one
from aihf_control.core.types import Clips
from aihf_control.learning.bc import CloneConfig
from aihf_control.learning.direct import DirectConfig, DirectTrainer, clip_logp
from aihf_control.learning.online import PlayConfig
from aihf_control.learning.reward_model import RewardConfig, RewardModel
from aihf_control.learning.task import Progress, Task
from aihf_control.models.lanes import Random


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of LIRE."""

    steps: int = 1000
    """Gradient steps."""
    reward_updates: int = 3000
    """Gradient steps of the reward before the first of the policy."""
    lists: int = 16
    """Lists per phase, each from one state."""
    clips: int = 4
    """Segments per list."""
    temperature: float = 1.0
    """The paper's T, temperature of the likelihoods' softmax."""
    w_best: float = 0.1
    """Weight of the likelihood of each list's best segment."""
    direct: DirectConfig = DirectConfig(lr=1e-5)
    online: PlayConfig = PlayConfig()
    reward: RewardConfig = RewardConfig()
    clone: CloneConfig = CloneConfig()

    def __post_init__(self):
        at_least_one({"--lists": self.lists})
        if self.clips < 2 or self.temperature <= 0:
            raise BadInput("--clips must be at least 2 and --temperature above 0")


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    task.comparisons()  # raises BadInput, before the clone is trained, if there are none
    trainer, r = DirectTrainer(task, cfg.direct, cfg.clone), RewardModel(task, cfg.reward)
    r.fit(cfg.reward_updates)
    lists = Lists(task, cfg.clips)
    yield Progress(trainer.reference, {}, r)
    for k in task.iterations(trainer=trainer, r=r, lists=lists):
        if cfg.online.starts_phase(k, cfg.steps):
            starts = cfg.online.draw_starts(task, cfg.lists).repeat_interleave(cfg.clips, 1)
            clips = task.rollout(trainer.policy, starts, cfg.online.length).clips
            lists.replace(clips, r.clip_returns(*clips).detach())
        clips, returns = lists.draw(cfg.direct.pair_steps)
        logp = clip_logp(trainer.policy, clips).unflatten(1, (-1, cfg.clips))
        loss = listwise_loss(cfg.direct.beta_of(clips.real.shape[-1]) * logp, returns, cfg.temperature, cfg.w_best)
        trainer.descend(loss)
        yield Progress(trainer.policy, {"loss": loss.detach(), "logp": logp.detach().mean((1, 2))}, r)


def listwise_loss(logp: Tensor, returns: Tensor, temperature: float, w_best: float) -> Tensor:
    """Return the loss of LIRE for lists of n segments, (L, m, n) to (L,)."""
    listed = -((logp / temperature).softmax(-1) * returns.softmax(-1)).sum(-1)
    best = logp.gather(-1, returns.argmax(-1, keepdim=True)).squeeze(-1)
    return (listed - w_best * best).mean(-1)


class Lists:
    """Segments of the last phase, list by list, and their learned returns."""

    def __init__(self, task: Task, n_clips: int):
        self.dims, self.n_clips, self.rng = task.dims, n_clips, Random(task.dims, "lists")
        self.clips: list[Tensor] = []
        self.returns = torch.zeros(0)

    def replace(self, clips: Clips, returns: Tensor) -> None:
        """Replace all lists: clips (L, m n, K, ...), list by list, and their returns (L, m n)."""
        self.clips, self.returns = list(clips), returns

    def draw(self, n_steps: int) -> tuple[Clips, Tensor]:
        """Draw m lists per lane with `n_steps` steps in total: clips (L, m n, K, ...), returns (L, m, n)."""
        n_lists = self.returns.shape[1] // self.n_clips
        m = max(1, n_steps // (self.n_clips * self.clips[2].shape[2]))
        which = self.rng.integers(torch.full((self.dims.n_lanes,), n_lists, device=self.dims.device), m)
        index = (which[..., None] * self.n_clips + torch.arange(self.n_clips, device=which.device)).flatten(1)
        lane = torch.arange(len(index), device=index.device)[:, None]
        drawn = Clips(*(x[lane, index] for x in self.clips))
        return drawn, self.returns[lane, index].unflatten(1, (-1, self.n_clips))

    def state_dict(self) -> dict:
        return {"rng": self.rng.state_dict(), "clips": self.clips, "returns": self.returns}

    def load_state_dict(self, state: dict) -> None:
        self.rng.load_state_dict(state["rng"])
        self.clips = [x.to(self.dims.device) for x in state["clips"]]
        self.returns = state["returns"].to(self.dims.device)
