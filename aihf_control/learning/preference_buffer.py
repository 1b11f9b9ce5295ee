"""The given comparisons of all lanes as tensors, and samples of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from aihf_control.core.types import Clips, Preferences
from aihf_control.models.lanes import Dims, Random

MAX_STEPS = 100  # steps of a segment that are read; a longer one is subsampled


class PreferenceBuffer:
    """N comparisons per lane of segments of K steps.

    Segments longer than `MAX_STEPS` are subsampled with a constant stride from a random first step. Methods use means
    over the steps of a segment, so a gradient step can cover many pairs of whole trajectories at the same cost.
    """

    def __init__(self, dims: Dims, lanes: Sequence[Preferences]):
        """Stack the comparisons of each lane, which are numpy arrays of the same shapes."""

        def stack(sides: list[Clips]) -> Clips:
            return Clips(*(dims.tensor(np.stack(column)) for column in zip(*sides, strict=True)))

        self.dims = dims
        self.win, self.lose = stack([p.win for p in lanes]), stack([p.lose for p in lanes])
        self.weight = dims.tensor(np.stack([p.weight for p in lanes]))
        self.n, self.length = self.win.real.shape[1:]
        self.stride = -(-self.length // MAX_STEPS)
        self.rng = Random(dims, "pairs")

    def draw(self, n_steps: int, among: Tensor | None = None) -> Preferences:
        """Draw comparisons uniformly with replacement, as many per lane as have `n_steps` steps in total.

        `among` (L, m): numbers of the comparisons to draw from, all by default. Returns obs (L, n, K, O),
        act (L, n, K, A), real (L, n, K), weight (L, n).
        """
        n = max(1, n_steps // (2 * (self.length // self.stride)))
        index = self.rng.integers(self._full(self.n if among is None else among.shape[1]), n)
        offset = self.rng.integers(self._full(self.stride), 1)
        return self._subsample(index if among is None else among.gather(1, index), offset)

    def read_all(self) -> Preferences:
        """Return all comparisons once."""
        return self.read(torch.arange(self.n, device=self.dims.device).expand(self.dims.n_lanes, -1))

    def read(self, index: Tensor) -> Preferences:
        """Return the comparisons numbered `index`, (L, n)."""
        return self._subsample(index, torch.zeros(len(index), 1, dtype=torch.long, device=index.device))

    def _subsample(self, index: Tensor, offset: Tensor) -> Preferences:
        """Return the comparisons `index` (L, n) with every `stride`-th step of their segments from `offset` (L, 1)."""
        lane = torch.arange(self.dims.n_lanes, device=self.dims.device)[:, None]
        steps = torch.arange(self.length // self.stride, device=self.dims.device) * self.stride + offset
        row = (lane * self.n + index)[..., None] * self.length + steps[:, None]
        win, lose = (Clips(*(_rows(x, row) for x in side)) for side in (self.win, self.lose))
        return Preferences(win, lose, self.weight[lane, index])

    def _full(self, value: int) -> Tensor:
        return torch.full((self.dims.n_lanes,), value, device=self.dims.device)


def _rows(x: Tensor, row: Tensor) -> Tensor:
    """Return the rows `row` of x (L, N, K, ...), whose first three axes are counted as one."""
    return x.flatten(0, 2).index_select(0, row.flatten()).view(*row.shape, *x.shape[3:])
