"""Rollouts and queries of a task: their starts, their counts, and the rewards that stay hidden."""

import dataclasses

import numpy as np
import pytest
import torch

from aihf_control.core.errors import BadInput
from aihf_control.data.labelling.teachers import Teacher
from aihf_control.data.pairs import references
from aihf_control.learning.annotators import TeacherAnnotator
from aihf_control.learning.query import QuerySession
from aihf_control.learning.task import Task
from aihf_control.models.networks import Policy

LENGTH = 8


@pytest.fixture
def task(dataset) -> Task:
    return Task(dataset, (0, 1, 2), n_demos=2, n_pairs=12)


@pytest.fixture
def policy(task) -> Policy:
    return Policy(task.dims, (8, 8))


def test_a_start_is_a_moment_of_a_demonstration_with_enough_after_it(task):
    starts = task.draw_starts(200, LENGTH)
    assert starts.shape == (3, 200, 2)
    for lane, demos in enumerate(task._queries.demos):
        for which, demo in enumerate(demos):
            t = starts[lane][starts[lane, :, 0] == which, 1]
            assert len(t) > 50 and t.min() >= 0 and t.max() < demo.starts(LENGTH)
            assert t.unique().numel() > 1


def test_of_thinned_demonstrations_only_given_steps_are_starts_and_no_clip_is_shown(task):
    rollouts = task._queries
    rollouts.demos = [[dataclasses.replace(demo, every=7) for demo in demos] for demos in rollouts.demos]
    starts = task.draw_starts(200, LENGTH)
    for lane, i in np.ndindex(3, 200):
        which, t = starts[lane, i].tolist()
        assert (t - rollouts.demos[lane][which].seed) % 7 == 0
    with pytest.raises(BadInput, match="--demo-every"):
        task.demo_clips(starts, LENGTH)


def test_demonstrations_without_starting_states_are_refused(task, policy):
    rollouts = task._queries
    unknown = {"seed": -1, "qpos": None, "qvel": None}
    rollouts.demos = [[dataclasses.replace(demo, **unknown) for demo in demos] for demos in rollouts.demos]
    with pytest.raises(BadInput, match="neither seeds nor states"):
        task.rollout(policy, task.draw_starts(2, LENGTH), LENGTH)


def test_what_is_only_shown_begins_anywhere_without_states(task):
    rollouts = task._queries
    rollouts.demos = [[dataclasses.replace(demo, qpos=None, qvel=None) for demo in demos] for demos in rollouts.demos]
    assert (task.draw_starts(50, LENGTH)[..., 1] == 0).all()
    anywhere = task.draw_starts(50, LENGTH, restart=False)[..., 1]
    assert (
        anywhere.unique().numel() > 5 and task.demo_clips(task.draw_starts(2, LENGTH, restart=False), LENGTH).real.any()
    )


def test_a_demonstration_that_broke_off_too_early_is_not_shown_as_a_fall(task):
    rollouts = task._queries

    def short(demo):
        states = {name: getattr(demo, name)[:4] for name in ("obs", "qpos", "qvel")}
        return dataclasses.replace(demo, act=demo.act[:3], reward=demo.reward[:3], terminated=False, **states)

    whole = rollouts.demos
    rollouts.demos = [[short(first), second] for first, second in whole]
    assert (task.draw_starts(50, LENGTH)[..., 0] == 1).all()
    rollouts.demos = [[short(first), short(second)] for first, second in whole]
    starts = task.draw_starts(50, LENGTH)
    assert (starts[..., 1] == 0).all()
    with pytest.raises(BadInput, match="segments of 8 steps"):
        task.demo_clips(starts, LENGTH)


def test_what_is_shown_is_what_the_demonstration_did(task):
    starts = task.draw_starts(3, LENGTH)
    shown = task.demo_clips(starts, LENGTH)
    for lane, i in np.ndindex(3, 3):
        which, t = starts[lane, i].tolist()
        demo = task._queries.demos[lane][which]
        n = min(LENGTH, len(demo) - t)
        assert shown.real[lane, i].sum() == n
        np.testing.assert_array_equal(shown.obs[lane, i, :n].numpy(), demo.obs[t : t + n])


