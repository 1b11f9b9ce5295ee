"""The methods: the order of their loops, what their data do to them, and the identities between them.

`dataset` is the small Hopper-v4 dataset of conftest.py.
"""

import dataclasses

import pytest
import torch

from aihf_control import methods
from aihf_control.core.errors import BadInput
from aihf_control.core.types import Clips
from aihf_control.learning.bc import CloneConfig, clone, initial_policy, step_logp
from aihf_control.learning.direct import clip_logp
from aihf_control.learning.lane_data import absorbed_share
from aihf_control.learning.reward_model import PAPERS_REWARD, RewardConfig, RewardModel
from aihf_control.learning.sac import SAC
from aihf_control.learning.task import Task
from tests.helpers import NEED_PAIRS, TINY, make_task, play

OFFLINE = ("bc", "dpo", "dr_dpo", "ipo", "slic", "cpl", "rpo", "aihf_dpo", "var", "metric_rl", "ask", "density")
SELECT = ("bc", "ask", "density")  # their policy is the clone


@pytest.fixture
def task(dataset):
    return make_task(dataset)


# -------------------------------------------------------------------------------------------------- the order of things


@pytest.fixture
def tape(monkeypatch):
    """Writes down what a method does, in order: c(ollect), u(pdate), r(eward step)."""
    written: list[str] = []

    def note(letter, function):
        def noted(*args, **kwargs):
            written.append(letter)
            return function(*args, **kwargs)

        return noted

    monkeypatch.setattr(Task, "collect", note("c", Task.collect))
    monkeypatch.setattr(SAC, "update", note("u", SAC.update))
    monkeypatch.setattr(RewardModel, "descend", note("r", RewardModel.descend))
    return written


@pytest.mark.parametrize("name", ["irl", "aihf", "parl"])
def test_joint_methods_alternate_policy_and_reward(name, task, tape):
    play(name, task, 11)
    assert "".join(tape) == "cccc" + "cu" + "cu" + "cur" + "cu" + "cu" + "cur" + "cu"


@pytest.mark.parametrize("name", ["irl", "aihf", "parl"])
def test_critics_and_reward_are_trained_first_when_the_warm_up_ends(name, task, tape):
    play(name, task, 6, sac=dataclasses.replace(TINY["sac"], hold=4))
    assert "".join(tape) == "cccc" + "cuuuruu" + "cur"


@pytest.mark.parametrize("name", ["rlhf", "dr_rlhf", "nash_md", "linvit"])
def test_some_have_their_reward_before_their_policy(name, task, tape):
    play(name, task, 7)
    assert "".join(tape) == "rrrrrr" + "cccc" + "cucucu"


@pytest.mark.parametrize("name", OFFLINE)
def test_offline_methods_take_no_environment_steps(name, task, tape):
    play(name, task, 5)
    assert set(tape) <= {"r"} and not task.n_steps.any()


def test_the_task_counts_steps_and_labels(dataset):
    counted = {}
    for name in methods.names():
        task = make_task(dataset)
        play(name, task, 6)
        counted[name] = (int(task.n_steps[0]), task.n_labels)
    assert counted["aihf"] == counted["rlhf"] == (6, 20)
    assert counted["irl"] == (6, 0) and counted["bc"] == (0, 0)
    assert all(counted[name] == (0, 20) for name in set(OFFLINE) & set(NEED_PAIRS))
    assert all(counted[name][1] == 20 for name in ("sail", "aihf_spin", "lire", "expo", "mpo", "nash_md"))


FROM_SCRATCH = {"aihf_paper", "rlhf_paper"}


