"""Soft actor-critic in lanes, under a reward that may change at any time.

The replay stores no reward. The learner is given `reward_fn` at every update and evaluates it on the sampled batch, so
the reward is never stale and nothing is ever relabelled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from aihf_control.lanes import Dims, Random
from aihf_control.nets import Policy, TwinQ


@dataclasses.dataclass(frozen=True)
class SACConfig:
    """Settings of the learner, the same for every method that has one."""

    hidden: tuple[int, ...] = (128, 128)
    """Widths of the hidden layers of actor and critics."""
    lr: float = 3e-4
    """Adam's learning rate, for actor and critics."""
    gamma: float = 0.99
    """Discount."""
    tau: float = 0.02
    """Rate at which the target critics follow. Values approach theirs over 1 / (tau (1 - gamma)) updates: 20,000 at the
    usual 0.005, which is a third of a short run."""
    alpha: tuple[float, ...] = (0.1,)
    """Entropy weight (with a prior: weight of the KL to it); several are dealt to the lanes by seed. None at all adapts
    it to an entropy of -A, as in SAC's paper; under a reward that is itself being learned a fixed one is steadier."""
    layer_norm: bool = True
    """Layer normalisation in the critics."""
    average: float = 2e-4
    """Rate of the exponential average of the actor that is evaluated and exported."""


class Batch(NamedTuple):
    """Transitions, each with leading axes (L, B). `index` says where they lie in the buffer."""

    obs: Tensor
    act: Tensor
    next_obs: Tensor
    done: Tensor
    index: Tensor


RewardFn = Callable[[Tensor, Tensor], Tensor]


