"""SAC and CrossQ on the true reward, to train experts and to compare the learner with others.

The replay buffer stores no reward; true rewards are kept in a separate tensor, indexed as the buffer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch

from aihf_control.core.errors import at_least_one
from aihf_control.core.progress import report
from aihf_control.environments.gym import Envs, EnvSpec
from aihf_control.experts.crossq import CrossQ, CrossQConfig
from aihf_control.learning.replay import Buffer
from aihf_control.learning.sac import SAC, SACConfig
from aihf_control.models.expert import Expert, policy_of
from aihf_control.models.lanes import Dims, Random
from aihf_control.models.networks import Policy, RewardFn

Learner = SAC | CrossQ
TRAINING = "training"  # phase whose updates are reported
START_SEED = 50_000_000  # training episodes start from other seeds than those of evaluations


@dataclasses.dataclass(frozen=True)
class TrueRewardConfig:
    """Settings of training on the true reward."""

    updates: int = 200_000
    """Steps of every environment. After the warmup, each is followed by an update."""
    envs: int = 8
    """Environments per lane. A step costs much less than an update, and new steps are more useful than old ones."""
    warmup: int = 1000
    """Steps of uniformly random actions (of the starting policy, with --start) before the first update."""
    hold: int = 10_000
    """Updates for which the actor of a starting policy is frozen while the critics fit its returns. Without it, a
    return of 2562 fell to about 300 within 5000 updates; with it, to 450 to 790 within 9000 updates after the release.
    No effect on a new policy."""
    near: bool = False
    """Replace the entropy term of a starting policy by its KL to the start, of the same weight `alpha`."""
    batch: int = 256
    """Batch size in transitions."""
    capacity: int = 1_000_000
    """Transitions in the replay buffer, per lane."""
    sac: SACConfig = SACConfig(lr=6e-4, gamma=0.997, alpha=(0.05, 0.1, 0.2), alpha_fade=0.0, average=1e-3)
    """Settings of SAC. The horizon is long because a hopper that looks only 100 steps ahead maximises its return by one
    leap and a fall: at 0.99 the five lanes of a trial were still at returns of 281 to 420 after 70,000 updates."""
    learner: Literal["sac", "crossq"] = "sac"
    """SAC as used by all methods (`sac`) or CrossQ (`crossq`), each with its own settings."""
    crossq: CrossQConfig = CrossQConfig()
    """Settings of CrossQ."""

    def __post_init__(self):
        at_least_one({"--envs": self.envs, "--batch": self.batch, "--capacity": self.capacity})


def learn(
    spec: EnvSpec,
    seeds: Sequence[int],
    cfg: TrueRewardConfig,
    start: Expert | None = None,
    reward: RewardFn | None = None,
    **dims: Any,
) -> Iterator[tuple[int, Learner]]:
    """Train a lane per seed and yield (updates done, learner) after each update.

    Starts from a new policy or from `start`. A `reward` function replaces the true reward.
    """
    yield from TrueRewardTrainer(spec, seeds, cfg, start, reward, **dims).learn()


class TrueRewardTrainer:
    """Learner, environments and replay buffer of a training on the true reward, one lane per seed.

    Starts from a new policy or from `start`. A `reward` function replaces the true reward. `dims` are further arguments
    of Dims, such as the device.
    """

    def __init__(
        self,
        spec: EnvSpec,
        seeds: Sequence[int],
        cfg: TrueRewardConfig,
        start: Expert | None = None,
        reward: RewardFn | None = None,
        **dims: Any,
    ):
        size = Dims(tuple(seeds), spec.n_obs, spec.n_act, **dims)
        policy = policy_of(start, size) if start else None
        self.learner = _make_learner(size, cfg, policy)
        self.cfg, self.fresh, self.reward, self.sampler = cfg, start is None, reward, _Sampler(spec, size, cfg)
        self.k = 0  # steps of each environment; after the warmup also updates

    def learn(self) -> Iterator[tuple[int, Learner]]:
        """Train to the last update and yield (k, learner) after each step."""
        cfg = self.cfg
        while self.k < cfg.updates:
            self.k += 1
            report(TRAINING, self.k, cfg.updates)
            self.step(random=self.k <= cfg.warmup and self.fresh)
            if self.k > cfg.warmup:
                self.update(actor=self.fresh or self.k > cfg.warmup + cfg.hold)
            yield self.k, self.learner

    def step(self, random: bool = False) -> None:
        """Take a step in every environment."""
        self.sampler.step(self.learner.policy, random)

    def update(self, actor: bool = True) -> None:
        """Update every lane once; the actors stay frozen if `actor` is False."""
        batch, rewards = self.sampler.buffer.sample(self.cfg.batch), self.sampler.rewards
        self.learner.update(batch, self.reward or (lambda obs, act: rewards.gather(1, batch.index)), actor=actor)

    def state_dict(self) -> dict[str, Any]:
        """Return the state without the rows of the replay buffer."""
        return {"k": self.k, "sac": self.learner.state_dict(), "sampler": self.sampler.state_dict()}

    def load_state_dict(self, state: dict[str, Any], rows: torch.Tensor) -> None:
        """Restore what `state_dict` returned, and the rows of the replay buffer."""
        self.k = state["k"]
        self.learner.load_state_dict(state["sac"])
        self.sampler.load_state_dict(state["sampler"], rows)


def _make_learner(dims: Dims, cfg: TrueRewardConfig, policy: Policy | None) -> Learner:
    """Return the learner that the settings name, with a new policy or with `policy`."""
    if cfg.learner == "crossq":
        return CrossQ(dims, cfg.crossq, policy)
    return SAC(dims, cfg.sac, policy, prior=policy.frozen_copy() if policy and cfg.near else None)


class _Sampler:
    """Environments, replay buffer and true rewards of all lanes; each lane has `cfg.envs` environments."""

    def __init__(self, spec: EnvSpec, dims: Dims, cfg: TrueRewardConfig):
        self.dims, self.n = dims, cfg.envs
        capacity = min(cfg.capacity, cfg.updates * cfg.envs)
        self.buffer, self.envs = Buffer(dims, capacity), Envs(spec, dims.n_lanes * cfg.envs)
        self.rewards = torch.zeros(dims.n_lanes, capacity, device=dims.device)
        self.rng = Random(dims, "acting")
        seeds = [START_SEED + 1000 * seed + e for seed in dims.seeds for e in range(cfg.envs)]
        self.obs = self._split_lanes(np.stack([self.envs.reset(i, seed) for i, seed in enumerate(seeds)]))

    def step(self, policy: Policy, random: bool) -> None:
        """Take a step in every environment and store it; actions are sampled, or uniform if `random`."""
        if random:
            act = self.rng.uniform(self.n, self.dims.n_act) * 2 - 1
        else:
            act = policy.act(self.obs, self.rng.normal(self.n, self.dims.n_act))
        observed, reward, terminated, truncated = self.envs.step(act.flatten(0, 1).cpu().numpy())
        for i in np.flatnonzero(terminated | truncated).tolist():
            self.envs.reset(i)
        columns = [observed, self.envs.last, terminated[:, None], reward[:, None].astype(np.float32)]
        n_obs, rows = self.dims.n_obs, self._split_lanes(np.concatenate(columns, 1))  # one transfer to a GPU
        obs, (next_obs, self.obs, done, reward_t) = self.obs, rows.split((n_obs, n_obs, 1, 1), 2)
        for e in range(self.n):
            self.rewards.scatter_(1, (self.buffer.count % self.buffer.capacity)[:, None], reward_t[:, e])
            self.buffer.add(obs[:, e], act[:, e], next_obs[:, e], done[:, e, 0])

    def state_dict(self) -> dict[str, Any]:
        """Return the state without the rows of the buffer; rewards of the filled positions only, oldest first."""
        parts = {name: getattr(self, name).state_dict() for name in ("buffer", "envs", "rng")}
        # the key is that of stored checkpoints
        return {**parts, "tape": self.rewards[:, self._filled()]}

    def load_state_dict(self, state: dict[str, Any], rows: torch.Tensor) -> None:
        """Restore what `state_dict` returned, and the rows of the buffer; of too many, the last ones are used."""
        for name in ("buffer", "envs", "rng"):
            getattr(self, name).load_state_dict(state[name])
        self.buffer.restore_rows(rows)
        filled = self._filled()
        self.rewards[:, filled] = state["tape"][:, -len(filled) :].to(self.rewards)
        self.obs = self._split_lanes(self.envs.last.copy())

    def _filled(self) -> torch.Tensor:
        """Return the filled positions of the ring, oldest first."""
        n = int(self.buffer.count[0])
        return torch.arange(max(0, n - self.buffer.capacity), n, device=self.dims.device) % self.buffer.capacity

    def _split_lanes(self, x: np.ndarray) -> torch.Tensor:
        """Convert an array (L envs, ...) to a tensor (L, envs, ...)."""
        rows = torch.as_tensor(x, dtype=torch.float32, device=self.dims.device)
        return rows.view(self.dims.n_lanes, self.n, *rows.shape[1:])