def test_the_first_yield_is_the_clone_except_where_imitation_is_concurrent(dataset):
    by_hand = clone(make_task(dataset), TINY["clone"], (16, 16))
    for name in set(methods.names()) - {"offline_joint", *SELECT} - FROM_SCRATCH:
        first = play(name, make_task(dataset), 0)[0].policy
        for a, b in zip(first.parameters(), by_hand.parameters(), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("name", sorted(FROM_SCRATCH))
def test_the_papers_forms_start_from_an_untrained_policy_and_replay_their_own_steps(name, dataset):
    task = make_task(dataset)
    first = play(name, task, 0)[0].policy
    assert all(map(torch.equal, first.parameters(), initial_policy(task, (16, 16), 0.0).parameters()))
    replay = methods.load(name).Config().replay
    assert replay.demos == replay.clips == 0
    *_, _ = play(name, task, 8, replay=dataclasses.replace(TINY["replay"], demos=0.0, clips=0.0))
    assert task.parts["sac"].prior is None
    assert methods.load(name).Config().reward == PAPERS_REWARD


# ----------------------------------------------------------------------------------------------------------- identities


def test_aihf_without_preferences_is_irl(dataset):
    irl = play("irl", make_task(dataset), 12)[-1]
    aihf = play("aihf", make_task(dataset), 12, w_pref=0.0)[-1]
    for a, b in zip(irl.policy.parameters(), aihf.policy.parameters(), strict=True):
        assert torch.equal(a, b)


def test_aihf_with_preferences_is_not_irl(dataset):
    rewards = [
        play(name, make_task(dataset), 12, **more)[-1].reward.net.out.weight
        for name, more in (("irl", {}), ("aihf", {"w_pref": 1.0}))
    ]
    assert not torch.allclose(*rewards)


def test_bc_is_the_clone_of_every_other_method(dataset):
    bc = play("bc", make_task(dataset), 5)[-1].policy
    for a, b in zip(bc.parameters(), clone(make_task(dataset), TINY["clone"], (16, 16)).parameters(), strict=True):
        assert torch.equal(a, b)


def test_irl_can_do_without_comparisons(dataset):
    assert play("irl", make_task(dataset, n_pairs=0), 7)[-1].info["demo_gap"].shape == (2,)


@pytest.mark.parametrize("name", NEED_PAIRS)
def test_methods_that_need_comparisons_declare_it(name, dataset):
    with pytest.raises(BadInput, match="--pairs"):
        play(name, make_task(dataset, n_pairs=0), 7)


# ------------------------------------------------------------------------------------------------------------ the data


def test_units_are_those_of_the_data(task):
    policy = initial_policy(task, (8,), -1.0)
    rows = torch.cat([task.demos.data[0, : task.demos.count[0], :11], task.clips.data[0, : task.clips.count[0], :11]])
    x = policy.units(rows.expand(2, -1, -1))[0]
    torch.testing.assert_close(x.mean(0), torch.zeros(11), atol=1e-3, rtol=0)
    torch.testing.assert_close(x.std(0), torch.ones(11), atol=1e-3, rtol=0)


def test_absorbed_share_by_hand():
    """Horizon 100: one episode fell at 40 (60 absorbing), one ran out of time: 60 of 200 steps."""
    assert absorbed_share([(40, True), (100, False)], 100) == pytest.approx(0.3)
    assert absorbed_share([], 100) == 0


def test_pairs_fill_the_given_number_of_steps(task):
    win, lose, weight = task.comparisons().draw(80)
    assert win.obs.shape == (2, 4, 10, 11) == lose.obs.shape and weight.shape == (2, 4)


def test_the_reward_learns_to_order_the_comparisons(task):
    r = RewardModel(task, RewardConfig(hidden=(32,), pair_steps=400, actions=True, mistakes=0.0))
    before = r.pair_term().detach()
    for _ in range(150):
        r.descend(r.pair_term())
    assert (r.pair_term().detach() < 0.8 * before).all()


# ------------------------------------------------------------------------------------------------------- direct family


def test_densities_by_hand(task):
    policy = initial_policy(task, (8,), -1.0)
    obs, act = torch.randn(2, 3, 11), torch.rand(2, 3, 3)
    mean = policy.act(obs)
    torch.testing.assert_close(step_logp(policy, obs, act), -(act - mean).square().sum(-1))
    real = torch.tensor([[[1.0, 1.0, 0.0]]]).expand(2, -1, -1)
    by_hand = -(act - mean).square().sum(-1)[:, :2].sum(-1, keepdim=True) / 3
    clips = Clips(obs[:, None], act[:, None], real)  # type: ignore[arg-type]
    torch.testing.assert_close(clip_logp(policy, clips), by_hand)


def test_cloning_lowers_the_distance_to_the_demonstrations(dataset):
    steps = play("bc", make_task(dataset), 200, clone=CloneConfig(lr=3e-3))
    assert (steps[-1].info["clone_loss"] < steps[1].info["clone_loss"]).all()


def test_every_method_has_a_docstring_a_frozen_config_and_its_steps():
    assert {"bc", "irl", "rlhf", "dpo", "aihf"} <= set(methods.names())
    for name in methods.names():
        module = methods.load(name)
        assert "for k = 1, 2, ..." in (module.__doc__ or "") and module.Config().steps > 0
        with pytest.raises(dataclasses.FrozenInstanceError):
            module.Config().steps = 1
