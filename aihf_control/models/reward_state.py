"""Learned rewards as plain data, so that the reward of any method can be saved and loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from aihf_control.core.errors import BadInput
from aihf_control.models.lanes import Dims
from aihf_control.models.networks import RewardFn, RewardNet


@dataclasses.dataclass(frozen=True)
class RewardState:
    """A learned reward as data: its kind, its tensors (lanes first), and the settings that rebuild it."""

    kind: str
    """A name in `register`; "network" is this package's `RewardNet`."""
    tensors: dict[str, Tensor]
    settings: dict[str, Any]
    """JSON values."""


class Reward(Protocol):
    """A learned reward that a method yields: (L, B, O), (L, B, A) to (L, B)."""

    def __call__(self, obs: Tensor, act: Tensor, /) -> Tensor: ...

    def export(self) -> RewardState | None:
        """Return the data that rebuilds the reward, or None if it is not to be saved."""


Builder = Callable[[RewardState, Dims], RewardFn]
_BUILDERS: dict[str, Builder] = {}


def register(kind: str, build: Builder) -> None:
    """Register the function that rebuilds rewards of a kind. A method with a reward of its own does so on import."""
    _BUILDERS[kind] = build


def rebuild(state: RewardState, dims: Dims) -> RewardFn:
    """Rebuild a reward from its data. Raises BadInput for an unknown kind and for data that do not fit."""
    if state.kind not in _BUILDERS:
        known = ", ".join(sorted(_BUILDERS))
        raise BadInput(f"unknown kind of reward {state.kind!r}; known are {known}; import the method that registers it")
    return _BUILDERS[state.kind](state, dims)


def join_lanes(states: Sequence[RewardState]) -> RewardState:
    """Concatenate the lanes of rewards of one kind and the same settings."""
    first = states[0]
    tensors = {name: torch.cat([torch.as_tensor(s.tensors[name]) for s in states]) for name in first.tensors}
    return dataclasses.replace(first, tensors=tensors)


def of_network(net: RewardNet) -> RewardState:
    """Return the data of a `RewardNet`."""
    return RewardState(
        "network",
        {name: t.detach().cpu() for name, t in net.state_dict().items()},
        {"bound": net.bound, "span": net.span},
    )
