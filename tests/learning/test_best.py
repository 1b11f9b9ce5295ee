"""The best policy so far: by the learned return of greedy episodes, lane by lane, and only when a trial is due."""

import pytest
import torch

from aihf_control.core.errors import BadInput
from aihf_control.core.types import Clips
from aihf_control.learning.best import BestConfig, BestPolicy
from aihf_control.models.lanes import Dims
from aihf_control.models.networks import Policy

DIMS = Dims((0, 1), 3, 1)


class Arena:
    """A task and a reward: an episode of a policy is three steps whose observation is the bias of its mean."""

    dims = DIMS

    def __init__(self):
        self.played = 0

    def play_greedy(self, policy: Policy, n: int) -> Clips:
        self.played += n
        level = policy.mean.bias.detach()[:, :, None, :].expand(-1, n, 3, -1)
        return Clips(level.clone(), level.clone(), torch.ones(2, n, 3))

    def clip_returns(self, obs, act, real):
        return (obs.squeeze(-1) * real).sum(-1)


def policy(*levels: float) -> Policy:
    made = Policy(DIMS, (4,))
    with torch.no_grad():
        made.mean.bias.copy_(torch.tensor(levels)[:, None, None])
    return made


def levels(of: Policy) -> list[float]:
    return of.mean.bias.flatten().tolist()


def test_each_lane_keeps_the_policy_of_the_highest_learned_return():
    arena = Arena()
    best = BestPolicy(arena, arena, policy(1, 1), BestConfig(every=10, episodes=2))  # pyright: ignore[reportArgumentType]
    assert levels(best.offer(10, policy(2, 0))) == [2, 1]
    assert levels(best.offer(20, policy(1.5, 3))) == [2, 3]
    assert levels(best.offer(30, policy(2.5, 2))) == [2.5, 3]
    assert arena.played == 4 * 2


def test_a_lane_that_has_diverged_shows_it():
    arena = Arena()
    best = BestPolicy(arena, arena, policy(1, 1), BestConfig(every=10, episodes=1))  # pyright: ignore[reportArgumentType]
    kept = levels(best.offer(10, policy(float("nan"), 0)))
    assert kept[0] != kept[0] and kept[1] == 1


def test_between_trials_nothing_is_played_and_a_tie_keeps_the_older_policy():
    arena = Arena()
    best = BestPolicy(arena, arena, policy(1, 1), BestConfig(every=10, episodes=1))  # pyright: ignore[reportArgumentType]
    assert levels(best.offer(9, policy(5, 5))) == [1, 1] and arena.played == 1
    newest = policy(1, 1)
    assert best.offer(10, newest) is best.policy and best.policy is not newest


def test_the_result_does_not_change_with_the_policy_that_was_offered():
    arena, newest = Arena(), policy(2, 2)
    best = BestPolicy(arena, arena, policy(1, 1), BestConfig(every=1, episodes=1))  # pyright: ignore[reportArgumentType]
    best.offer(1, newest)
    with torch.no_grad():
        newest.mean.bias.zero_()
    assert levels(best.policy) == [2, 2]


def test_without_trials_the_newest_policy_is_the_result():
    arena, newest = Arena(), policy(0, 0)
    best = BestPolicy(arena, arena, policy(1, 1), BestConfig(every=0))  # pyright: ignore[reportArgumentType]
    assert best.offer(2500, newest) is newest and arena.played == 0


def test_a_saved_state_continues_with_the_same_choice():
    arena = Arena()
    best = BestPolicy(arena, arena, policy(1, 4), BestConfig(every=10, episodes=1))  # pyright: ignore[reportArgumentType]
    best.offer(10, policy(2, 2))
    resumed = BestPolicy(arena, arena, policy(0, 0), BestConfig(every=10, episodes=1))  # pyright: ignore[reportArgumentType]
    resumed.load_state_dict(best.state_dict())
    assert levels(resumed.policy) == [2, 4]
    assert levels(resumed.offer(20, policy(3, 3))) == [3, 4]


@pytest.mark.parametrize(("given", "word"), [({"every": -1}, "--best.every"), ({"episodes": 0}, "--best.episodes")])
def test_impossible_settings_are_refused(given, word):
    with pytest.raises(BadInput, match=word):
        BestConfig(**given)