class Buffer:
    """A ring of transitions for each lane: obs, act, next_obs, done, and no reward.

    `done` means terminated; an episode that runs out of time is not done, so its value is bootstrapped.
    """

    def __init__(self, dims: Dims, capacity: int, name: str = "replay"):
        self.dims, self.capacity = dims, capacity
        self.widths = (dims.n_obs, dims.n_act, dims.n_obs, 1)
        self.data = torch.zeros(dims.n_lanes, capacity, sum(self.widths), device=dims.device)
        self.count = torch.zeros(dims.n_lanes, dtype=torch.long, device=dims.device)  # ever written, a lane
        self.rng = Random(dims, name)
        self._offset = torch.arange(dims.n_lanes, device=dims.device)[:, None] * capacity

    def add(self, obs: Tensor, act: Tensor, next_obs: Tensor, done: Tensor) -> None:
        """One transition a lane: obs, next_obs (L, O), act (L, A), done (L,)."""
        row = torch.cat([obs, act, next_obs, done[:, None]], -1)
        self.data.view(-1, row.shape[-1])[self._offset[:, 0] + self.count % self.capacity] = row
        self.count += 1

    def fill(self, lane: int, obs: Tensor, act: Tensor, next_obs: Tensor, done: Tensor) -> None:
        """Many transitions of one lane: obs, next_obs (n, O), act (n, A), done (n,)."""
        n = len(obs)
        where = (self.count[lane] + torch.arange(n, device=self.dims.device)) % self.capacity
        self.data[lane, where] = torch.cat([obs, act, next_obs, done[:, None]], -1)
        self.count[lane] += n

    def sample(self, n: int) -> Batch:
        """`n` transitions a lane, uniformly with replacement."""
        return self._read(self.rng.integers(self.count.clamp(max=self.capacity), n))

    def recent(self, n: int, last: int) -> Batch:
        """`n` transitions a lane from the `last` written."""
        reach = self.count.clamp(max=min(last, self.capacity))
        return self._read((self.count[:, None] - 1 - self.rng.integers(reach, n)) % self.capacity)

    def _read(self, index: Tensor) -> Batch:
        rows = self.data.view(-1, self.data.shape[-1])[self._offset + index]
        obs, act, next_obs, done = rows.split(self.widths, -1)
        return Batch(obs, act, next_obs, done.squeeze(-1), index)

    def state_dict(self) -> dict:
        return {"data": self.data, "count": self.count, "rng": self.rng.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.data.copy_(state["data"])
        self.count.copy_(state["count"])
        self.rng.load_state_dict(state["rng"])


def mix(parts: list[tuple[Buffer, float]], n: int) -> Batch:
    """A hybrid batch of `n` transitions a lane: from each buffer its share (Hybrid IRL, arXiv 2402.08848)."""
    sizes = [round(share * n) for _, share in parts[1:]]
    batches = [buffer.sample(k) for (buffer, _), k in zip(parts, [n - sum(sizes), *sizes], strict=True) if k]
    return Batch(*(torch.cat(column, 1) for column in zip(*batches, strict=True)))


class SAC:
    """Actor, twin critics and their targets for every lane, and one `update` of them all.

    With a `prior` policy pi_0 the entropy term -alpha log pi becomes -alpha log(pi / pi_0): the lower level L3 of AIHF
    (arXiv 2406.06874, equation 3) with pi_0 given.
    """

    def __init__(self, dims: Dims, cfg: SACConfig, policy: Policy | None = None, prior: Policy | None = None):
        self.cfg, self.prior = cfg, prior
        self.policy = policy or Policy(dims, cfg.hidden)
        self.average = self.policy.clone_of()
        self.q = TwinQ(dims, cfg.hidden, cfg.layer_norm)
        self.q.units.load_state_dict(self.policy.units.state_dict())
        self.q_target = TwinQ(dims, cfg.hidden, cfg.layer_norm).requires_grad_(False)
        self.q_target.load_state_dict(self.q.state_dict())
        fixed = [cfg.alpha[seed % len(cfg.alpha)] if cfg.alpha else 1.0 for seed in dims.seeds]
        self.log_alpha = nn.Parameter(torch.tensor(fixed, device=dims.device)[:, None].log())
        self.opt_pi = adam(self.policy.parameters(), cfg.lr)
        self.opt_q = adam(self.q.parameters(), cfg.lr)
        self.opt_alpha = adam([self.log_alpha], cfg.lr)
        self.rng = Random(dims, "updates")
        self.target_entropy = -float(dims.n_act)

    def update(self, batch: Batch, reward_fn: RewardFn, absorbing: float | Tensor = 0.0) -> dict[str, Tensor]:
        """One step of critics, actor, entropy weight, targets and average. Returns scalars of shape (L,).

        `absorbing` is the reward a step of the state after termination, a number or (L, 1); a terminated episode goes
        on in it for ever, which is worth absorbing / (1 - gamma).
        """
        alpha = self.alpha()
        target, reward = self._target(batch, reward_fn, alpha, absorbing)
        q = self.q(batch.obs, batch.act)
        q_loss = 0.5 * (q - target).square().mean(-1).sum(0)
        descend(self.opt_q, self.q.parameters(), q_loss)

        act, cost = self._act(batch.obs)
        pi_loss = (alpha * cost - self.q(batch.obs, act).amin(0)).mean(-1)
        descend(self.opt_pi, self.policy.parameters(), pi_loss)
        if not self.cfg.alpha:
            gap = (cost.detach() + self.target_entropy).mean(-1, keepdim=True)
            descend(self.opt_alpha, [self.log_alpha], -(self.log_alpha * gap).squeeze(-1))
        follow(self.q_target, self.q, self.cfg.tau)
        follow(self.average, self.policy, self.cfg.average)
        return {
            "q": q.detach().mean((0, -1)),
            "q_loss": q_loss.detach(),
            "entropy_cost": cost.detach().mean(-1),
            "reward": reward.mean(-1),
            "alpha": alpha.squeeze(-1),
        }

    def alpha(self) -> Tensor:
        """Entropy weight, (L, 1)."""
        return self.log_alpha.detach().exp()

    def _act(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """A sampled action and what it costs: log pi, or log(pi / prior)."""
        act, cost, raw = self.policy.sample(obs, self.rng.normal(obs.shape[1], self.policy.mean.bias.shape[-1]))
        return act, cost if self.prior is None else cost - self.prior.log_prob(obs, raw)

    @torch.no_grad()
    def _target(self, batch: Batch, reward_fn: RewardFn, alpha: Tensor, absorbing) -> tuple[Tensor, Tensor]:
        act, cost = self._act(batch.next_obs)
        going_on = self.q_target(batch.next_obs, act).amin(0) - alpha * cost
        ended = absorbing / (1 - self.cfg.gamma)
        reward = reward_fn(batch.obs, batch.act)
        return reward + self.cfg.gamma * torch.where(batch.done > 0, ended, going_on), reward

    def state_dict(self) -> dict:
        parts = ("policy", "average", "q", "q_target", "opt_pi", "opt_q", "opt_alpha", "rng")
        return {"log_alpha": self.log_alpha.data, **{name: getattr(self, name).state_dict() for name in parts}}

    def load_state_dict(self, state: dict) -> None:
        self.log_alpha.data.copy_(state["log_alpha"])
        for name in state.keys() - {"log_alpha"}:
            getattr(self, name).load_state_dict(state[name])


def adam(params: Iterable[nn.Parameter], lr: float) -> torch.optim.Adam:
    """Adam. It works elementwise, so a lane that diverges stays alone."""
    return torch.optim.Adam(params, lr, fused=True)


def descend(opt: torch.optim.Optimizer, params: Iterable[nn.Parameter], loss: Tensor) -> None:
    """One optimiser step on a loss of shape (L,), for these parameters and no others."""
    params = list(params)
    for p, grad in zip(params, torch.autograd.grad(loss.sum(), params), strict=True):
        p.grad = grad
    opt.step()


@torch.no_grad()
def follow(slow: nn.Module, fast: nn.Module, rate: float) -> None:
    """slow += rate * (fast - slow), for all parameters."""
    for a, b in zip(slow.parameters(), fast.parameters(), strict=True):
        a.lerp_(b, rate)
