"""Policies in and out: Stable-Baselines3 zips, read without executing their pickles, and SAC on the true reward.

python -m aihf_control.experts train --env Hopper-v4
python -m aihf_control.experts import some_policy.zip --env Hopper-v4 --out mine.zip
python -m aihf_control.experts show --env Hopper-v4
"""

from __future__ import annotations

import dataclasses
import io
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aihf_control.environments import EnvSpec
from aihf_control.files import BadInput, read_bytes, write_bytes
from aihf_control.nets import LOG_STD_MAX, LOG_STD_MIN, Policy

Array = np.ndarray
MAX_BYTES = 200 * 2**20
ACTIVATIONS = {"ReLU": torch.relu, "Tanh": torch.tanh, "ELU": torch.nn.functional.elu}


@dataclasses.dataclass(frozen=True)
class Expert:
    """A feed-forward policy as Stable-Baselines3 keeps it: layers of (weight (out, in), bias), the last gives the mean."""

    layers: list[tuple[Tensor, Tensor]]
    log_std: tuple[Tensor, Tensor] | None
    """Layer that gives the log deviation from the last hidden one; weight of no columns where it is a constant; None for
    a policy without noise of its own."""
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
    such zip, or, with a `spec`, whose shapes are another environment's.
    """
    data, weights = _read_parts(Path(path))
    layers = _mean_layers(weights)
    if not layers:
        raise BadInput(f"{path} holds no policy of SAC, TQC, TD3, DDPG or PPO with dense layers")
    gaussian = "log_std" in weights
    log_std = (torch.zeros(0), weights["log_std"]) if gaussian else _pair(weights, "actor.log_std")
    expert = Expert(layers, log_std, squashed=not gaussian, activation=_activation(data, gaussian))
    if spec and (expert.n_obs, expert.n_act) != (spec.n_obs, spec.n_act):
        raise BadInput(
            f"{path} was trained on {expert.n_obs} observations and {expert.n_act} actions; "
            f"{spec.id} has {spec.n_obs} and {spec.n_act}"
        )
    return expert


def _read_parts(path: Path) -> tuple[dict, dict[str, Tensor]]:
    raw = read_bytes(path)
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as z:
            if sum(i.file_size for i in z.infolist()) > MAX_BYTES:
                raise BadInput(f"{path} unpacks to more than {MAX_BYTES >> 20} MiB; that is no policy")
            data = json.loads(z.read("data"))
            weights = torch.load(io.BytesIO(z.read("policy.pth")), map_location="cpu", weights_only=True)
    except BadInput:
        raise
    except Exception as e:  # torch and zipfile raise a dozen kinds on malformed input; all mean the same to the user
        raise BadInput(f"{path} is not a Stable-Baselines3 zip: {' '.join(str(e).split())[:200]}") from e
    if not isinstance(weights, dict) or not all(isinstance(v, Tensor) for v in weights.values()):
        raise BadInput(f"{path} is not a Stable-Baselines3 zip: policy.pth is not a table of tensors")
    if not all(torch.isfinite(v).all() for v in weights.values()):
        raise BadInput(f"{path} has weights that are not finite")
    return data if isinstance(data, dict) else {}, {name: v.float() for name, v in weights.items()}


def _mean_layers(weights: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    def stack(prefix: str) -> list[tuple[Tensor, Tensor]]:
        numbers = [re.fullmatch(re.escape(prefix) + r"\.(\d+)\.weight", name) for name in weights]
        return [_pair(weights, f"{prefix}.{n}") for n in sorted(int(m[1]) for m in numbers if m)]  # type: ignore[misc]

    if "actor.mu.weight" in weights:  # SAC, TQC
        return [*stack("actor.latent_pi"), _pair(weights, "actor.mu")]  # type: ignore[list-item]
    if "action_net.weight" in weights:  # PPO, A2C
        return [*stack("mlp_extractor.policy_net"), _pair(weights, "action_net")]  # type: ignore[list-item]
    return stack("actor.mu")  # TD3, DDPG


def _pair(weights: dict[str, Tensor], name: str) -> tuple[Tensor, Tensor] | None:
    weight, bias = weights.get(f"{name}.weight"), weights.get(f"{name}.bias")
    return None if weight is None or bias is None else (weight, bias)


def _activation(data: dict, gaussian: bool) -> str:
    """SB3 writes beside each pickle what it prints as; that text names the activation."""
    kwargs = data.get("policy_kwargs")
    named = re.search(r"activation\.(\w+)", str(kwargs.get("activation_fn", ""))) if isinstance(kwargs, dict) else None
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


def write_zip(path: str | Path, expert: Expert, spec: EnvSpec) -> None:
    """An SB3 zip that `stable_baselines3.SAC.load` opens (`PPO.load` for a policy that is not squashed).

    The actor is the expert's; the critics are stand-ins of one unit, to keep the file small.
    """
    from gymnasium.spaces import Box
    from stable_baselines3 import PPO, SAC

    hidden = [len(bias) for _, bias in expert.layers[:-1]]
    net = {"pi": hidden, "qf": [1]} if expert.squashed else {"pi": hidden, "vf": [1]}
    kwargs = {"net_arch": net, "activation_fn": getattr(torch.nn, expert.activation)}
    obs_space = Box(-np.inf, np.inf, (spec.n_obs,), np.float32)
    env = _spaces_only(obs_space, Box(spec.low.astype(np.float32), spec.high.astype(np.float32)))
    if expert.squashed:
        model = SAC("MlpPolicy", env, buffer_size=1, policy_kwargs={**kwargs, "n_critics": 1}, device="cpu")
    else:
        model = PPO("MlpPolicy", env, n_steps=2, batch_size=2, policy_kwargs=kwargs, device="cpu")
    model.policy.load_state_dict({**model.policy.state_dict(), **_sb3_names(expert)})
    out = io.BytesIO()
    model.save(out, exclude=["replay_buffer", "ep_info_buffer", "ep_success_buffer", "_vec_normalize_env"])
    write_bytes(Path(path), out.getvalue())


def _sb3_names(expert: Expert) -> dict[str, Tensor]:
    body, mean = ("actor.latent_pi", "actor.mu") if expert.squashed else ("mlp_extractor.policy_net", "action_net")
    layers = {f"{body}.{2 * i}": layer for i, layer in enumerate(expert.layers[:-1])} | {mean: expert.layers[-1]}
    names = {f"{name}.{part}": t for name, pair in layers.items() for part, t in zip(("weight", "bias"), pair)}
    if not expert.squashed:
        return names | {"log_std": expert.log_std[1]} if expert.log_std else names
    width = len(expert.layers[-2][1])
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


if __name__ == "__main__":  # the command lives above; `python -m aihf_control.experts` is its name
    import sys

    from aihf_control.commands import experts_main

    sys.exit(experts_main())
