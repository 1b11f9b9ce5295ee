"""Annotators of what a policy plays: a function gives what the teacher gives, and sees what was played."""

import dataclasses

import numpy as np
import pytest
import torch

import aihf_control as aihf
from aihf_control.core.errors import BadInput
from aihf_control.core.types import Trajectory
from aihf_control.data.labelling.teachers import Teacher
from aihf_control.environments.gym import Envs
from aihf_control.learning.annotators import Annotator, FunctionAnnotator, TeacherAnnotator, as_annotator
from aihf_control.learning.task import Task
from aihf_control.models.networks import Policy
from aihf_control.training import result
from tests.helpers import tiny

LENGTH = 8
FEW = {"evaluations": 1, "eval_episodes": 1, "final_episodes": 1, "pairs": 6}


def higher_return(first: Trajectory, second: Trajectory) -> bool:
    return bool(first.reward.sum() > second.reward.sum())


def play(dataset, annotator):
    task = Task(dataset, (0, 1), n_demos=2, n_pairs=6, annotator=annotator)
    policy = Policy(task.dims, (8, 8))
    first, second = (task.rollout(policy, task.draw_starts(3, LENGTH), LENGTH) for _ in range(2))
    return task, first, second


def test_a_function_sees_what_was_played(dataset):
    task, first, _ = play(dataset, FunctionAnnotator(higher_return))
    segments, clips = task._queries.played[first.key].segments, first.clips
    assert len(segments) == 6
    for i, t in enumerate(segments):
        obs, act, real = (x[i // 3, i % 3].numpy() for x in clips)
        n = int(real.sum())
        assert len(t) == n and t.terminated == (n < LENGTH) and t.qpos is not None and len(t.qpos) == n + 1
        np.testing.assert_array_equal(t.obs[:-1], obs[:n])
        np.testing.assert_array_equal(t.act, act[:n])
        envs = Envs(task.spec, 1)
        replayed = [envs.put(0, t.qpos[0], t.qvel[0])]
        replayed += [envs.step(a[None])[0][0] for a in t.act]
        np.testing.assert_allclose(np.stack(replayed), t.obs, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(envs.state(0)[0], t.qpos[-1], rtol=1e-3, atol=1e-3)
    assert not play(dataset, None)[0]._queries.played[first.key].segments  # a teacher needs no segments


def test_weights_by_hand(dataset):
    answers = iter([1, 0, 0.5, None, True, 0.25])
    task, first, second = play(dataset, FunctionAnnotator(lambda a, b: next(answers)))
    win, _, weight = task.compare(first, second)
    assert weight.tolist() == [[1, 1, 0.5, 0, 0, 0.5], [0, 1, 0.75, 0, 0, 0.25]]
    assert torch.equal(win.obs[0, 0], first.clips.obs[0, 0]) and torch.equal(win.obs[0, 1], second.clips.obs[0, 1])
    assert torch.equal(win.obs[1, 2], second.clips.obs[1, 2])
    assert task._queries.answered.tolist() == [3, 2]


@pytest.mark.parametrize("wrong", ["left", 2, -0.1, float("nan"), (1, 0), [1]])
def test_another_answer_is_refused(dataset, wrong):
    task, first, second = play(dataset, FunctionAnnotator(lambda a, b: wrong))
    with pytest.raises(BadInput, match="it has to return a number from 0 to 1, or None"):
        task.compare(first, second)


def test_without_ties_only_0_and_1_are_answers(dataset):
    task, first, second = play(dataset, FunctionAnnotator(lambda a, b: 0.5, ties=False))
    with pytest.raises(BadInput, match="it has to return 0 or 1, or None"):
        task.compare(first, second)


@pytest.mark.parametrize("method", ["oaif", "parl"])
def test_a_function_that_answers_like_the_teacher_trains_to_the_same_bits(dataset, method):
    oracle = dataclasses.asdict(Teacher(temperature=0.0))
    taught = dataclasses.replace(dataset, meta=dataset.meta | {"annotator": oracle})
    settings = {"seeds": 2, "steps": 24, "cfg": tiny(method), **FEW}
    by_teacher = aihf.train(method, taught, **settings)
    by_function = aihf.train(method, taught, annotator=FunctionAnnotator(higher_return, ties=False), **settings)
    weights = [result.policy.net.state_dict() for result in (by_teacher, by_function)]
    assert all(torch.equal(weights[0][name], x) for name, x in weights[1].items())
    contrary = aihf.train(method, taught, annotator=lambda a, b: not higher_return(a, b), **settings)
    assert not all(torch.equal(weights[0][name], x) for name, x in contrary.policy.net.state_dict().items())
    assert contrary.last()["labels_right"].max() == 0 and by_function.last()["labels_right"].min() == 1


def test_a_method_that_asks_nobody_is_refused_before_it_trains(dataset, monkeypatch):
    monkeypatch.setattr(result, "train_run", None)
    with pytest.raises(BadInput, match="dpo asks nobody while it trains"):
        aihf.train("dpo", dataset, seeds=1, steps=4, cfg=tiny("dpo"), annotator=higher_return, **FEW)


def test_a_function_that_cannot_be_sent_to_workers_is_refused(dataset):
    with pytest.raises(BadInput, match="cannot be sent to worker processes"):
        aihf.train("oaif", dataset, seeds=2, steps=4, cfg=tiny("oaif"), workers=2, annotator=lambda a, b: 1, **FEW)


def test_what_is_an_annotator():
    teacher = TeacherAnnotator(Teacher(), [])
    assert isinstance(teacher, Annotator) and as_annotator(teacher) is teacher and not teacher.ties
    assert TeacherAnnotator(Teacher(equal=0.1), []).ties and as_annotator(higher_return).watches
    with pytest.raises(BadInput, match="give a function of two segments"):
        as_annotator("page")  # type: ignore[arg-type]
