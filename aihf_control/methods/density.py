"""Density: clone demonstrations in inverse proportion to how often their like occurs (arXiv 2402.09668, section 3.2).

Demonstrations D, policy pi, kernel K of bandwidth h:

    x <- mean and standard deviation of observations and actions     of each window of D
    density of window i <- sum over j of  K((x_i - x_j) / h)
    D <- a share of D, drawn without replacement with probability ~ 1 / density
    for k = 1, 2, ...:
        (s, a) ~ D
        descend  -log pi(a | s)

The paper draws texts so that a model sees rare topics as often as frequent ones. Its features are embeddings, and its
kernel sums are approximated by locality-sensitive hashing; here the sums are exact, which takes M^2 distances of M
windows. With an infinite bandwidth the draw is uniform: the baseline of random choice. No comparison and no
environment step is needed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from aihf_control.core.errors import BadInput, check_widths
from aihf_control.learning.bc import CloneConfig, Cloner
from aihf_control.learning.segments import Segments
from aihf_control.learning.selection import ChosenDemos, check_share, keep_best
from aihf_control.learning.task import Progress, Task
from aihf_control.models.lanes import Random


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of Density."""

    steps: int = CloneConfig.updates
    """Gradient steps."""
    share: float = 0.1
    """Share of the windows that is kept."""
    window: int = 50
    """Steps of a window; 0: whole demonstrations."""
    bandwidth: float = 0.3
    """Bandwidth h of the Gaussian kernel, in standard deviations of a feature; inf: choose at random."""
    hidden: tuple[int, ...] = (128, 128)
    """Widths of the policy's hidden layers."""
    clone: CloneConfig = CloneConfig()

    def __post_init__(self):
        check_widths("--hidden", self.hidden)
        check_share(self.share, self.window)
        if not self.bandwidth > 0:
            raise BadInput(f"--bandwidth must be above 0, got {self.bandwidth}")
        if self.clone.on != CloneConfig.on:
            raise BadInput(f"--clone.on {self.clone.on}: this method clones demonstrations; leave it at demos")
        if self.clone.updates != CloneConfig.updates:
            raise BadInput(f"--clone.updates: density takes --steps gradient steps; give --steps {self.clone.updates}")


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    windows = task.demo_windows(cfg.window)
    x, there = features(task, windows), windows.rows > 0
    p = inverse_density(x, there, cfg.bandwidth)
    u = Random(task.dims, "density").uniform(p.shape[1]).clamp(1e-12, 1 - 1e-7)
    chosen = keep_best(p.log() - (-u.log()).log(), windows, cfg.share)  # Gumbel: a draw without replacement
    demos = ChosenDemos(task, windows, chosen)
    cloner = Cloner(task, cfg.clone, cfg.hidden, demos)
    yield Progress(cloner.policy, {})
    for _ in task.iterations(cloner=cloner, demos=demos):
        info = cloner.step()
        yield Progress(cloner.policy, info | {"chosen_p": (p * chosen).sum(-1)})


def features(task: Task, windows: Segments) -> Tensor:
    """Return mean and standard deviation of each window's normalised observations and actions, (L, M, 2 (O + A))."""
    mean, std = task.compute_obs_stats()
    rows = task.demos.data[..., : task.dims.n_obs + task.dims.n_act]
    obs, act = rows.split((task.dims.n_obs, task.dims.n_act), -1)
    written = [act[i, : int(n)] for i, n in enumerate(task.demos.count)]  # lanes may have fewer rows than the buffer
    act_std = torch.stack([x.std(0, correction=0) for x in written])[:, None].clamp(min=1e-3)
    steps = torch.cat([(obs - mean[:, None]) / std[:, None], act / act_std], -1)
    n = windows.rows.clamp(min=1)
    moments = [torch.stack([windows.totals(column) / n for column in x.unbind(-1)], -1) for x in (steps, steps**2)]
    return torch.cat([moments[0], (moments[1] - moments[0] ** 2).clamp(min=0).sqrt()], -1)


def inverse_density(x: Tensor, there: Tensor, bandwidth: float) -> Tensor:
    """Return p ~ 1 / sum_j exp(-d_ij^2 / (2 h^2)) over the points x (L, M, F) that are there, (L, M).

    d^2 is a mean over the F features.
    """
    squared = torch.cdist(x, x).square() / x.shape[-1]
    density = ((-squared / (2 * bandwidth**2)).exp() * there[:, None]).sum(-1)
    p = torch.where(there, 1 / density, 0.0)
    return p / p.sum(-1, keepdim=True)
