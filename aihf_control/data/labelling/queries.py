"""Which pairs to ask about next, given the answers so far: B-Pref's ways of choosing (arXiv 2111.03026, section 4.2).

Each round chooses among ten times as many candidates. None of this sees a true reward: only states, actions, answers.
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
UPDATES, BATCH, GLIMPSES = 200, 32, 16  # of the ensemble a round: steps of Adam, pairs, steps that stand for a clip
TAU = 0.02  # difference in reward a step that counts as one logit, as in the methods


def choose(
    query: str,
    material: SegmentPool,
    candidates: Sequence[tuple[Clip, Clip]],
    rows: Sequence[Row],
    n: int,
    rng: np.random.Generator,
) -> list[int]:
    """The places of `n` of the candidates, or of all if they are fewer, best first.

    "disagreement": the ensemble's probabilities differ most. "entropy": its members doubt most, on average.
    "coverage": the farthest, one after the other, from all that was asked (k-center).
    """
    if query == "coverage":
        asked = [((row[0], row[1]), (row[2], row[3])) for row in rows]
        return farthest(embedded(material, candidates), embedded(material, asked), n)
    net = ensemble(material, rows, rng)
    worth = returns(net, material, sorted({clip for pair in candidates for clip in pair}))
    logits = np.stack([worth[a] - worth[b] for a, b in candidates], 1)
    score = disagreement(logits) if query == "disagreement" else entropy(logits)
    return np.argsort(-score, kind="stable")[:n].tolist()


def disagreement(logits: Array) -> Array:
    """Standard deviation (N,) over the members of the probability whose logits (M, N) these are."""
    return _sigmoid(logits).std(0)


def entropy(logits: Array) -> Array:
    """Mean over the members of each one's entropy, logits (M, N) to (N,) in nats."""
    p = _sigmoid(logits)
    softplus = np.logaddexp(0, logits)
    return (softplus - p * logits).mean(0)


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1 + np.tanh(0.5 * x))


# ------------------------------------------------------------------------------------------------------------ ensemble


def ensemble(material: SegmentPool, rows: Sequence[Row], rng: np.random.Generator) -> RewardNet:
    """A small reward a lane, convert to the answers by Bradley-Terry: each its own start, each its own draws."""
    pool, table = material.pool, np.array(rows)
    dims = Dims(tuple(range(MEMBERS)), pool[0].obs.shape[1], pool[0].act.shape[1])
    net = RewardNet(dims, (64, 64), alive=0.0, bound=2.0)
    obs = np.concatenate([t.obs[:-1] for t in pool])
    net.units.set(*(torch.as_tensor(x).expand(MEMBERS, -1) for x in (obs.mean(0), obs.std(0).clip(1e-3))))
    opt = torch.optim.Adam(net.parameters(), 1e-3, weight_decay=1e-3)
    glimpses = Glimpses(obs, np.concatenate([t.act for t in pool]), np.array([len(t) for t in pool]), material.length)
    for _ in range(UPDATES):
        drawn = table[rng.integers(len(table), size=(MEMBERS, BATCH))]
        clips = np.concatenate([drawn[..., :2], drawn[..., 2:4]], 1).astype(int)
        win, lose = clip_return(*glimpses.seen(net, clips, rng), TAU).chunk(2, 1)
        opt.zero_grad()
        bradley_terry(win, lose, torch.as_tensor(drawn[..., 4], dtype=torch.float32)).sum().backward()
        opt.step()
    return net.requires_grad_(False)


class Glimpses(NamedTuple):
    """The steps of all episodes one after the other, obs (T, O) and act (T, A), to look at clips in a few of theirs."""

    obs: Array
    act: Array
    lengths: Array
    clip: int

    def seen(self, net: RewardNet, clips: Array, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Rewards (M, B, GLIMPSES) of random steps of clips (M, B, 2), and which of them are no absorbing ones."""
        episode, start = clips[..., :1], clips[..., 1:]
        t = start + rng.integers(self.clip, size=(*clips.shape[:2], GLIMPSES))
        last = self.lengths[episode] - 1
        where = ((self.lengths.cumsum() - self.lengths)[episode] + np.minimum(t, last)).reshape(len(clips), -1)
        reward = net(torch.as_tensor(self.obs[where]), torch.as_tensor(self.act[where]))
        return reward.view(t.shape), torch.as_tensor((t <= last).astype(np.float32))


def returns(net: RewardNet, material: SegmentPool, clips: Sequence[Clip]) -> dict[Clip, Array]:
    """What each clip is worth to each member, in logits: (M,) for each."""
    sums = {}
    for i in sorted({i for i, _ in clips}):
        episode = material.pool[i]
        obs, act = (torch.as_tensor(x).expand(MEMBERS, *x.shape) for x in (episode.obs[:-1], episode.act))
        sums[i] = np.pad(net(obs, act).double().numpy().cumsum(1), ((0, 0), (1, 0)))
    unit = TAU * material.length
    return {(i, t): (sums[i][:, t : t + material.length + 1][:, -1] - sums[i][:, t]) / unit for i, t in clips}


# ------------------------------------------------------------------------------------------------------------ coverage


def embedded(material: SegmentPool, pairs: Sequence[tuple[Clip, Clip]]) -> Array:
    """Points (N, D), one a pair, the same whichever of its clips comes first: what they have in common and apart."""
    steps = [np.hstack([t.obs[:-1], t.act]) for t in material.pool]
    everything = np.concatenate(steps)
    mean, std = everything.mean(0), everything.std(0).clip(1e-3)

    def point(clip: Clip) -> Array:
        inside = (steps[clip[0]][clip[1] : clip[1] + material.length] - mean) / std
        return np.concatenate([inside.mean(0), inside.std(0), [len(inside) / material.length]])

    points = {clip: point(clip) for clip in {clip for pair in pairs for clip in pair}}
    return np.stack([np.concatenate([points[a] + points[b], abs(points[a] - points[b])]) for a, b in pairs])


def farthest(points: Array, taken: Array, n: int) -> list[int]:
    """Places of `n` points (N, D), each the farthest from the `taken` ones (T, D) and from those before it."""
    distance = cdist(points, taken).min(1)
    chosen = []
    for _ in range(min(n, len(points))):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=1))
        distance[chosen] = -1
    return chosen
