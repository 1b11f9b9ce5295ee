"""Rollouts from states of the demonstrations, and their comparison by the annotator.

True rewards are only passed to the annotator. A method receives segments without rewards, and a key with which to
compare them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from aihf_control.core.errors import BadInput
from aihf_control.core.progress import counted
from aihf_control.core.types import Clips, Preferences, Trajectory, correct_share, cut
from aihf_control.environments.gym import Envs, EnvSpec
from aihf_control.learning.annotators import Annotator, Played, Query
from aihf_control.learning.segment_recorder import SegmentRecorder
from aihf_control.learning.starts import draw_lane_starts
from aihf_control.models.lanes import Dims, Random
from aihf_control.models.mixture import Actor

Array = np.ndarray
PLAY_SEED = 40_000_000  # greedy episodes start from other seeds than those of evaluations and training
N_COMPARABLE = 64  # last rollouts whose rewards are kept, so that they can be compared


class Rollout(NamedTuple):
    """Segments that a policy played, and the key of what the annotator is shown of them in the `QuerySession`."""

    clips: Clips
    key: int


class QuerySession:
    """Rollouts of segments in all lanes at once, and their comparison.

    A start (L, n, 2) is a demonstration of the lane and one of its steps. Two rollouts from the same start begin in the
    same state of the simulator, as two answers to one prompt do. The numbers from -1 down are the episodes `prompts`,
    which all lanes share.
    """

    def __init__(
        self,
        spec: EnvSpec,
        dims: Dims,
        demos: Sequence[Sequence[Trajectory]],
        annotator: Annotator,
        ended: Callable[[], bool] = lambda: False,
        prompts: Sequence[Trajectory] = (),
    ):
        """`ended` is whether the run is to pause or to stop; an annotator asks it while it waits for answers."""
        self.spec, self.dims, self.demos, self.prompts = spec, dims, demos, prompts
        self.annotator, self.ended = annotator, ended
        self.acting, self.choosing = Random(dims, "rollouts"), Random(dims, "starts")
        self.labelling = Random(dims, "annotator")
        self.played: dict[int, Played] = {}
        self.key = 0
        self.answered, self.right = (np.zeros(dims.n_lanes) for _ in range(2))  # answers, and correct ones, by lane
        self._envs: dict[int, Envs] = {}

    def draw_starts(self, n: int, length: int, restart: bool = True, anywhere: bool = False) -> Tensor:
        """Draw `n` starts per lane, (L, n, 2), after which a demonstration continues for `length` steps or to its fall.

        If the simulator must `restart` there and the states are unknown, the starts are first steps of demonstrations.
        The same holds for lanes whose demonstrations are all shorter than `length`. With `anywhere` the episodes are
        `prompts`.
        """
        u = self.choosing.uniform(n, 2).cpu().numpy()
        sources = [self.prompts] * self.dims.n_lanes if anywhere else self.demos
        lanes = np.stack([draw_lane_starts(episodes, u[i], length, restart) for i, episodes in enumerate(sources)])
        if anywhere:
            lanes[..., 0] = -1 - lanes[..., 0]
        return torch.from_numpy(lanes).long()

    def demo_clips(self, starts: Tensor, length: int) -> Clips:
        """Return the demonstrations' segments from these starts. Raises BadInput if they are subsampled or short."""
        if any(demo.every > 1 for demos in self.demos for demo in demos):
            raise BadInput("this method needs whole segments of the demonstrations; use data with --demo-every 1")
        if not all(any(demo.starts(length) for demo in demos) for demos in self.demos):
            raise BadInput(f"this method needs segments of {length} steps; some seed has no demonstration that long")
        lanes = [[(int(e), int(t), length) for e, t in lane] for lane in starts]
        cuts = [cut(demos, lane) for demos, lane in zip(self.demos, lanes, strict=True)]
        return Clips(*(self.dims.tensor(np.stack(column)) for column in zip(*cuts, strict=True)))

    def roll_out(self, policy: Actor, starts: Tensor, length: int) -> tuple[Rollout, Array]:
        """Play a segment of sampled actions from each start; return it and the number of steps of each lane, (L,).

        Segments: obs (L, n, K, O), act (L, n, K, A), real (L, n, K), which is 0 after the end of an episode.
        """
        envs, obs = self._restart(starts)
        length, n = min(length, self.spec.horizon), starts.shape[1]
        recorder = SegmentRecorder() if self.annotator.watches else None
        noise = partial(self.acting.normal, n, self.spec.n_act)
        clips, rewards = self._play(policy, envs, obs, length, noise, recorder)
        played, acts, real = (x.flatten(0, 1).cpu().numpy() for x in clips)
        segments = recorder.segments(played, acts, real, rewards) if recorder else []
        return Rollout(clips, self._keep(Played(rewards, segments))), count_steps(clips)

    def play_greedy(self, policy: Actor, n: int) -> tuple[Clips, Array]:
        """Play `n` greedy episodes per lane from initial states; return them and the steps of each lane, (L,).

        The initial states are the same at every call.
        """
        envs = self._make_envs(n)
        seeds = [PLAY_SEED + 1000 * seed + j for seed in self.dims.seeds for j in range(n)]
        obs = np.stack([envs.reset(i, seed) for i, seed in enumerate(seeds)])
        clips, _ = self._play(policy, envs, obs, self.spec.horizon)
        return clips, count_steps(clips)

    def _play(
        self,
        policy: Actor,
        envs: Envs,
        obs: Array,
        length: int,
        draw_noise: Callable[[], Tensor] | None = None,
        recorder: SegmentRecorder | None = None,
    ) -> tuple[Clips, Array]:
        """Play a segment in each of the L n environments; return the segments and their rewards, (L n, K).

        Noise is drawn for all K steps, so that the random numbers of a lane do not depend on when other lanes end.
        """
        lanes = self.dims.n_lanes, len(obs) // self.dims.n_lanes
        steps, live = [], np.ones(len(obs), bool)
        if recorder:
            recorder.begin(envs, obs)
        for _ in counted(length, "playing segments"):
            noise = draw_noise() if draw_noise else None
            act = policy.act(self.dims.tensor(obs).view(*lanes, -1), noise).flatten(0, 1).cpu().numpy()
            before, real, reward = obs.copy(), live.copy(), np.zeros(len(live))
            which = np.flatnonzero(live).tolist()
            if which:
                obs[which], reward[which], terminated, truncated = envs.step(act[which], which)
                live[which] = ~(terminated | truncated)
                if recorder:
                    recorder.add(envs, obs, which, terminated)
            steps.append((before, act, real, reward))
            if not (which or draw_noise):
                break
        steps += steps[-1:] * (length - len(steps))  # a greedy action repeats once all episodes have ended
        *columns, rewards = (np.stack(column, 1) for column in zip(*steps, strict=True))
        return Clips(*(self.dims.tensor(x).view(*lanes, *x.shape[1:]) for x in columns)), rewards

    def _restart(self, starts: Tensor) -> tuple[Envs, Array]:
        """Reset an environment to each start; return the environments and their observations, (L n, O)."""
        n = starts.shape[1]
        envs = self._make_envs(n)
        pairs = enumerate(starts.flatten(0, 1).tolist())
        obs = [self._reset(envs, i, self._episode(i // n, episode), t) for i, (episode, t) in pairs]
        return envs, np.stack(obs)

    def _make_envs(self, n: int) -> Envs:
        """Return `n` environments per lane, made at the first call."""
        if n not in self._envs:
            self._envs[n] = Envs(self.spec, self.dims.n_lanes * n)
        return self._envs[n]

    def _episode(self, lane: int, number: int) -> Trajectory:
        return self.demos[lane][number] if number >= 0 else self.prompts[-1 - number]

    def _reset(self, envs: Envs, i: int, demo: Trajectory, t: int) -> Array:
        """Reset environment i to step t of a demonstration. Raises BadInput if neither seed nor state is known."""
        if t == 0 and demo.seed >= 0:
            return envs.reset(i, demo.seed)
        if demo.qpos is None or demo.qvel is None:
            raise BadInput("this method starts where demonstrations do; these contain neither seeds nor states")
        return envs.put(i, demo.qpos[t], demo.qvel[t], demo.seed)

    def _keep(self, played: Played) -> int:
        """Keep what the annotator is shown of a rollout, and drop that of the oldest; return its key."""
        self.key += 1
        self.played[self.key] = played
        self.played.pop(self.key - N_COMPARABLE, None)
        return self.key

    def compare(self, first: Rollout, second: Rollout) -> Preferences:
        """Return the annotator's preferences between n pairs per lane, (L, n); a skipped pair has weight 0.

        If the annotator knows ties, the result is (L, 2n): a tie has weight 1/2 in both orders, and other pairs have
        weight 0 in their second order. Raises WaitingEnded if the run is to pause or to stop before there are answers.
        """
        weight = self._ask(first, second)
        first_wins = weight[..., 0] >= weight[..., 1]
        win, lose = _where(first_wins, first.clips, second.clips), _where(first_wins, second.clips, first.clips)
        high, low = weight.amax(-1), weight.amin(-1)
        if not self.annotator.ties:  # shapes depend on the annotator alone, not on another lane's ties
            return Preferences(win, lose, high)
        return Preferences(_concatenate(win, lose), _concatenate(lose, win), torch.cat([high, low], 1))

    def vote(self, first: Rollout, second: Rollout, n: int) -> Tensor:
        """Return the share of `n` answers about each pair that prefer the first, (L, pairs); ties count half."""
        weight = torch.stack([self._ask(first, second) for _ in range(n)])
        return (0.5 + 0.5 * (weight[..., 0] - weight[..., 1])).mean(0)

    def _ask(self, first: Rollout, second: Rollout) -> Tensor:
        """Return the annotator's weights of "first is better" and "second is better", (L, n, 2)."""
        n = first.clips.real.shape[1]
        u = self.labelling.uniform(n, 2).flatten(0, 1).cpu().numpy()
        one, other = self.played[first.key], self.played[second.key]
        answers = self.annotator.compare(Query(one, other, u, self.ended))
        self._count_right(answers, one.rewards.sum(1) - other.rewards.sum(1))
        return self.dims.tensor(answers).view(-1, n, 2)

    def _count_right(self, answers: Array, margin: Array) -> None:
        """Count answers (N, 2) to pairs whose first segment has a return higher by `margin`, (N,)."""
        answered, preference = answers.any(1), answers[:, 0] - answers[:, 1]
        right = answered * correct_share(preference * margin)
        for total, x in ((self.answered, answered), (self.right, right)):
            total += x.reshape(len(total), -1).sum(1)

    def streams(self) -> dict[str, Random]:
        """Return the random streams by name."""
        return {"rollouts": self.acting, "starts": self.choosing, "annotator": self.labelling}

    def state_dict(self) -> dict[str, Any]:
        """Return the counts of answers; random streams are saved by `TaskState`, what was played is not saved."""
        return {"answers": [self.answered.tolist(), self.right.tolist()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.answered, self.right = map(np.array, state["answers"])


def _where(condition: Tensor, a: Clips, b: Clips) -> Clips:
    """Select the segments of a where the condition (L, n) holds, else those of b."""

    def select(x: Tensor, y: Tensor) -> Tensor:
        return torch.where(condition.view(*condition.shape, *[1] * (x.dim() - 2)), x, y)

    return Clips(*map(select, a, b))


def _concatenate(a: Clips, b: Clips) -> Clips:
    """Concatenate the segments of both, (L, 2n, K, ...)."""
    return Clips(*(torch.cat(both, 1) for both in zip(a, b, strict=True)))


def count_steps(clips: Clips) -> Array:
    """Return the number of real steps of each lane's segments, (L,)."""
    return clips.real.flatten(1).sum(1).long().cpu().numpy()
