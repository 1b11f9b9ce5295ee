"""Policies in and out: Stable-Baselines3 zips, read without executing their pickles, and SAC on the true reward.

python -m aihf_control.experts train --env Hopper-v4
python -m aihf_control.experts import some_policy.zip --env Hopper-v4 --out mine.zip
python -m aihf_control.experts show --env Hopper-v4
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import re
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aihf_control.core.errors import BadInput
from aihf_control.core.files import read_bytes, write_bytes
from aihf_control.environments.gym import EnvSpec, spaces_of
from aihf_control.models.lanes import Dims
from aihf_control.models.networks import LOG_STD_MAX, LOG_STD_MIN, Policy

Array = np.ndarray
MAX_BYTES = 200 * 2**20
ACTIVATIONS = {"ReLU": torch.relu, "Tanh": torch.tanh, "ELU": torch.nn.functional.elu}


@dataclasses.dataclass(frozen=True)
class Expert:
    """A feed-forward policy: layers of (weight (out, in), bias) as Stable-Baselines3 keeps them, the last for the mean.

    Its actions are in (-1, 1), those of a PPO policy as well, whose own are in the environment's units.
    """

    layers: list[tuple[Tensor, Tensor]]
    log_std: tuple[Tensor, Tensor] | None
    """Layer that gives the log deviation from the last hidden one; weight of no columns where it is a constant; None
    for a policy without noise of its own."""
    squashed: bool
    """tanh of the mean (SAC, TQC, TD3), or clipped to the bounds (PPO)."""
    activation: str

    @property
    def n_obs(self) -> int:
        return self.layers[0][0].shape[1]

    @property
    def n_act(self) -> int:
        return self.layers[-1][0].shape[0]

    def act(self, obs: Tensor, noise: Tensor | None = None) -> Tensor:
        """Actions in (-1, 1) from obs (..., O); greedy without noise (..., A)."""
        h = obs
        for weight, bias in self.layers[:-1]:
            h = ACTIVATIONS[self.activation](torch.nn.functional.linear(h, weight, bias))
        mean = torch.nn.functional.linear(h, *self.layers[-1])
        if noise is not None and self.log_std is not None:
            weight, bias = self.log_std
            log_std = torch.nn.functional.linear(h, weight, bias) if weight.numel() else bias
            mean = mean + log_std.clamp(LOG_STD_MIN, LOG_STD_MAX).exp() * noise
        return mean.tanh() if self.squashed else mean.clamp(-1, 1)


def read_zip(path: str | Path, spec: EnvSpec | None = None) -> Expert:
    """A policy from an SB3 zip of SAC, TQC, TD3, DDPG or PPO. No pickle in it is executed.

    Only `policy.pth` is read as tensors (weights only) and `data` as plain JSON. Raises BadInput for a file that is no
    such zip, or, with a `spec`, whose shapes are another environment's. The bounds of a PPO policy's actions are the
    spec's, or -1 and 1 without one.
    """
    data, weights = _read_parts(Path(path))
    layers = _mean_layers(weights)
    gaussian = "action_net.weight" in weights
    constant = (torch.zeros(0), weights["log_std"]) if "log_std" in weights else None
    log_std = constant if gaussian else _pair(weights, "actor.log_std")
    if not _fit(layers, log_std) or (gaussian and log_std is None):
        raise BadInput(f"{path} holds no policy of SAC, TQC, TD3, DDPG or PPO with dense layers (and without gSDE)")
    expert = Expert(layers, log_std, squashed=not gaussian, activation=_activation(data, gaussian))
    if spec and (expert.n_obs, expert.n_act) != (spec.n_obs, spec.n_act):
        raise BadInput(
            f"{path} was trained on {expert.n_obs} observations and {expert.n_act} actions; "
            f"{spec.id} has {spec.n_obs} and {spec.n_act}"
        )
    return _rescaled(expert, spec.low, spec.high, inward=True) if spec and gaussian else expert


def _fit(layers: list[tuple[Tensor, Tensor]], log_std: tuple[Tensor, Tensor] | None) -> bool:
    """Whether each layer takes what the one before it gives, and the deviation's is like the mean's."""
    if not layers or any(w.ndim != 2 or b.shape != w.shape[:1] for w, b in layers):
        return False
    chained = all(a[0].shape[0] == b[0].shape[1] for a, b in itertools.pairwise(layers))
    weight, bias = layers[-1]
    alike = log_std is None or (log_std[1].shape == bias.shape and log_std[0].shape in (weight.shape, (0,)))
    return chained and alike


def _rescaled(expert: Expert, low: Array, high: Array, inward: bool) -> Expert:
    """A policy whose mean is in units of low to high with its mean in units of -1 to 1 (inward), or the way back."""
    middle, half = (torch.as_tensor(x, dtype=torch.float32) for x in ((high + low) / 2, (high - low) / 2))
    weight, bias = expert.layers[-1]
    last = (
        (weight / half[:, None], (bias - middle) / half) if inward else (weight * half[:, None], bias * half + middle)
    )
    log_std = expert.log_std and (expert.log_std[0], expert.log_std[1] + (-half.log() if inward else half.log()))
    return dataclasses.replace(expert, layers=[*expert.layers[:-1], last], log_std=log_std)


def _read_parts(path: Path) -> tuple[dict, dict[str, Tensor]]:
    raw = read_bytes(path)
    try:
        with _bounded(raw, path) as z:
            data, tensors = json.loads(z.read("data")), z.read("policy.pth")
        if zipfile.is_zipfile(io.BytesIO(tensors)):  # as torch has written them since 1.6
            _bounded(tensors, path).close()
        with warnings.catch_warnings(action="ignore"):  # what it may say is said below, in one line
            weights = torch.load(io.BytesIO(tensors), map_location="cpu", weights_only=True)
    except BadInput:
        raise
    except Exception as e:  # torch and zipfile raise a dozen kinds on malformed input; all mean the same to the user
        raise BadInput(f"{path} is not a Stable-Baselines3 zip: {' '.join(str(e).split())[:200]}") from e
    if not isinstance(weights, dict) or not all(isinstance(v, Tensor) for v in weights.values()):
        raise BadInput(f"{path} is not a Stable-Baselines3 zip: policy.pth is not a table of tensors")
    if sum(v.numel() for v in weights.values()) > MAX_BYTES:  # a tensor may claim more than its storage holds
        raise BadInput(f"{path} has tensors of more than {MAX_BYTES >> 20} million numbers; that is no policy")
    if not all(torch.isfinite(v).all() for v in weights.values()):
        raise BadInput(f"{path} has weights that are not finite")
    return data if isinstance(data, dict) else {}, {name: v.float() for name, v in weights.items()}


def _bounded(raw: bytes, path: Path) -> zipfile.ZipFile:
    """The zip, if what it unpacks to is of a policy's size."""
    z = zipfile.ZipFile(io.BytesIO(raw))
    if sum(i.file_size for i in z.infolist()) > MAX_BYTES:
        raise BadInput(f"{path} unpacks to more than {MAX_BYTES >> 20} MiB; that is no policy")
    return z


