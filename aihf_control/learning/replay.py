"""Rings of transitions, a lane each, that hold no reward."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor

from aihf_control.core.errors import BadInput, at_least_one
from aihf_control.models.lanes import Dims, Random


class Batch(NamedTuple):
    """Transitions, each with leading axes (L, B). `index` says where they lie in the buffer."""

    obs: Tensor
    act: Tensor
    next_obs: Tensor
    done: Tensor
    index: Tensor


class Buffer:
    """A ring of transitions for each lane: obs, act, next_obs, done, and no reward.

    `done` means terminated; an episode that runs out of time is not done, so its value is bootstrapped.
    """

    def __init__(self, dims: Dims, capacity: int, name: str = "replay"):
        self.dims, self.capacity = dims, capacity
        self.widths = (dims.n_obs, dims.n_act, dims.n_obs, 1)
        self.data = torch.zeros(dims.n_lanes, capacity, sum(self.widths), device=dims.device)
        self.count = torch.zeros(dims.n_lanes, dtype=torch.long, device=dims.device)  # ever written, a lane
        self.rng = Random(dims, name)
        self._offset = torch.arange(dims.n_lanes, device=dims.device)[:, None] * capacity

    def add(self, obs: Tensor, act: Tensor, next_obs: Tensor, done: Tensor) -> None:
        """One transition a lane: obs, next_obs (L, O), act (L, A), done (L,)."""
        row = torch.cat([obs, act, next_obs, done[:, None]], -1)
        self.data.view(-1, row.shape[-1])[self._offset[:, 0] + self.count % self.capacity] = row
        self.count += 1

    def fill(self, lane: int, obs: Tensor, act: Tensor, next_obs: Tensor, done: Tensor) -> None:
        """Many transitions of one lane: obs, next_obs (n, O), act (n, A), done (n,)."""
        n = len(obs)
        where = (self.count[lane] + torch.arange(n, device=self.dims.device)) % self.capacity
        self.data[lane, where] = torch.cat([obs, act, next_obs, done[:, None]], -1)
        self.count[lane] += n

    def sample(self, n: int) -> Batch:
        """`n` transitions a lane, uniformly with replacement."""
        return self._read(self.rng.integers(self.count.clamp(max=self.capacity), n))

    def recent(self, n: int, last: int) -> Batch:
        """`n` transitions a lane from the `last` written."""
        reach = self.count.clamp(max=min(last, self.capacity))
        return self._read((self.count[:, None] - 1 - self.rng.integers(reach, n)) % self.capacity)

    def _read(self, index: Tensor) -> Batch:
        rows = self.data.view(-1, self.data.shape[-1]).index_select(0, (self._offset + index).flatten())
        obs, act, next_obs, done = rows.view(*index.shape, -1).split(self.widths, -1)
        return Batch(obs, act, next_obs, done.squeeze(-1), index)

    def since(self, first: int) -> Tensor:
        """The rows of all lanes from the `first`-th ever written on, (n, L, width): those that are not forgotten."""
        (n,) = set(self.count.tolist())
        first = max(first, n - self.capacity)
        return self.data[:, torch.arange(first, n, device=self.dims.device) % self.capacity].transpose(0, 1)

    def restore_rows(self, rows: Tensor) -> None:
        """Fills an empty ring with all rows that were ever written, or the last of them: (n, L, width)."""
        n = int(self.count[0])
        kept = rows[-self.capacity :].to(self.dims.device)
        at = torch.arange(n - len(kept), n, device=self.dims.device) % self.capacity
        self.data[:, at] = kept.transpose(0, 1)

    def state_dict(self) -> dict:
        """All but the rows, which only ever grow: see `since`."""
        return {"count": self.count, "rng": self.rng.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.count.copy_(state["count"])
        self.rng.load_state_dict(state["rng"])


def mix(parts: list[tuple[Buffer, float]], n: int) -> Batch:
    """A hybrid batch of `n` transitions a lane: from each buffer its share (Hybrid IRL, arXiv 2402.08848)."""
    sizes = [round(share * n) for _, share in parts[1:]]
    batches = [buffer.sample(k) for (buffer, _), k in zip(parts, [n - sum(sizes), *sizes], strict=True) if k]
    return Batch(*(torch.cat(column, 1) for column in zip(*batches, strict=True)))


@dataclasses.dataclass(frozen=True)
class ReplayConfig:
    """Settings of the replay, the same for every method that has one."""

    batch: int = 256
    """Transitions in one update."""
    capacity: int = 200_000
    """Transitions of the agent that are kept, a lane."""
    demos: float = 0.25
    """Share of each batch that comes from the demonstrations (hybrid RL; all are scored by the current reward)."""
    clips: float = 0.25
    """Share of each batch that comes from the compared clips, whatever was said of them. It is open to methods that
    learn from no comparison, too, and counts as no label."""

    def __post_init__(self):
        at_least_one({"--replay.batch": self.batch, "--replay.capacity": self.capacity})
        if min(self.demos, self.clips) < 0 or self.demos + self.clips > 1:
            raise BadInput(f"--replay.demos {self.demos} and --replay.clips {self.clips}: give shares of a batch")


def hybrid_batch(agent: Buffer, demos: Buffer, clips: Buffer | None, cfg: ReplayConfig) -> Batch:
    """Sample a batch from replay and given data; a share for which there is no data goes to the replay."""
    given = [(demos, cfg.demos), (clips, cfg.clips)]
    return mix([(agent, 0.0), *((buffer, share) for buffer, share in given if buffer is not None)], cfg.batch)
