"""Lanes: independent runs, one a seed, that share every tensor operation.

The first axis of every tensor is the lane. A lane has its own seed, and with it its own stream of random numbers for
each purpose, so that what a lane draws does not depend on how many lanes run beside it.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Dims:
    """What a learner needs to know of its task to build its parts: the lanes, the sizes, where and how to compute."""

    seeds: tuple[int, ...]
    n_obs: int
    n_act: int
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))
    products: torch.dtype = torch.float32
    """What the factors of the inner matrix products are rounded to: float32 (not at all) or bfloat16. Everything is
    stored in float32."""

    @property
    def n_lanes(self) -> int:
        return len(self.seeds)


class Random:
    """A stream of random numbers for each lane, named by its seed and by what it is for.

    `Random(dims, "critic")` of lane seed 3 gives the same numbers in every run and beside any other lanes. With several
    purposes a lane has a stream for each, side by side.
    """

    def __init__(self, dims: Dims, *purposes: str):
        self.generators = [
            torch.Generator(dims.device).manual_seed(_seed_of(seed, purpose))
            for seed in dims.seeds
            for purpose in purposes
        ]
        self.device = dims.device

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, (lanes, *shape)."""
        return torch.stack([torch.randn(shape, generator=g, device=self.device) for g in self.generators])

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), (lanes, *shape)."""
        return torch.stack([torch.rand(shape, generator=g, device=self.device) for g in self.generators])

    def integers(self, high: Tensor, n: int) -> Tensor:
        """(lanes, n) integers, those of lane i uniform in 0 .. high[i] - 1."""
        return (self.uniform(n).double() * high[:, None]).long().minimum(high[:, None] - 1)

    def state_dict(self) -> dict[str, Tensor]:
        return {str(i): g.get_state() for i, g in enumerate(self.generators)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for i, g in enumerate(self.generators):
            g.set_state(state[str(i)])


def _seed_of(seed: int, purpose: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:7], "little")


def per_lane(values: Sequence[float] | Tensor | float, dims: Dims) -> Tensor:
    """One float a lane, (lanes,), from a number or a sequence of them."""
    return torch.as_tensor(values, dtype=torch.float32, device=dims.device).expand(dims.n_lanes).clone()
