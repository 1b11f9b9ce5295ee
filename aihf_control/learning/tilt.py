"""Demonstrations tilted by the comparisons: segments of all given data, weighted by a learned reward."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from aihf_control.core.errors import BadInput
from aihf_control.learning.replay import Batch, Buffer
from aihf_control.learning.reward_model import RewardModel
from aihf_control.learning.segments import Segments
from aihf_control.learning.task import Task
from aihf_control.models.lanes import Dims, Random

TEMPERATURES = torch.logspace(0, 3, 61)  # in logits; at 1 the weights are those of Bradley-Terry
CHUNK = 20_000  # rows per call of the reward


@dataclasses.dataclass(frozen=True)
class TiltConfig:
    """Settings of demonstrations tilted by the comparisons."""

    share: float = 0.0
    """Least effective number of compared segments, as a share of the distinct ones. 0: do not tilt."""
    mass: float = 0.5
    """Probability of the demonstrations before tilting."""
    updates: int = 1000
    """Gradient steps of the reward on the comparisons before it weights the segments."""

    def __post_init__(self):
        if not 0 <= self.share <= 1 or not 0 < self.mass < 1:
            raise BadInput(f"--tilt.share {self.share}, --tilt.mass {self.mass}: both must be between 0 and 1")


def segment_weights(score: Tensor, segments: Segments, share: float, mass: float) -> Tensor:
    """Return softmax(log q0 + score / T) over the segments, (L, M); scores in logits of Bradley-Terry.

    It is the q that maximises E_q score - T KL(q || q0). q0 gives the demonstrations the probability `mass`. T is the
    lowest of at least 1 logit that leaves the compared segments an effective number of `share` of them:
    (sum w)^2 / sum w^2 over them.
    """
    real, demo = segments.length > 0, segments.demo > 0
    clip = real & ~demo
    log_q0 = torch.where(demo, mass / demo.sum(-1, keepdim=True), (1 - mass) / clip.sum(-1, keepdim=True)).log()
    logits = log_q0.where(real, -torch.inf)[None] + score / TEMPERATURES.to(score.device)[:, None, None]
    among = (logits.where(clip, -torch.inf)).softmax(-1)
    enough = 1 / among.square().sum(-1) >= share * clip.sum(-1)  # (temperatures, L)
    lowest = torch.where(enough.any(0), enough.float().argmax(0), len(TEMPERATURES) - 1)
    return logits[lowest, torch.arange(len(score), device=score.device)].softmax(-1)


class WeightedSteps:
    """Transitions of the given data, drawn by weights (L, N)."""

    def __init__(self, dims: Dims, buffer: Buffer, weight: Tensor):
        self.buffer = buffer
        self.total = weight.cumsum(-1)
        self.rng = Random(dims, "tilt")

    def sample(self, n: int) -> Batch:
        """Draw `n` transitions per lane with replacement."""
        at = self.rng.uniform(n).double() * self.total[:, -1:]
        return self.buffer.read(torch.searchsorted(self.total, at).clamp(max=self.total.shape[1] - 1))

    def state_dict(self) -> dict:
        return {"total": self.total, "rng": self.rng.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.total.copy_(state["total"])
        self.rng.load_state_dict(state["rng"])


class TiltedDemos(WeightedSteps):
    """The demonstrations and compared segments, weighted by the reward `r`, which was fitted to the comparisons."""

    @torch.no_grad()
    def __init__(self, task: Task, r: RewardModel, cfg: TiltConfig):
        buffer, segments = task.given()
        reward = torch.cat([r(b.obs, b.act) for b in buffer.chunks(CHUNK)], 1)
        score = segments.totals(reward) / (r.cfg.tau * segments.length.clamp(min=1))
        self.weight = segment_weights(score, segments, cfg.share, cfg.mass)
        self.demo_mass = (self.weight * segments.demo).sum(-1)
        kept = (segments.rows / segments.length.clamp(min=1)).where(segments.length > 0, 1.0)
        self.absorbed = (self.weight * (1 - kept)).sum(-1)
        super().__init__(task.dims, buffer, segments.spread(self.weight, buffer.capacity))
