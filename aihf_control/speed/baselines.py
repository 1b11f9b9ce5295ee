"""Baselines of the speed command: SAC of Stable-Baselines3, of SBX, and a plain single-file one.

A script that imports nothing of this package, so that SBX can be measured in its own Python environment:

    echo updates 0.5 | python aihf_control/speed/baselines.py sb3 Hopper-v4 256 cpu

It creates the learner and measures each task named on its standard input, see `serve`.
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

BATCH, STEPS = 256, 2000  # transitions per update; steps in the replay buffer before anything is timed


def measure_rate(task: Callable[[int], Any], seconds: float, n: int = 20) -> float:
    """Return the repetitions per second of a task, where `task(n)` repeats it n times. The first call is not timed."""
    task(n)
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        task(n)
        done += n
    return done / (time.perf_counter() - began)


def serve(tasks: dict[str, Callable[[int], Any]], n: int = 20) -> None:
    """Measure the tasks that standard input names.

    Prints the names of the tasks as JSON. Then each line of input, a name and seconds, is answered by a JSON line with
    the repetitions per second and the peak memory in MiB. The process is idle while it waits for a line.
    """
    print(json.dumps({"tasks": list(tasks)}), flush=True)
    for line in sys.stdin:
        name, seconds = line.split()
        print(json.dumps({name: measure_rate(tasks[name], float(seconds), n), "memory": peak_memory()}), flush=True)


def peak_memory() -> float:
    """Return the peak memory of this process in MiB: GPU memory if torch uses a GPU, else resident memory."""
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        return torch.cuda.max_memory_reserved() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def sb3(env_id: str, width: int, device: str, sbx: bool = False) -> tuple[Callable[[int], Any], Callable[[int], Any]]:
    """Return functions that repeat updates and whole-loop steps of SAC of Stable-Baselines3, or of SBX (same API)."""
    from stable_baselines3.common.logger import Logger

    if sbx:
        from sbx import SAC  # pyright: ignore[reportMissingImports]
    else:
        from stable_baselines3 import SAC

    kwargs: dict[str, Any] = {"learning_starts": STEPS, "batch_size": BATCH, "policy_kwargs": {"net_arch": [width] * 2}}
    if not sbx:  # JAX takes the device from JAX_PLATFORMS
        kwargs["device"] = device
    model: Any = SAC("MlpPolicy", gym.make(env_id), **kwargs)
    model.set_logger(Logger(None, []))  # the default logger creates a folder in every call of learn
    model.learn(STEPS + 1)
    return (lambda n: model.train(n, BATCH)), (lambda n: model.learn(n, reset_num_timesteps=False))


class PlainSAC:
    """SAC in the style of single-file implementations: a module per network, torch.optim.Adam, replay in numpy.

    Automatic entropy weight, no normalisation. Written for this comparison.
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
        """Sample actions (B, A) and their log-probabilities (B, 1)."""
        torch = self.torch
        mean, log_std = self.actor(obs).chunk(2, -1)
        normal = torch.distributions.Normal(mean, log_std.clamp(-20, 2).exp())
        raw = normal.rsample()
        squashed = raw.tanh()
        return squashed, (normal.log_prob(raw) - torch.log(1 - squashed.square() + 1e-6)).sum(-1, keepdim=True)

    def step(self) -> None:
        """Take a step in the environment and store it."""
        with self.torch.no_grad():
            obs = self.torch.as_tensor(self.obs[None], dtype=self.torch.float32, device=self.device)
            act = self.act(obs)[0][0].cpu().numpy()
        obs, reward, terminated, truncated, _ = self.env.step(act * self.scale)
        for column, value in zip(self.replay, (self.obs, act, obs, reward, terminated), strict=True):
            column[self.size] = value
        self.size += 1
        self.obs = self.env.reset()[0] if terminated or truncated else obs

    def update(self) -> None:
        """Update critics, actor, entropy weight and targets once."""
        torch = self.torch
        rows = np.random.randint(self.size, size=BATCH)
        obs, act, next_obs, reward, done = (torch.as_tensor(column[rows], device=self.device) for column in self.replay)
        alpha = self.log_alpha.exp().detach()
        with torch.no_grad():
            next_act, next_log_prob = self.act(next_obs)
            x = torch.cat([next_obs, next_act], -1)
            next_value = torch.min(self.t1(x), self.t2(x)) - alpha * next_log_prob
            target = reward + 0.99 * (1 - done) * next_value
        x = torch.cat([obs, act], -1)
        loss = (self.q1(x) - target).square().mean() + (self.q2(x) - target).square().mean()
        self.opt_q.zero_grad()
        loss.backward()
        self.opt_q.step()
        new_act, log_prob = self.act(obs)
        x = torch.cat([obs, new_act], -1)
        self.opt_pi.zero_grad()
        (alpha * log_prob - torch.min(self.q1(x), self.q2(x))).mean().backward()
        self.opt_pi.step()
        self.opt_alpha.zero_grad()
        (-self.log_alpha.exp() * (log_prob.detach() - self.n_act).mean()).backward()
        self.opt_alpha.step()
        with torch.no_grad():
            for net, target_net in ((self.q1, self.t1), (self.q2, self.t2)):
                for p, target_p in zip(net.parameters(), target_net.parameters(), strict=True):
                    target_p.lerp_(p, 0.005)

    def updates(self, n: int) -> None:
        """Update n times."""
        for _ in range(n):
            self.update()

    def loop(self, n: int) -> None:
        """Repeat a step and an update n times."""
        for _ in range(n):
            self.step()
            self.update()


def main(name: str, env_id: str, width: str, device: str) -> None:
    """Serve updates and whole-loop steps of the baseline `name`, pinned to one core."""
    warnings.filterwarnings("ignore")
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    if name != "sbx":
        import torch

        torch.set_num_threads(1)
    if name == "plain":
        plain = PlainSAC(env_id, int(width), device)
        updates, loop = plain.updates, plain.loop
    else:
        updates, loop = sb3(env_id, int(width), device, sbx=name == "sbx")
    serve({"updates": updates, "loop": loop})


if __name__ == "__main__":
    main(*sys.argv[1:])