def _mean_layers(weights: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """The layers from the observation to the mean of the action; none where one of them is missing."""
    pairs = [_pair(weights, name) for name in _layer_names(weights)]
    whole = [pair for pair in pairs if pair is not None]
    return whole if len(whole) == len(pairs) else []


def _layer_names(weights: dict[str, Tensor]) -> list[str]:
    def stack(prefix: str) -> list[str]:
        found = [re.fullmatch(re.escape(prefix) + r"\.(\d{1,3})\.(weight|bias)", name) for name in weights]
        return [f"{prefix}.{n}" for n in sorted({int(m[1]) for m in found if m})]

    if "action_net.weight" in weights:  # PPO, A2C
        return [*stack("mlp_extractor.policy_net"), "action_net"]
    if "actor.mu.weight" in weights:  # SAC, TQC
        return [*stack("actor.latent_pi"), "actor.mu"]
    return [] if "actor.log_std" in weights else stack("actor.mu")  # TD3, DDPG; that name is gSDE's


def _pair(weights: dict[str, Tensor], name: str) -> tuple[Tensor, Tensor] | None:
    weight, bias = weights.get(f"{name}.weight"), weights.get(f"{name}.bias")
    return None if weight is None or bias is None else (weight, bias)


def _activation(data: dict, gaussian: bool) -> str:
    """SB3 writes beside each pickle what it prints as; that text names the activation."""
    kwargs = data.get("policy_kwargs")
    written = str(kwargs.get("activation_fn", "")) if isinstance(kwargs, dict) else ""
    named = re.search(r"(\w+)\W*$", written)  # <class 'torch.nn.modules.activation.ReLU'>
    name = named[1] if named else ("Tanh" if gaussian else "ReLU")
    if name not in ACTIVATIONS:
        raise BadInput(f"the policy uses the activation {name}; known are {', '.join(ACTIVATIONS)}")
    return name


def expert_of(policy: Policy, lane: int) -> Expert:
    """One lane of a policy, its observation units folded into the first layer."""

    def pair(layer) -> tuple[Tensor, Tensor]:
        return layer.weight[lane].detach().cpu().T.contiguous(), layer.bias[lane, 0].detach().cpu().clone()

    layers = [*map(pair, policy.body.layers), pair(policy.mean)]
    weight, bias = layers[0]
    mean, std = policy.units.mean[lane].cpu(), policy.units.std[lane].cpu()
    layers[0] = (weight / std, bias - (weight / std @ mean.T).squeeze(-1))
    return Expert(layers, pair(policy.log_std), squashed=True, activation="ReLU")


def policy_of(expert: Expert, dims: Dims) -> Policy:
    """A policy that acts in every lane as the expert does. Raises BadInput for one that is not SAC's kind."""
    if not expert.squashed or expert.activation != "ReLU" or expert.log_std is None or len(expert.layers) < 2:
        raise BadInput("only a squashed Gaussian policy with ReLU layers can be trained on (SAC, TQC)")
    policy = Policy(dims, tuple(len(bias) for _, bias in expert.layers[:-1]))
    layers = [*policy.body.layers, policy.mean, policy.log_std]
    with torch.no_grad():
        for layer, (weight, bias) in zip(layers, [*expert.layers, expert.log_std], strict=True):
            layer.weight.copy_(weight.T.expand_as(layer.weight))  # type: ignore[operator]
            layer.bias.copy_(bias.expand_as(layer.bias))  # type: ignore[operator]
    return policy


def write_zip(path: str | Path, expert: Expert, spec: EnvSpec) -> None:
    """An SB3 zip that `stable_baselines3.SAC.load` opens (`PPO.load` for a policy that is not squashed).

    The actor is the expert's; the critics are stand-ins of one unit, to keep the file small.
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
    """An environment that has spaces and nothing else: SB3's constructors ask for one."""
    import gymnasium as gym

    class Spaces(gym.Env):
        observation_space, action_space = obs_space, act_space

        def reset(self, *, seed=None, options=None):
            return obs_space.sample(), {}

        def step(self, action):
            raise RuntimeError("this environment only has spaces")

    return Spaces()
