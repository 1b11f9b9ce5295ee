"""CUDA graphs: what a GPU is asked for is recorded once and then replayed in a single launch.

An update is some hundreds of small kernels, and on a GPU each takes longer to launch than to run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

WARM = 3  # times that a work is done before it is recorded, which torch asks for
Results = dict[str, Tensor]
Result = TypeVar("Result")


class Replayed:
    """A work of tensors, `work(*given, **constants)`; on an NVIDIA GPU it is replayed, elsewhere just done.

    No Python runs in a replay. So the work may read nothing but what it is given and tensors that stay where they are,
    may change those in place only, and must not ask the GPU for a number. It is recorded for each shape of what is
    given and for the constants, which are Python's own.
    """

    def __init__(self, work: Callable[..., Results]):
        self.work = work
        self.recordings: dict[Any, _Recording] = {}

    def __call__(self, *given: Tensor, **constants: Any) -> Results:
        if not replays(given[0]):
            return self.work(*given, **constants)
        key = (*constants.items(), *(x.shape for x in given))
        if key not in self.recordings:
            self.recordings[key] = _Recording(lambda *x: self.work(*x, **constants), given)
        return self.recordings[key](*given)


class _Recording:
    """One work at one shape: done, then recorded, then replayed; each call is one doing of it."""

    def __init__(self, work: Callable[..., Results], like: tuple[Tensor, ...]):
        self.work, self.n_done = work, 0
        self.given = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in like]
        self.replay: Callable[[], None] | None = None

    def __call__(self, *given: Tensor) -> Results:
        with torch.no_grad():
            for mine, x in zip(self.given, given, strict=True):
                mine.copy_(x)
        with torch.cuda.device_of(self.given[0]):  # of several
            made = self._done()
        return {name: x.clone() for name, x in made.items()}  # the next call writes over them

    def _done(self) -> Results:
        if self.n_done < WARM:
            self.n_done += 1
            return aside(lambda: self.work(*self.given))
        if self.replay is None:
            self.results, self.replay = record(lambda: self.work(*self.given))
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
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()
    return result, graph.replay
