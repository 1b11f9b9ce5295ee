"""What the online methods share: their rollouts' settings, and the pairs that they have gathered."""

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
"""What BPO and OAIF can be built on: losses of h(win), h(lose) and weight, (L, B) to (L,)."""

NEAR = DirectConfig(beta=500.0, lr=1e-5)
"""Settings for learning from own clips: two of one policy differ by its noise alone, to which a loss with the settings
for given clips bends it at once (`experiments/tuning.md`)."""


@dataclasses.dataclass(frozen=True)
class OnlineConfig:
    """Settings of the clips that a method plays."""

    length: int = 100
    """Steps of a clip. Both of a pair begin in the same state, that of a random moment of the demonstrations."""
    phases: int = 10
    """In how many turns new clips are played, evenly spaced over the run's gradient steps."""

    def __post_init__(self):
        at_least_one({"--online.length": self.length, "--online.phases": self.phases})

    def begins(self, k: int, steps: int) -> bool:
        """Whether a phase begins with iteration k = 1, 2, ... of `steps`; the last one goes on for as long as asked."""
        every = max(1, steps // self.phases)
        return (k - 1) % every == 0 and (k - 1) // every < self.phases

    def questions(self, task: Task) -> int:
        """Comparisons to ask for in the next phase, so that all together ask for as many as were offered.

        Raises BadInput where a phase would have none, or the annotator judges otherwise than `Task.compare` does.
        """
        if task.n_offered < self.phases:
            raise BadInput(f"--pairs {task.n_offered}: this method asks in {self.phases} phases; give at least as many")
        if task.by_regret:
            raise BadInput("this method asks about its own clips, which are judged by return; --label regret is not")
        after = (task.n_offered * phase // self.phases for phase in range(1, self.phases + 1))
        return min(n for n in after if n > task.n_asked) - task.n_asked


class PairBuffer:
    """Pairs of clips that a method had played: those that were put in last, or with a capacity so many newest ones."""

    def __init__(self, task: Task, capacity: int = 0):
        self.capacity, self.rng, self.device = capacity, Random(task.dims, "gathered"), task.dims.device
        self.pairs: Preferences | None = None

    def add(self, pairs: Preferences) -> None:
        """Puts pairs in."""
        if self.pairs and self.capacity:
            both = zip(_flat(self.pairs), _flat(pairs), strict=True)
            pairs = _whole([torch.cat(old_and_new, 1)[:, -self.capacity :] for old_and_new in both])
        self.pairs = pairs

    def draw(self, n_steps: int) -> Preferences:
        """Pairs a lane, uniformly with replacement, as many as give `n_steps` steps to look at."""
        assert self.pairs, "pairs are gathered before they are drawn"
        n_pairs, length = self.pairs.win.real.shape[1:]
        high = torch.full((len(self.pairs.weight),), n_pairs, device=self.device)
        index = self.rng.integers(high, max(1, n_steps // (2 * length)))
        lane = torch.arange(len(index), device=self.device)[:, None]
        return _whole([x[lane, index] for x in _flat(self.pairs)])

    def state_dict(self) -> dict:
        return {"rng": self.rng.state_dict(), "pairs": self.pairs and [x.clone() for x in _flat(self.pairs)]}

    def load_state_dict(self, state: dict) -> None:
        self.rng.load_state_dict(state["rng"])
        self.pairs = state["pairs"] and _whole([x.to(self.device) for x in state["pairs"]])


def _flat(pairs: Preferences) -> list[Tensor]:
    return [*pairs.win, *pairs.lose, pairs.weight]


def _whole(flat: list[Tensor]) -> Preferences:
    return Preferences(Clips(*flat[:3]), Clips(*flat[3:6]), flat[6])


def known_winners(win: Clips, lose: Clips) -> Preferences:
    """Pairs whose winner is known without asking."""
    return Preferences(win, lose, torch.ones_like(win.real[..., 0]))


def query_pairs(task: Task, policy: Policy, cfg: OnlineConfig) -> Preferences:
    """A phase's pairs of clips of the policy, each from one start, and what the annotator says of them."""
    starts = task.starts(cfg.questions(task), cfg.length)
    first, second = (task.rollout(policy, starts, cfg.length) for _ in range(2))
    return task.compare(first, second)
