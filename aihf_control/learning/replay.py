"""Replay buffers of transitions without rewards, with one ring per lane."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from aihf_control.core.errors import BadInput, at_least_one
from aihf_control.models.lanes import Dims, Random


class Batch(NamedTuple):
    """Transitions with leading axes (L, B); `index` is their position in the buffer."""

    obs: Tensor
    act: Tensor
    next_obs: Tensor
    done: Tensor
    index: Tensor


class Sampler(Protocol):
    """A source of transitions."""

    def sample(self, n: int) -> Batch: ...


class Buffer:
    """Transitions of each lane: obs, act, next_obs, done, without reward. The oldest are overwritten.

    `done` means terminated. It is 0 at the time limit, so that the value is bootstrapped there.
    """

    def __init__(self, dims: Dims, capacity: int, name: str = "replay"):
        self.dims, self.capacity = dims, capacity
        self.widths = (dims.n_obs, dims.n_act, dims.n_obs, 1)
        self.data = torch.zeros(dims.n_lanes, capacity, sum(self.widths), device=dims.device)
        self.count = torch.zeros(dims.n_lanes, dtype=torch.long, device=dims.device)  # ever written, by lane
        self.rng = Random(dims, name)
        self._offset = torch.arange(dims.n_lanes, device=dims.device)[:, None] * capacity

    def add(self, obs: Tensor, act: Tensor, next_obs: Tensor, done: Tensor) -> None:
        """Add one transition per lane: obs, next_obs (L, O), act (L, A), done (L,)."""
        row = torch.cat([obs, act, next_obs, done[:, None]], -1)
        self.data.view(-1, row.shape[-1])[self._offset[:, 0] + self.count % self.capacity] = row
        self.count += 1

    def fill(self, lane: int, obs: Tensor, act: Tensor, next_obs: Tensor, done: Tensor) -> None:
        """Add transitions of one lane: obs, next_obs (n, O), act (n, A), done (n,)."""
        n = len(obs)
        where = (self.count[lane] + torch.arange(n, device=self.dims.device)) % self.capacity
        self.data[lane, where] = torch.cat([obs, act, next_obs, done[:, None]], -1)
        self.count[lane] += n

    def sample(self, n: int) -> Batch:
        """Draw `n` transitions per lane, uniformly with replacement."""
        return self.read(self.rng.integers(self.count.clamp(max=self.capacity), n))

    def sample_recent(self, n: int, last: int) -> Batch:
        """Draw `n` transitions per lane from the `last` ones written."""
        available = self.count.clamp(max=min(last, self.capacity))
        return self.read((self.count[:, None] - 1 - self.rng.integers(available, n)) % self.capacity)

    def chunks(self, n: int) -> Iterator[Batch]:
        """Yield all rows in order, at most `n` per lane at once, with those that were never written."""
        for rows in torch.arange(self.capacity, device=self.dims.device).split(n):
            yield self.read(rows.expand(self.dims.n_lanes, -1))

    def read(self, index: Tensor) -> Batch:
        """Return the transitions at positions `index`, (L, B)."""
        rows = self.data.view(-1, self.data.shape[-1]).index_select(0, (self._offset + index).flatten())
        obs, act, next_obs, done = rows.view(*index.shape, -1).split(self.widths, -1)
        return Batch(obs, act, next_obs, done.squeeze(-1), index)

    def since(self, first: int) -> Tensor:
        """Return the rows from the `first`-th ever written, (n, L, width), except those already overwritten."""
        (n,) = set(self.count.tolist())
        first = max(first, n - self.capacity)
        return self.data[:, torch.arange(first, n, device=self.dims.device) % self.capacity].transpose(0, 1)

    def restore_rows(self, rows: Tensor) -> None:
        """Fill an empty buffer with all rows that were ever written, (n, L, width), or the last of them."""
        n = int(self.count[0])
        kept = rows[-self.capacity :].to(self.dims.device)
        at = torch.arange(n - len(kept), n, device=self.dims.device) % self.capacity
        self.data[:, at] = kept.transpose(0, 1)

    def state_dict(self) -> dict:
        """Return the state without the rows, which are saved incrementally: see `since`."""
        return {"count": self.count, "rng": self.rng.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.count.copy_(state["count"])
        self.rng.load_state_dict(state["rng"])


def mix(parts: list[tuple[Sampler, float]], n: int) -> Batch:
    """Draw a hybrid batch of `n` transitions per lane, a share from each buffer (Hybrid IRL, arXiv 2402.08848).

    The first share is ignored: the first buffer provides the rest of the batch.
    """
    sizes = [round(share * n) for _, share in parts[1:]]
    batches = [buffer.sample(k) for (buffer, _), k in zip(parts, [n - sum(sizes), *sizes], strict=True) if k]
    return Batch(*(torch.cat(column, 1) for column in zip(*batches, strict=True)))


@dataclasses.dataclass(frozen=True)
class ReplayConfig:
    """Settings of the replay buffer, common to all methods that have one."""

    batch: int = 256
    """Transitions per update."""
    capacity: int = 200_000
    """Transitions of the agent per lane; older ones are overwritten."""
    demos: float = 0.25
    """Share of each batch from the demonstrations (hybrid RL; the current reward is evaluated on all)."""
    clips: float = 0.25
    """Share of each batch from the compared segments, whatever their labels. Methods that use no comparison may use
    it too; it does not count as a label."""

    def __post_init__(self):
        at_least_one({"--replay.batch": self.batch, "--replay.capacity": self.capacity})
        if min(self.demos, self.clips) < 0 or self.demos + self.clips > 1:
            given = f"got {self.demos} and {self.clips}"
            raise BadInput(f"--replay.demos and --replay.clips must be at least 0 and add up to at most 1, {given}")


def hybrid_batch(agent: Buffer, demos: Sampler, clips: Buffer | None, cfg: ReplayConfig) -> Batch:
    """Draw a batch from replay and given data. Transitions of the agent replace a share without data."""
    given = [(demos, cfg.demos), (clips, cfg.clips)]
    return mix([(agent, 0.0), *((buffer, share) for buffer, share in given if buffer is not None)], cfg.batch)
