"""Demonstrations tilted by the comparisons: weights by hand, segments as rows of the data, labels that say nothing."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from aihf_control.core.errors import BadInput
from aihf_control.learning import tilt
from aihf_control.learning.bc import CloneConfig, clone
from aihf_control.learning.reward_model import RewardConfig, RewardModel
from aihf_control.learning.segments import Segments
from aihf_control.learning.tilt import (
    TiltConfig,
    TiltedDemos,
    choose_by_lane,
    clone_demos,
    fit_and_test,
    segment_weights,
)
from aihf_control.methods import aihf, rlhf
from aihf_control.models.lanes import Dims
from aihf_control.models.networks import Policy
from aihf_control.testing import check_method
from tests.helpers import make_task, small_config

CFG = RewardConfig(hidden=(16,), batch=32, pair_steps=200, lr=1e-2)
TILT = TiltConfig(share=0.1, updates=5)


def segments(demos: int, clips: int, padding: int = 0) -> Segments:
    """Segments of 10 steps of one lane: demonstrations, compared ones, and padding."""
    n = demos + clips
    length = torch.tensor([[10] * n + [0] * padding])
    first = torch.tensor([[10 * i for i in range(n)] + [0] * padding])
    return Segments(first, length, length, torch.tensor([[1] * demos + [0] * (clips + padding)]))


def test_equal_scores_give_the_weights_before_tilting():
    weight = segment_weights(torch.full((1, 7), 3.0), segments(2, 4, padding=1), 0.25, 0.6)
    torch.testing.assert_close(weight, torch.tensor([[0.3, 0.3, 0.1, 0.1, 0.1, 0.1, 0.0]]))


def test_weights_by_hand():
    """Two of five compared segments are the best: the first is capped at the second."""
    score = torch.tensor([[1.0, 9.0, 3.0, 2.0, 0.0, 0.0]])
    raw = np.array([0.5 * math.e, *(0.1 * np.exp([3.0, 3.0, 2.0, 0.0, 0.0]))])
    weight = segment_weights(score, segments(1, 5), 0.4, 0.5)
    torch.testing.assert_close(weight, torch.tensor(raw / raw.sum(), dtype=torch.float32)[None])


def test_a_demonstration_above_all_compared_segments_keeps_its_weight():
    score = torch.tensor([[50.0, 20.0] + [0.0] * 9])
    weight = segment_weights(score, segments(1, 10), 0.1, 0.5)
    assert weight[0, 0] == pytest.approx(0.5 / 0.55, abs=1e-6)  # the best tenth has 0.05


def test_a_demonstration_far_below_the_best_has_almost_no_weight():
    score = torch.tensor([[0.0, 10.0, 10.0] + [0.0] * 8])
    assert segment_weights(score, segments(1, 10), 0.2, 0.9)[0, 0] < 1e-2


def test_totals_and_weights_of_rows_by_hand():
    """Rows 0 to 2 and 1 to 3; the second segment has 3 real steps of 6."""
    some = Segments(*(torch.tensor([x]) for x in ([0, 1], [3, 3], [3, 6], [1, 0])))
    assert some.totals(torch.tensor([[1.0, 2.0, 4.0, 8.0]])).tolist() == [[7.0, 14.0]]
    rows = some.spread(torch.tensor([[0.6, 0.4]]), 4)[0]
    expected = [0.2, 0.2 + 0.4 / 6, 0.2 + 0.4 / 6, 0.4 / 6]
    assert rows.tolist() == pytest.approx(expected, abs=1e-6)


def test_segments_are_rows_of_the_given_data(dataset):
    """Each compared segment's rows are its real steps; a demonstration's windows cover it once."""
    task = make_task(dataset)
    buffer, some = task.given()
    lane = 1
    table = torch.stack([some.first, some.rows, some.length, some.demo], -1)[lane].tolist()
    data = buffer.data[lane, :, : task.dims.n_obs]
    there = {data[first : first + rows].numpy().tobytes() for first, rows, _, demo in table if rows and not demo}
    win, lose, _ = task.comparisons().read_all()
    given = [obs[real > 0] for side in (win, lose) for obs, real in zip(side.obs[lane], side.real[lane], strict=True)]
    assert there == {obs.numpy().tobytes() for obs in given}
    covered = [i for first, rows, _, demo in table if demo for i in range(first, first + rows)]
    assert covered == list(range(int(task.demos.count[lane])))


def test_steps_are_drawn_by_their_weights(dataset):
    task = make_task(dataset, 40)
    tilted = TiltedDemos(task, CFG, TILT)
    share = tilted.cumulated.diff(prepend=torch.zeros(2, 1).double()) / tilted.cumulated[:, -1:]
    drawn = torch.stack([torch.bincount(row, minlength=share.shape[1]) for row in tilted.sample(40_000).index]) / 40_000
    assert (drawn - share).abs().max() < 0.01
    assert (drawn[share == 0] == 0).all()


def relabelled(task, right: float):
    """Comparisons in which the segment of the larger first action wins, with this share of right labels."""
    p = task.comparisons()
    value = [(side.act[..., 0] * side.real).sum(-1) for side in (p.win, p.lose)]
    g = torch.Generator().manual_seed(0)
    swap = (value[0] < value[1]) ^ (torch.rand(value[0].shape, generator=g) > right)
    for a, b in zip(p.win, p.lose, strict=True):
        at = swap.view(*swap.shape, *[1] * (a.dim() - 2))
        a_new, b_new = torch.where(at, b, a), torch.where(at, a, b)
        a.copy_(a_new)
        b.copy_(b_new)
    return task


@pytest.mark.parametrize(("right", "low", "high"), [(1.0, 0.4, 20.0), (0.5, 0.0, 0.2)])
def test_labels_count_as_far_as_they_can_be_predicted(dataset, right, low, high):
    """The logits of the comparisons, scaled, are large only if the labels can be predicted."""
    task = relabelled(make_task(dataset, 60, seeds=range(4)), right)
    r, scale = fit_and_test(task, CFG, 150)
    win, lose, _ = task.comparisons().read_all()
    with torch.no_grad():
        logits = scale * (r.clip_returns(*win) - r.clip_returns(*lose)).abs()
    assert low <= logits.mean() <= high


def test_without_a_share_the_demonstrations_stay_as_they_are(dataset):
    task = make_task(dataset)
    policy, demos, factor = clone_demos(task, CloneConfig(updates=3), (8,), CFG, TiltConfig(share=0))
    assert factor.tolist() == [1, 1]
    assert torch.equal(demos.absorbed, task.demo_absorbed)
    assert demos.sample == task.demos.sample
    plain = clone(make_task(dataset), CloneConfig(updates=3), (8,))
    assert torch.equal(policy.mean.weight, plain.mean.weight) and not task.n_steps.any()


def test_too_few_comparisons_to_hold_one_out_give_the_plain_demonstrations(dataset):
    task = make_task(dataset, 4)
    demos = TiltedDemos(task, CFG, TILT)
    assert demos.demo_mass.tolist() == [1, 1]
    for lane, n in enumerate(task.demos.count.tolist()):
        share = demos.cumulated.diff(prepend=torch.zeros(2, 1).double())[lane] / demos.cumulated[lane, -1]
        torch.testing.assert_close(share[:n], torch.full((n,), 1 / n).double(), rtol=1e-4, atol=1e-9)
        assert not share[n:].any()


def test_the_better_clone_is_kept_in_each_lane(dataset, monkeypatch):
    """Greedy episodes of both clones are played; the tilted one returns more in the second lane only."""
    task, returns = make_task(dataset, 40), iter([[2.0, 2.0], [1.0, 3.0]])
    monkeypatch.setattr(RewardModel, "clip_returns", lambda *_: torch.tensor(next(returns))[:, None])
    monkeypatch.setattr(tilt, "fit_and_test", lambda task, cfg, _: (RewardModel(task, cfg), torch.ones(2, 1)))
    policy, demos, factor = clone_demos(task, CloneConfig(updates=3), (8,), CFG, TILT)
    assert isinstance(demos, TiltedDemos)
    torch.testing.assert_close(factor, TILT.far ** (1 - demos.worth(torch.tensor([2.0, 3.0]))))
    plain = clone(make_task(dataset, 40), CloneConfig(updates=3), (8,))
    assert torch.equal(policy.mean.weight[0], plain.mean.weight[0])
    assert not torch.equal(policy.mean.weight[1], plain.mean.weight[1])
    assert isinstance(demos, TiltedDemos) and (demos.demo_mass < 0.99).all()
    assert (task.n_steps >= 2 * TILT.episodes).all()  # steps of both clones are counted


def test_the_worth_of_a_clone_by_hand(dataset):
    """Compared segments return 1 and tilted demonstrations 3: a clone that returns 2 is worth a half.

    Where the reward explains half of the labels, what is missing counts by half.
    """
    demos = TiltedDemos(make_task(dataset, 40), CFG, TILT)
    demos.usual, demos.best, demos.scale = torch.ones(2), torch.full((2,), 3.0), torch.tensor([[1.0], [0.5]])
    for returns, worth in ((2.0, [0.5, 0.75]), (0.0, [0.0, 0.5]), (5.0, [1.0, 1.0])):
        torch.testing.assert_close(demos.worth(torch.full((2,), returns)), torch.tensor(worth))
    demos.best = torch.zeros(2)  # below what is usual
    assert demos.worth(torch.full((2,), 2.0)).tolist() == [1, 1]


def test_best_and_usual_are_means_of_segments_by_hand(dataset):
    demos = TiltedDemos(make_task(dataset, 40), CFG, TILT)
    returns = demos._returns(demos.r, demos.segments)
    for lane in range(2):
        clip = (demos.segments.length[lane] > 0) & (demos.segments.demo[lane] == 0)
        torch.testing.assert_close(demos.usual[lane], returns[lane][clip].mean())
    assert (demos.best > demos.usual).all()


def test_lanes_are_chosen_one_by_one():
    a, b = Policy(Dims((0, 1), 3, 1), (4,)), Policy(Dims((2, 3), 3, 1), (4,))
    expected = [b.mean.weight[0].clone(), a.mean.weight[1].clone()]
    chosen = choose_by_lane(torch.tensor([False, True]), a, b)
    assert chosen is b and all(torch.equal(w, e) for w, e in zip(chosen.mean.weight, expected, strict=True))


@pytest.mark.parametrize(
    "method", [pytest.param(aihf, id="aihf"), pytest.param(rlhf, id="rlhf", marks=pytest.mark.slow)]
)
def test_the_laws_hold_with_tilt_unit_and_budget(method, dataset):
    cfg = small_config(method.__name__.rsplit(".", 1)[1], 12)
    cfg = dataclasses.replace(
        cfg,
        tilt=TILT,
        sac=dataclasses.replace(cfg.sac, kl=(0.3, 4.0)),
    )
    check_method(method, cfg, dataset)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: TiltConfig(share=1.5), "--tilt.share 1.5"),
        (lambda: TiltConfig(mass=0.0), "--tilt.mass 0.0"),
        (lambda: TiltConfig(temperature=0.0), "--tilt.temperature 0.0"),
        (lambda: TiltConfig(far=0.0), "--tilt.far 0.0 must be above 0"),
    ],
)
def test_impossible_settings_are_refused(make, word):
    with pytest.raises(BadInput, match=word):
        make()
