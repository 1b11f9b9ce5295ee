"""Common parts of online methods: the settings of their rollouts, and buffers of the pairs that they collect."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor

from aihf_control.core.errors import BadInput, at_least_one
from aihf_control.core.types import Clips, Preferences
from aihf_control.learning.direct import DirectConfig
from aihf_control.learning.task import Task
from aihf_control.models.lanes import Random
from aihf_control.models.losses import bradley_terry, hinge, squared_margin
from aihf_control.models.networks import Policy

PAIR_LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor, float], Tensor]] = {
    "dpo": lambda win, lose, weight, margin: bradley_terry(win, lose, weight),
    "ipo": squared_margin,
    "slic": lambda win, lose, weight, margin: hinge(win, lose, weight),
}
"""Losses of h(win), h(lose), weight and IPO's margin, (L, B) to (L,), that BPO and OAIF can use."""

ONLINE_DIRECT = DirectConfig(beta=500.0, lr=1e-5)
"""Settings for a policy's own segments. Two of them differ by its exploration noise alone, which a loss with the
default settings overfits (`experiments/tuning.md`)."""


@dataclasses.dataclass(frozen=True)
class OnlineConfig:
    """Settings of the segments that a method plays."""

    length: int = 100
    """Environment steps of a segment. Both of a pair start in the same random state of the demonstrations."""
    phases: int = 10
    """Phases of a run, evenly spaced over its gradient steps. New segments are played at the start of each."""

    def __post_init__(self):
        at_least_one({"--online.length": self.length, "--online.phases": self.phases})

    def starts_phase(self, k: int, steps: int) -> bool:
        """Return whether iteration k = 1, 2, ... of `steps` starts a phase; the last phase has no end."""
        every = max(1, steps // self.phases)
        return (k - 1) % every == 0 and (k - 1) // every < self.phases

    def draw_starts(self, task: Task, n: int) -> Tensor:
        """Draw `n` starts of segments per lane, (L, n, 2), in the demonstrations."""
        return task.draw_starts(n, self.length)

    def check_queries(self, task: Task, steps: int, votes: int = 1) -> None:
        """Announce that the method asks the annotator, for so many `votes` on each pair.

        Raises BadInput if a phase would have no query, if `steps` iterations have fewer phases, so that labels were
        left unasked, or if the task's labels are not by return.
        """
        task.votes_asked = votes
        if task.n_offered < self.phases:
            raise BadInput(f"--pairs {task.n_offered}: this method asks in {self.phases} phases; give at least as many")
        if steps < self.phases:
            raise BadInput(
                f"--steps {steps}: this method asks in {self.phases} phases of at least 1 step; give more steps or "
                "fewer phases"
            )
        if task.by_regret:
            raise BadInput("this method asks about its own segments, which are labelled by return, not --label regret")

    def count_queries(self, task: Task) -> int:
        """Return the number of queries in the next phase; those of all phases sum to the number offered."""
        after = (task.n_offered * phase // self.phases for phase in range(1, self.phases + 1))
        return min(n for n in after if n > task.n_asked) - task.n_asked


@dataclasses.dataclass(frozen=True)
class PlayConfig(OnlineConfig):
    """Settings of the segments that a method plays, which need not start as a demonstration does."""

    pool_starts: bool = False
    """Start in any state of the dataset's episodes that are not held out, instead of states of the demonstrations. The
    states are prompts: they are read from the simulator, and need no label."""

    def draw_starts(self, task: Task, n: int) -> Tensor:
        """Draw `n` starts of segments per lane, (L, n, 2)."""
        return task.draw_starts(n, self.length, anywhere=self.pool_starts)


@dataclasses.dataclass(frozen=True)
class QueryConfig(PlayConfig):
    """Settings of the segments that a method plays and asks the annotator to compare."""

    pairs: int = 0
    """Pairs per phase, in place of `phases`: a run has as many phases as its labels suffice for. 0: the labels are
    divided among `phases`."""
    epochs: float = 0.0
    """Times that each pair of a phase is learned from, on average. When it is reached, the policy stays as it is until
    the next phase. 0: no limit."""

    def __post_init__(self):
        super().__post_init__()
        if self.pairs < 0 or self.epochs < 0:
            raise BadInput(f"--online.pairs {self.pairs}, --online.epochs {self.epochs}: both must be at least 0")

    def for_task(self, task: Task, steps: int) -> Self:
        """Return these settings for the labels that a task offers, with the number of phases if `pairs` is given.

        Raises BadInput as `check_queries` does.
        """
        if self.pairs > task.n_offered:
            raise BadInput(f"--online.pairs {self.pairs}: there are {task.n_offered} labels, as many as --pairs")
        found = dataclasses.replace(self, phases=task.n_offered // self.pairs) if self.pairs else self
        if self.pairs and steps < found.phases:
            raise BadInput(
                f"--online.pairs {self.pairs}: {task.n_offered} labels are {found.phases} phases, more than --steps "
                f"{steps}; give more pairs per phase or more steps"
            )
        found.check_queries(task, steps)
        return found


class PairBuffer:
    """Pairs of played segments: those added last or, with a capacity, that many of the newest."""

    def __init__(self, task: Task, capacity: int = 0):
        self.capacity, self.rng, self.device = capacity, Random(task.dims, "gathered"), task.dims.device
        self.pairs: Preferences | None = None
        self.drawn = 0  # pairs per lane since the last were added

    def add(self, pairs: Preferences) -> None:
        """Add pairs; without a capacity they replace the previous ones."""
        if self.pairs and self.capacity:
            columns = zip(_flatten(self.pairs), _flatten(pairs), strict=True)
            pairs = _unflatten([torch.cat(old_and_new, 1)[:, -self.capacity :] for old_and_new in columns])
        self.pairs, self.drawn = pairs, 0

    def used_up(self, epochs: float) -> bool:
        """Return whether each pair was drawn `epochs` times on average since the last were added; 0: never."""
        assert self.pairs, "pairs must be added before they are drawn"
        return bool(epochs) and self.drawn >= epochs * self.pairs.weight.shape[1]

    def draw(self, n_steps: int) -> Preferences:
        """Draw pairs uniformly with replacement, as many per lane as have `n_steps` steps in total."""
        assert self.pairs, "pairs must be added before they are drawn"
        n_pairs, length = self.pairs.win.real.shape[1:]
        high = torch.full((len(self.pairs.weight),), n_pairs, device=self.device)
        index = self.rng.integers(high, max(1, n_steps // (2 * length)))
        self.drawn += index.shape[1]
        lane = torch.arange(len(index), device=self.device)[:, None]
        return _unflatten([x[lane, index] for x in _flatten(self.pairs)])

    def state_dict(self) -> dict:
        pairs = self.pairs and [x.clone() for x in _flatten(self.pairs)]
        return {"rng": self.rng.state_dict(), "pairs": pairs, "drawn": self.drawn}

    def load_state_dict(self, state: dict) -> None:
        self.rng.load_state_dict(state["rng"])
        self.drawn = state["drawn"]
        self.pairs = state["pairs"] and _unflatten([x.to(self.device) for x in state["pairs"]])


def _flatten(pairs: Preferences) -> list[Tensor]:
    """List the seven tensors of pairs."""
    return [*pairs.win, *pairs.lose, pairs.weight]


def _unflatten(flat: list[Tensor]) -> Preferences:
    return Preferences(Clips(*flat[:3]), Clips(*flat[3:6]), flat[6])


def make_pairs(win: Clips, lose: Clips) -> Preferences:
    """Pair segments whose order is known without a query, with weight 1."""
    return Preferences(win, lose, torch.ones_like(win.real[..., 0]))


def query_pairs(task: Task, policy: Policy, cfg: OnlineConfig) -> Preferences:
    """Play a phase's pairs of segments of the policy, both from one start, and ask the annotator to compare them."""
    starts = cfg.draw_starts(task, cfg.count_queries(task))
    first, second = (task.rollout(policy, starts, cfg.length) for _ in range(2))
    return task.compare(first, second)
