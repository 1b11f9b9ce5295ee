"""Choosing what to ask: each way prefers what it says it prefers, and knows nothing but states, actions, answers."""

import dataclasses

import numpy as np
import pytest
import torch

from aihf_control.core.types import Trajectory
from aihf_control.data.labelling import ensemble
from aihf_control.data.labelling.comparisons import collect_comparisons
from aihf_control.data.labelling.ensemble import fit_ensemble, segment_logits
from aihf_control.data.labelling.queries import (
    choose_pairs,
    disagreement,
    embed_pairs,
    entropy,
    select_farthest,
)
from aihf_control.data.labelling.segments import SegmentPool
from aihf_control.data.labelling.teachers import make_teacher

LENGTH = 10


@pytest.fixture(scope="module")
def segment_pool() -> SegmentPool:
    """Episodes that walk about and pay by the first number they show; a third of them fall."""
    rng = np.random.default_rng(0)

    def episode(i: int) -> Trajectory:
        obs = (rng.normal(size=(31, 3)) + rng.normal(size=3)).astype(np.float32)
        return Trajectory(obs, np.zeros((30, 1), np.float32), obs[:-1, 0].astype(float), i % 3 == 0, i, "any")

    pool = [episode(i) for i in range(20)]
    return SegmentPool(pool, list(range(16)), LENGTH)


@pytest.fixture(scope="module")
def rows(segment_pool):
    pairs = collect_comparisons(segment_pool, 100, make_teacher("oracle"), "train", np.random.default_rng(1))
    return list(pairs.iloc[:, :4].assign(weight=1.0).itertuples(index=False, name=None))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(ensemble, "UPDATES", 40)


def test_members_disagree_most_where_their_probabilities_lie_apart():
    logits = np.array([[0.0, 5.0, -3.0, 30.0], [0.0, 5.1, 3.0, 40.0], [0.0, 4.9, 0.0, 50.0]])
    found = disagreement(logits)
    assert found.argmax() == 2 and found[0] == 0 and found[3] < 1e-9
    np.testing.assert_allclose(found, (1 / (1 + np.exp(-logits))).std(0), atol=1e-12)


def test_entropy_is_that_of_a_coin():
    p = np.array([[0.5, 0.9, 1e-9], [0.5, 0.3, 1e-9]])
    expected = -(p * np.log(p) + (1 - p) * np.log1p(-p)).mean(0)
    np.testing.assert_allclose(entropy(np.log(p) - np.log1p(-p)), expected, atol=1e-12)
    assert np.isfinite(entropy(np.array([[800.0, -800.0]]))).all()


def test_the_farthest_come_first():
    points = np.array([[0.0], [10.0], [9.0], [4.0], [-3.0]])
    assert select_farthest(points, np.array([[0.5]]), 4) == [1, 3, 4, 2]
    assert sorted(select_farthest(points, np.array([[0.0]]), 9)) == [0, 1, 2, 3, 4]


def test_the_ensemble_learns_from_the_answers_and_its_members_are_not_one(segment_pool, rows, monkeypatch):
    monkeypatch.undo()
    net = fit_ensemble(segment_pool, rows, np.random.default_rng(2))
    unseen = dataclasses.replace(segment_pool, episodes=[16, 17, 18, 19])
    a, b = unseen.pairs(200, np.random.default_rng(3))
    worth = segment_logits(net, segment_pool, sorted({*a, *b}))
    margin = unseen.step_scores(a).sum(1) - unseen.step_scores(b).sum(1)
    logits = np.stack([worth[x] - worth[y] for x, y in zip(a, b, strict=True)], 1)
    assert logits.shape == (ensemble.MEMBERS, 200)
    assert ((logits > 0) == (margin > 0)).mean(1).min() > 0.8
    assert disagreement(logits).min() > 0 and len(np.unique(logits[:, 0])) == ensemble.MEMBERS


def test_a_clips_value_is_the_sum_over_its_real_steps(segment_pool, rows):
    net = fit_ensemble(segment_pool, rows, np.random.default_rng(2))
    for i, t in ((0, 3), (1, 20), (0, 25)):  # inside; to the end; beyond a fall
        episode = segment_pool.pool[i]
        obs, act = (
            torch.as_tensor(x[t : t + LENGTH]).expand(ensemble.MEMBERS, -1, -1) for x in (episode.obs, episode.act)
        )
        n = min(LENGTH, 30 - t)
        expected = net(obs[:, :n], act[:, :n]).sum(1) / (ensemble.TAU * LENGTH)
        np.testing.assert_allclose(segment_logits(net, segment_pool, [(i, t)])[i, t], expected, rtol=1e-4, atol=1e-3)


def test_a_score_does_not_depend_on_which_clip_came_first(segment_pool):
    (one,), (other,) = embed_pairs(segment_pool, [((0, 3), (5, 2))]), embed_pairs(segment_pool, [((5, 2), (0, 3))])
    assert np.array_equal(one, other) and not np.array_equal(one, embed_pairs(segment_pool, [((0, 3), (5, 3))])[0])


@pytest.mark.parametrize("query", ["disagreement", "entropy", "coverage"])
def test_the_choice_of_queries_does_not_depend_on_the_true_reward(segment_pool, rows, query):
    a, b = segment_pool.pairs(60, np.random.default_rng(4))
    candidates = list(zip(a, b, strict=True))
    pool = [dataclasses.replace(t, reward=-1000 * t.reward + 1) for t in segment_pool.pool]
    one, other = (
        choose_pairs(query, m, candidates, rows, 12, np.random.default_rng(5))
        for m in (segment_pool, dataclasses.replace(segment_pool, pool=pool))
    )
    assert one == other and len(set(one)) == 12


@pytest.mark.parametrize("query", ["disagreement", "entropy"])
def test_an_ensemble_chooses_pairs_on_which_it_disagrees(segment_pool, query):
    """Of an oracle's answers the close ones are the doubtful ones: the median margin is below that of any pairs."""

    def margins(how: str) -> np.ndarray:
        pairs = collect_comparisons(segment_pool, 100, make_teacher("oracle"), "train", np.random.default_rng(6), how)
        assert len(pairs) == 100 and (pairs["weight"] == 1).all()
        win, lose = (
            [
                segment_pool.pool[i].return_of(s, LENGTH)
                for i, s in zip(pairs[f"{side}_episode"], pairs[f"{side}_start"], strict=True)
            ]
            for side in ("win", "lose")
        )
        return np.array(win) - np.array(lose)

    assert np.median(margins(query)[20:]) < 0.6 * np.median(margins("uniform"))


def test_coverage_reaches_pairs_farther_from_each_other(segment_pool):
    def nearest(how: str) -> float:
        pairs = collect_comparisons(segment_pool, 60, make_teacher("oracle"), "train", np.random.default_rng(6), how)
        named = pairs.iloc[:, :4].itertuples(index=False, name=None)
        points = embed_pairs(segment_pool, [((i, s), (j, t)) for i, s, j, t in named])
        apart = np.linalg.norm(points[:, None] - points, axis=-1) + 1e9 * np.eye(len(points))
        return float(np.median(apart.min(1)))

    assert nearest("coverage") > 1.15 * nearest("uniform")


def test_few_clips_are_queried_again_in_the_next_round(segment_pool):
    few = SegmentPool(segment_pool.pool, [1, 2, 4], 30)
    pairs = collect_comparisons(few, 20, make_teacher("oracle"), "train", np.random.default_rng(0), "coverage")
    named = {frozenset(pair) for pair in zip(pairs["win_episode"], pairs["lose_episode"], strict=True)}
    assert len(pairs) == 20 and len(named) == 3
