"""Augmented random search (Mania et al., arXiv 1803.07055) for policies whose action is tanh(M s + b).

    play the policies M + nu d_i and M - nu d_i for random d_1, ..., d_N: returns r_i+, r_i-
    M <- M + alpha / (K std of the returns kept) sum over the K best directions of (r_i+ - r_i-) d_i

It works on whole returns, so no discount hides what comes late: Swimmer is the task for it.

python -m aihf_control.experts search --env Swimmer-v4
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from aihf_control.core.errors import BadInput
from aihf_control.environments.gym import EnvSpec
from aihf_control.environments.rollout import rollout
from aihf_control.experts.true_reward import CHOICE_SEED, START_SEED, Gallery, Snapshot, worth
from aihf_control.learning.evaluation import expert_returns
from aihf_control.models.sb3 import Expert

Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """Settings of the search."""

    iterations: int = 150
    """Steps of the search, each of 2 `directions` episodes."""
    directions: int = 4
    """Directions that are tried in each step (N)."""
    best: int = 4
    """Directions whose returns are used (K)."""
    step: float = 0.02
    """Step size (alpha)."""
    radius: float = 0.02
    """Distance of the policies that are tried (nu)."""
    log_std: float = -2.0
    """Log standard deviation, before the squashing, of the exported policy's sampled actions."""

    def __post_init__(self):
        if not 1 <= self.best <= self.directions:
            raise BadInput(f"--best must be between 1 and --directions {self.directions}, got {self.best}")


def search(spec: EnvSpec, seed: int, cfg: SearchConfig, gallery: Gallery) -> None:
    """Searches from M = 0, and evaluates into `gallery` after every `gallery.every` steps."""
    rng = np.random.default_rng(seed)
    weights = np.zeros((spec.n_act, spec.n_obs + 1))
    for k in range(1, cfg.iterations + 1):
        first = START_SEED + 1000 * seed + k * cfg.directions
        weights = _improved(spec, weights, cfg, rng, range(first, first + cfg.directions))
        if k % gallery.every == 0:
            _look(gallery, spec, seed, k, linear_expert(weights, cfg.log_std))


def linear_expert(weights: Array, log_std: float) -> Expert:
    """The policy tanh(M s + b) with weights (A, O + 1), as a network: relu(x) - relu(-x) is x."""
    m = torch.as_tensor(weights, dtype=torch.float32)
    n_act = len(m)
    both, last = torch.cat([m, -m]), torch.cat([torch.eye(n_act), -torch.eye(n_act)], 1)
    deviation = torch.zeros_like(last), torch.full((n_act,), log_std)
    layers = [(both[:, :-1].contiguous(), both[:, -1].contiguous()), (last, torch.zeros(n_act))]
    return Expert(layers, deviation, squashed=True, activation="ReLU")


def step_of(deltas: Array, plus: Array, minus: Array, cfg: SearchConfig) -> Array:
    """Return the change of the weights, from directions (N, A, O + 1) and their returns (N,) on both sides."""
    kept = np.argsort(-np.maximum(plus, minus), kind="stable")[: cfg.best]
    spread = max(float(np.concatenate([plus[kept], minus[kept]]).std()), 1e-8)
    return cfg.step / (cfg.best * spread) * np.einsum("n,nao->ao", (plus - minus)[kept], deltas[kept])


def _improved(spec: EnvSpec, weights: Array, cfg: SearchConfig, rng: np.random.Generator, seeds: range) -> Array:
    """One step of the search; both sides of a direction are played from the same start."""
    deltas = rng.standard_normal((cfg.directions, *weights.shape))
    tried = np.concatenate([weights + cfg.radius * deltas, weights - cfg.radius * deltas])

    def act(obs: Array) -> Array:
        mean = np.einsum("nao,no->na", tried[:, :, :-1], obs.astype(np.float64)) + tried[:, :, -1]
        return np.tanh(mean).astype(np.float32)

    returns = np.array([t.reward.sum() for t in rollout(spec, act, [*seeds, *seeds])])
    plus, minus = np.split(returns, 2)
    return weights + step_of(deltas, plus, minus, cfg)


def _look(gallery: Gallery, spec: EnvSpec, seed: int, k: int, expert: Expert) -> None:
    returns = expert_returns(expert, spec, gallery.episodes, CHOICE_SEED)
    gallery.rows += [
        {"seed": seed, "step": k, "actor": "average", "episode": e, "return": float(r)} for e, r in enumerate(returns)
    ]
    gallery.snapshots.append(Snapshot(seed, k, expert, worth(returns)))
    print(f"step {k}  return {returns.mean():.0f}", flush=True)
