"""Episodes of graded policies: load the policies, add action noise, play and evaluate them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from aihf_control.core.errors import BadInput
from aihf_control.core.types import Trajectory
from aihf_control.environments.cards import card_of
from aihf_control.environments.gym import EVALUATION_SEED, EnvSpec
from aihf_control.environments.rollout import rollout
from aihf_control.models.sb3 import Expert, read_zip

Array = np.ndarray


def bundled_policies(env: str) -> dict[str, Path]:
    """Return the SB3 zips that are bundled for an environment, by level."""
    card = card_of(env)
    return card.policies() if card else {}


def load_experts(env: str, spec: EnvSpec, policies: dict[str, Path] | None) -> dict[str, Expert]:
    """Load the policies {level: SB3 zip}, by default the bundled ones. Raises BadInput if there are none."""
    paths = bundled_policies(env) if policies is None else policies
    if not paths:
        raise BadInput(
            f"there is no bundled policy for {env}; train one with `python -m aihf_control.experts train --env {env}` "
            "or give your own with --policy expert=FILE.zip"
        )
    return {level: read_zip(path, spec) for level, path in paths.items()}


def play_episodes(
    spec: EnvSpec, experts: dict[str, Expert], name: str, n: int, seeds: Iterator[int], rng: np.random.Generator
) -> list[Trajectory]:
    """Play `n` episodes of a level: "expert", or "expert+0.3" with that share of random actions.

    Raises BadInput for an unknown level, or a reward that is not finite.
    """
    level, _, noise = name.partition("+")
    if level not in experts:
        raise BadInput(f"there is no policy of level {level!r}; known are {', '.join(experts)}")
    try:
        share = float(noise or 0)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise BadInput(f"level {name!r}: write it as LEVEL or LEVEL+SHARE, for instance expert+0.3")
    if not n:
        return []
    act = add_noise(experts[level], spec, share, rng)
    return rollout(spec, act, [next(seeds) for _ in range(n)], name, state=True)


def add_noise(expert: Expert, spec: EnvSpec, share: float, rng: np.random.Generator) -> Callable[[Array], Array]:
    """Return a policy that acts greedily as the expert, but with probability `share` uniformly at random."""

    def act(obs: Array) -> Array:
        a = expert.act(torch.as_tensor(obs)).numpy()
        random = rng.random((len(obs), 1)) < share
        return np.where(random, rng.uniform(-1, 1, a.shape), a).astype(np.float32)

    return act


def evaluate_returns(spec: EnvSpec, expert: Expert | None, n: int = 20) -> list[float]:
    """Play `n` greedy episodes of an expert, or of random actions for None; return their true returns.

    Episodes start from the seeds that every evaluation uses.
    """
    rng = np.random.default_rng(0)

    def act(obs: Array) -> Array:
        if expert is None:
            return rng.uniform(-1, 1, (len(obs), spec.n_act)).astype(np.float32)
        return expert.act(torch.as_tensor(obs)).numpy()

    return [float(t.reward.sum()) for t in rollout(spec, act, [EVALUATION_SEED + i for i in range(n)])]
