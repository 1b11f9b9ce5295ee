"""Reader of policies from Stable-Baselines3 zips: checks that all of the policy is understood, and its units."""

from __future__ import annotations

import itertools
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aihf_control.core.errors import BadInput, InputWarning
from aihf_control.environments.gym import EnvSpec
from aihf_control.models.expert import ACTIVATIONS, Expert, Layer, rescaled, with_statistics
from aihf_control.models.sb3_zip import read_parts
from aihf_control.models.vecnormalize import ObsStatistics

Array = np.ndarray
CRITICS = re.compile(
    r"critic(_target)?\.qf\d+\.\d+\.(weight|bias)|actor_target\.mu\.\d+\.(weight|bias)"
    r"|mlp_extractor\.value_net\.\d+\.(weight|bias)|value_net\.(weight|bias)"
)


def read_zip(
    path: str | Path,
    spec: EnvSpec | None = None,
    activation: str | None = None,
    statistics: ObsStatistics | None = None,
) -> Expert:
    """Read a policy from a Stable-Baselines3 zip of SAC, TQC, TD3, DDPG, PPO or A2C.

    No pickle in it is executed: `policy.pth` is read as tensors (weights only), `data` as JSON. `activation` is for
    zips that do not state theirs. `statistics` of VecNormalize are folded into the layers, with their clipping if
    `keeps_clip` returns True for it, and without it otherwise.

    Raises BadInput for a file that is no such zip or has more than a plain feed-forward policy, and with a `spec` for
    a policy with sizes of another environment. Warns (InputWarning) if observations were normalised by statistics that
    are not given, or if actions had other bounds than the spec's.
    """
    data, weights = read_parts(Path(path))
    _check_spaces(data, path)
    _check_plain(data, weights, path)
    gaussian = "action_net.weight" in weights
    expert = _expert_from(weights, gaussian, _activation(data, gaussian, activation, path), path)
    if spec and (expert.n_obs, expert.n_act) != (spec.n_obs, spec.n_act):
        raise BadInput(
            f"{path} was trained on {expert.n_obs} observations and {expert.n_act} actions; "
            f"{spec.id} has {spec.n_obs} and {spec.n_act}"
        )
    if statistics:
        expert = with_statistics(expert, statistics, path)
    elif gaussian and data.get("_last_original_obs") is not None:
        message = f"{path} was trained under VecNormalize: give its statistics with --vecnormalize FILE"
        warnings.warn(f"{message}, or it receives observations in other units", InputWarning, stacklevel=2)
    if spec:
        low, high = _action_bounds(data, spec, path)
        expert = rescaled(expert, low, high, inward=True) if gaussian else expert
    _check_actions(expert, path)
    return expert


def _expert_from(weights: dict[str, Tensor], gaussian: bool, activation: str, path: str | Path) -> Expert:
    """Build the policy from its tensors. Raises BadInput if a tensor is missing, misshapen or left over."""
    names = _layer_names(weights)
    layers = [_pair(weights, name) for name in names]
    constant = (torch.zeros(0), weights["log_std"]) if "log_std" in weights else None
    log_std = constant if gaussian else _pair(weights, "actor.log_std")
    found = [layer for layer in layers if layer is not None]
    if len(found) < len(layers) or not _layers_fit(found, log_std) or (gaussian and log_std is None):
        raise BadInput(f"{path} holds no policy of SAC, TQC, TD3, DDPG, PPO or A2C with dense layers")
    used = {f"{name}.{part}" for name in (*names, "actor.log_std") for part in ("weight", "bias")} | {"log_std"}
    extra = sorted(name for name in weights if name not in used and not CRITICS.fullmatch(name))
    if extra:
        more = f" and {len(extra) - 3} more" if len(extra) > 3 else ""
        raise BadInput(
            f"{path} has tensors that are no part of a plain feed-forward policy: {', '.join(extra[:3])}{more}; "
            f"features extractors, recurrent and normalisation layers cannot be imported"
        )
    return Expert(found, log_std, squashed=not gaussian, activation=activation)


def _check_spaces(data: dict[str, Any], path: str | Path) -> None:
    for name in ("observation_space", "action_space"):
        kind = _type_of(data.get(name))
        if kind and not kind.endswith(".Box"):
            raise BadInput(f"{path} has a {name.replace('_', ' ')} of type {kind}; only Box can be imported")


def _check_plain(data: dict[str, Any], weights: dict[str, Tensor], path: str | Path) -> None:
    """Raises BadInput for gSDE and for features extractors, which may have no tensors."""
    kwargs = _policy_kwargs(data)
    sde = data.get("use_sde") or kwargs.get("use_sde")
    if sde or "actor.log_std" in weights or ("log_std" in weights and weights["log_std"].ndim != 1):
        raise BadInput(f"{path} was trained with gSDE (use_sde=True), which cannot be imported; train it without")
    extractor = str(kwargs.get("features_extractor_class", ""))
    if extractor and not re.fullmatch(r"<class 'stable_baselines3\.[\w.]+\.FlattenExtractor'>", extractor):
        raise BadInput(f"{path} has a features extractor of its own, {extractor[:100]}, which cannot be imported")


