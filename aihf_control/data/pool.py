"""Episodes of graded policies: load the policies, add action noise, play and evaluate them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from aihf_control.core.errors import BadInput
from aihf_control.core.progress import named
from aihf_control.core.types import Trajectory
from aihf_control.environments.cards import bundled_versions, card_of
from aihf_control.environments.gym import EVALUATION_SEED, EnvSpec
from aihf_control.environments.rollout import rollout
from aihf_control.models.expert import Expert
from aihf_control.models.sb3 import read_zip

Array = np.ndarray


def find_bundled_policies(env: str) -> dict[str, Path]:
    """Return the SB3 zips that are bundled for an environment, by level."""
    card = card_of(env)
    return card.policies() if card else {}


def explain_missing(env: str) -> str:
    """Return the sentence "there is no bundled policy for ...", with the other versions that have some."""
    others = ", ".join(bundled_versions(env))
    hint = f" (there are some for {others}, which has other observations or actions)" if others else ""
    return f"there is no bundled policy for {env}{hint}"


def load_experts(env: str, spec: EnvSpec, policies: dict[str, Path] | None) -> dict[str, Expert]:
    """Load the policies {level: SB3 zip}, by default the bundled ones. Raises BadInput if there are none."""
    paths = find_bundled_policies(env) if policies is None else policies
    if not paths:
        raise BadInput(
            f"{explain_missing(env)}; train one with `python -m aihf_control.experts train --env {env}` "
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
    with named(f"playing {name}"):
        return check_rewards(spec, rollout(spec, act, [next(seeds) for _ in range(n)], name, state=True))


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

    with named("evaluating the expert" if expert else "evaluating random actions"):
        episodes = check_rewards(spec, rollout(spec, act, [EVALUATION_SEED + i for i in range(n)]))
    return [float(t.reward.sum()) for t in episodes]


def check_rewards(spec: EnvSpec, episodes: list[Trajectory]) -> list[Trajectory]:
    """Return the episodes. Raises BadInput at the first step with a reward or an action that is not finite."""
    for t in episodes:
        for kind, rows in (("the policy gave an action", t.act), (f"{spec.id} paid a reward", t.reward[:, None])):
            bad = np.flatnonzero(~np.isfinite(rows).all(1))
            if len(bad):
                value = " ".join(map(str, rows[bad[0]]))
                raise BadInput(
                    f"{kind} that is not finite, {value}, at step {bad[0]} of the episode from seed {t.seed}"
                )
    return episodes


def check_expert(expert_returns: list[float], random_returns: list[float]) -> None:
    """Raise BadInput unless the expert's mean return exceeds that of random actions by two standard errors."""
    expert, random = np.array(expert_returns), np.array(random_returns)
    error = np.sqrt(expert.var() / len(expert) + random.var() / len(random))
    if not expert.mean() > random.mean() + 2 * error:
        raise BadInput(
            f"the expert returns {expert.mean():.4g} on average, random actions {random.mean():.4g} (standard error of "
            f"the difference {error:.2g}): it is no better than random; give a better one, or use it with --force"
        )
