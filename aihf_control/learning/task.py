"""The task of a method: its lanes' data, an environment to collect in, and an annotator to ask.

A method has no logger, no evaluation, no budget and no path. It never sees the true reward: `collect` discards it, and
the rewards of a rollout are kept for the annotator and never returned. The exception has a name of its own,
`collect_paid`. Environment steps and labels are counted here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from aihf_control.core import progress
from aihf_control.core.errors import BadInput
from aihf_control.core.types import Clips, Preferences
from aihf_control.data.dataset import Dataset
from aihf_control.data.labelling.teachers import Teacher
from aihf_control.environments.goals import Goals, goals_of
from aihf_control.environments.gym import EnvSpec, spec_of
from aihf_control.learning import reuse
from aihf_control.learning.annotators import Annotator, TeacherAnnotator
from aihf_control.learning.collector import Collector
from aihf_control.learning.lane_data import LaneData
from aihf_control.learning.preference_buffer import PreferenceBuffer
from aihf_control.learning.query import QuerySession, Rollout
from aihf_control.learning.replay import Buffer
from aihf_control.learning.reuse import Store
from aihf_control.learning.segments import Segments, demo_windows
from aihf_control.learning.task_state import Stateful, TaskState, Usage
from aihf_control.models.lanes import Dims
from aihf_control.models.mixture import Actor
from aihf_control.models.networks import Policy
from aihf_control.models.reward_state import Reward


class Progress(NamedTuple):
    """The values that a method yields after every iteration."""

    policy: Policy
    """The policy to evaluate."""
    info: dict[str, Tensor]
    """Scalars of shape (L,) for the log."""
    reward: Reward | None = None
    """The learned reward, if the method has one."""


class Task:
    """Lanes of one environment, each with its own sample of a dataset."""

    def __init__(
        self,
        dataset: Dataset,
        seeds: Sequence[int],
        n_demos: int,
        n_pairs: int,
        device: torch.device | str = "cpu",
        products: torch.dtype = torch.float32,
        annotator: Annotator | None = None,
        ended: Callable[[], bool] = lambda: False,
        store: Store | None = None,
    ):
        """Set up the lanes of `seeds`. Without an `annotator`, the dataset's synthetic teacher is asked.

        `ended` is whether the run is to pause or to stop, so that nobody waits for answers any more. In the `store` are
        results that runs on the same data share.
        """
        self.spec: EnvSpec = spec_of(dataset.meta["env"], **dataset.meta["options"])
        self.dims = Dims(tuple(seeds), self.spec.n_obs, self.spec.n_act, torch.device(device), products)
        self.n_offered = n_pairs
        self.by_regret = dataset.meta.get("config", {}).get("label") == "regret"
        self._data = LaneData(dataset, self.dims, self.spec.horizon, n_demos, n_pairs)
        self._collector = Collector(self.spec, self.dims)
        held_out = set(dataset.meta["held_out"])
        prompts = [t for i, t in enumerate(dataset.pool) if i not in held_out]
        annotator = annotator or TeacherAnnotator(Teacher(**dataset.meta.get("annotator", {})), dataset.pool)
        self._queries = QuerySession(self.spec, self.dims, self._data.trajectories, annotator, ended, prompts)
        self.votes_asked = 0
        """Answers to each pair that the method will ask for (`OnlineConfig.check_queries`); 0: it asks nobody."""
        self._usage = Usage(np.zeros(len(seeds), int))
        streams = self._data.streams() | {"acting": self._collector.rng} | self._queries.streams()
        self._store = store
        self._state = TaskState([self._usage, self._queries, self._collector], streams)

    @property
    def demos(self) -> Buffer:
        """The demonstrations' transitions. Raises BadInput if a lane has none."""
        if not self._data.demos:
            raise BadInput("this method learns from demonstrations; give at least one with --demos")
        return self._data.demos

    @property
    def demo_absorbed(self) -> Tensor:
        """Share of absorbing steps, (L,), if the demonstrations of each lane are padded to the horizon."""
        return self._data.demo_absorbed

    def demo_ends(self) -> Tensor:
        """Return for each row of `demos` the last row of its episode, (L, N)."""
        _ = self.demos
        return self._data.demo_ends()

    def goals(self) -> Goals:
        """Return the columns of position and goal in an observation. Raises BadInput if the environment has none."""
        return goals_of(self.spec)

    @property
    def clips(self) -> Buffer | None:
        """The transitions inside the compared segments, or None without comparisons."""
        return self._data.clips

    def given(self) -> tuple[Buffer, Segments]:
        """Return the demonstrations' and compared segments' transitions in one buffer, and the segments of it."""
        _ = self.demos
        self.comparisons()
        return self._data.given()

    def demo_windows(self, rows: int) -> Segments:
        """Return the demonstrations, cut into windows of so many rows of `demos`, or whole ones for 0."""
        _ = self.demos
        return demo_windows(self.dims, self._data.trajectories, rows)

    def judge(self) -> Tensor:
        """Return a judge's opinion of every comparison's sides by each of m principles, (L, N, m).

        It is by how much the preferred segment is above the other one in the principle, in standard deviations over the
        dataset's comparisons; see `data/labelling/principles.py`. Each principle of each comparison counts as a label.
        Raises BadInput if there are no comparisons, or if the judge cannot see the states.
        """
        self.comparisons()
        opinion = self._data.judge()
        self._usage.n_given = opinion.shape[1] * opinion.shape[2]
        return opinion

    def comparisons(self) -> PreferenceBuffer:
        """Return the lanes' comparisons and count them as labels. Raises BadInput if there are none."""
        if self._data.preferences is None:
            raise BadInput("this method learns from comparisons; give at least one with --pairs")
        self._usage.n_given = max(self._usage.n_given, self._data.preferences.n)  # a judge gives more of each
        return self._data.preferences

    def compute_obs_stats(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the observations in each lane's data, each (L, O)."""
        _ = self.demos
        return self._data.compute_obs_stats()

    def compute_once(self, what: tuple[Any, ...], parts: Mapping[str, Stateful], compute: Callable[[], None]) -> None:
        """Run `compute`, which changes `parts` and draws from this task's random streams, or load its stored result.

        `what` is its name and all its settings. It must not take steps, ask, or depend on anything else that changes.
        """
        if self._store is None:
            compute()
        else:
            reuse.compute_once(self._store, what, {**parts, **self._state.streams}, compute)

    def iterations(self, **parts: Any) -> Iterator[int]:
        """Count 1, 2, ... until the run ends. `parts` are all objects that change while the method learns."""
        return self._state.iterate(parts)

    def counted(self, n: int, phase: str) -> Iterator[int]:
        """Count 0, 1, ..., n - 1, shown as a phase of the run: "fitting the reward 200 of 3,000"."""
        return progress.counted(n, phase)

    def collect(self, policy: Policy, into: Buffer) -> None:
        """Take one environment step per lane with a sampled action; store it without its reward."""
        self._collector.collect(policy, into)
        self._usage.n_steps += 1

    def collect_paid(self, policy: Policy, into: Buffer) -> Tensor:
        """Take a step as `collect` does, and return the environment's true reward, (L,).

        It is for methods whose paper learns from a reward that the environment pays, beside demonstrations. A test
        lists them: `PAID` in `tests/commands/test_run.py`.
        """
        self._usage.n_steps += 1
        return self._collector.collect_paid(policy, into)

    def draw_starts(self, n: int, length: int, restart: bool = True, anywhere: bool = False) -> Tensor:
        """Draw `n` starts of segments per lane, (L, n, 2): a demonstration and one of its steps.

        The demonstration continues for `length` steps or to its fall. With `restart` the simulator must be able to
        start there: see `QuerySession.draw_starts`. With `anywhere` the starts are in all episodes of the dataset that
        are not held out; `rollout` takes them, `demo_clips` does not.
        """
        _ = self.demos
        return self._queries.draw_starts(n, min(length, self.spec.horizon), restart, anywhere)

    def demo_clips(self, starts: Tensor, length: int) -> Clips:
        """Return the demonstrations' segments from these starts. Raises BadInput if they are subsampled or short."""
        return self._queries.demo_clips(starts, min(length, self.spec.horizon))

    def rollout(self, policy: Actor, starts: Tensor, length: int) -> Rollout:
        """Play a segment of sampled actions from each start; all its steps are counted."""
        rollout, played = self._queries.roll_out(policy, starts, length)
        self._usage.n_steps += played
        return rollout

    def play_greedy(self, policy: Policy, n: int) -> Clips:
        """Play `n` greedy episodes per lane from initial states; all their steps are counted."""
        clips, played = self._queries.play_greedy(policy, n)
        self._usage.n_steps += played
        return clips

    def compare(self, first: Rollout, second: Rollout) -> Preferences:
        """Ask the annotator to compare two rollouts, pair by pair; every query counts as a label.

        n pairs return (L, n) comparisons. A tie is returned in both orders with weight 1/2, a skipped pair has weight
        0. At most `n_offered` queries are allowed, so that methods compare at equal numbers of labels.
        """
        self._count_queries(first.clips.real.shape[1])
        return self._queries.compare(first, second)

    def vote(self, first: Rollout, second: Rollout, n: int) -> Tensor:
        """Return the share of `n` answers about each pair that prefer the first, (L, pairs); each counts as a label.

        A tie, and an answer that the annotator skips, count half for each.
        """
        self._count_queries(n * first.clips.real.shape[1])
        return self._queries.vote(first, second, n)

    def _count_queries(self, n: int) -> None:
        self._usage.n_asked += n
        assert self.n_asked <= self.n_offered, "a method makes at most as many queries as it is offered"

    @property
    def n_steps(self) -> np.ndarray:
        """Environment steps of each lane, (L,)."""
        return self._usage.n_steps

    @property
    def n_asked(self) -> int:
        """Labels per lane that the method has asked for."""
        return self._usage.n_asked

    @property
    def n_labels(self) -> int:
        """Labels per lane that the method has read or asked for."""
        return self._usage.n_given + self._usage.n_asked

    @property
    def labels_right(self) -> np.ndarray | None:
        """Share of these labels that prefer the segment of higher return, (L,), a tie half; only for the log.

        None if a lane has no label yet.
        """
        given = self._usage.n_given if np.isfinite(self._data.right).all() else 0
        n = given + self._queries.answered
        return (given * np.nan_to_num(self._data.right) + self._queries.right) / n if n.all() else None

    @property
    def absorbed(self) -> Tensor:
        """Share of absorbing steps, (L,), if the last episodes of each lane are padded to the horizon."""
        return self._collector.compute_absorbed()

    @property
    def step(self) -> int:
        """Number of the current iteration; 0 before the first."""
        return self._state.step

    @property
    def parts(self) -> dict[str, Any]:
        """The objects that the method gave to `iterations`."""
        return self._state.parts

    def resume(self, state: dict[str, Any], replays: dict[str, Tensor]) -> None:
        """Restore a state of `state_dict`, and the rows of replay buffers, when the method's iterations begin."""
        self._state.resume(state, replays)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that changes while a method learns, except the rows of its replay buffers."""
        return self._state.state_dict()
