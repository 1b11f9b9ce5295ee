"""SAC on the true reward: how experts are made, and how our learner is held against others'.

The one place where a learner is paid in truth. The buffer still stores no reward: it lies on a tape beside it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from aihf_control.environments.gym import Envs, EnvSpec
from aihf_control.experts.crossq import CrossQ, CrossQConfig
from aihf_control.learning.evaluation import greedy_returns
from aihf_control.learning.replay import Buffer
from aihf_control.learning.sac import SAC, SACConfig
from aihf_control.models.lanes import Dims, Random
from aihf_control.models.networks import Policy, RewardFn
from aihf_control.models.sb3 import Expert, expert_of, policy_of

Learner = SAC | CrossQ
START_SEED, CHOICE_SEED = 50_000_000, 40_000  # training, and choosing among snapshots, see no evaluation's start


@dataclasses.dataclass(frozen=True)
class TruthConfig:
    """Settings of SAC on the true reward."""

    updates: int = 200_000
    """Updates, before each of which every environment takes a step."""
    envs: int = 8
    """Environments a lane. A step costs a small part of an update, and fresh steps teach more than old ones."""
    warmup: int = 1000
    """Steps of uniformly random actions (of the starting policy, where there is one) before the first update."""
    hold: int = 10_000
    """Updates for which a starting policy is held while the critics learn what it is worth. Without, a return of 2562
    fell to about 300 within 5000 updates; with it, to 450 to 790 within 9000 of its release. A fresh policy is not
    held."""
    near: bool = False
    """Whether a policy that goes on from a start pays for its KL to that start (with weight `alpha`) instead of being
    paid for its entropy."""
    batch: int = 256
    """Transitions in one update."""
    capacity: int = 1_000_000
    """Transitions that are kept, a lane."""
    sac: SACConfig = SACConfig(lr=6e-4, gamma=0.997, alpha=(0.05, 0.1, 0.2), alpha_fade=0.0, average=1e-3)
    """The learner. A long horizon, because a hopper that looks only 100 steps ahead does well to leap once and fall: at
    0.99 the five lanes of a trial were still at returns of 281 to 420 after 70,000 updates."""
    learner: Literal["sac", "crossq"] = "sac"
    """SAC as all methods have it (`sac`), or CrossQ (`crossq`), each with its own settings."""
    crossq: CrossQConfig = CrossQConfig()
    """Settings of CrossQ."""


def learn(
    spec: EnvSpec,
    seeds: Sequence[int],
    cfg: TruthConfig,
    start: Expert | None = None,
    reward: RewardFn | None = None,
    **dims: Any,
) -> Iterator[tuple[int, Learner]]:
    """Trains a lane for each seed, from a fresh policy or from `start`, and yields the learner after every update.

    With a `reward` it is paid by that in place of the truth.
    """
    yield from Pupil(spec, seeds, cfg, start, reward, **dims).learn()


class Pupil:
    """A learner, its environments and its replay."""

    def __init__(
        self,
        spec: EnvSpec,
        seeds: Sequence[int],
        cfg: TruthConfig,
        start: Expert | None = None,
        reward: RewardFn | None = None,
        **dims: Any,
    ):
        size = Dims(tuple(seeds), spec.n_obs, spec.n_act, **dims)
        policy = policy_of(start, size) if start else None
        self.sac = _learner(size, cfg, policy)
        self.cfg, self.fresh, self.reward, self.sampler = cfg, start is None, reward, _Sampler(spec, size, cfg)
        self.k = 0  # updates done, with those of the warmup

    def learn(self) -> Iterator[tuple[int, Learner]]:
        """Goes on to the last update, and yields the learner after each."""
        cfg = self.cfg
        while self.k < cfg.updates:
            self.k += 1
            self.step(random=self.k <= cfg.warmup and self.fresh)
            if self.k > cfg.warmup:
                self.update(actor=self.fresh or self.k > cfg.warmup + cfg.hold)
            yield self.k, self.sac

    def step(self, random: bool = False) -> None:
        """A step of every environment."""
        self.sampler.step(self.sac.policy, random)

    def update(self, actor: bool = True) -> None:
        """One update of every lane."""
        batch, tape = self.sampler.buffer.sample(self.cfg.batch), self.sampler.tape
        self.sac.update(batch, self.reward or (lambda obs, act: tape.gather(1, batch.index)), actor=actor)

    def state_dict(self) -> dict[str, Any]:
        """All that changes, but the rows of the replay."""
        return {"k": self.k, "sac": self.sac.state_dict(), "sampler": self.sampler.state_dict()}

    def load_state_dict(self, state: dict[str, Any], rows: torch.Tensor) -> None:
        self.k = state["k"]
        self.sac.load_state_dict(state["sac"])
        self.sampler.load_state_dict(state["sampler"], rows)


def _learner(dims: Dims, cfg: TruthConfig, policy: Policy | None) -> Learner:
    """The learner that the settings name, from a fresh policy or from `policy`."""
    if cfg.learner == "crossq":
        return CrossQ(dims, cfg.crossq, policy)
    return SAC(dims, cfg.sac, policy, prior=policy.frozen_copy() if policy and cfg.near else None)


class _Sampler:
    """Several environments a lane, what they gave, and on a tape what it paid."""

    def __init__(self, spec: EnvSpec, dims: Dims, cfg: TruthConfig):
        self.dims, self.n = dims, cfg.envs
        capacity = min(cfg.capacity, cfg.updates * cfg.envs)
        self.buffer, self.envs = Buffer(dims, capacity), Envs(spec, dims.n_lanes * cfg.envs)
        self.tape = torch.zeros(dims.n_lanes, capacity, device=dims.device)
        self.rng = Random(dims, "acting")
        seeds = [START_SEED + 1000 * seed + e for seed in dims.seeds for e in range(cfg.envs)]
        self.now = self._lanes(np.stack([self.envs.reset(i, seed) for i, seed in enumerate(seeds)]))

    def step(self, policy: Policy, random: bool) -> None:
        if random:
            act = self.rng.uniform(self.n, self.dims.n_act) * 2 - 1
        else:
            act = policy.act(self.now, self.rng.normal(self.n, self.dims.n_act))
        next_obs, reward, terminated, truncated = self.envs.step(act.flatten(0, 1).cpu().numpy())
        for i in np.flatnonzero(terminated | truncated).tolist():
            self.envs.reset(i)
        columns = [next_obs, self.envs.last, terminated[:, None], reward[:, None].astype(np.float32)]
        n_obs, rows = self.dims.n_obs, self._lanes(np.concatenate(columns, 1))  # one transfer to a GPU
        now, (there, self.now, done, paid) = self.now, rows.split((n_obs, n_obs, 1, 1), 2)
        for e in range(self.n):
            self.tape.scatter_(1, (self.buffer.count % self.buffer.capacity)[:, None], paid[:, e])
            self.buffer.add(now[:, e], act[:, e], there[:, e], done[:, e, 0])

    def state_dict(self) -> dict[str, Any]:
        parts = {name: getattr(self, name).state_dict() for name in ("buffer", "envs", "rng")}
        return {**parts, "tape": self.tape[:, self._written()]}

    def load_state_dict(self, state: dict[str, Any], rows: torch.Tensor) -> None:
        for name in ("buffer", "envs", "rng"):
            getattr(self, name).load_state_dict(state[name])
        self.buffer.restore_rows(rows)
        at = self._written()
        self.tape[:, at] = state["tape"][:, -len(at) :].to(self.tape)
        self.now = self._lanes(self.envs.last.copy())

    def _written(self) -> torch.Tensor:
        """Where the tape holds something, oldest first."""
        n = int(self.buffer.count[0])
        return torch.arange(max(0, n - self.buffer.capacity), n, device=self.dims.device) % self.buffer.capacity

    def _lanes(self, x: np.ndarray) -> torch.Tensor:
        rows = torch.as_tensor(x, dtype=torch.float32, device=self.dims.device)
        return rows.view(self.dims.n_lanes, self.n, *rows.shape[1:])


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """One lane's averaged policy at one step, with its worth: mean less standard deviation of its greedy returns."""

    seed: int
    step: int
    policy: Expert
    value: float


