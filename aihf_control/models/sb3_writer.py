"""Writer of Stable-Baselines3 zips."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import Tensor

from aihf_control.core.files import write_bytes
from aihf_control.environments.gym import EnvSpec, spaces_of
from aihf_control.models.expert import Expert, rescaled
from aihf_control.models.networks import LOG_STD_MIN


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
        expert = rescaled(expert, spec.low, spec.high, inward=False)
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
