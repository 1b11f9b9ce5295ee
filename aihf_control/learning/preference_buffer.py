"""The comparisons that the lanes were given, lanes first, and draws of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from aihf_control.core.types import Clips, Preferences
from aihf_control.models.lanes import Dims, Random

CLIP_STEPS = 100  # steps of a clip that one draw looks at, at most


class PreferenceBuffer:
    """N comparisons a lane of clips of K steps.

    Of clips longer than `CLIP_STEPS` every few steps stand for all, from a random one on: methods look at means over a
    clip's steps, so that a gradient step sees many pairs of whole trajectories for the price of one.
    """

    def __init__(self, dims: Dims, lanes: Sequence[Preferences]):
        """`lanes`: one lane's comparisons each, in arrays."""

        def stack(sides: list[Clips]) -> Clips:
            return Clips(*(self._tensor(np.stack(column)) for column in zip(*sides, strict=True)))

        self.dims = dims
        self.win, self.lose = stack([p.win for p in lanes]), stack([p.lose for p in lanes])
        self.weight = self._tensor(np.stack([p.weight for p in lanes]))
        self.n, self.length = self.win.real.shape[1:]
        self.stride = -(-self.length // CLIP_STEPS)
        self.rng = Random(dims, "pairs")

    def draw(self, n_steps: int, among: Tensor | None = None) -> Preferences:
        """Comparisons a lane, uniformly with replacement, as many as give `n_steps` steps to look at.

        `among` (L, m) are those to draw from, all if not given. Tensors: obs (L, n, K, O), act (L, n, K, A), real
        (L, n, K), weight (L, n).
        """
        n = max(1, n_steps // (2 * (self.length // self.stride)))
        index = self.rng.integers(self._full(self.n if among is None else among.shape[1]), n)
        offset = self.rng.integers(self._full(self.stride), 1)
        return self._thinned(index if among is None else among.gather(1, index), offset)

    def every(self) -> Preferences:
        """All of them, once."""
        return self.at(torch.arange(self.n, device=self.dims.device).expand(self.dims.n_lanes, -1))

    def at(self, index: Tensor) -> Preferences:
        """Those of the numbers `index` (L, n)."""
        return self._thinned(index, torch.zeros(len(index), 1, dtype=torch.long, device=index.device))

    def _thinned(self, index: Tensor, offset: Tensor) -> Preferences:
        """The comparisons `index` (L, n), of their clips every `stride`-th step from `offset` (L, 1) on."""
        lane = torch.arange(self.dims.n_lanes, device=self.dims.device)[:, None]
        steps = torch.arange(self.length // self.stride, device=self.dims.device) * self.stride + offset
        at = lane[..., None], index[..., None], steps[:, None]
        win, lose = (Clips(*(x[at] for x in side)) for side in (self.win, self.lose))
        return Preferences(win, lose, self.weight[lane, index])

    def _full(self, value: int) -> Tensor:
        return torch.full((self.dims.n_lanes,), value, device=self.dims.device)

    def _tensor(self, x: np.ndarray) -> Tensor:
        return torch.as_tensor(x, dtype=torch.float32, device=self.dims.device)
