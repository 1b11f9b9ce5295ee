"""Demonstrations tilted by the comparisons: segments of all given data, weighted by a learned reward."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from aihf_control.core.errors import BadInput, at_least_one
from aihf_control.core.progress import named
from aihf_control.learning.bc import CloneConfig, clone
from aihf_control.learning.best import choose_by_lane
from aihf_control.learning.replay import Batch
from aihf_control.learning.reward_model import RewardConfig, RewardModel
from aihf_control.learning.segments import Segments
from aihf_control.learning.task import Task
from aihf_control.models.lanes import Random
from aihf_control.models.losses import bradley_terry
from aihf_control.models.networks import Policy

CHUNK = 20_000  # rows per call of the reward


@dataclasses.dataclass(frozen=True)
class TiltConfig:
    """Settings of demonstrations tilted by the comparisons."""

    share: float = 0.1
    """Share of the compared segments that count as the best, among which none is preferred. 0: do not tilt."""
    mass: float = 0.5
    """Probability of the demonstrations before tilting, if the comparisons are predicted well; with comparisons that
    cannot be predicted it is 1."""
    temperature: float = 0.1
    """T of the weights exp(R / T), in logits of the annotator."""
    updates: int = 1000
    """Gradient steps of the reward on the comparisons."""
    episodes: int = 2
    """Greedy episodes of each clone in which the clone of the tilted demonstrations is compared with the plain one."""
    far: float = 0.15
    """Factor of `sac.alpha` for a clone that is worth nothing beside the tilted demonstrations; it rises geometrically
    to 1 with what the clone is worth. 1: the policy is held as near to every clone. Not used with `sac.kl`."""

    def __post_init__(self):
        if not 0 <= self.share <= 1 or not 0 < self.mass < 1:
            raise BadInput(f"--tilt.share {self.share}, --tilt.mass {self.mass}: both must be between 0 and 1")
        at_least_one({"--tilt.updates": self.updates, "--tilt.episodes": self.episodes})
        if not 0 < self.far <= 1:
            raise BadInput(f"--tilt.far {self.far} must be above 0 and at most 1")
        if self.temperature <= 0:
            raise BadInput(f"--tilt.temperature {self.temperature} must be above 0")


def fit_and_test(task: Task, cfg: RewardConfig, updates: int) -> tuple[RewardModel, Tensor]:
    """Fit a reward to four fifths of the comparisons; return it and how far the last fifth supports it, (L, 1).

    That is the s in [0, 1] that maximises the likelihood of the held-out labels with logits s (R(win) - R(lose)): 0
    for labels that the reward cannot predict, for instance random ones, and for fewer than five comparisons.
    """
    comparisons, r = task.comparisons(), RewardModel(task, cfg)
    n = comparisons.n // 5
    if not n:
        return r, torch.zeros(task.dims.n_lanes, 1, device=task.dims.device)
    numbers = torch.arange(comparisons.n, device=task.dims.device).expand(task.dims.n_lanes, -1)
    r.fit(updates, numbers[:, n:])
    win, lose, weight = comparisons.read(numbers[:, :n])
    with torch.no_grad():
        margin = r.clip_returns(*win) - r.clip_returns(*lose)
    scales = torch.linspace(0, 1, 21, device=margin.device)
    loss = torch.stack([bradley_terry(s * margin, torch.zeros_like(margin), weight, cfg.mistakes) for s in scales])
    return r, scales[loss.argmin(0)][:, None]


def segment_weights(score: Tensor, segments: Segments, share: float, mass: float | Tensor) -> Tensor:
    """Return softmax(log q0 + min(score, cap)) over the segments, (L, M), for scores R / T.

    It is the q that maximises E_q min(score, cap) - KL(q || q0). q0 gives the demonstrations the probability `mass`, a
    number or (L, 1), divided by their lengths, and equal probabilities to the compared segments.
    The cap is the score of the last of the best `share` of the compared segments, so these, and a demonstration that
    is as good, count by q0 alone, and one outlier does not take all weight.
    """
    demo, clip = segments.demo > 0, segments.compared
    steps = segments.length * demo
    of_demo, of_clip = mass * steps / steps.sum(-1, keepdim=True), (1 - mass) / clip.sum(-1, keepdim=True)
    log_q0 = torch.where(demo, of_demo, of_clip).log()
    ranked = score.where(clip, -torch.inf).sort(-1, descending=True).values
    last = (share * clip.sum(-1, keepdim=True)).ceil().long() - 1
    capped = score.minimum(ranked.gather(1, last))
    return (log_q0 + capped).where(demo | clip, -torch.inf).softmax(-1)


class GivenDemos:
    """The demonstrations as they were given, with the methods of `TiltedDemos`."""

    def __init__(self, task: Task):
        self.sample = task.demos.sample
        self.absorbed = task.demo_absorbed

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass


class TiltedDemos:
    """Transitions of the demonstrations and compared segments, drawn by `segment_weights`.

    A segment's score is its return under a reward that is fitted to the comparisons alone, times the factor under which
    this reward predicts held-out labels best.
    """

    def __init__(self, task: Task, reward: RewardConfig, cfg: TiltConfig):
        self.r, self.scale = fit_and_test(task, reward, cfg.updates)
        self.buffer, self.segments = task.given()
        returns = self._returns(self.r, self.segments)
        score = self.scale * returns / cfg.temperature
        weight = segment_weights(score, self.segments, cfg.share, 1 - self.scale * (1 - cfg.mass))
        self.demo_mass = (weight * self.segments.demo).sum(-1)
        self.best, self.usual = (weight * returns).sum(-1), self._mean_of_compared(returns)
        self.absorbed = (weight * (1 - self.segments.rows / self.segments.length.clamp(min=1))).sum(-1)
        self.cumulated = self.segments.spread(weight, self.buffer.capacity).cumsum(-1)
        self.rng = Random(task.dims, "tilted demonstrations")

    @torch.no_grad()
    def _returns(self, r: RewardModel, segments: Segments) -> Tensor:
        """Return the segments' returns in logits of Bradley-Terry, (L, M)."""
        reward = torch.cat([r(steps.obs, steps.act) for steps in self.buffer.chunks(CHUNK)], 1)
        return segments.totals(reward) / (r.cfg.tau * segments.length.clamp(min=1))

    def _mean_of_compared(self, returns: Tensor) -> Tensor:
        clip = self.segments.compared.float()
        return (clip * returns).sum(-1) / clip.sum(-1)

    def worth(self, returns: Tensor) -> Tensor:
        """Return how much a policy with these learned returns, (L,), is worth: from 0 to 1, (L,).

        0 is the mean of the compared segments, 1 the mean of the tilted demonstrations. The less the reward predicts
        held-out comparisons, the nearer it is to 1.
        """
        share = (returns - self.usual) / (self.best - self.usual).clamp(min=1e-6)
        return 1 - self.scale.squeeze(-1) * (1 - share.clamp(0, 1))

    def sample(self, n: int) -> Batch:
        """Draw `n` transitions per lane with replacement."""
        at = self.rng.uniform(n).double() * self.cumulated[:, -1:]
        return self.buffer.read(torch.searchsorted(self.cumulated, at, right=True).clamp(max=self.buffer.capacity - 1))

    def state_dict(self) -> dict:
        return {"cumulated": self.cumulated, "absorbed": self.absorbed, "rng": self.rng.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.cumulated.copy_(state["cumulated"])
        self.absorbed.copy_(state["absorbed"])
        self.rng.load_state_dict(state["rng"])


def clone_demos(
    task: Task, cfg: CloneConfig, hidden: tuple[int, ...], reward: RewardConfig, tilt: TiltConfig
) -> tuple[Policy, TiltedDemos | GivenDemos, Tensor]:
    """Return a clone of the demonstrations, these, and the factor of the KL's weight for that clone, (L,).

    With a `tilt.share` the demonstrations are tilted by the comparisons. The clone is that of the given demonstrations
    in lanes where its greedy episodes return more, under the reward that is fitted to the comparisons, than those of
    the tilted clone: that of a mixture of gaits can fall. The factor is `tilt.far` for a clone that is worth nothing,
    so that the policy can leave it, and 1 for one that is worth as much as the demonstrations.
    """
    plain = clone(task, cfg, hidden)
    if not tilt.share or cfg.on != "demos":
        return plain, GivenDemos(task), torch.ones(task.dims.n_lanes, device=task.dims.device)
    demos = TiltedDemos(task, reward, tilt)
    with named("cloning tilted demonstrations"):
        tilted = clone(task, cfg, hidden, demos)
    with torch.no_grad(), named("comparing clones"):
        returns = [demos.r.clip_returns(*task.play_greedy(p, tilt.episodes)).mean(-1) for p in (plain, tilted)]
    chosen = choose_by_lane(returns[1] > returns[0], tilted, plain)
    return chosen, demos, tilt.far ** (1 - demos.worth(torch.maximum(*returns)))
