"""Ask: clone the demonstrations that a judge finds worth imitating (Ask-LLM, Sachdeva et al., arXiv 2402.09668).

Demonstrations D, comparisons P, policy pi, reward r_theta, returns R_theta of segments:

    theta <- ascend  E_P log sigmoid(R_theta(win) - R_theta(lose))   the judge
    P(yes) of each demonstration <- sigmoid(R_theta - median over D)
    D <- the share of D with the highest P(yes)
    for k = 1, 2, ...:
        (s, a) ~ D
        descend  -log pi(a | s)

The paper asks a language model whether a text is worth training on, and trains a model on a tenth of the texts. Here
the judge is a reward that is fitted to comparisons, each a label, and a text is a whole demonstration, or a window of
it (`--window`). A judge of short windows selects states, not actions: a window of a fast state scores high whatever
was done there. P(yes) only orders, so its temperature has no effect. No environment steps are taken.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from aihf_control.core.errors import BadInput, check_widths
from aihf_control.learning.bc import CloneConfig, Cloner
from aihf_control.learning.reward_model import RewardConfig, RewardModel
from aihf_control.learning.segments import Segments
from aihf_control.learning.selection import ChosenDemos, check_share, keep_best
from aihf_control.learning.task import Progress, Task

CHUNK = 20_000  # rows per call of the reward


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of Ask."""

    steps: int = CloneConfig.updates
    """Gradient steps."""
    share: float = 0.25
    """Share of the demonstrations that is kept."""
    window: int = 0
    """Steps of the windows that are judged; 0: whole demonstrations."""
    reward_updates: int = 3000
    """Gradient steps of the judge on the comparisons."""
    hidden: tuple[int, ...] = (128, 128)
    """Widths of the policy's hidden layers."""
    reward: RewardConfig = RewardConfig()
    clone: CloneConfig = CloneConfig()

    def __post_init__(self):
        check_widths("--hidden", self.hidden)
        check_share(self.share, self.window)
        if self.clone.on != CloneConfig.on:
            raise BadInput(f"--clone.on {self.clone.on}: this method clones demonstrations; leave it at demos")
        if self.clone.updates != CloneConfig.updates:
            raise BadInput(f"--clone.updates: ask takes --steps gradient steps; give --steps {self.clone.updates}")


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    task.comparisons()  # raises BadInput if there are none
    r, windows = RewardModel(task, cfg.reward), task.demo_windows(cfg.window)
    r.fit(cfg.reward_updates)
    score = scores(task, r, windows)
    chosen = keep_best(score, windows, cfg.share)
    demos = ChosenDemos(task, windows, chosen)
    cloner = Cloner(task, cfg.clone, cfg.hidden, demos)
    yield Progress(cloner.policy, {}, r)
    yes = (p_yes(score, windows) * chosen).sum(-1) / chosen.sum(-1)
    for _ in task.iterations(cloner=cloner, demos=demos, r=r):
        info = cloner.step()
        yield Progress(cloner.policy, info | {"p_yes": yes}, r)


@torch.no_grad()
def scores(task: Task, r: RewardModel, windows: Segments) -> Tensor:
    """Return the mean learned reward of each window's steps in logits of Bradley-Terry, (L, M)."""
    reward = torch.cat([r(steps.obs, steps.act) for steps in task.demos.chunks(CHUNK)], 1)
    return windows.totals(reward) / (r.cfg.tau * windows.rows.clamp(min=1))


def p_yes(score: Tensor, windows: Segments) -> Tensor:
    """Return sigmoid(score - median over the windows), (L, M)."""
    median = score.where(windows.rows > 0, torch.nan).nanmedian(-1, keepdim=True).values
    return (score - median).sigmoid()
