"""Clips played on purpose: by any policy, from chosen moments of the demonstrations, and compared by the annotator.

What the steps truly paid stays in here. A method gets clips without reward, and a ticket to have them compared with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from aihf_control.core.errors import BadInput
from aihf_control.core.types import Clips, Preferences, Trajectory, correct_share, cut
from aihf_control.data.labelling.teachers import Annotator
from aihf_control.environments.gym import Envs, EnvSpec
from aihf_control.models.lanes import Dims, Random
from aihf_control.models.networks import Mixture, Policy

Array = np.ndarray
KEPT = 64  # rollouts that can still be compared


class Rollout(NamedTuple):
    """Clips that were played, and the ticket to have them compared with."""

    clips: Clips
    ticket: int


class QuerySession:
    """Plays clips for every lane at once and has them compared.

    A start (L, n, 2) names moments of a lane's demonstrations: which one, and its step. Two rollouts from the same
    start begin in the same state of the simulator, as two answers to one prompt do.
    """

    def __init__(
        self,
        spec: EnvSpec,
        dims: Dims,
        demos: Sequence[Sequence[Trajectory]],
        annotator: Annotator,
        pool: Sequence[Trajectory],
    ):
        self.spec, self.dims, self.demos, self.pool = spec, dims, demos, pool
        self.annotator = annotator
        self.teachers: dict[int, Annotator] = {}
        self.acting, self.choosing = Random(dims, "rollouts"), Random(dims, "starts")
        self.doubts = Random(dims, "annotator")
        self.paid: dict[int, Array] = {}
        self.ticket = 0
        self.answered, self.right = (np.zeros(dims.n_lanes) for _ in range(2))  # questions, and how many rightly
        self._envs: dict[int, Envs] = {}

    def starts(self, n: int, length: int, put: bool = True) -> Tensor:
        """`n` moments a lane, (L, n, 2), from which a demonstration goes on for `length` steps, or to its fall.

        Where the simulator is to be `put` there and cannot be, these are the demonstrations' beginnings; so they are in
        lanes whose demonstrations are all too short.
        """
        u = self.choosing.uniform(n, 2).cpu().numpy()
        lanes = [self._moments(demos, u[i], length, put) for i, demos in enumerate(self.demos)]
        return torch.from_numpy(np.stack(lanes)).long()

    def _moments(self, demos: Sequence[Trajectory], u: Array, length: int, put: bool) -> Array:
        enough = np.array([i for i, demo in enumerate(demos) if demo.starts(length)] or range(len(demos)))
        which = enough[(u[:, 0] * len(enough)).astype(int)]
        at = [_moments_of(demos[i], length, put) for i in which]
        return np.stack([which, [t[int(x * len(t))] for t, x in zip(at, u[:, 1], strict=True)]], 1)

    def demo_clips(self, starts: Tensor, length: int) -> Clips:
        """What the demonstrations themselves did from there. Raises BadInput where they were thinned out."""
        if any(demo.every > 1 for demos in self.demos for demo in demos):
            raise BadInput("this method is shown whole clips of the demonstrations; use data with --demo-every 1")
        if not all(any(demo.starts(length) for demo in demos) for demos in self.demos):
            raise BadInput(f"this method is shown clips of {length} steps, more than some seed's demonstrations have")
        lanes = [[(int(e), int(t), length) for e, t in lane] for lane in starts]
        cuts = [cut(demos, lane) for demos, lane in zip(self.demos, lanes, strict=True)]
        return Clips(*(self._tensor(np.stack(column)) for column in zip(*cuts, strict=True)))

    def play(self, policy: Policy | Mixture, starts: Tensor, length: int) -> tuple[Rollout, Array]:
        """A clip of sampled actions from every start, and the steps that each lane played, (L,).

        Clips: obs (L, n, K, O), act (L, n, K, A), real (L, n, K), 0 after the end of an episode.
        """
        n_lanes, n = starts.shape[:2]
        if n not in self._envs:
            self._envs[n] = Envs(self.spec, n_lanes * n)
        envs = self._envs[n]
        now = np.stack([self._begin(envs, i, i // n, *pair) for i, pair in enumerate(starts.flatten(0, 1).tolist())])
        steps, live = [], np.ones(n_lanes * n, bool)
        for _ in range(min(length, self.spec.horizon)):
            seen = self._tensor(now).view(n_lanes, n, -1)
            act = policy.act(seen, self.acting.normal(n, self.spec.n_act)).flatten(0, 1).cpu().numpy()
            obs, paid, real = now.copy(), np.zeros(len(live)), live.copy()
            which = np.flatnonzero(live).tolist()
            if which:
                now[which], paid[which], terminated, truncated = envs.step(act[which], which)
                live[which] = ~(terminated | truncated)
            steps.append((obs, act, real, paid))
        obs, act, real, paid = (np.stack(column, 1) for column in zip(*steps, strict=True))
        self.ticket += 1
        self.paid[self.ticket] = paid
        self.paid.pop(self.ticket - KEPT, None)
        clips = Clips(*(self._tensor(x).view(n_lanes, n, *x.shape[1:]) for x in (obs, act, real)))
        return Rollout(clips, self.ticket), real.reshape(n_lanes, -1).sum(1)

    def _begin(self, envs: Envs, i: int, lane: int, episode: int, t: int) -> Array:
        demo = self.demos[lane][episode]
        if t == 0 and demo.seed >= 0:
            return envs.reset(i, demo.seed)
        if demo.qpos is None or demo.qvel is None:
            raise BadInput("this method begins where demonstrations do; these say neither their seeds nor their states")
        return envs.put(i, demo.qpos[t], demo.qvel[t])

    def compare(self, first: Rollout, second: Rollout) -> Preferences:
        """What the annotator says of n pairs a lane: (L, n) comparisons, the weight of a skipped one 0. Of one who
        knows ties it is (L, 2n): a tie weighs 1/2 in both orders, and the other pairs nothing in their second."""
        n, n_steps = first.clips.real.shape[1:]
        u = self.doubts.uniform(n, 2).flatten(0, 1).cpu().numpy()
        paid, other = self.paid[first.ticket], self.paid[second.ticket]
        weight = self._teacher(n_steps).judge(paid, other, u)
        self._count(weight, paid.sum(1) - other.sum(1))
        weight = self._tensor(weight).view(-1, n, 2)
        better = weight[..., 0] >= weight[..., 1]
        win, lose = _chosen(better, first.clips, second.clips), _chosen(better, second.clips, first.clips)
        high, low = weight.amax(-1), weight.amin(-1)
        if not self.annotator.equal:  # what a lane is told does not hang on the others' ties
            return Preferences(win, lose, high)
        return Preferences(_joined(win, lose), _joined(lose, win), torch.cat([high, low], 1))

    def _count(self, weight: Array, margin: Array) -> None:
        """Answers (N, 2) to pairs of which the first clip paid more by `margin`, (N,)."""
        answered, named = weight.any(1), weight[:, 0] - weight[:, 1]
        for total, x in ((self.answered, answered), (self.right, answered * correct_share(named * margin))):
            total += x.reshape(len(total), -1).sum(1)

    def _teacher(self, length: int) -> Annotator:
        """The dataset's annotator, its dials in units of the pool's clips this long."""
        if length not in self.teachers:
            gains = [t.return_of(s, length) for t in self.pool for s in range(0, t.starts(length), max(1, length // 2))]
            units = {"spread": float(np.std(gains)), "mean": float(np.mean(gains))} if gains else {}
            self.teachers[length] = dataclasses.replace(self.annotator, **units)
        return self.teachers[length]

    def _tensor(self, x: Array) -> Tensor:
        return torch.as_tensor(x, dtype=torch.float32, device=self.dims.device)

    def streams(self) -> dict[str, Random]:
        return {"rollouts": self.acting, "starts": self.choosing, "annotator": self.doubts}


def _moments_of(demo: Trajectory, length: int, put: bool) -> Array:
    """The steps of a demonstration from which clips may begin: of those that a learner is given, for one that is
    thinned out."""
    room = 1 if put and demo.qpos is None else max(1, demo.starts(length))
    given = np.arange(demo.first, room, demo.every)
    return given if len(given) else np.zeros(1, int)


def _chosen(which: Tensor, a: Clips, b: Clips) -> Clips:
    """Of each pair the clip of `a` where `which` (L, n), else that of `b`."""

    def one(x: Tensor, y: Tensor) -> Tensor:
        return torch.where(which.view(*which.shape, *[1] * (x.dim() - 2)), x, y)

    return Clips(*map(one, a, b))


def _joined(a: Clips, b: Clips) -> Clips:
    """The clips of both, (L, 2n, K, ...)."""
    return Clips(*(torch.cat(both, 1) for both in zip(a, b, strict=True)))
