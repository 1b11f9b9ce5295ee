"""Common parts of online methods: the settings of their rollouts, and buffers of the pairs that they collect."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from aihf_control.core.errors import BadInput, at_least_one
from aihf_control.core.types import Clips, Preferences
from aihf_control.learning.direct import DirectConfig
from aihf_control.learning.task import Task
from aihf_control.models.lanes import Random
from aihf_control.models.losses import bradley_terry, hinge, squared_margin
from aihf_control.models.networks import Policy

PAIR_LOSSES = {
    "dpo": bradley_terry,
    "ipo": lambda win, lose, weight: squared_margin(win, lose, weight, 1.0),
    "slic": hinge,
}
"""Losses of h(win), h(lose) and weight, (L, B) to (L,), that BPO and OAIF can use."""

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

    def check_queries(self, task: Task) -> None:
        """Announce that the method asks the annotator.

        Raises BadInput if a phase would have no query, or if the task's labels are not by return.
        """
        task.asks = True
        if task.n_offered < self.phases:
            raise BadInput(f"--pairs {task.n_offered}: this method asks in {self.phases} phases; give at least as many")
        if task.by_regret:
            raise BadInput("this method asks about its own segments, which are labelled by return, not --label regret")

    def count_queries(self, task: Task) -> int:
        """Return the number of queries in the next phase; those of all phases sum to the number offered."""
        after = (task.n_offered * phase // self.phases for phase in range(1, self.phases + 1))
        return min(n for n in after if n > task.n_asked) - task.n_asked


class PairBuffer:
    """Pairs of played segments: those added last or, with a capacity, that many of the newest."""

    def __init__(self, task: Task, capacity: int = 0):
        self.capacity, self.rng, self.device = capacity, Random(task.dims, "gathered"), task.dims.device
        self.pairs: Preferences | None = None

    def add(self, pairs: Preferences) -> None:
        """Add pairs; without a capacity they replace the previous ones."""
        if self.pairs and self.capacity:
            columns = zip(_flatten(self.pairs), _flatten(pairs), strict=True)
            pairs = _unflatten([torch.cat(old_and_new, 1)[:, -self.capacity :] for old_and_new in columns])
        self.pairs = pairs

    def draw(self, n_steps: int) -> Preferences:
        """Draw pairs uniformly with replacement, as many per lane as have `n_steps` steps in total."""
        assert self.pairs, "pairs must be added before they are drawn"
        n_pairs, length = self.pairs.win.real.shape[1:]
        high = torch.full((len(self.pairs.weight),), n_pairs, device=self.device)
        index = self.rng.integers(high, max(1, n_steps // (2 * length)))
        lane = torch.arange(len(index), device=self.device)[:, None]
        return _unflatten([x[lane, index] for x in _flatten(self.pairs)])

    def state_dict(self) -> dict:
        return {"rng": self.rng.state_dict(), "pairs": self.pairs and [x.clone() for x in _flatten(self.pairs)]}

    def load_state_dict(self, state: dict) -> None:
        self.rng.load_state_dict(state["rng"])
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
    cfg.check_queries(task)
    starts = task.draw_starts(cfg.count_queries(task), cfg.length)
    first, second = (task.rollout(policy, starts, cfg.length) for _ in range(2))
    return task.compare(first, second)
