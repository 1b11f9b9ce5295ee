"""Active query selection: choose the pairs to label next from the answers so far (B-Pref, arXiv 2111.03026, 4.2).

Each round chooses among ten times as many candidates. No function reads a true reward: only states, actions, answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial.distance import cdist
from torch import Tensor

from aihf_control.data.labelling.segments import Clip, Row, SegmentPool
from aihf_control.models.lanes import Dims
from aihf_control.models.losses import bradley_terry, clip_return
from aihf_control.models.networks import RewardNet

Array = np.ndarray
CANDIDATES = 10
ROUNDS = 5
MEMBERS = 5
UPDATES, BATCH, STEPS_SAMPLED = 200, 32, 16  # per round: Adam steps, pairs per batch, steps sampled per segment
TAU = 0.02  # reward difference per step that equals one logit, as in the methods


def choose_pairs(
    query: str,
    segment_pool: SegmentPool,
    candidates: Sequence[tuple[Clip, Clip]],
    rows: Sequence[Row],
    n: int,
    rng: np.random.Generator,
) -> list[int]:
    """Choose `n` candidates, or all if there are fewer; return their indices, best first.

    "disagreement": largest spread of the members' probabilities. "entropy": largest mean entropy of the members.
    "coverage": greatest distance from all pairs asked before, one after the other (k-center).
    """
    if query == "coverage":
        asked = [((row[0], row[1]), (row[2], row[3])) for row in rows]
        return select_farthest(embed_pairs(segment_pool, candidates), embed_pairs(segment_pool, asked), n)
    net = fit_ensemble(segment_pool, rows, rng)
    value = segment_logits(net, segment_pool, sorted({clip for pair in candidates for clip in pair}))
    logits = np.stack([value[a] - value[b] for a, b in candidates], 1)
    score = disagreement(logits) if query == "disagreement" else entropy(logits)
    return np.argsort(-score, kind="stable")[:n].tolist()


def disagreement(logits: Array) -> Array:
    """Compute the standard deviation (N,) over members of the probabilities with logits (M, N)."""
    return _sigmoid(logits).std(0)


def entropy(logits: Array) -> Array:
    """Compute the mean entropy (N,) over members, in nats, from logits (M, N)."""
    p = _sigmoid(logits)
    softplus = np.logaddexp(0, logits)
    return (softplus - p * logits).mean(0)


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1 + np.tanh(0.5 * x))


# ------------------------------------------------------------------------------------------------------------ ensemble


def fit_ensemble(segment_pool: SegmentPool, rows: Sequence[Row], rng: np.random.Generator) -> RewardNet:
    """Fit an ensemble of small reward networks to the answers by Bradley-Terry; one lane is one member.

    Members differ in their initial weights and in the batches that they draw.
    """
    pool, table = segment_pool.pool, np.array(rows)
    dims = Dims(tuple(range(MEMBERS)), pool[0].obs.shape[1], pool[0].act.shape[1])
    net = RewardNet(dims, (64, 64), alive=0.0, bound=2.0)
    obs = np.concatenate([t.obs[:-1] for t in pool])
    net.units.set(*(torch.as_tensor(x).expand(MEMBERS, -1) for x in (obs.mean(0), obs.std(0).clip(1e-3))))
    opt = torch.optim.Adam(net.parameters(), 1e-3, weight_decay=1e-3)
    step_table = StepTable(
        obs, np.concatenate([t.act for t in pool]), np.array([len(t) for t in pool]), segment_pool.length
    )
    for _ in range(UPDATES):
        drawn = table[rng.integers(len(table), size=(MEMBERS, BATCH))]
        clips = np.concatenate([drawn[..., :2], drawn[..., 2:4]], 1).astype(int)
        win, lose = clip_return(*step_table.sample_rewards(net, clips, rng), TAU).chunk(2, 1)
        opt.zero_grad()
        bradley_terry(win, lose, torch.as_tensor(drawn[..., 4], dtype=torch.float32)).sum().backward()
        opt.step()
    return net.requires_grad_(False)


class StepTable(NamedTuple):
    """Steps of all episodes concatenated, obs (T, O) and act (T, A), for evaluating segments on a sample of steps."""

    obs: Array
    act: Array
    lengths: Array
    clip: int

    def sample_rewards(self, net: RewardNet, clips: Array, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Compute rewards (M, B, S) of S random steps of segments (M, B, 2), and a mask that is 0 after termination."""
        episode, start = clips[..., :1], clips[..., 1:]
        t = start + rng.integers(self.clip, size=(*clips.shape[:2], STEPS_SAMPLED))
        last = self.lengths[episode] - 1
        index = ((self.lengths.cumsum() - self.lengths)[episode] + np.minimum(t, last)).reshape(len(clips), -1)
        reward = net(torch.as_tensor(self.obs[index]), torch.as_tensor(self.act[index]))
        return reward.view(t.shape), torch.as_tensor((t <= last).astype(np.float32))


def segment_logits(net: RewardNet, segment_pool: SegmentPool, clips: Sequence[Clip]) -> dict[Clip, Array]:
    """Compute each member's return of each segment in logits, (M,) per segment."""
    sums = {}
    for i in sorted({i for i, _ in clips}):
        episode = segment_pool.pool[i]
        obs, act = (torch.as_tensor(x).expand(MEMBERS, *x.shape) for x in (episode.obs[:-1], episode.act))
        sums[i] = np.pad(net(obs, act).double().numpy().cumsum(1), ((0, 0), (1, 0)))
    unit = TAU * segment_pool.length
    return {(i, t): (sums[i][:, t : t + segment_pool.length + 1][:, -1] - sums[i][:, t]) / unit for i, t in clips}


# ------------------------------------------------------------------------------------------------------------ coverage


def embed_pairs(segment_pool: SegmentPool, pairs: Sequence[tuple[Clip, Clip]]) -> Array:
    """Embed pairs as points (N, D) that do not depend on the order inside a pair: sum and absolute difference."""
    steps = [np.hstack([t.obs[:-1], t.act]) for t in segment_pool.pool]
    all_steps = np.concatenate(steps)
    mean, std = all_steps.mean(0), all_steps.std(0).clip(1e-3)

    def point(clip: Clip) -> Array:
        inside = (steps[clip[0]][clip[1] : clip[1] + segment_pool.length] - mean) / std
        return np.concatenate([inside.mean(0), inside.std(0), [len(inside) / segment_pool.length]])

    points = {clip: point(clip) for clip in {clip for pair in pairs for clip in pair}}
    return np.stack([np.concatenate([points[a] + points[b], abs(points[a] - points[b])]) for a, b in pairs])


def select_farthest(points: Array, taken: Array, n: int) -> list[int]:
    """Select `n` of the points (N, D), each the farthest from `taken` (T, D) and from those selected before it."""
    distance = cdist(points, taken).min(1)
    chosen = []
    for _ in range(min(n, len(points))):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=1))
        distance[chosen] = -1
    return chosen