def worth(returns: np.ndarray) -> float:
    """Mean less standard deviation of returns (n,): a policy that sometimes falls is worth less than its mean."""
    return float(returns.mean() - returns.std())


class Gallery:
    """Watches a training: evaluates every so often and keeps what it saw."""

    def __init__(self, spec: EnvSpec, seeds: Sequence[int], every: int = 10_000, episodes: int = 5):
        self.spec, self.seeds, self.every, self.episodes = spec, tuple(seeds), every, episodes
        self.snapshots: list[Snapshot] = []
        self.rows: list[dict[str, Any]] = []

    def look(self, step: int, sac: Learner) -> np.ndarray:
        """Mean greedy return of each lane's averaged policy, (L,)."""
        both = {"raw": sac.policy, "average": sac.average}
        returns = {name: greedy_returns(policy, self.spec, self.episodes, CHOICE_SEED) for name, policy in both.items()}
        for name, r in returns.items():
            self.rows += [
                {"seed": seed, "step": step, "actor": name, "episode": e, "return": float(r[i, e])}
                for i, seed in enumerate(self.seeds)
                for e in range(self.episodes)
            ]
        means = returns["average"].mean(1)
        for i, seed in enumerate(self.seeds):
            self.snapshots.append(Snapshot(seed, step, expert_of(sac.average, i), worth(returns["average"][i])))
        return means

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "snapshots": [dataclasses.asdict(s) for s in self.snapshots]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = list(state["rows"])
        self.snapshots = [Snapshot(**{**s, "policy": Expert(**s["policy"])}) for s in state["snapshots"]]

    def graded(self, shares: dict[str, float], judge: Any) -> dict[str, Snapshot]:
        """The best snapshot, and for each level the one whose worth is nearest to its share of the best's: each by
        `judge(policy)`, among the five that looked so at the time. A level that no other snapshot fits is left out."""
        best = max(self._judged(lambda s: -s.value, judge), key=lambda s: s.value)
        levels = {"expert": best}
        for level, share in shares.items():

            def far(s: Snapshot, wanted: float = share * best.value) -> float:
                return abs(s.value - wanted)

            found = min(self._judged(far, judge), key=far)
            if all((found.seed, found.step) != (s.seed, s.step) for s in levels.values()):
                levels[level] = found
        return levels

    def _judged(self, order: Any, judge: Any) -> list[Snapshot]:
        return [dataclasses.replace(s, value=judge(s.policy)) for s in sorted(self.snapshots, key=order)[:5]]
