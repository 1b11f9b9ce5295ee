"""DR-RLHF and DR-DPO: their identities, data in groups, and what is reported for the worst group."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch

from aihf_control import methods
from aihf_control.core.errors import BadInput
from aihf_control.data.generate import DataConfig, make_dataset
from aihf_control.environments.gym import EVALUATION_SEED, groups_of, spec_of
from aihf_control.learning.evaluation import RewardEvaluator, worst_group
from aihf_control.learning.preference_buffer import PreferenceBuffer
from aihf_control.training.run import Evaluated, RunSpec, train_lanes
from tests.helpers import make_task, play, small_config

OPTIONS = {"shares": [0.6, 0.4], "gear": [1.0, 0.6]}


@pytest.fixture(scope="module")
def grouped(policy_zips):
    """A small dataset of two groups whose comparisons are within a group."""
    cfg = DataConfig(demos=2, episodes=8, noise=(0.0, 0.5), pairs=40, test_pairs=40, clip=8, same_group=True)
    return make_dataset("shifted/Hopper-v4", cfg, policies=policy_zips, options=OPTIONS)


@pytest.mark.parametrize(("robust", "plain"), [("dr_dpo", "dpo"), ("dr_rlhf", "rlhf")])
def test_without_a_radius_the_robust_method_is_the_plain_one(robust, plain, dataset):
    settings = [(robust, {"rho": 0.0}), (plain, {}), (robust, {"rho": 0.5})]
    learned = [_learned(play(name, make_task(dataset), 8, **more)[-1]) for name, more in settings]
    differs = []
    for at_0, without, at_half in zip(*learned, strict=True):
        torch.testing.assert_close(at_0, without, atol=2e-5, rtol=1e-3)
        differs.append(not torch.allclose(at_0, at_half, atol=2e-5, rtol=1e-3))
    assert any(differs)


def _learned(progress):
    net = getattr(progress.reward, "net", progress.policy)
    return list(net.parameters())


def test_a_pair_that_is_misordered_counts_more(dataset, monkeypatch):
    """The robust loss of pairs of which some are misordered is that of the worst one alone."""
    module = methods.load("dr_rlhf")
    task = make_task(dataset)
    r = next(p.reward for p in play("dr_rlhf", task, 1) if p.reward)
    pairs = task.comparisons().read(torch.tensor([[0, 1, 2, 3]] * 2))
    monkeypatch.setattr(PreferenceBuffer, "draw", lambda self, n, among=None: pairs)
    losses = torch.nn.functional.softplus(r.clip_returns(*pairs.lose) - r.clip_returns(*pairs.win))
    plain = dataclasses.replace(module.Config().reward, mistakes=0.0)
    term = module.robust_pair_term(task, r, module.Config(rho=0.75, top=0.0, reward=plain))
    torch.testing.assert_close(term, losses.amax(-1))


@pytest.mark.parametrize("flag", ["rho", "top"])
def test_a_share_outside_0_and_1_is_refused(flag):
    for name, value in itertools.product(("dr_dpo", "dr_rlhf"), (-0.1, 1.5)):
        with pytest.raises(BadInput, match=f"--{flag} must be between 0 and 1"):
            methods.load(name).Config(**{flag: value})


def test_compared_segments_are_of_one_group(grouped):
    spec = spec_of(grouped.meta["env"], **grouped.meta["options"])
    group = groups_of(spec, [t.seed for t in grouped.pool])
    assert group and {group[i] for i in grouped.pairs["win_episode"]} == {0, 1}
    for win, lose in zip(grouped.pairs["win_episode"], grouped.pairs["lose_episode"], strict=True):
        assert group[win] == group[lose]


def test_groups_are_asked_for_only_where_there_are_some(policy_zips):
    with pytest.raises(BadInput, match="--same-group: Hopper-v4 has no groups"):
        make_dataset("Hopper-v4", DataConfig(demos=1, episodes=4, pairs=4, same_group=True), policies=policy_zips)
    assert groups_of(spec_of("shifted/Hopper-v4"), [0, 1]) is None


def test_the_worst_group_by_hand():
    per_item = np.array([[1.0, 2.0, 3.0, 6.0], [4.0, 0.0, 0.0, 0.0]])
    np.testing.assert_allclose(worst_group(per_item, [0, 1, 0, 1]), [2.0, 0.0])  # means 2 and 4; 2 and 0


def test_the_log_has_the_worst_groups_return_and_accuracy(grouped):
    cell = RunSpec("dr_dpo", small_config("dr_dpo", 4), (0, 1), 1, 20, 4, 1, 2, 4)
    rows = [row for event in train_lanes(cell, grouped) if isinstance(event, Evaluated) for row in event.rows]
    spec = spec_of(grouped.meta["env"], **grouped.meta["options"])
    group = np.array(groups_of(spec, range(EVALUATION_SEED, EVALUATION_SEED + 4)))
    for row in rows:
        by_group = [np.array(row["returns"])[group == g].mean() for g in (0, 1)]
        assert row["worst_return"] == pytest.approx(min(by_group))
    assert 0 <= rows[-1]["worst_pair_accuracy"] <= rows[-1]["pair_accuracy"] <= 1 and json.dumps(rows)


def test_accuracy_by_group_is_that_of_the_held_out_comparisons(grouped):
    evaluator = RewardEvaluator(grouped, 1)
    spec = spec_of(grouped.meta["env"], **grouped.meta["options"])
    test = grouped.pairs.loc[grouped.pairs["split"] == "test"]
    assert evaluator.groups == groups_of(spec, [grouped.pool[i].seed for i in test["win_episode"]])

    def height(obs, act):  # the torso's height as a reward
        return obs[..., 0]

    each = evaluator.correct(height)[0]
    shares = [each[np.array(evaluator.groups) == g].mean() for g in set(evaluator.groups or ())]
    np.testing.assert_allclose(evaluator.group_columns(height)["worst_pair_accuracy"], [min(shares)])
