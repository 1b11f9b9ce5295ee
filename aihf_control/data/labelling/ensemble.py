"""An ensemble of small reward networks fitted to answers, for active query selection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from aihf_control.data.labelling.segments import Clip, Row, SegmentPool
from aihf_control.models.lanes import Dims
from aihf_control.models.losses import bradley_terry, clip_return
from aihf_control.models.networks import RewardNet

Array = np.ndarray
MEMBERS = 5
UPDATES, BATCH, STEPS_SAMPLED = 200, 32, 16  # per round: Adam steps, pairs per batch, steps sampled per segment
TAU = 0.02  # reward difference per step that equals one logit, as in the methods


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
