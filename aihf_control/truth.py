"""SAC on the true reward: how experts are made, and how our learner is held against others'.

The one place where a learner is paid in truth. The buffer still stores no reward: it lies on a tape beside it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from aihf_control.environments import Envs, EnvSpec
from aihf_control.evaluate import greedy_returns
from aihf_control.experts import Expert, expert_of
from aihf_control.lanes import Dims, Random
from aihf_control.sac import SAC, Buffer, SACConfig


@dataclasses.dataclass(frozen=True)
class TruthConfig:
    """Settings of SAC on the true reward."""

    steps: int = 300_000
    """Environment steps a lane, each with one update."""
    warmup: int = 5000
    """Steps of uniformly random actions before the first update."""
    batch: int = 256
    """Transitions in one update."""
    sac: SACConfig = SACConfig(alpha=(0.02, 0.05, 0.05, 0.1, 0.2))


def learn(spec: EnvSpec, seeds: Sequence[int], cfg: TruthConfig, **dims: Any) -> Iterator[tuple[int, SAC]]:
    """Trains a lane for each seed and yields the learner after every step."""
    size = Dims(tuple(seeds), spec.n_obs, spec.n_act, **dims)
    sac, buffer, envs = SAC(size, cfg.sac), Buffer(size, cfg.steps), Envs(spec, size.n_lanes)
    tape = torch.zeros(size.n_lanes, cfg.steps, device=size.device)
    rng = Random(size, "acting")
    obs = np.stack([envs.reset(i, seed) for i, seed in enumerate(seeds)])
    for k in range(1, cfg.steps + 1):
        now = torch.as_tensor(obs, device=size.device)
        if k <= cfg.warmup:
            act = (rng.uniform(1, spec.n_act) * 2 - 1)[:, 0]
        else:
            act = sac.policy.act(now[:, None], rng.normal(1, spec.n_act))[:, 0]
        next_obs, reward, terminated, truncated = envs.step(act.cpu().numpy())
        tape[:, k - 1] = torch.as_tensor(reward)
        buffer.add(now, act, *(torch.as_tensor(x, device=size.device).float() for x in (next_obs, terminated)))
        for i in np.flatnonzero(terminated | truncated):
            next_obs[i] = envs.reset(i)
        obs = next_obs
        if k > cfg.warmup:
            batch = buffer.sample(cfg.batch)
            sac.update(batch, lambda obs, act, at=batch.index: tape.gather(1, at))
        yield k, sac


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """One lane's averaged policy at one step, with its mean greedy return."""

    seed: int
    step: int
    policy: Expert
    value: float


class Gallery:
    """Watches a training: evaluates every so often and keeps what it saw."""

    def __init__(self, spec: EnvSpec, seeds: Sequence[int], every: int = 10_000, episodes: int = 5):
        self.spec, self.seeds, self.every, self.episodes = spec, tuple(seeds), every, episodes
        self.snapshots: list[Snapshot] = []
        self.rows: list[dict[str, Any]] = []

    def look(self, step: int, sac: SAC) -> np.ndarray:
        """Mean greedy return of each lane's averaged policy, (L,)."""
        both = {"raw": sac.policy, "average": sac.average}
        returns = {name: greedy_returns(policy, self.spec, self.episodes) for name, policy in both.items()}
        for name, r in returns.items():
            self.rows += [
                {"seed": seed, "step": step, "actor": name, "episode": e, "return": float(r[i, e])}
                for i, seed in enumerate(self.seeds)
                for e in range(self.episodes)
            ]
        means = returns["average"].mean(1)
        for i, seed in enumerate(self.seeds):
            self.snapshots.append(Snapshot(seed, step, expert_of(sac.average, i), float(means[i])))
        return means

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows)

    def graded(self, shares: dict[str, float], judge: Any) -> dict[str, Snapshot]:
        """The best snapshot, by `judge(policy)` among the five that looked best, and for each level the one whose return
        is nearest to its share of the best's."""
        finalists = sorted(self.snapshots, key=lambda s: s.value)[-5:]
        judged = [dataclasses.replace(s, value=judge(s.policy)) for s in finalists]
        best = max(judged, key=lambda s: s.value)
        levels = {"expert": best}
        for level, share in shares.items():
            levels[level] = min(self.snapshots, key=lambda s: abs(s.value - share * best.value))
        return levels