def test_clips_begin_where_the_demonstration_was(task, policy):
    starts = task.draw_starts(3, LENGTH)
    clips = task.rollout(policy, starts, LENGTH).clips
    assert clips.obs.shape == (3, 3, LENGTH, 11) and clips.act.shape == (3, 3, LENGTH, 3)
    torch.testing.assert_close(clips.obs[:, :, 0], task.demo_clips(starts, LENGTH).obs[:, :, 0], atol=1e-5, rtol=0)
    again = task.rollout(policy, starts, LENGTH).clips
    assert torch.equal(clips.obs[:, :, 0], again.obs[:, :, 0])
    assert not torch.equal(clips.act[:, :, 0], again.act[:, :, 0])


def test_the_demonstrators_own_actions_give_the_demonstration(task, monkeypatch):
    starts = torch.tensor([[[0, 0], [1, 3]]] * 3)
    shown, n = task.demo_clips(starts, LENGTH), 2
    acts = iter(shown.act.unbind(2))

    class Demonstrator:
        def act(self, obs, noise):
            return next(acts)

    clips = task.rollout(Demonstrator(), starts, LENGTH).clips  # type: ignore[arg-type]
    real = shown.real.bool()
    torch.testing.assert_close(clips.obs[real], shown.obs[real], atol=1e-3, rtol=1e-3)
    assert real.sum() > 3 * n


def test_steps_after_a_fall_are_not_real_and_not_counted(task, policy):
    clips = task.rollout(policy, torch.zeros(3, 2, 2, dtype=torch.long), 200).clips
    assert (clips.real.diff(dim=-1) <= 0).all() and clips.real[..., -1].sum() == 0
    np.testing.assert_array_equal(task.n_steps, clips.real.sum((1, 2)).numpy())


def test_a_lane_plays_alike_beside_others(dataset, policy):
    def played(seeds):
        task = Task(dataset, seeds, n_demos=2, n_pairs=12)
        return task.rollout(Policy(task.dims, (8, 8)), task.draw_starts(2, LENGTH), LENGTH).clips

    together, alone = played((0, 1, 2)), played((1,))
    torch.testing.assert_close(together.obs[1], alone.obs[0], atol=1e-5, rtol=1e-5)


def by_hand(task: Task, answers: np.ndarray) -> QuerySession:
    class Fixed:
        ties, watches = True, False

        def compare(self, query):
            return answers

    task._queries.annotator = Fixed()
    return task._queries


def test_the_better_of_two_segments_is_that_of_higher_return(task, policy):
    starts = task.draw_starts(4, LENGTH)
    first, second = (task.rollout(policy, starts, LENGTH) for _ in range(2))
    task._queries.annotator = TeacherAnnotator(Teacher(temperature=0.0), [])
    win, lose, weight = task.compare(first, second)
    returns = [task._queries.played[x.key].rewards.sum(1).reshape(3, 4) for x in (first, second)]
    better = torch.as_tensor(returns[0] > returns[1])[..., None, None]
    assert torch.equal(win.obs, torch.where(better, first.clips.obs, second.clips.obs))
    assert torch.equal(lose.obs, torch.where(better, second.clips.obs, first.clips.obs))
    assert (weight == 1).all() and task.n_labels == 4
    np.testing.assert_array_equal(task.labels_right, [1, 1, 1])


def test_answers_are_counted_as_right_wrong_or_half(task, policy, dataset):
    """The first clip of each of four queries has the higher return: one right answer, a wrong one, a tie, a skip."""
    answers = np.tile(np.array([[1, 0], [0, 1], [0.5, 0.5], [0, 0]], np.float32), (3, 1))
    rollouts, starts = by_hand(task, answers), task.draw_starts(4, LENGTH)
    first, second = (task.rollout(policy, starts, LENGTH) for _ in range(2))
    rollouts.played[first.key].rewards[:], rollouts.played[second.key].rewards[:] = 1, 0
    assert task.labels_right is None
    task.compare(first, second)
    assert rollouts.answered.tolist() == [3] * 3
    np.testing.assert_allclose(task.labels_right, [0.5] * 3)
    other = Task(dataset, (0, 1, 2), n_demos=2, n_pairs=12)
    other.resume(task.state_dict(), {})
    next(other.iterations())
    np.testing.assert_allclose(other.labels_right, [0.5] * 3)