def _policy_kwargs(data: dict[str, Any]) -> dict[str, Any]:
    kwargs = data.get("policy_kwargs")
    return kwargs if isinstance(kwargs, dict) else {}


def _type_of(value: Any) -> str:
    """Return the class that Stable-Baselines3 states of a pickled value, or nothing."""
    stated = value.get(":type:") if isinstance(value, dict) else None
    return stated[len("<class '") : -len("'>")] if isinstance(stated, str) else ""


def _activation(data: dict[str, Any], gaussian: bool, given: str | None, path: str | Path) -> str:
    """Return the name of the activation, which Stable-Baselines3 prints beside the pickle of the policy's arguments."""
    policy, kwargs = data.get("policy_class"), _policy_kwargs(data)
    module = str(policy.get("__module__")) if isinstance(policy, dict) else "unknown"
    default = f"<class 'torch.nn.modules.activation.{'Tanh' if gaussian else 'ReLU'}'>"  # of these classes
    stated = str(kwargs.get("activation_fn", default))
    if not re.fullmatch(r"(stable_baselines3|sb3_contrib)(\.\w+)+", module) or not isinstance(
        data.get("policy_kwargs"), dict
    ):
        if given is None:
            raise BadInput(
                f"{path} has a policy class of module {module[:100]}, not of Stable-Baselines3, so its activation is "
                f"unknown; give it with --activation ({', '.join(ACTIVATIONS)})"
            )
        return given
    named = re.fullmatch(r"<class 'torch\.nn\.modules\.activation\.(\w+)'>", stated)
    if not named or named[1] not in ACTIVATIONS:
        name = named[1] if named else stated[:100]
        raise BadInput(f"{path} has the activation {name}; known are {', '.join(ACTIVATIONS)}")
    if given not in (None, named[1]):
        raise BadInput(f"{path} has the activation {named[1]}, not {given}; leave out --activation")
    return named[1]


def _action_bounds(data: dict[str, Any], spec: EnvSpec, path: str | Path) -> tuple[Array, Array]:
    """Return the bounds of actions that the zip states, or else the environment's."""
    space = data.get("action_space")
    texts = [str(space.get(name, "")) for name in ("low", "high")] if isinstance(space, dict) else ["", ""]
    low, high = (np.array([float(x) for x in re.findall(r"-?\d+\.?\d*(?:e[+-]?\d+)?", text)]) for text in texts)
    stated = low.shape == high.shape == spec.low.shape and (low < high).all() and np.isfinite([low, high]).all()
    if not stated or np.allclose([low, high], [spec.low, spec.high], rtol=1e-6, atol=1e-7):  # printed with 8 digits
        return spec.low, spec.high
    message = f"{path} was trained with actions from {texts[0]} to {texts[1]}: they are scaled to those of {spec.id}"
    warnings.warn(message, InputWarning, stacklevel=3)
    return low, high


def _check_actions(expert: Expert, path: str | Path) -> None:
    """Raises BadInput if finite observations give actions that are not finite, as huge weights do."""
    rng = torch.Generator().manual_seed(0)
    obs = torch.randn(64, expert.n_obs, generator=rng) * torch.tensor([0.0, 1.0, 10.0, 100.0]).repeat(16)[:, None]
    if not all(torch.isfinite(expert.act(obs, noise)).all() for noise in (None, torch.zeros(64, expert.n_act))):
        raise BadInput(f"{path} has weights of a size that makes actions NaN; that is no policy")


def _layers_fit(layers: list[Layer], log_std: Layer | None) -> bool:
    """Return whether the sizes of consecutive layers agree, and those of the mean and the standard deviation."""
    if not layers or any(w.ndim != 2 or b.shape != w.shape[:1] for w, b in layers):
        return False
    chained = all(a[0].shape[0] == b[0].shape[1] for a, b in itertools.pairwise(layers))
    weight, bias = layers[-1]
    alike = log_std is None or (log_std[1].shape == bias.shape and log_std[0].shape in (weight.shape, (0,)))
    return chained and alike


def _layer_names(weights: dict[str, Tensor]) -> list[str]:
    """Return the names of the layers from the observation to the mean of the action; none for another kind."""

    def stack(prefix: str) -> list[str]:
        found = [re.fullmatch(re.escape(prefix) + r"\.(\d{1,3})\.(weight|bias)", name) for name in weights]
        return [f"{prefix}.{n}" for n in sorted({int(m[1]) for m in found if m})]

    if "action_net.weight" in weights:  # PPO, A2C; the shared layers are of versions before 2.0
        return [*stack("mlp_extractor.shared_net"), *stack("mlp_extractor.policy_net"), "action_net"]
    if "actor.mu.weight" in weights:  # SAC, TQC
        return [*stack("actor.latent_pi"), "actor.mu"]
    return stack("actor.mu")  # TD3, DDPG


def _pair(weights: dict[str, Tensor], name: str) -> Layer | None:
    weight, bias = weights.get(f"{name}.weight"), weights.get(f"{name}.bias")
    return None if weight is None or bias is None else (weight, bias)
