"""Reader and writer of Stable-Baselines3 zips. Reading executes none of their pickles."""

from __future__ import annotations

import dataclasses
import io
import itertools
import math
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aihf_control.core.errors import BadInput, InputWarning
from aihf_control.core.files import parse_json, read_bytes, write_bytes
from aihf_control.environments.gym import EnvSpec, spaces_of
from aihf_control.models.lanes import Dims
from aihf_control.models.networks import LOG_STD_MAX, LOG_STD_MIN, Policy
from aihf_control.models.vecnormalize import ObsStatistics

Array = np.ndarray
Layer = tuple[Tensor, Tensor]
MAX_BYTES = 200 * 2**20
ACTIVATIONS = {"ReLU": torch.relu, "Tanh": torch.tanh, "ELU": torch.nn.functional.elu}
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
CRITICS = re.compile(
    r"critic(_target)?\.qf\d+\.\d+\.(weight|bias)|actor_target\.mu\.\d+\.(weight|bias)"
    r"|mlp_extractor\.value_net\.\d+\.(weight|bias)|value_net\.(weight|bias)"
)
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
    data, weights = _read_parts(Path(path))
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
        expert = _with_statistics(expert, statistics, path)
    elif gaussian and data.get("_last_original_obs") is not None:
        message = f"{path} was trained under VecNormalize: give its statistics with --vecnormalize FILE"
        warnings.warn(f"{message}, or it receives observations in other units", InputWarning, stacklevel=2)
    if spec:
        low, high = _action_bounds(data, spec, path)
        expert = _rescaled(expert, low, high, inward=True) if gaussian else expert
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


def keeps_clip(expert: Expert, clip: float) -> bool:
    """Return whether layers of the policy's activation can clip observations at `clip` standard deviations."""
    return math.isinf(clip) or (expert.activation == "ReLU" and clip <= MAX_CLIP)


def _with_statistics(expert: Expert, statistics: ObsStatistics, path: str | Path) -> Expert:
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


def _rescaled(expert: Expert, low: Array, high: Array, inward: bool) -> Expert:
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


def _read_parts(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the JSON and the tensors of a zip. Raises BadInput."""
    raw = read_bytes(path, MAX_BYTES)
    try:
        with _open_zip(raw, path) as z:
            data, tensors = parse_json(z.read("data"), f"{path}: data"), z.read("policy.pth")
        if zipfile.is_zipfile(io.BytesIO(tensors)):  # torch's format since 1.6
            _open_zip(tensors, path).close()
        with warnings.catch_warnings(action="ignore"):  # a fault is reported below, in one line
            weights = torch.load(io.BytesIO(tensors), map_location="cpu", weights_only=True)
    except BadInput:
        raise
    except Exception as e:  # torch and zipfile raise a dozen kinds on malformed input
        raise BadInput(f"{path} is not a Stable-Baselines3 zip: {' '.join(str(e).split())[:200]}") from e
    if not isinstance(data, dict):
        raise BadInput(f"{path} is not a Stable-Baselines3 zip: its data is not a table")
    return data, _floats(weights, path)


def _floats(weights: Any, path: Path) -> dict[str, Tensor]:
    """Check a table of tensors and convert them to float32. Raises BadInput."""
    if not isinstance(weights, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in weights.items()
    ):
        raise BadInput(f"{path} is not a Stable-Baselines3 zip: policy.pth is not a table of tensors")
    for name, v in weights.items():
        if (
            v.is_nested
            or v.layout != torch.strided
            or v.is_quantized
            or v.device.type != "cpu"
            or v.dtype not in FLOATS
        ):
            raise BadInput(f"{path}: tensor {name!r:.100} is not a dense tensor of floats")
    if sum(v.numel() for v in weights.values()) > MAX_BYTES:  # a tensor may have more elements than its storage
        raise BadInput(f"{path} has tensors of more than {MAX_BYTES >> 20} million numbers; that is no policy")
    converted = {name: v.detach().float() for name, v in weights.items()}
    for name, v in converted.items():
        if not torch.isfinite(v).all():
            raise BadInput(f"{path}: tensor {name!r:.100} has numbers that are not finite in float32")
    return converted


def _open_zip(raw: bytes, path: Path) -> zipfile.ZipFile:
    """Open a zip that unpacks to the size of a policy. Raises BadInput for a larger one."""
    z = zipfile.ZipFile(io.BytesIO(raw))
    if sum(i.file_size for i in z.infolist()) > MAX_BYTES:
        raise BadInput(f"{path} unpacks to more than {MAX_BYTES >> 20} MiB; that is no policy")
    return z


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


def write_zip(path: str | Path, expert: Expert, spec: EnvSpec) -> None:
    """Write a zip that `stable_baselines3.SAC.load` opens (`PPO.load` for a policy that is not squashed).

    The critics in it are untrained and of one unit, to keep the file small.
    """
    from stable_baselines3 import PPO, SAC

    hidden = [len(bias) for _, bias in expert.layers[:-1]]
    net = {"pi": hidden, "qf": [1]} if expert.squashed else {"pi": hidden, "vf": [1]}
    kwargs = {"net_arch": net, "activation_fn": getattr(torch.nn, expert.activation)}
    env = _spaces_only(*spaces_of(spec))
    if expert.squashed:
        model = SAC("MlpPolicy", env, buffer_size=1, policy_kwargs={**kwargs, "n_critics": 1}, device="cpu")
    else:
        model = PPO("MlpPolicy", env, n_steps=2, batch_size=2, policy_kwargs=kwargs, device="cpu")
        expert = _rescaled(expert, spec.low, spec.high, inward=False)
    model.policy.load_state_dict({**model.policy.state_dict(), **_sb3_names(expert)})
    out = io.BytesIO()
    model.save(out, exclude=["replay_buffer", "ep_info_buffer", "ep_success_buffer", "_vec_normalize_env"])
    write_bytes(Path(path), out.getvalue())


def _sb3_names(expert: Expert) -> dict[str, Tensor]:
    """Return the policy's tensors by their names in Stable-Baselines3."""
    body, mean = ("actor.latent_pi", "actor.mu") if expert.squashed else ("mlp_extractor.policy_net", "action_net")
    layers = {f"{body}.{2 * i}": layer for i, layer in enumerate(expert.layers[:-1])} | {mean: expert.layers[-1]}
    names = {
        f"{name}.{part}": t for name, pair in layers.items() for part, t in zip(("weight", "bias"), pair, strict=True)
    }
    if not expert.squashed:
        return names | {"log_std": expert.log_std[1]} if expert.log_std else names
    width = expert.layers[-1][0].shape[1]
    weight, bias = expert.log_std or (torch.zeros(expert.n_act, width), torch.full((expert.n_act,), LOG_STD_MIN))
    return names | {"actor.log_std.weight": weight, "actor.log_std.bias": bias}


def _spaces_only(obs_space, act_space):
    """Return an environment that only has spaces, which Stable-Baselines3's constructors need."""
    import gymnasium as gym

    class Spaces(gym.Env):
        observation_space, action_space = obs_space, act_space

        def reset(self, *, seed=None, options=None):
            return obs_space.sample(), {}

        def step(self, action):
            raise RuntimeError("this environment only has spaces")

    return Spaces()
