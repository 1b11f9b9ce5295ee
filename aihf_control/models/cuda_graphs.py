"""CUDA graphs: record the kernels of a function once, then replay them in a single launch.

An update consists of hundreds of small kernels, each of which takes longer to launch than to run on a GPU.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

WARMUP_RUNS = 3  # before a function is recorded, as torch requires
Results = dict[str, Tensor]
Result = TypeVar("Result")


class GraphRunner:
    """Runs a function of tensors, `function(*inputs, **constants)`; on an NVIDIA GPU, replays a recording of it.

    A runner is for one function. A replay runs no Python, so the function may only read its inputs and tensors whose
    memory does not move, may change those in place only, and must not copy a number from the GPU. There is a recording
    for each combination of input shapes and constants. The function is not stored, to avoid a reference cycle.
    """

    def __init__(self):
        self.recordings: dict[Any, _Recording] = {}

    def __call__(self, function: Callable[..., Results], *inputs: Tensor, **constants: Any) -> Results:
        if not uses_graphs(inputs[0]):
            return function(*inputs, **constants)
        key = (*constants.items(), *(x.shape for x in inputs))
        if key not in self.recordings:
            self.recordings[key] = _Recording(inputs)
        return self.recordings[key](lambda *x: function(*x, **constants), *inputs)


class _Recording:
    """A function at one shape: the first calls run it, one records it, the later ones replay it."""

    def __init__(self, like: tuple[Tensor, ...]):
        self.n_runs = 0
        self.inputs = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in like]
        self.replay: Callable[[], None] | None = None

    def __call__(self, function: Callable[..., Results], *inputs: Tensor) -> Results:
        with torch.no_grad():
            for own, x in zip(self.inputs, inputs, strict=True):
                own.copy_(x)
        with torch.cuda.device_of(self.inputs[0]):  # there may be several GPUs
            results = self._run(function)
        return {name: x.clone() for name, x in results.items()}  # the next call overwrites them

    def _run(self, function: Callable[..., Results]) -> Results:
        if self.n_runs < WARMUP_RUNS:
            self.n_runs += 1
            return run_on_side_stream(lambda: function(*self.inputs))
        if self.replay is None:
            self.results, self.replay = record(lambda: function(*self.inputs))
        self.replay()
        return self.results


def uses_graphs(x: Tensor) -> bool:
    """Return whether functions on this tensor's device are replayed."""
    return x.is_cuda


def run_on_side_stream(function: Callable[[], Result]) -> Result:
    """Run a function on a new stream, after the work queued before the call and before any queued later."""
    here, stream = torch.cuda.current_stream(), torch.cuda.Stream()
    stream.wait_stream(here)
    with torch.cuda.stream(stream):
        result = function()
    here.wait_stream(stream)
    return result


def record(function: Callable[[], Result]) -> tuple[Result, Callable[[], None]]:
    """Record a function without running it; return the tensors of its results and the call that computes them."""
    gc.collect()  # no memory may be freed during the recording
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.Stream()):  # torch's default stream is on the first device
        result = function()
    return result, graph.replay
