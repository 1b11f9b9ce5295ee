"""Segments of the given data as rows of one buffer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from aihf_control.core.types import LaneSample, Steps, Trajectory
from aihf_control.models.lanes import Dims

Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class Segments:
    """Segments of each lane as rows of a buffer, each (L, M); a lane with fewer is padded by segments of length 0."""

    first: Tensor
    rows: Tensor
    length: Tensor
    demo: Tensor
    """1 for a segment of a demonstration."""

    @property
    def compared(self) -> Tensor:
        """Whether each is a segment of the comparisons, (L, M)."""
        return (self.length > 0) & (self.demo == 0)

    def totals(self, per_row: Tensor) -> Tensor:
        """Return the sum of a quantity (L, N) over the rows of each segment, (L, M)."""
        sums = F.pad(per_row.double().cumsum(-1), (1, 0))
        return (sums.gather(1, self.first + self.rows) - sums.gather(1, self.first)).float()

    def spread(self, weight: Tensor, n_rows: int) -> Tensor:
        """Return the weight of each row, (L, N), if a segment's weight (L, M) is divided among its steps."""
        share = (weight / self.length.clamp(min=1)).double()
        edges = torch.zeros(len(weight), n_rows + 1, dtype=torch.double, device=weight.device)
        edges.scatter_add_(1, self.first, share).scatter_add_(1, self.first + self.rows, -share)
        return edges[:, :-1].cumsum(-1).clamp(min=0)


def given_steps(sample: LaneSample) -> list[Steps]:
    """Return a lane's demonstrations and then the transitions inside its compared segments."""
    clips = [sample.clip_steps] if sample.clip_steps else []
    return [*(t.steps() for t in sample.demos), *clips]


def given_segments(dims: Dims, samples: Sequence[LaneSample]) -> Segments:
    """Return the segments of `given_steps`; demonstrations are cut into windows as long as a compared segment."""
    return _stack(dims, [_segments_of(sample) for sample in samples])


def _stack(dims: Dims, tables: Sequence[Array]) -> Segments:
    width = max(len(table) for table in tables)
    padded = np.stack([np.pad(table, ((0, width - len(table)), (0, 0))) for table in tables]).astype(np.int64)
    first, rows, length, demo = torch.as_tensor(padded, device=dims.device).unbind(-1)
    return Segments(first, rows, length, demo)


def demo_windows(dims: Dims, demos: Sequence[Sequence[Trajectory]], window: int) -> Segments:
    """Return each lane's demonstrations, cut into windows of `window` rows, as rows of their buffer; 0: whole ones."""
    tables = []
    for lane in demos:
        sizes = [len(t.steps().act) for t in lane]
        edges = np.cumsum([0, *sizes])
        cuts = [np.arange(at, at + n, window or n) for at, n in zip(edges, sizes, strict=False)]
        first = np.concatenate(cuts)
        last = np.concatenate([[*cut[1:], at + n] for cut, at, n in zip(cuts, edges, sizes, strict=False)])
        tables.append(np.stack([first, last - first, last - first, np.ones_like(first)], 1))
    return _stack(dims, tables)


def _segments_of(sample: LaneSample) -> Array:
    """Return first row, rows, length, and whether of a demonstration, of each segment of a lane, (M, 4)."""
    assert sample.segments is not None, "only comparisons have segments"
    table, at = [], 0
    for t in sample.demos:
        n, window = len(t.steps().act), max(1, int(sample.segments[:, 2].max()) // t.every)
        for first in range(0, n, window):
            rows = min(window, n - first)
            table.append((at + first, rows, window if t.terminated else rows, 1))
        at += n
    clips = np.pad(sample.segments + np.array([at, 0, 0]), ((0, 0), (0, 1)))
    return np.concatenate([table, clips])
