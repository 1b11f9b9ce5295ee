"""Lanes: independent runs, one per seed, that share every tensor operation.

The lane is the first axis of every tensor. Each lane has its own random stream per purpose, derived from its seed, so
its numbers do not depend on the other lanes.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Dims:
    """Seeds of the lanes, sizes, device and matmul precision, from which networks are built."""

    seeds: tuple[int, ...]
    n_obs: int
    n_act: int
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))
    products: torch.dtype = torch.float32
    """Type to which the factors of matrix products are rounded: float32 (no rounding) or bfloat16. Everything is
    stored in float32."""

    @property
    def n_lanes(self) -> int:
        return len(self.seeds)

    def tensor(self, x: Any) -> Tensor:
        """Convert numbers to a float32 tensor on the device."""
        return torch.as_tensor(x, dtype=torch.float32, device=self.device)


class Random:
    """Random streams, one per lane and purpose, each seeded by the lane's seed and the name of the purpose.

    `Random(dims, "critic")` returns the same numbers for a lane of seed 3 in every run, whatever the other lanes are.
    Several purposes give several streams per lane, in adjacent rows.
    """

    def __init__(self, dims: Dims, *purposes: str):
        self.generators = [
            torch.Generator(dims.device).manual_seed(_seed_of(seed, purpose))
            for seed in dims.seeds
            for purpose in purposes
        ]
        self.device = dims.device

    def normal(self, *shape: int) -> Tensor:
        """Draw standard normal numbers, (lanes, *shape)."""
        return torch.stack([torch.randn(shape, generator=g, device=self.device) for g in self.generators])

    def uniform(self, *shape: int) -> Tensor:
        """Draw uniform numbers in [0, 1), (lanes, *shape)."""
        return torch.stack([torch.rand(shape, generator=g, device=self.device) for g in self.generators])

    def integers(self, high: Tensor, n: int) -> Tensor:
        """Draw integers, (lanes, n), uniform in 0 .. high[i] - 1 for lane i."""
        return (self.uniform(n).double() * high[:, None]).long().minimum(high[:, None] - 1)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the generators' states."""
        return {str(i): g.get_state() for i, g in enumerate(self.generators)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the generators' states."""
        for i, g in enumerate(self.generators):
            g.set_state(state[str(i)])


def _seed_of(seed: int, purpose: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:7], "little")
