"""Other learners beside which ours is timed: Stable-Baselines3's SAC, SBX's, and a plain one of a single file.

A script of its own that imports nothing of this package, so that SBX can be measured in its own environment:

    echo updates 0.5 | python aihf_control/rivals.py sb3 Hopper-v4 256 cpu

makes the learner, and answers every line of its input as `serve` says.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

BATCH, STEPS = 256, 2000  # transitions an update; steps in the replay before anything is timed


def timed(work: Callable[[int], Any], seconds: float, n: int = 20) -> float:
    """How many times a second: `work(n)` does it n times. The first call is not counted."""
    work(n)
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        work(n)
        done += n
    return done / (time.perf_counter() - began)


def serve(works: dict[str, Callable[[int], Any]], n: int = 20) -> None:
    """Says as JSON which works there are. Then each line of standard input, the name of one and seconds, is answered by
    how many times a second it was done, and the peak memory in MiB. Between them the process rests."""
    print(json.dumps({"works": list(works)}), flush=True)
    for line in sys.stdin:
        name, seconds = line.split()
        print(json.dumps({name: timed(works[name], float(seconds), n), "memory": peak_memory()}), flush=True)


def peak_memory() -> float:
    """MiB that this process has held at most; of a GPU's memory, where torch uses one."""
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        return torch.cuda.max_memory_reserved() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def sb3(env_id: str, width: int, device: str, sbx: bool = False) -> tuple[Callable[[int], Any], Callable[[int], Any]]:
    """Updates, and the whole loop, of Stable-Baselines3's SAC, or of SBX's, which has the same face."""
    from stable_baselines3.common.logger import Logger

    if sbx:
        from sbx import SAC  # pyright: ignore[reportMissingImports]
    else:
        from stable_baselines3 import SAC

    kwargs: dict[str, Any] = {"learning_starts": STEPS, "batch_size": BATCH, "policy_kwargs": {"net_arch": [width] * 2}}
    if not sbx:  # JAX is told by the environment
        kwargs["device"] = device
    model: Any = SAC("MlpPolicy", gym.make(env_id), **kwargs)
    model.set_logger(Logger(None, []))  # its own makes a folder every time
    model.learn(STEPS + 1)
    return (lambda n: model.train(n, BATCH)), (lambda n: model.learn(n, reset_num_timesteps=False))


class Plain:
    """SAC as it stands in the single-file collections: every network its own module, torch.optim's Adam, numpy replay.

    Automatic entropy weight; no normalisation. Written for this comparison.
    """

    def __init__(self, env_id: str, width: int, device: str = "cpu"):
        import torch
        from torch import nn

        self.torch, self.device, self.env = torch, device, gym.make(env_id)
        n_obs, n_act = self.env.observation_space.shape[0], self.env.action_space.shape[0]  # type: ignore[index]

        def mlp(n_in: int, n_out: int) -> nn.Module:
            return nn.Sequential(
                nn.Linear(n_in, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, n_out)
            ).to(device)

        self.actor = mlp(n_obs, 2 * n_act)
        self.q1, self.q2, self.t1, self.t2 = (mlp(n_obs + n_act, 1) for _ in range(4))
        self.log_alpha = torch.zeros(1, device=device, requires_grad=True)
        self.opt_q = torch.optim.Adam([*self.q1.parameters(), *self.q2.parameters()], 3e-4)
        self.opt_pi = torch.optim.Adam(self.actor.parameters(), 3e-4)
        self.opt_alpha = torch.optim.Adam([self.log_alpha], 3e-4)
        widths = (n_obs, n_act, n_obs, 1, 1)
        self.replay, self.size = [np.zeros((1_000_000, w), np.float32) for w in widths], 0
        self.scale, self.n_act = float(self.env.action_space.high[0]), n_act  # type: ignore[attr-defined]
        self.obs, _ = self.env.reset(seed=0)
        for _ in range(STEPS):
            self.step()

    def act(self, obs: Any) -> tuple[Any, Any]:
        torch = self.torch
        mean, log_std = self.actor(obs).chunk(2, -1)
        normal = torch.distributions.Normal(mean, log_std.clamp(-20, 2).exp())
        raw = normal.rsample()
        squashed = raw.tanh()
        return squashed, (normal.log_prob(raw) - torch.log(1 - squashed.square() + 1e-6)).sum(-1, keepdim=True)

    def step(self) -> None:
        with self.torch.no_grad():
            obs = self.torch.as_tensor(self.obs[None], dtype=self.torch.float32, device=self.device)
            act = self.act(obs)[0][0].cpu().numpy()
        obs, reward, terminated, truncated, _ = self.env.step(act * self.scale)
        for column, value in zip(self.replay, (self.obs, act, obs, reward, terminated), strict=True):
            column[self.size] = value
        self.size += 1
        self.obs = self.env.reset()[0] if terminated or truncated else obs

    def update(self) -> None:
        torch = self.torch
        rows = np.random.randint(self.size, size=BATCH)
        obs, act, next_obs, reward, done = (torch.as_tensor(column[rows], device=self.device) for column in self.replay)
        alpha = self.log_alpha.exp().detach()
        with torch.no_grad():
            next_act, next_logp = self.act(next_obs)
            x = torch.cat([next_obs, next_act], -1)
            going_on = torch.min(self.t1(x), self.t2(x)) - alpha * next_logp
            target = reward + 0.99 * (1 - done) * going_on
        x = torch.cat([obs, act], -1)
        loss = (self.q1(x) - target).square().mean() + (self.q2(x) - target).square().mean()
        self.opt_q.zero_grad()
        loss.backward()
        self.opt_q.step()
        new_act, logp = self.act(obs)
        x = torch.cat([obs, new_act], -1)
        self.opt_pi.zero_grad()
        (alpha * logp - torch.min(self.q1(x), self.q2(x))).mean().backward()
        self.opt_pi.step()
        self.opt_alpha.zero_grad()
        (-self.log_alpha.exp() * (logp.detach() - self.n_act).mean()).backward()
        self.opt_alpha.step()
        with torch.no_grad():
            for net, follower in ((self.q1, self.t1), (self.q2, self.t2)):
                for p, slow in zip(net.parameters(), follower.parameters(), strict=True):
                    slow.lerp_(p, 0.005)

    def updates(self, n: int) -> None:
        for _ in range(n):
            self.update()

    def loop(self, n: int) -> None:
        for _ in range(n):
            self.step()
            self.update()


def main(name: str, env_id: str, width: str, device: str) -> None:
    """Serves updates and whole-loop steps of one of the rivals."""
    warnings.filterwarnings("ignore")
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    if name != "sbx":
        import torch

        torch.set_num_threads(1)
    if name == "plain":
        plain = Plain(env_id, int(width), device)
        updates, loop = plain.updates, plain.loop
    else:
        updates, loop = sb3(env_id, int(width), device, sbx=name == "sbx")
    serve({"updates": updates, "loop": loop})


if __name__ == "__main__":
    main(*sys.argv[1:])
