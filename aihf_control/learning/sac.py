"""Soft actor-critic in lanes, for a reward that may change at any time.

The replay buffer stores no reward. Every update evaluates `reward_fn` on its sampled batch, so the reward is always the
current one and nothing is relabelled.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from aihf_control.core.errors import BadInput, at_least_one, check_widths
from aihf_control.core.progress import report
from aihf_control.learning.bc import step_logp
from aihf_control.learning.replay import Batch
from aihf_control.models.cuda_graphs import GraphRunner
from aihf_control.models.lanes import Dims, Random
from aihf_control.models.networks import Policy, RewardFn, TwinQ, frozen_view
from aihf_control.models.optim import Adam


@dataclasses.dataclass(frozen=True)
class SACConfig:
    """Settings of SAC, common to all methods that use it."""

    hidden: tuple[int, ...] = (128, 128)
    """Widths of the hidden layers of actor and critics."""
    lr: float = 3e-4
    """Adam's learning rate for actor and critics."""
    gamma: float = 0.99
    """Discount."""
    tau: float = 0.02
    """Rate at which the target critics follow. Values converge in about 1 / (tau (1 - gamma)) updates: 20,000 with the
    usual 0.005, which is long for short runs."""
    alpha: tuple[float, ...] = (0.2,)
    """Entropy weight (with a prior: weight of the KL divergence from it). Several are assigned to the lanes by seed.
    Empty: tune automatically to an entropy of -A, as in the paper of SAC (to a KL divergence of A). A fixed weight is
    more stable if the reward is learned."""
    alpha_start: float = 2.0
    """With a prior: initial weight of the KL divergence from it, while untrained critics would undo the clone."""
    alpha_fade: float = 4000.0
    """Updates in which the excess of that weight over `alpha` falls by a factor of e; 0: start at `alpha`."""
    layer_norm: bool = True
    """Layer normalisation in the critics."""
    hold: int = 0
    """Updates of the critics alone before the first of the actor. A method does them when its warm-up ends, without
    environment steps: critics that know the clone's values do not mislead it."""
    kl: tuple[float, ...] = ()
    """With a prior: budgets of the KL divergence from it at the first update and after `kl_updates`, in nats per step.
    Between them the budget grows geometrically. The weight of the divergence, `alpha_start` at first, is a dual
    variable that rises while the budget is exceeded and falls while it is not (Haarnoja et al., arXiv 1812.05905,
    section 5). Empty: the weight is `alpha`."""
    kl_updates: int = 10_000
    """Updates in which the budget grows."""
    kl_rate: float = 2e-3
    """Largest change of the logarithm of that weight per update."""
    average: float = 2e-4
    """Rate of the exponential average of the actor that is evaluated and exported."""

    def __post_init__(self):
        check_widths("--sac.hidden", self.hidden)
        if len(self.kl) not in (0, 2) or min(self.kl, default=1) <= 0:
            raise BadInput(f"--sac.kl {' '.join(map(str, self.kl))}: give two budgets above 0, for instance 0.3 4")
        at_least_one({"--sac.kl-updates": self.kl_updates})
        if self.hold < 0:
            raise BadInput(f"--sac.hold must be at least 0, got {self.hold}")
        if min(self.alpha_start, self.alpha_fade) < 0:
            raise BadInput(
                f"--sac.alpha-start {self.alpha_start}, --sac.alpha-fade {self.alpha_fade}: both must be at least 0"
            )


FROM_CLONE = SACConfig(alpha_start=1.0, alpha_fade=2000.0, hold=4000, average=1e-3)
"""Settings of SAC that starts from a clone and learns from a reward in one unit."""


class Imitation(NamedTuple):
    """Actions that the actor imitates besides: obs (L, B, O), act (L, B, A), and the weight of -log density, (L, 1)."""

    obs: Tensor
    act: Tensor
    weight: Tensor


KL_WEIGHTS = 1e-3, 20.0  # least and largest weight of the KL divergence under a budget


