"""MTPO: multi-turn preference optimisation by self-play (Shani et al., arXiv 2405.14655, section 5).

Demonstrations D, comparisons P, policy pi, preference model P_phi, which may be intransitive (`preference_model.py`):

    pi, mu <- clone of D
    phi <- ascend  E_P log P_phi(win > lose)                         a reward, then a cyclic term; constant from here on
    for k = 1, 2, ...:
        at the start of a phase:                                     pi_k <- pi
            tau_1 .. tau_n ~ pi_k, from states of D                  whole episodes, each against all others
            payoff of tau_i <- mean over j != i of  P_phi(tau_i > tau_j) - 1/2
        (s, a) ~ the phase's episodes
        Q <- regress  Q(s, a)  on the payoff of its episode          Q(s, a) = E[P(tau > tau') | s, a], tau' ~ pi_k
        pi <- ascend  E_pi Q - (1 / eta) KL(pi || pi_k^(1 - c) mu^c) mirror descent:  pi ~ pi_k^(1 - c) mu^c exp(eta Q)

c is the paper's eta alpha, and `--sac.alpha` is 1 / eta. MTPO differs from Nash-MD in its opponent, pi_k itself and
not a mixture, and in what is compared: the probability that a whole episode is preferred, not the contribution of
single steps to the logit of a segment. The paper's turns are answers of a dialogue, and its preference is a judgement
of whole dialogues by a language model. Here a turn is a step, an episode is a segment of `--online.length` steps,
P_phi is fitted to the compared segments of the dataset, and Q is a Monte Carlo regression (two critics, the lower of
which counts).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor

from aihf_control.core.errors import BadInput
from aihf_control.core.types import Clips
from aihf_control.learning.bc import FOR_CRITICS, CloneConfig, clone
from aihf_control.learning.online import PlayConfig
from aihf_control.learning.preference_model import PreferenceModel
from aihf_control.learning.replay import Batch
from aihf_control.learning.reward_model import RewardConfig
from aihf_control.learning.sac import SAC, SACConfig
from aihf_control.learning.task import Progress, Task
from aihf_control.models.lanes import Random
from aihf_control.models.mixture import Mixture
from aihf_control.models.networks import Policy


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of MTPO."""

    steps: int = 5000
    """Gradient steps of the policy."""
    reward_updates: int = 3000
    """Gradient steps of the reward, and then of the cyclic term, before the first of the policy."""
    mixture: float = 0.1
    """Share c of the clone in the policy to which the KL divergence is measured; 0: the last phase's policy alone."""
    played: int = 32
    """Episodes per phase, at least 2."""
    batch: int = 256
    """Steps of the phase's episodes per gradient step."""
    features: int = 8
    """Features of a segment in the cyclic term."""
    sac: SACConfig = SACConfig(alpha=(0.05,), alpha_fade=0.0, average=2e-3)
    reward: RewardConfig = RewardConfig()
    online: PlayConfig = PlayConfig(length=200)
    clone: CloneConfig = FOR_CRITICS

    def __post_init__(self):
        if self.played < 2 or self.features < 2 or self.batch < 1:
            raise BadInput("--played and --features must be at least 2, --batch at least 1")
        if not 0 <= self.mixture <= 1:
            raise BadInput(f"--mixture must be from 0 to 1, got {self.mixture}")


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    task.comparisons()  # raises BadInput, before the clone is trained, if there are none
    pi_0 = clone(task, cfg.clone, cfg.sac.hidden)
    pi_k = pi_0.frozen_copy()
    centre = cast(Policy, Mixture(pi_k, pi_0.frozen_copy(), cfg.mixture))  # has what SAC asks of a prior
    sac, model = SAC(task.dims, cfg.sac, pi_0, prior=centre), PreferenceModel(task, cfg.reward, cfg.features)
    episodes = Episodes(task)
    model.fit(cfg.reward_updates)
    yield Progress(pi_0, {})
    for k in task.iterations(sac=sac, model=model, pi_k=pi_k, episodes=episodes):
        if cfg.online.starts_phase(k, cfg.steps):
            pi_k.load_state_dict(sac.policy.state_dict())
            starts = cfg.online.draw_starts(task, cfg.played)
            clips = task.rollout(pi_k, starts, cfg.online.length).clips
            episodes.replace(clips, payoffs(model, clips))
        batch, payoff = episodes.draw(cfg.batch)
        info = sac.update(batch, lambda obs, act, payoff=payoff: payoff)
        yield Progress(sac.average, info | {"circle": model.share.squeeze(1)}, model.r)


@torch.no_grad()
def payoffs(model: PreferenceModel, clips: Clips) -> Tensor:
    """Return the mean of P(i > j) - 1/2 over all other episodes j, for each episode i, (L, n)."""
    returns, e = model.r.clip_returns(*clips), model.features(clips)
    cyclic = model.share[..., None] * torch.bmm(torch.bmm(e, model.net.skew()), e.transpose(1, 2)) / model.cfg.tau
    return mean_payoff(returns[:, :, None] - returns[:, None, :] + cyclic)


def mean_payoff(logit: Tensor) -> Tensor:
    """Return the mean over j != i of sigmoid(logit_ij) - 1/2, (L, n, n) to (L, n); the diagonal must be 0."""
    return (logit.sigmoid() - 0.5).sum(-1) / (logit.shape[-1] - 1)


class Episodes:
    """Steps of a phase's episodes, with the payoffs of these."""

    def __init__(self, task: Task):
        self.dims, self.rng = task.dims, Random(task.dims, "episodes")
        self.columns: list[Tensor] = []

    def replace(self, clips: Clips, payoff: Tensor) -> None:
        """Replace all episodes: clips (L, n, K, ...) and their payoffs (L, n)."""
        real = clips.real.flatten(1)
        self.columns = [*(x.flatten(1, 2) for x in clips[:2]), payoff.repeat_interleave(clips.real.shape[2], 1), real]

    def draw(self, n: int) -> tuple[Batch, Tensor]:
        """Draw `n` steps per lane, and the payoffs of their episodes (L, n), as transitions to a terminal state."""
        obs, act, payoff, real = self.columns
        cumulated = real.double().cumsum(-1)
        at = self.rng.uniform(n).double() * cumulated[:, -1:]
        index = torch.searchsorted(cumulated, at, right=True).clamp(max=real.shape[1] - 1)
        lane = torch.arange(len(index), device=index.device)[:, None]
        obs, act = obs[lane, index], act[lane, index]
        return Batch(obs, act, obs, torch.ones_like(payoff[lane, index]), index), payoff[lane, index]

    def state_dict(self) -> dict:
        return {"rng": self.rng.state_dict(), "columns": self.columns}

    def load_state_dict(self, state: dict) -> None:
        self.rng.load_state_dict(state["rng"])
        self.columns = [x.to(self.dims.device) for x in state["columns"]]
