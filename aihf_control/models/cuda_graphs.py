"""CUDA graphs: what a GPU is asked for is recorded once and then replayed in a single launch.

An update is some hundreds of small kernels, and on a GPU each takes longer to launch than to run.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

WARM = 3  # times that a work is done before it is recorded, which torch asks for
Results = dict[str, Tensor]
Result = TypeVar("Result")


class Replayed:
    """Does a work of tensors, `work(*given, **constants)`, always the same one; on an NVIDIA GPU it is replayed.

    No Python runs in a replay. So the work may read nothing but what it is given and tensors that stay where they are,
    may change those in place only, and must not ask the GPU for a number. It is recorded for each shape of what is
    given and for the constants, which are Python's own. The work is not kept: whoever owns both would never be let go.
    """

    def __init__(self):
        self.recordings: dict[Any, _Recording] = {}

    def __call__(self, work: Callable[..., Results], *given: Tensor, **constants: Any) -> Results:
        if not replays(given[0]):
            return work(*given, **constants)
        key = (*constants.items(), *(x.shape for x in given))
        if key not in self.recordings:
            self.recordings[key] = _Recording(given)
        return self.recordings[key](lambda *x: work(*x, **constants), *given)


class _Recording:
    """One work at one shape: done, then recorded, then replayed; each call is one doing of it."""

    def __init__(self, like: tuple[Tensor, ...]):
        self.n_done = 0
        self.given = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in like]
        self.replay: Callable[[], None] | None = None

    def __call__(self, work: Callable[..., Results], *given: Tensor) -> Results:
        with torch.no_grad():
            for mine, x in zip(self.given, given, strict=True):
                mine.copy_(x)
        with torch.cuda.device_of(self.given[0]):  # of several
            made = self._done(work)
        return {name: x.clone() for name, x in made.items()}  # the next call writes over them

    def _done(self, work: Callable[..., Results]) -> Results:
        if self.n_done < WARM:
            self.n_done += 1
            return aside(lambda: work(*self.given))
        if self.replay is None:
            self.results, self.replay = record(lambda: work(*self.given))
        self.replay()
        return self.results


def replays(x: Tensor) -> bool:
    """Whether works on this tensor's device are replayed."""
    return x.is_cuda


def aside(work: Callable[[], Result]) -> Result:
    """Does a work on a stream of its own, between what was asked before and what will be after."""
    here, stream = torch.cuda.current_stream(), torch.cuda.Stream()
    stream.wait_stream(here)
    with torch.cuda.stream(stream):
        result = work()
    here.wait_stream(stream)
    return result


def record(work: Callable[[], Result]) -> tuple[Result, Callable[[], None]]:
    """Records a work without doing it: where its results will lie, and the call that does it."""
    gc.collect()  # nothing may be freed while it lasts
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.Stream()):  # its own default stays with the first device
        result = work()
    return result, graph.replay
