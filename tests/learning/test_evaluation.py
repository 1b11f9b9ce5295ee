"""How a learned reward is judged on held-out data."""

import numpy as np

from aihf_control.learning.evaluation import RewardEvaluator


def test_a_reward_is_judged_in_parts_as_at_once(dataset, monkeypatch):
    def reward(obs, act):
        return obs[..., 0] - act[..., 0]

    judge = RewardEvaluator(dataset, 2)
    whole = judge.accuracy(reward), judge.rank_correlation(reward)
    monkeypatch.setattr("aihf_control.learning.evaluation.CHUNK", 7)
    parts = judge.accuracy(reward), judge.rank_correlation(reward)
    assert np.array_equal(whole, parts)
