"""A feed-forward policy of any origin: what it does, its conversion from and to a lane, and its units."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aihf_control.core.errors import BadInput
from aihf_control.models.lanes import Dims
from aihf_control.models.networks import LOG_STD_MAX, LOG_STD_MIN, Policy
from aihf_control.models.vecnormalize import ObsStatistics

Array = np.ndarray
Layer = tuple[Tensor, Tensor]
ACTIVATIONS = {"ReLU": torch.relu, "Tanh": torch.tanh, "ELU": torch.nn.functional.elu}
MAX_CLIP = 100.0  # of observations, to be kept by layers: a float32 sum of an observation and more loses its digits


@dataclasses.dataclass(frozen=True)
class Expert:
    """A feed-forward policy with actions in (-1, 1): layers of (weight (out, in), bias), the last one for the mean."""

    layers: list[Layer]
    log_std: Layer | None
    """Layer from the last hidden units to the log standard deviation; with an empty weight if that is a constant; None
    for a deterministic policy."""
    squashed: bool
    """Whether actions are tanh of the mean (SAC, TQC, TD3, DDPG), or the mean clipped to -1 and 1 (PPO, A2C)."""
    activation: str

    @property
    def n_obs(self) -> int:
        return self.layers[0][0].shape[1]

    @property
    def n_act(self) -> int:
        return self.layers[-1][0].shape[0]

    def act(self, obs: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return actions (..., A) in (-1, 1) for observations (..., O); greedy ones without noise."""
        h = self.features(obs)
        mean = torch.nn.functional.linear(h, *self.layers[-1])
        if noise is not None and self.log_std is not None:
            weight, bias = self.log_std
            log_std = torch.nn.functional.linear(h, weight, bias) if weight.numel() else bias
            mean = mean + log_std.clamp(LOG_STD_MIN, LOG_STD_MAX).exp() * noise
        return mean.tanh() if self.squashed else mean.clamp(-1, 1)

    def features(self, obs: Tensor) -> Tensor:
        """Return the output of the last hidden layer, (..., H), for observations (..., O)."""
        h = obs
        for weight, bias in self.layers[:-1]:
            h = ACTIVATIONS[self.activation](torch.nn.functional.linear(h, weight, bias))
        return h


def expert_of(policy: Policy, lane: int) -> Expert:
    """Return one lane of a policy, with its normalisation of observations folded into the first layer."""

    def pair(layer) -> tuple[Tensor, Tensor]:
        return layer.weight[lane].detach().cpu().T.contiguous(), layer.bias[lane, 0].detach().cpu().clone()

    layers = [*map(pair, policy.body.layers), pair(policy.mean)]
    layers[0] = _fold(*layers[0], policy.units.mean[lane].cpu(), policy.units.std[lane].cpu())
    return Expert(layers, pair(policy.log_std), squashed=True, activation="ReLU")


def policy_of(expert: Expert, dims: Dims) -> Policy:
    """Return a policy that acts as the expert in every lane. Raises BadInput unless it is one of SAC or TQC."""
    if not expert.squashed or expert.activation != "ReLU" or expert.log_std is None or len(expert.layers) < 2:
        raise BadInput("only a squashed Gaussian policy with ReLU layers (SAC, TQC) can be trained further")
    policy = Policy(dims, tuple(len(bias) for _, bias in expert.layers[:-1]))
    layers = [*policy.body.layers, policy.mean, policy.log_std]
    with torch.no_grad():
        for layer, (weight, bias) in zip(layers, [*expert.layers, expert.log_std], strict=True):
            layer.weight.copy_(weight.T.expand_as(layer.weight))  # type: ignore[operator]
            layer.bias.copy_(bias.expand_as(layer.bias))  # type: ignore[operator]
    return policy


def keeps_clip(expert: Expert, clip: float) -> bool:
    """Return whether layers of the policy's activation can clip observations at `clip` standard deviations."""
    return math.isinf(clip) or (expert.activation == "ReLU" and clip <= MAX_CLIP)


def with_statistics(expert: Expert, statistics: ObsStatistics, path: str | Path) -> Expert:
    """Put the normalisation of observations, and their clipping if the activation allows it, into the first layers."""
    if len(statistics.mean) != expert.n_obs:
        raise BadInput(f"{path} has {expert.n_obs} observations, and the VecNormalize file {len(statistics.mean)}")
    mean, std = (torch.as_tensor(x)[None] for x in (statistics.mean, statistics.std))
    first = expert.layers[0][0].double(), expert.layers[0][1].double()
    clipped = keeps_clip(expert, statistics.clip) and not math.isinf(statistics.clip)
    new = _clip_first(first, mean, std, statistics.clip) if clipped else [_fold(*first, mean, std)]
    layers = [(weight.float(), bias.float()) for weight, bias in new]
    return dataclasses.replace(expert, layers=[*layers, *expert.layers[1:]])


def _clip_first(layer: Layer, mean: Tensor, std: Tensor, clip: float) -> list[Layer]:
    """Return ReLU layers that do on x what a layer does on z clipped at +-clip, z = (x - mean) / std; all (1, O).

    The hidden units are relu(z + clip), then u = relu(2 clip - relu(z + clip)); clipped z is clip - u. A single layer,
    relu(z + clip) - relu(z - clip) - clip, would lose the digits of the clipped value where z is large.
    """
    (weight, bias), eye = layer, torch.eye(mean.shape[1], dtype=torch.float64)
    normalised = _fold(eye, torch.full_like(mean[0], clip), mean, std)
    return [normalised, (-eye, torch.full_like(mean[0], 2 * clip)), (-weight, bias + clip * weight.sum(1))]


def _fold(weight: Tensor, bias: Tensor, mean: Tensor, std: Tensor) -> Layer:
    """Return the layer that does on x what (weight, bias) does on (x - mean) / std; mean and std (1, O)."""
    return weight / std, bias - (weight / std @ mean.T).squeeze(-1)


def rescaled(expert: Expert, low: Array, high: Array, inward: bool) -> Expert:
    """Convert the mean from units of low to high to those of -1 to 1 (inward), or the reverse."""
    middle, half = (torch.as_tensor(x, dtype=torch.float64) for x in ((high + low) / 2, (high - low) / 2))
    weight, bias = (x.double() for x in expert.layers[-1])
    last = (
        (weight / half[:, None], (bias - middle) / half) if inward else (weight * half[:, None], bias * half + middle)
    )
    shift = (-half.log() if inward else half.log()).float()
    log_std = expert.log_std and (expert.log_std[0], expert.log_std[1] + shift)
    layers = [*expert.layers[:-1], (last[0].float(), last[1].float())]
    return dataclasses.replace(expert, layers=layers, log_std=log_std)
