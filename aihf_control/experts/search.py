"""Augmented random search (Mania et al., arXiv 1803.07055) for linear policies with action tanh(M s + b).

With a policy to start from, s is the output of its last hidden layer, and M and b are its output layer.

    evaluate M + nu d_i and M - nu d_i for random d_1, ..., d_N: returns r_i+, r_i-
    M <- M + alpha / (K std of the K best pairs of returns) sum over the K best directions of (r_i+ - r_i-) d_i

It uses undiscounted returns and suits tasks such as Swimmer, where rewards are delayed.

python -m aihf_control.experts search --env Swimmer-v4
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch

from aihf_control.core.errors import BadInput, at_least_one
from aihf_control.core.files import check_writable
from aihf_control.core.progress import report
from aihf_control.core.provenance import commit
from aihf_control.environments.gym import EnvSpec, spec_of
from aihf_control.environments.modules import allow_module
from aihf_control.environments.rollout import rollout
from aihf_control.environments.watchdog import DEFAULT_TIMEOUT, StepTimeout
from aihf_control.experts.levels import default_folder, format_command, save_levels
from aihf_control.experts.snapshots import Snapshots
from aihf_control.experts.true_reward import START_SEED
from aihf_control.models.device import use_one_thread
from aihf_control.models.expert import Expert
from aihf_control.models.sb3 import read_zip

Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class SearchOptions:
    """Options of `experts search` besides the settings of the search."""

    env: str = "Swimmer-v4"
    """Gymnasium id."""
    out: Path | None = None
    """Folder to write; results/experts/<env> if not given."""
    start: Path | None = None
    """SB3 zip of a policy whose output layer is searched, instead of a linear policy from 0."""
    seed: int = 100
    """Seed of the search."""
    episodes: int = 3
    """Greedy episodes per evaluation during the search."""
    every: int = 5
    """Steps of the search between evaluations."""
    step_timeout: StepTimeout = DEFAULT_TIMEOUT

    @property
    def folder(self) -> Path:
        """The folder to write."""
        return self.out or default_folder(self.env)


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """Settings of the search."""

    iterations: int = 150
    """Steps of the search, each of 2 `directions` episodes."""
    directions: int = 4
    """Random directions per step (N)."""
    best: int = 4
    """Directions with the best returns that enter the step (K)."""
    step: float = 0.02
    """Step size (alpha)."""
    radius: float = 0.02
    """Scale of the perturbations (nu)."""
    log_std: float = -2.0
    """Log standard deviation, before the tanh, of sampled actions of the exported policy."""

    def __post_init__(self):
        if not 1 <= self.best <= self.directions:
            raise BadInput(f"--best must be between 1 and --directions {self.directions}, got {self.best}")


def search_experts(options: SearchOptions, cfg: SearchConfig) -> None:
    """Search to the last step or to Ctrl-C, and save the levels. Raises BadInput."""
    use_one_thread()
    at_least_one({"--iterations": cfg.iterations, "--episodes": options.episodes, "--every": options.every})
    if cfg.iterations < options.every:
        raise BadInput(f"--every must be at most --iterations {cfg.iterations}, got {options.every}")
    allow_module(options.env)
    spec = spec_of(options.env)
    check_writable(options.folder)
    snapshots = Snapshots(spec, (options.seed,), options.every, options.episodes)
    start = read_zip(options.start, spec) if options.start else None
    try:
        search_policy(spec, options.seed, cfg, snapshots, start)
    except KeyboardInterrupt:
        print("Interrupted: saving the best snapshots so far")
    if not snapshots.entries:
        raise BadInput(f"the search ended before its first evaluation, at step {options.every}; give a smaller --every")
    given = {name: getattr(options, name) for name in ("env", "start", "seed", "episodes", "every")}
    command = format_command("search", given, cfg, SearchConfig())
    save_levels(snapshots, spec, options.folder, f"Found at commit {commit()}:\n  {command}")


def search_policy(
    spec: EnvSpec, seed: int, cfg: SearchConfig, snapshots: Snapshots, start: Expert | None = None
) -> None:
    """Search from M = 0, or from the output layer of `start`; add a snapshot after every `snapshots.every` steps.

    Raises BadInput for a policy whose actions are not tanh of its last layer.
    """
    if start and not start.squashed:
        raise BadInput("the search starts from policies of SAC, TQC, TD3 or DDPG; this one clips its actions")
    rng = np.random.default_rng(seed)
    weights = output_weights(start) if start else np.zeros((spec.n_act, spec.n_obs + 1))
    for k in range(1, cfg.iterations + 1):
        report("searching", k, cfg.iterations)
        first = START_SEED + 1000 * seed + k * cfg.directions
        weights = _take_step(spec, weights, cfg, rng, range(first, first + cfg.directions), start)
        if k % snapshots.every == 0:
            expert = with_output(start, weights, cfg.log_std) if start else linear_expert(weights, cfg.log_std)
            returns = snapshots.evaluate_expert(k, expert)
            print(f"step {k}  return {returns.mean():.0f}", flush=True)


def output_weights(policy: Expert) -> Array:
    """Return weight and bias of the last layer, (A, H + 1)."""
    weight, bias = policy.layers[-1]
    return np.concatenate([weight.double().numpy(), bias.double().numpy()[:, None]], 1)


def with_output(policy: Expert, weights: Array, log_std: float) -> Expert:
    """Return the policy with another last layer, given as `output_weights` returns it, and a constant deviation."""
    layer = torch.as_tensor(weights, dtype=torch.float32)
    last = layer[:, :-1].contiguous(), layer[:, -1].contiguous()
    log_std_layer = torch.zeros_like(last[0]), torch.full_like(last[1], log_std)
    return dataclasses.replace(policy, layers=[*policy.layers[:-1], last], log_std=log_std_layer)


def linear_expert(weights: Array, log_std: float) -> Expert:
    """Return the policy tanh(M s + b) with weights (A, O + 1) as a ReLU network, by x = relu(x) - relu(-x)."""
    m = torch.as_tensor(weights, dtype=torch.float32)
    n_act = len(m)
    both, last = torch.cat([m, -m]), torch.cat([torch.eye(n_act), -torch.eye(n_act)], 1)
    log_std_layer = torch.zeros_like(last), torch.full((n_act,), log_std)
    layers = [(both[:, :-1].contiguous(), both[:, -1].contiguous()), (last, torch.zeros(n_act))]
    return Expert(layers, log_std_layer, squashed=True, activation="ReLU")


def compute_step(deltas: Array, plus: Array, minus: Array, cfg: SearchConfig) -> Array:
    """Return the change of the weights from directions (N, A, O + 1) and returns (N,) for each sign."""
    kept = np.argsort(-np.maximum(plus, minus), kind="stable")[: cfg.best]
    spread = max(float(np.concatenate([plus[kept], minus[kept]]).std()), 1e-8)
    return cfg.step / (cfg.best * spread) * np.einsum("n,nao->ao", (plus - minus)[kept], deltas[kept])


def _take_step(
    spec: EnvSpec, weights: Array, cfg: SearchConfig, rng: np.random.Generator, seeds: range, start: Expert | None
) -> Array:
    """Return the weights after one step; both signs of a direction are evaluated from the same initial state."""
    deltas = rng.standard_normal((cfg.directions, *weights.shape))
    perturbed = np.concatenate([weights + cfg.radius * deltas, weights - cfg.radius * deltas])

    def act(obs: Array) -> Array:
        features = start.features(torch.as_tensor(obs)).numpy() if start else obs
        mean = np.einsum("nao,no->na", perturbed[:, :, :-1], features.astype(np.float64)) + perturbed[:, :, -1]
        return np.tanh(mean).astype(np.float32)

    returns = np.array([t.reward.sum() for t in rollout(spec, act, [*seeds, *seeds])])
    plus, minus = np.split(returns, 2)
    return weights + compute_step(deltas, plus, minus, cfg)
