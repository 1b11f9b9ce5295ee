"""The task as a method sees it: its lanes' data, an environment to collect in, and nothing else.

A method has no logger, no evaluation, no budget and no path. It never sees the true reward: `collect` throws it away,
and what a `rollout` paid stays with the annotator. Steps and labels are counted at these doors.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from aihf_control.core.errors import BadInput
from aihf_control.core.types import Clips, Preferences, Steps
from aihf_control.data.dataset import Dataset
from aihf_control.data.labelling.teachers import Annotator
from aihf_control.environments.gym import Envs, EnvSpec, spec_of
from aihf_control.learning.preference_buffer import PreferenceBuffer
from aihf_control.learning.query import QuerySession, Rollout
from aihf_control.learning.replay import Buffer
from aihf_control.models.lanes import Dims, Random
from aihf_control.models.networks import Mixture, Policy
from aihf_control.models.reward_state import Reward

N_EPISODES = 20  # episodes over which the share of absorbing steps is counted


class Progress(NamedTuple):
    """What a method yields at every iteration."""

    policy: Policy
    """The policy to be judged by."""
    info: dict[str, Tensor]
    """Scalars of shape (L,) for the log."""
    reward: Reward | None = None
    """The learned reward, where there is one."""


class Task:
    """Lanes of one environment with each lane's own draw of a dataset."""

    def __init__(
        self,
        dataset: Dataset,
        seeds: Sequence[int],
        n_demos: int,
        n_pairs: int,
        device: torch.device | str = "cpu",
        products: torch.dtype = torch.float32,
    ):
        self.spec: EnvSpec = spec_of(dataset.meta["env"], **dataset.meta["options"])
        self.dims = Dims(tuple(seeds), self.spec.n_obs, self.spec.n_act, torch.device(device), products)
        shares = [dataset.draw(seed, n_demos, n_pairs) for seed in seeds]
        self._demos = self._buffer("demos", [[t.steps() for t in s.demos] for s in shares])
        self._clips = self._buffer("clips", [[s.clip_steps] if s.clip_steps else [] for s in shares])
        pairs = [s.pairs for s in shares if s.pairs]
        self._comparisons = PreferenceBuffer(self.dims, pairs) if pairs else None
        self.demo_absorbed = self._tensor([absorbed_share(map(_ending, s.demos), self.spec.horizon) for s in shares])
        self.n_offered = n_pairs
        self._right = np.array([s.right for s in shares])
        self.by_regret = dataset.meta.get("config", {}).get("label") == "regret"
        self.n_steps = np.zeros(len(seeds), int)
        self._given = self._asked = 0
        self.parts: dict[str, Any] = {}
        self.step = 0
        self._saved: tuple[dict[str, Any], dict[str, Tensor]] | None = None
        self._endings = [deque(maxlen=N_EPISODES) for _ in seeds]
        self._envs: Envs | None = None
        self._rng = Random(self.dims, "acting")
        teacher = Annotator(**dataset.meta.get("annotator", {}))
        self._rollouts = QuerySession(self.spec, self.dims, [s.demos for s in shares], teacher, dataset.pool)

    # ------------------------------------------------------------------------------------------------ the lanes' data

    @property
    def demos(self) -> Buffer:
        """The demonstrations' transitions. Raises BadInput where a lane has none."""
        if not self._demos:
            raise BadInput("this method learns from demonstrations; give at least one with --demos")
        return self._demos

    @property
    def clips(self) -> Buffer | None:
        """The transitions inside the compared clips, or None without comparisons."""
        return self._clips

    def comparisons(self) -> PreferenceBuffer:
        """The lanes' comparisons. Raises BadInput where there are none: for methods that cannot do without."""
        if self._comparisons is None:
            raise BadInput("this method learns from comparisons; give at least one with --pairs")
        self._given = self._comparisons.n
        return self._comparisons

    def units(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the observations that a lane was given, each (L, O)."""
        buffers = [self.demos, *([self._clips] if self._clips else [])]
        rows = [
            torch.cat([b.data[i, : int(b.count[i]), : self.spec.n_obs] for b in buffers])
            for i in range(self.dims.n_lanes)
        ]
        std = torch.stack([r.std(0) if len(r) > 1 else torch.zeros_like(r[0]) for r in rows])
        return torch.stack([r.mean(0) for r in rows]), std.where(std > 1e-3, 1.0)  # of what never moved: its own

    # ------------------------------------------------------------------------------------------------------- its door

    def iterations(self, **parts: Any) -> Iterator[int]:
        """Counts 1, 2, ... for as long as the runner wants. `parts` are all that changes while the method learns."""
        self.parts, k = parts, self._restore(parts)
        while True:
            k += 1
            self.step = k
            yield k

    def resume(self, state: dict[str, Any], replays: dict[str, Tensor]) -> None:
        """Lets the method's loop, once it begins, go on at a state that `state_dict` gave."""
        self._saved = state, replays

    def _restore(self, parts: dict[str, Any]) -> int:
        """Loads the saved state, if there is one, into everything that changes; returns the iterations done."""
        if self._saved is None:
            return 0
        (state, replays), self._saved = self._saved, None
        for name, part in parts.items():
            part.load_state_dict(state["parts"][name])
        for name, rows in replays.items():
            parts[name].restore_rows(rows)
        for name, stream in self._streams().items():
            stream.load_state_dict(state["streams"][name])
        self.n_steps[:] = state["n_steps"]
        self._given, self._asked = state["labels"]
        self._rollouts.answered, self._rollouts.right = map(np.array, state["answers"])
        for endings, saved in zip(self._endings, state["endings"], strict=True):
            endings.extend(saved)
        if state["envs"] is not None:
            envs, _ = self._started()
            envs.load_state_dict(state["envs"])
            self._now = self._tensor(envs.last.copy())
        return state["step"]

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes while a method learns, but the rows of its replays."""
        return {
            "step": self.step,
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
            "streams": {name: stream.state_dict() for name, stream in self._streams().items()},
            "n_steps": self.n_steps.tolist(),
            "labels": [self._given, self._asked],
            "answers": [self._rollouts.answered.tolist(), self._rollouts.right.tolist()],
            "endings": [list(endings) for endings in self._endings],
            "envs": self._envs and self._envs.state_dict(),
        }

    def _streams(self) -> dict[str, Random]:
        """The task's own streams of random numbers."""
        given = {"demos": self._demos, "clips": self._clips, "pairs": self._comparisons}
        streams = {name: data.rng for name, data in given.items() if data}
        return streams | {"acting": self._rng} | self._rollouts.streams()

    def collect(self, policy: Policy, into: Buffer) -> None:
        """One environment step a lane with a sampled action, stored without its reward."""
        envs, now = self._started()
        act = policy.act(now[:, None], self._rng.normal(1, self.spec.n_act))[:, 0]
        next_obs, _, terminated, truncated = envs.step(act.cpu().numpy())
        for i in np.flatnonzero(terminated | truncated).tolist():
            self._endings[i].append((int(envs.steps[i]), bool(terminated[i])))
            envs.reset(i)
        rows = self._tensor(np.concatenate([next_obs, envs.last, terminated[:, None]], 1))  # one transfer to a GPU
        there, self._now, done = rows.split((self.spec.n_obs, self.spec.n_obs, 1), 1)
        into.add(now, act, there, done.squeeze(1))
        self.n_steps += 1

    def starts(self, n: int, length: int, put: bool = True) -> Tensor:
        """`n` moments of each lane's demonstrations, (L, n, 2), each with `length` steps (or a fall) before it ends;
        without `put` the simulator need not be put there."""
        _ = self.demos
        return self._rollouts.starts(n, min(length, self.spec.horizon), put)

    def demo_clips(self, starts: Tensor, length: int) -> Clips:
        """What the demonstrations did from there."""
        return self._rollouts.demo_clips(starts, min(length, self.spec.horizon))

    def rollout(self, policy: Policy | Mixture, starts: Tensor, length: int) -> Rollout:
        """A clip of sampled actions from each start, all steps counted."""
        rolled, played = self._rollouts.play(policy, starts, length)
        self.n_steps += played
        return rolled

    def compare(self, first: Rollout, second: Rollout) -> Preferences:
        """What the annotator says of two rollouts, pair by pair; every question counts as a label.

        n pairs come as (L, n) comparisons; ties as two of weight 1/2, skipped ones with weight 0. No more questions can
        be asked than the user offered comparisons, so that methods compare at equal labels.
        """
        self._asked += first.clips.real.shape[1]
        assert self._asked <= self.n_offered, "a method asks at most as many questions as it is offered"
        return self._rollouts.compare(first, second)

    @property
    def n_asked(self) -> int:
        """Comparisons a lane that the method has asked for."""
        return self._asked

    @property
    def n_labels(self) -> int:
        """Comparisons a lane that the method has looked at or asked for."""
        return self._given + self._asked

    @property
    def labels_right(self) -> np.ndarray | None:
        """Share of those that truly name the better clip, (L,), a tie half; None without any. For the log alone."""
        given = self._given if np.isfinite(self._right).all() else 0
        n = given + self._rollouts.answered
        return (given * np.nan_to_num(self._right) + self._rollouts.right) / n if n.all() else None

    @property
    def absorbed(self) -> Tensor:
        """Share of absorbing steps, (L,), when the last episodes of each lane are padded to the horizon."""
        return self._tensor([absorbed_share(endings, self.spec.horizon) for endings in self._endings])

    def _started(self) -> tuple[Envs, Tensor]:
        """The environments, and what they show: (L, O)."""
        if self._envs is None:
            self._envs = Envs(self.spec, self.dims.n_lanes)
            obs = [self._envs.reset(i, seed) for i, seed in enumerate(self.dims.seeds)]
            self._now = self._tensor(np.stack(obs))
        return self._envs, self._now

    def _buffer(self, name: str, lanes: list[list[Steps]]) -> Buffer | None:
        sizes = [sum(len(steps.obs) for steps in lane) for lane in lanes]
        if not min(sizes):
            return None
        buffer = Buffer(self.dims, max(sizes), name)
        for i, lane in enumerate(lanes):
            for steps in lane:
                buffer.fill(i, *map(self._tensor, steps))
        return buffer

    def _tensor(self, x: Any) -> Tensor:
        return torch.as_tensor(x, dtype=torch.float32, device=self.dims.device)


def _ending(trajectory) -> tuple[int, bool]:
    return len(trajectory), trajectory.terminated


def absorbed_share(endings, horizon: int) -> float:
    """Part of the steps of episodes (length, terminated) that is absorbing when they are padded to the horizon."""
    endings = list(endings)
    absorbing = sum(horizon - length for length, terminated in endings if terminated)
    return absorbing / max(1, absorbing + sum(length for length, _ in endings))
