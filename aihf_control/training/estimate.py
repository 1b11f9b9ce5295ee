"""Estimates of how long a run takes."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import torch

from aihf_control.environments.gym import EnvSpec
from aihf_control.learning.replay import Batch
from aihf_control.learning.sac import SAC
from aihf_control.models.device import synchronize
from aihf_control.models.lanes import Dims
from aihf_control.training.run import RunSpec


def duration(seconds: float) -> str:
    """Format seconds as seconds, minutes or hours."""
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )


def estimate_seconds(run_spec: RunSpec, spec: EnvSpec, workers: int) -> float | None:
    """Estimate the duration of a training on an idle core from 30 updates on random numbers.

    Returns None for methods without SAC.
    """
    if not hasattr(run_spec.cfg, "sac"):
        return None
    n = -(-len(run_spec.seeds) // workers)
    dims = Dims(
        tuple(range(n)), spec.n_obs, spec.n_act, torch.device(run_spec.device), getattr(torch, run_spec.products)
    )
    cfg = run_spec.cfg.sac
    sac = SAC(dims, dataclasses.replace(cfg, kl=()))  # a budget needs a clone
    size = getattr(run_spec.cfg, "replay", run_spec.cfg).batch  # a replay without given data has its size in the config
    obs, act = (
        torch.randn(n, size, spec.n_obs, device=dims.device),
        torch.zeros(n, size, spec.n_act, device=dims.device),
    )
    batch = Batch(obs, act, obs, act[..., 0], act[..., 0].long())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times, clock = [], time.process_time if run_spec.device == "cpu" else time.monotonic
    for _ in range(30):
        begun = clock()
        sac.update(batch, lambda obs, act: act[..., 0])
        synchronize(dims.device)
        times.append(clock() - begun)
    torch.set_num_threads(threads)
    return float(np.median(times)) * (1.5 * run_spec.steps + cfg.hold)  # the rest of the loop costs about half as much