class SAC:
    """Soft actor-critic (Haarnoja et al., arXiv 1812.05905): actor, twin critics and target critics of every lane.

    With a `prior` policy pi_0 the entropy term -alpha log pi becomes -alpha log(pi / pi_0): the lower level L3 of AIHF
    (arXiv 2406.06874, equation 3) with pi_0 given. Its weight decays from `alpha_start`, which keeps the policy near
    pi_0 while the critics are untrained, to `alpha`.
    """

    def __init__(
        self,
        dims: Dims,
        cfg: SACConfig,
        policy: Policy | None = None,
        prior: Policy | None = None,
        factor: Tensor | float = 1.0,
    ):
        """`factor`, a number or (L,), multiplies the weight `cfg.alpha` of the KL divergence from a prior."""
        self.dims, self.cfg, self.prior = dims, cfg, prior
        if cfg.kl and prior is None:
            raise BadInput("--sac.kl is a budget of the KL divergence from a clone, which this run does not have")
        self.policy = policy or Policy(dims, cfg.hidden)
        self.average = self.policy.frozen_copy()
        self.q = TwinQ(dims, cfg.hidden, cfg.layer_norm)
        self.q.units.load_state_dict(self.policy.units.state_dict())
        self.q_target = TwinQ(dims, cfg.hidden, cfg.layer_norm).requires_grad_(False)
        self.q_target.load_state_dict(self.q.state_dict())
        self.fixed_q = frozen_view(self.q)
        alpha = [cfg.alpha[seed % len(cfg.alpha)] if cfg.alpha else 1.0 for seed in dims.seeds]
        weight = torch.tensor(alpha, device=dims.device) * (1.0 if prior is None else factor)
        self.log_alpha = weight[:, None].log().requires_grad_()
        self.opt_pi = Adam(self.policy.parameters(), cfg.lr, slow=self.average.parameters(), rate=cfg.average)
        self.opt_q = Adam(self.q.parameters(), cfg.lr, slow=self.q_target.parameters(), rate=cfg.tau)
        self.opt_alpha = Adam([self.log_alpha], cfg.lr)
        self.log_kl_weight = torch.full_like(self.log_alpha.detach(), math.log(max(cfg.alpha_start, KL_WEIGHTS[0])))
        self.rng = Random(dims, "updates")
        self.n_updates = 0
        self.run_graph = GraphRunner()

    def due(self, steps: int) -> int:
        """Return the number of updates after `steps` environment steps since the warm-up: one, at first `hold` more."""
        return 0 if steps < 1 else 1 + self.cfg.hold * (steps == 1)

    def update(
        self,
        batch: Batch,
        reward_fn: RewardFn,
        absorbing: float | Callable[[], Tensor] = 0.0,
        actor: bool | None = None,
        imitation: Imitation | None = None,
    ) -> dict[str, Tensor]:
        """Update critics, actor, target critics and average once; return scalars of shape (L,).

        With an `imitation`, its weighted loss of behaviour cloning is added to that of the actor.

        `absorbing` is the reward per step of the absorbing state, a number or a function, called after `reward_fn`,
        that returns (L, 1); its value is absorbing / (1 - gamma). The actor is frozen in the first `hold` updates
        unless `actor` is given.

        The scalar `q_of_reach` is the critics' mean |Q| divided by the value of the batch's largest |reward| and
        entropy cost at every step. Above 1 the critics have diverged.
        """
        self.n_updates += 1
        if actor is None:
            actor = self.n_updates > self.cfg.hold
            if self.n_updates <= self.cfg.hold:
                report("holding the actor", self.n_updates, self.cfg.hold)
        with torch.no_grad():
            reward = reward_fn(batch.obs, batch.act)
        per_step = absorbing() if callable(absorbing) else absorbing
        ended = torch.zeros_like(reward[:, :1]) + per_step / (1 - self.cfg.gamma)
        noise = self.rng.normal(2, batch.act.shape[1], self.dims.n_act)
        columns = *batch, *(imitation or ())
        info = self.run_graph(self._update, reward, ended, self.alpha(), noise, *columns, actor=actor)
        if self.cfg.kl and actor:
            self._weigh(info["entropy_cost"])
        return info

    def _weigh(self, kl: Tensor) -> None:
        """Raise the weight of the KL divergence where the divergence, (L,), is above its budget; lower it elsewhere."""
        first, last = self.cfg.kl
        budget = first * (last / first) ** min(1.0, self._moved() / self.cfg.kl_updates)
        self.log_kl_weight += self.cfg.kl_rate * (kl[:, None] / budget - 1).clamp(-1, 1)
        self.log_kl_weight.clamp_(*map(math.log, KL_WEIGHTS))

    def _update(
        self, reward: Tensor, ended: Tensor, alpha: Tensor, noise: Tensor, *columns: Tensor, actor: bool
    ) -> dict[str, Tensor]:
        """Update on tensors alone, so that a CUDA graph can record and replay it (`models/cuda_graphs.py`)."""
        batch, imitated = Batch(*columns[:5]), columns[5:]
        target = self.target(batch, reward, ended, alpha, noise[:, 0])
        q, q_loss, grads = self.q.regress(batch.obs, batch.act, target)
        self.opt_q.step(grads)  # also updates the target critics

        with torch.set_grad_enabled(actor):
            act, cost = self.sample_action(batch.obs, noise[:, 1])
        if actor:
            pi_loss = (alpha * cost - self.fixed_q.least(batch.obs, act)).mean(-1)
            pi_loss = pi_loss + self._imitation_loss(*imitated) if imitated else pi_loss
            self.opt_pi.descend(pi_loss)  # also updates the average
        else:
            self.opt_pi.follow()
        if not self.cfg.alpha:
            gap = cost.detach().mean(-1, keepdim=True) - self.dims.n_act  # target entropy -A
            self.opt_alpha.step([-gap])  # gradient of -log_alpha gap
        return self._info(q, q_loss, cost.detach(), reward, alpha)

    def _imitation_loss(self, obs: Tensor, act: Tensor, weight: Tensor) -> Tensor:
        return -(weight * step_logp(self.policy, obs, act)).mean(-1)

    def alpha(self) -> Tensor:
        """Return the entropy weight, (L, 1); with a prior, the weight of the KL divergence from it."""
        alpha = self.log_alpha.detach().exp()
        if self.cfg.kl:
            return self.log_kl_weight.exp()
        if self.prior is None or not self.cfg.alpha or not self.cfg.alpha_fade:
            return alpha
        return alpha + (self.cfg.alpha_start - alpha) * math.exp(-self._moved() / self.cfg.alpha_fade)

    def _moved(self) -> int:
        """Return the number of updates of the actor."""
        return max(0, self.n_updates - self.cfg.hold)

    def sample_action(self, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return a sampled action (L, B, A) and its entropy cost (L, B): log pi, or log(pi / prior)."""
        act, cost, raw = self.policy.sample(obs, noise)
        return act, cost if self.prior is None else cost - self.prior.log_prob(obs, raw)

    @torch.no_grad()
    def target(self, batch: Batch, reward: Tensor, ended: Tensor, alpha: Tensor, noise: Tensor) -> Tensor:
        """Return the critics' regression target, (L, B). `ended` (L, 1) is the value of the absorbing state."""
        act, cost = self.sample_action(batch.next_obs, noise)
        next_value = self.q_target(batch.next_obs, act).amin(1) - alpha * cost
        return reward + self.cfg.gamma * torch.where(batch.done > 0, ended, next_value)

    def _info(self, q: Tensor, q_loss: Tensor, cost: Tensor, reward: Tensor, alpha: Tensor) -> dict[str, Tensor]:
        largest = reward.abs().amax(-1) + (alpha * cost).abs().amax(-1)
        return {
            "q": q.mean((1, 2)),
            "q_of_reach": q.abs().mean((1, 2)) * (1 - self.cfg.gamma) / largest,
            "q_loss": q_loss,
            "entropy_cost": cost.mean(-1),
            "reward": reward.mean(-1),
            "alpha": alpha.squeeze(-1),
        }

    def state_dict(self) -> dict:
        state = {name: getattr(self, name).state_dict() for name in self._parts()}
        return state | {"log_alpha": self.log_alpha, "log_kl_weight": self.log_kl_weight, "n_updates": self.n_updates}

    @torch.no_grad()
    def load_state_dict(self, state: dict) -> None:
        self.log_alpha.copy_(state["log_alpha"])
        self.log_kl_weight.copy_(state["log_kl_weight"])
        self.n_updates = state["n_updates"]
        for name in self._parts():
            getattr(self, name).load_state_dict(state[name])

    def _parts(self) -> list[str]:
        parts = ["policy", "average", "q", "q_target", "rng", "opt_pi", "opt_q", "opt_alpha"]
        return parts if self.prior is None else [*parts, "prior"]


@torch.no_grad()
def polyak_update(slow: nn.Module, fast: nn.Module, rate: float) -> None:
    """Move all parameters: slow += rate * (fast - slow)."""
    targets, sources = tuple(slow.parameters()), tuple(fast.parameters())
    torch._foreach_lerp_(targets, sources, rate)  # pyright: ignore[reportPrivateImportUsage]
