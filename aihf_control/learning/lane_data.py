"""The data of all lanes as tensors with the lane as first axis: demonstrations, segments and preferences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from aihf_control.core.types import Steps
from aihf_control.data.dataset import Dataset
from aihf_control.learning.preference_buffer import PreferenceBuffer
from aihf_control.learning.replay import Buffer
from aihf_control.learning.segments import Segments, given_segments, given_steps
from aihf_control.models.lanes import Dims, Random

SMALLEST_STD = 1e-3  # observations that vary less are not normalised


class LaneData:
    """Each lane's sample of a dataset.

    `demos` and `clips` hold the transitions of the demonstrations and of the compared segments, `preferences` the
    comparisons; each is None if a lane has none.
    """

    def __init__(self, dataset: Dataset, dims: Dims, horizon: int, n_demos: int, n_pairs: int):
        samples = [dataset.draw(seed, n_demos, n_pairs) for seed in dims.seeds]
        pairs = [sample.pairs for sample in samples if sample.pairs]
        self.dims = dims
        self.trajectories = [sample.demos for sample in samples]
        self.demos = fill_buffer(dims, "demos", [[t.steps() for t in lane] for lane in self.trajectories])
        self.clips = fill_buffer(dims, "clips", [[s.clip_steps] if s.clip_steps else [] for s in samples])
        self.preferences = PreferenceBuffer(dims, pairs) if pairs else None
        self._samples, self._dataset, self._sizes = samples, dataset, (n_demos, n_pairs)
        self.right = np.array([sample.right for sample in samples])
        endings = [[(len(t), t.terminated) for t in lane] for lane in self.trajectories]
        self.demo_absorbed = dims.tensor([absorbed_share(lane, horizon) for lane in endings])

    def given(self) -> tuple[Buffer, Segments]:
        """Return a buffer with the transitions of the demonstrations and compared segments, and their segments."""
        buffer = fill_buffer(self.dims, "given", [given_steps(sample) for sample in self._samples])
        assert buffer, "every lane has demonstrations"
        return buffer, given_segments(self.dims, self._samples)

    def demo_ends(self) -> Tensor:
        """Return for each row of `demos` the last row of its episode, (L, N); 0 for rows that a lane does not have."""
        assert self.demos, "every lane has demonstrations"
        ends = np.zeros((self.dims.n_lanes, self.demos.capacity), np.int64)
        for lane, trajectories in enumerate(self.trajectories):
            lengths = [len(t.steps().obs) for t in trajectories]
            ends[lane, : sum(lengths)] = np.repeat(np.cumsum(lengths) - 1, lengths)
        return torch.as_tensor(ends, device=self.dims.device)

    def judge(self) -> Tensor:
        """Return the judge's opinion of each lane's comparisons, (L, N, m)."""
        return self.dims.tensor(np.stack([self._dataset.judge(seed, *self._sizes) for seed in self.dims.seeds]))

    def compute_obs_stats(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the observations in `demos` and `clips`, each (L, O).

        The standard deviation of a constant observation is returned as 1.
        """
        rows = [self._observations(lane) for lane in range(self.dims.n_lanes)]
        std = torch.stack([r.std(0) if len(r) > 1 else torch.zeros_like(r[0]) for r in rows])
        return torch.stack([r.mean(0) for r in rows]), std.where(std > SMALLEST_STD, 1.0)

    def _observations(self, lane: int) -> Tensor:
        """Return all observations of a lane, (n, O)."""
        buffers = [b for b in (self.demos, self.clips) if b]
        return torch.cat([b.data[lane, : int(b.count[lane]), : self.dims.n_obs] for b in buffers])

    def streams(self) -> dict[str, Random]:
        """Return the random streams of the buffers by name."""
        buffers = {"demos": self.demos, "clips": self.clips, "pairs": self.preferences}
        return {name: buffer.rng for name, buffer in buffers.items() if buffer}


def fill_buffer(dims: Dims, name: str, lanes: Sequence[Sequence[Steps]]) -> Buffer | None:
    """Return a buffer with each lane's transitions, or None if a lane has none. `name` seeds its random stream."""
    sizes = [sum(len(steps.obs) for steps in lane) for lane in lanes]
    if not min(sizes):
        return None
    buffer = Buffer(dims, max(sizes), name)
    for i, lane in enumerate(lanes):
        for steps in lane:
            buffer.fill(i, *map(dims.tensor, steps))
    return buffer


def absorbed_share(endings: Iterable[tuple[int, bool]], horizon: int) -> float:
    """Return the share of absorbing steps in episodes (length, terminated) that are padded to the horizon."""
    endings = list(endings)
    absorbing = sum(horizon - length for length, terminated in endings if terminated)
    return absorbing / max(1, absorbing + sum(length for length, _ in endings))