def test_a_comparison_is_correct_if_the_winner_has_the_higher_true_return(dataset):
    train = dataset.pairs.loc[dataset.pairs["split"] == "train"]
    returns = {
        side: [dataset.pool[i].return_of(start, k) for i, start, k in references(train, side)]
        for side in ("win", "lose")
    }
    expected = np.mean([w > x for w, x in zip(returns["win"], returns["lose"], strict=True)])
    turned = {
        f"{a}_{x}": dataset.pairs[f"{b}_{x}"]
        for a, b in (("win", "lose"), ("lose", "win"))
        for x in ("episode", "start")
    }
    wrong = dataclasses.replace(dataset, pairs=dataset.pairs.assign(**turned))
    for data, right in ((dataset, expected), (wrong, 1 - expected)):
        task = Task(data, (0, 1), n_demos=1, n_pairs=len(train))
        assert task.labels_right is None  # nobody has looked at them
        task.comparisons()
        np.testing.assert_allclose(task.labels_right, [right] * 2)


def test_ties_count_in_both_orders_and_skipped_pairs_in_none(task, policy):
    starts = task.draw_starts(2, LENGTH)
    first, second = (task.rollout(policy, starts, LENGTH) for _ in range(2))
    tie, skip = [0.5, 0.5], [0.0, 0.0]
    by_hand(task, np.array([tie, skip, [1, 0], [0, 1], tie, tie], np.float32))
    win, lose, weight = task.compare(first, second)
    assert weight.tolist() == [[0.5, 0, 0.5, 0], [1, 1, 0, 0], [0.5] * 4]
    assert torch.equal(win.obs[0, 0], first.clips.obs[0, 0]) and torch.equal(win.obs[0, 2], second.clips.obs[0, 0])
    assert torch.equal(win.obs[1, 1], second.clips.obs[1, 1]) and torch.equal(lose.obs[1, 1], first.clips.obs[1, 1])


def test_no_method_queries_more_than_its_budget(task, policy):
    starts = task.draw_starts(7, LENGTH)
    first, second = (task.rollout(policy, starts, LENGTH) for _ in range(2))
    task.compare(first, second)
    with pytest.raises(AssertionError, match="offered"):
        task.compare(first, second)


def test_the_annotators_doubts_are_in_units_of_clips_that_long(task):
    annotator = task._queries.annotator
    short, long = annotator.scaled(4).spread, annotator.scaled(16).spread
    gains = [t.return_of(s, 4) for t in annotator.pool for s in range(0, t.starts(4), 2)]
    assert short == pytest.approx(np.std(gains)) and long > short


def test_what_a_method_gets_has_no_reward(task, policy):
    rolled = task.rollout(policy, task.draw_starts(2, LENGTH), LENGTH)
    assert rolled._fields == ("clips", "key") and rolled.clips._fields == ("obs", "act", "real")
    assert isinstance(rolled.key, int)


def test_an_environment_that_cannot_be_put_is_played_from_the_demonstrations_beginnings(tmp_path):
    from aihf_control.data.generate import make_dataset
    from tests.helpers import SMALL_DATA, random_policies

    data = make_dataset("Pendulum-v1", SMALL_DATA, policies=random_policies("Pendulum-v1", tmp_path))
    task = Task(data, (0, 1), n_demos=2, n_pairs=5)
    starts = task.draw_starts(6, LENGTH)
    assert (starts[..., 1] == 0).all()
    clips = task.rollout(Policy(task.dims, (8,)), starts, LENGTH).clips
    torch.testing.assert_close(clips.obs[:, :, 0], task.demo_clips(starts, LENGTH).obs[:, :, 0])
