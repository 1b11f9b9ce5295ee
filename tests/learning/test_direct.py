"""The direct and online family: losses by hand, the signs of their gradients, their optima, and who is whose identity.

`dataset` is the small Hopper-v4 dataset of conftest.py.
"""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from aihf_control import methods
from aihf_control.core.errors import BadInput
from aihf_control.core.types import Clips
from aihf_control.learning.bc import CloneConfig
from aihf_control.learning.direct import DirectConfig, DirectTrainer, PairScores, train_direct
from aihf_control.learning.imitated import SOURCES
from aihf_control.learning.online import PAIR_LOSSES, OnlineConfig, PairBuffer, QueryConfig, make_pairs, query_pairs
from aihf_control.learning.task import Task
from aihf_control.learning.tilt import TiltConfig
from aihf_control.methods import bpo, expo, lire, mpo, sail, var
from aihf_control.models.losses import bradley_terry, hinge, squared_margin
from tests.helpers import small_config

CLONE = CloneConfig(updates=5, batch=32)
DIRECT = DirectConfig(hidden=(16, 16), pair_steps=400, lr=1e-3)


@pytest.fixture
def task(dataset) -> Task:
    return make_task(dataset)


def make_task(dataset, n_pairs: int = 20) -> Task:
    return Task(dataset, (0, 1), n_demos=2, n_pairs=n_pairs)


def play(name: str, task: Task, n: int, **more):
    """The method's first yield and n iterations more."""
    fields = {f.name for f in dataclasses.fields(methods.load(name).Config)}
    given = {k: v for k, v in {"direct": DIRECT, "clone": CLONE}.items() if k in fields}
    cfg = dataclasses.replace(small_config(name, n), **{**given, **more})
    return list(itertools.islice(methods.load(name).train(task, cfg), n + 1))


def same_policy(a, b) -> None:
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(p, q)


def t(*values: float) -> Tensor:
    return torch.tensor([values])


# ------------------------------------------------------------------------------------------------------- pairs' losses


def test_the_pair_losses_by_hand():
    """One lane, two pairs, h(win) - h(lose) = 2 and -1, weights 3 and 1."""
    win, lose, weight = t(2.0, 0.0), t(0.0, 1.0), t(3.0, 1.0)
    dpo = (3 * math.log(1 + math.exp(-2)) + math.log(1 + math.exp(1))) / 4
    torch.testing.assert_close(bradley_terry(win, lose, weight), t(dpo)[0])
    torch.testing.assert_close(squared_margin(win, lose, weight, 0.5), t((3 * 1.5**2 + 1.5**2) / 4)[0])
    torch.testing.assert_close(hinge(win, lose, weight), t((3 * 0 + 2) / 4)[0])


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_every_pair_loss_raises_the_winner_and_lowers_the_loser(name):
    win, lose = torch.zeros(1, 4, requires_grad=True), torch.zeros(1, 4, requires_grad=True)
    up, down = torch.autograd.grad(PAIR_LOSSES[name](win, lose, torch.ones(1, 4), 1.0).sum(), [win, lose])
    assert (up < 0).all() and (down > 0).all()


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_a_skipped_pair_has_no_gradient_and_a_tie_pulls_to_equality(name):
    win = torch.tensor([[0.3, -0.2]], requires_grad=True)
    (g,) = torch.autograd.grad(PAIR_LOSSES[name](win, torch.zeros(1, 2), t(1.0, 0.0), 1.0).sum(), win)
    assert g[0, 0] != 0 and g[0, 1] == 0
    gap = torch.zeros(1, 1, requires_grad=True)
    both = PAIR_LOSSES[name](torch.cat([gap, 0 * gap], 1), torch.cat([0 * gap, gap], 1), t(0.5, 0.5), 1.0)
    (g,) = torch.autograd.grad(both.sum(), gap)
    assert g.abs() < 1e-6


def test_ipo_is_content_at_its_margin():
    gap = torch.zeros(1, 1, requires_grad=True)
    opt = torch.optim.SGD([gap], 0.1)
    for _ in range(200):
        opt.zero_grad()
        squared_margin(gap, torch.zeros(1, 1), torch.ones(1, 1), 0.7).sum().backward()
        opt.step()
    torch.testing.assert_close(gap.detach(), t(0.7))


@pytest.mark.parametrize(("bias", "best"), [(0.5, 0.5), (0.75, 0.8), (0.25, 0.2 / 0.75)])
def test_cpls_optimum_is_beyond_the_winner_and_finite(bias, best):
    """One pair of one step: a_win = 0.3, a_lose = lose, and mu = (a_win - bias a_lose) / (1 - bias)."""
    lose = (0.3 - best * (1 - bias)) / bias
    mu = torch.zeros(1, 1, requires_grad=True)
    opt = torch.optim.Adam([mu], 0.01)
    for _ in range(2000):
        opt.zero_grad()
        bradley_terry(-((0.3 - mu).square()), -bias * (lose - mu).square(), torch.ones(1, 1)).sum().backward()
        opt.step()
    torch.testing.assert_close(mu.detach(), t(best), atol=1e-3, rtol=0)


def test_dpo_has_no_such_optimum():
    """The same pair: the loss still falls at the actions' bound."""
    mu = torch.tensor([[0.999]], requires_grad=True)
    loss = bradley_terry(-((0.3 - mu).square()), -((-0.3 - mu).square()), torch.ones(1, 1)).sum()
    assert torch.autograd.grad(loss, mu)[0] < 0


# ------------------------------------------------------------------------------------------------------ a trainer


def test_sides_by_hand(task):
    trainer = DirectTrainer(task, DIRECT, CLONE)
    with torch.no_grad():
        trainer.policy.mean.bias += 0.1
    obs, act = torch.randn(2, 1, 3, 11), torch.rand(2, 1, 3, 3)
    real = torch.tensor([1.0, 1.0, 0.0]).expand(2, 1, 3)
    clip = Clips(obs, act, real)
    s = trainer.score(make_pairs(clip, clip))
    logp, base = (
        -((act[:, 0, :2] - net.act(obs[:, 0, :2])).square().sum((1, 2))) / 3
        for net in (trainer.policy, trainer.reference)
    )
    torch.testing.assert_close(s.logp_win[:, 0], logp)
    torch.testing.assert_close(s.h_lose[:, 0], DIRECT.beta * (logp - base), atol=1e-5, rtol=1e-4)


def test_a_policy_at_the_bounds_is_seen(task):
    trainer = DirectTrainer(task, DIRECT, CLONE)
    with torch.no_grad():
        trainer.policy.mean.weight.zero_()
        trainer.policy.mean.bias.copy_(torch.tensor([9.0, 0.0, -9.0]))
    trainer.score(task.comparisons().draw(100))
    torch.testing.assert_close(trainer.saturated, torch.full((2,), 2 / 3))


@pytest.mark.parametrize("name", ["dpo", "ipo", "slic", "rpo", "cpl", "aihf_dpo"])
def test_offline_methods_part_winners_from_losers(name, dataset):
    steps = play(name, make_task(dataset), 60, direct=dataclasses.replace(DIRECT, pair_steps=4000, lr=3e-3))
    assert (steps[-1].info["margin"] > steps[1].info["margin"] + 0.01).all()


def test_dpo_starts_at_log_two(dataset):
    torch.testing.assert_close(play("dpo", make_task(dataset), 1)[1].info["loss"], torch.full((2,), math.log(2)))


def test_the_deviation_is_not_trained(dataset):
    for name in ("dpo", "bpo", "sapo"):
        first, *_, last = play(name, make_task(dataset), 6)
        assert torch.equal(first.policy.log_std.bias, last.policy.log_std.bias)


# ----------------------------------------------------------------------------------------------------------- identities


@pytest.mark.parametrize("name", ["rpo", "aihf_dpo"])
def test_without_its_anchor_a_method_is_dpo(name, dataset):
    anchor = {"rpo": {"w_win": 0.0}, "aihf_dpo": {"w_demo": 0.0}}[name]
    dpo, other = play("dpo", make_task(dataset), 8)[-1], play(name, make_task(dataset), 8, **anchor)[-1]
    same_policy(dpo.policy, other.policy)


def test_with_it_it_is_not(dataset):
    dpo, rpo = (play(name, make_task(dataset), 8)[-1].policy for name in ("dpo", "rpo"))
    assert not torch.equal(dpo.mean.bias, rpo.mean.bias)


def offline(task: Task, pairs: PairBuffer, steps: int, loss_of) -> list:
    """The offline loop on pairs that were gathered, from a fresh clone."""
    return list(itertools.islice(train_direct(task, pairs, DirectTrainer(task, DIRECT, CLONE), loss_of), steps + 1))  # type: ignore[arg-type]


@pytest.mark.parametrize("loss", PAIR_LOSSES)
def test_bpo_of_one_phase_is_offline_learning_on_the_clones_pairs(loss, dataset):
    online = QueryConfig(length=6, phases=1)
    whole = play("bpo", make_task(dataset), 8, online=online, loss=loss)[-1]
    task = make_task(dataset)
    answers = PairBuffer(task)
    answers.add(query_pairs(task, DirectTrainer(make_task(dataset), DIRECT, CLONE).policy, online))
    by_hand = offline(task, answers, 8, lambda s: PAIR_LOSSES[loss](s.h_win, s.h_lose, s.weight, 1.0))[-1]
    same_policy(whole.policy, by_hand.policy)


def test_bpo_and_oaif_part_where_the_reference_moves(dataset):
    one, two = QueryConfig(length=6, phases=1), QueryConfig(length=6, phases=2)
    bpo_1, oaif_1, bpo_2, oaif_2 = (
        play(name, make_task(dataset), 8, online=online)[-1] for online in (one, two) for name in ("bpo", "oaif")
    )
    same_policy(bpo_1.policy, oaif_1.policy)
    assert not torch.equal(bpo_2.policy.mean.bias, oaif_2.policy.mean.bias)


def test_spin_of_one_phase_is_dpo_of_demonstrations_over_own_samples(dataset):
    online = OnlineConfig(length=6, phases=1)
    spin = play("aihf_spin", make_task(dataset), 8, online=online, w_pref=0.0, played=4)[-1]
    task = make_task(dataset)
    clone, duels, starts = (
        DirectTrainer(make_task(dataset), DIRECT, CLONE).policy,
        PairBuffer(task),
        task.draw_starts(4, 6),
    )
    duels.add(make_pairs(task.demo_clips(starts, 6), task.rollout(clone, starts, 6).clips))
    by_hand = offline(task, duels, 8, lambda s: bradley_terry(s.h_win, s.h_lose, s.weight))[-1]
    same_policy(spin.policy, by_hand.policy)


def test_expo_extrapolates_dpo_away_from_its_clone(dataset):
    for size in (0.0, 1.0):
        task = make_task(dataset)
        last, trainer = play("expo", task, 8, step_sizes=(size,))[-1].policy, task.parts["trainer"]
        expected = trainer.policy.mean.bias + size * (trainer.policy.mean.bias - trainer.reference.mean.bias)
        torch.testing.assert_close(last.mean.bias, expected)


def test_mpo_without_its_first_half_is_rlhf(dataset):
    assert "hidden" not in {f.name for f in dataclasses.fields(mpo.Config)}
    hidden = small_config("mpo").sac.hidden
    mixed = play("mpo", make_task(dataset), 8, direct_updates=0, direct=dataclasses.replace(DIRECT, hidden=hidden))
    plain = TiltConfig(share=0.0)  # MPO does not tilt the demonstrations
    same_policy(mixed[-1].policy, play("rlhf", make_task(dataset), 8, tilt=plain)[-1].policy)


# -------------------------------------------------------------------------------------------------- what is each one's


def test_phases_are_evenly_spaced_and_at_most_the_given_number():
    assert [k for k in range(1, 30) if OnlineConfig(phases=3).starts_phase(k, 10)] == [1, 4, 7]
    assert [k for k in range(1, 30) if OnlineConfig(phases=1).starts_phase(k, 10)] == [1]


@pytest.mark.parametrize("name", ["oaif", "bpo"])
def test_online_methods_query_the_whole_budget(name, dataset):
    task, in_a_phase = make_task(dataset, n_pairs=20), []
    answer = task._queries.compare
    task._queries.compare = lambda a, b: in_a_phase.append(a.clips.real.shape[1]) or answer(a, b)
    play(name, task, 9, online=QueryConfig(length=6, phases=3))
    assert in_a_phase == [6, 7, 7] and task.n_labels == 20
    assert (task.n_steps > 0).all() and (task.n_steps <= 2 * 20 * 6).all()


@pytest.mark.parametrize("name", ["oaif", "bpo", "parl"])
def test_labels_by_return_are_not_taken_for_labels_by_regret(name, dataset):
    by_regret = dataclasses.replace(dataset, meta=dataset.meta | {"config": {"label": "regret"}})
    with pytest.raises(BadInput, match="--label regret"):
        play(name, make_task(by_regret), 3)


def test_the_units_of_what_never_moved_are_its_own(dataset):
    task = make_task(dataset)
    demos, task._data.clips = task.demos, None
    demos.data[0, :, 3], demos.count[1] = 0.25, 1
    mean, std = task.compute_obs_stats()
    assert std[0, 3] == 1 and mean[0, 3] == 0.25 and (std[0, :3] != 1).all()
    assert (std[1] == 1).all() and torch.equal(mean[1], demos.data[1, 0, : task.spec.n_obs])


def test_bpos_ensemble_ends_as_the_mean_of_its_policies(dataset):
    task = make_task(dataset)
    last = play("bpo", task, 7, ensemble=3)[-1].policy
    members = [task.parts[f"trainer{i}"].policy for i in range(3)]
    torch.testing.assert_close(last.mean.bias, torch.stack([m.mean.bias for m in members]).mean(0))
    assert not torch.equal(members[0].mean.bias, members[1].mean.bias)
    assert bpo.average_policies([members[0]]) is members[0]


def test_bpos_ensemble_begins_as_one_clone(dataset, monkeypatch):
    asked = []
    monkeypatch.setattr(
        bpo,
        "query_pairs",
        lambda task, policy, cfg: asked.append(policy.frozen_copy()) or query_pairs(task, policy, cfg),
    )
    first, *_ = play("bpo", make_task(dataset), 1, ensemble=3, online=QueryConfig(length=6, phases=1))
    for p, q in zip(asked[0].parameters(), first.policy.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_sapos_reference_is_the_average_of_its_policy(dataset):
    task = make_task(dataset)
    play("sapo", task, 1, rate=0.5)
    trainer, clone = task.parts["trainer"], DirectTrainer(make_task(dataset), DIRECT, CLONE).policy
    torch.testing.assert_close(trainer.reference.mean.bias, (trainer.policy.mean.bias + clone.mean.bias) / 2)


def test_sails_own_terms_by_hand():
    """Gaps 2 and -1: surprises log(1 + e^-2) and log(1 + e^-1); the likelier pair's likelihood is to rise."""
    logp = torch.zeros(1, 2, requires_grad=True)
    s = PairScores(logp, logp * 0, t(2.0, 0.0), t(0.0, 1.0), torch.ones(1, 2), 2.0)
    pair_loss, sampling = sail.own_terms(s)
    near, far = math.log(1 + math.exp(-1)), math.log(1 + math.exp(-2))
    torch.testing.assert_close(pair_loss, t((near + far) / 2)[0])
    (g,) = torch.autograd.grad(sampling.sum(), logp)
    torch.testing.assert_close(g, t(-(near - far) / 2, (near - far) / 2))


def test_lires_loss_by_hand():
    """One list of two, log densities 0 and 1, returns 0 and log 3: p = (1, e) / (1 + e), softmax(R) = (1, 3) / 4."""
    logp = torch.tensor([[[0.0, 1.0]]], requires_grad=True)
    loss = lire.listwise_loss(logp, torch.tensor([[[0.0, math.log(3)]]]), 1.0, 0.1)
    p = math.e / (1 + math.e)
    torch.testing.assert_close(loss.detach(), t(-((1 - p) * 0.25 + p * 0.75) - 0.1)[0])
    (g,) = torch.autograd.grad(loss.sum(), logp)
    assert g[0, 0, 0] > 0 > g[0, 0, 1]


def test_lires_lists_stay_together(task):
    lists, n = lire.Lists(task, 3), torch.arange(12.0).expand(2, 12)
    lists.replace(Clips(n[..., None, None], n[..., None, None], n[..., None]), n)
    clips, returns = lists.draw(15)
    assert returns.shape == (2, 5, 3)
    assert torch.equal(clips.real.view(2, 5, 3), returns)
    assert (returns.diff(dim=-1) == 1).all() and (returns[..., 0] % 3 == 0).all()


def test_vars_weights_by_hand():
    torch.testing.assert_close(var.weigh(t(0.0, math.log(3.0)), 1.0), t(0.25, 0.75))
    torch.testing.assert_close(var.weigh(t(0.0, math.log(9.0)), 2.0), t(0.25, 0.75))


def test_expo_moves_each_lane_by_its_own_step(task):
    start, aligned = (DirectTrainer(task, DIRECT, CLONE).policy for _ in range(2))
    with torch.no_grad():
        aligned.mean.bias += 1
    moved = expo.extrapolate(start, aligned, torch.tensor([0.0, 0.5]))
    step = (moved.mean.bias - aligned.mean.bias).squeeze(1)
    torch.testing.assert_close(step, torch.tensor([[0.0] * 3, [0.5] * 3]), atol=1e-4, rtol=0)


def test_mpos_easy_half_has_the_widest_gaps(task):
    class ByWinner:
        def clip_returns(self, obs, act, real):
            return obs.sum((2, 3))

    easy = mpo.select_easy(task, ByWinner())  # type: ignore[arg-type]
    win, lose, _ = task.comparisons().read_all()
    gap = (win.obs.sum((2, 3)) - lose.obs.sum((2, 3))).abs()
    assert easy.shape == (2, 10)
    rest = gap.scatter(1, easy, -1.0)
    assert (gap.gather(1, easy).amin(1) >= rest.amax(1)).all()


# ------------------------------------------------------------------------------------------------------ pools of pairs


def test_collected_pairs_are_the_newest(task):
    clips = [Clips(*(torch.full((2, 2, *shape), float(i)) for shape in ((4, 11), (4, 3), (4,)))) for i in range(4)]
    last, queue = PairBuffer(task), PairBuffer(task, 3)
    for clip in clips:
        last.add(make_pairs(clip, clip))
        queue.add(make_pairs(clip, clip))
    assert set(last.draw(400).win.real.unique().tolist()) == {3.0}
    assert set(queue.draw(4000).win.real.unique().tolist()) == {2.0, 3.0}
    kept = PairBuffer(task, 3)
    kept.load_state_dict(queue.state_dict())
    assert torch.equal(kept.draw(80).win.obs, queue.draw(80).win.obs)


def test_long_clips_are_looked_at_every_few_steps(dataset):
    """Clips of 230: every third step from a random one on, 76 of them, in their order."""
    from aihf_control.core.types import Preferences
    from aihf_control.learning.preference_buffer import PreferenceBuffer
    from aihf_control.models.lanes import Dims

    steps = np.broadcast_to(np.arange(230, dtype=np.float32), (5, 230))
    clip = Clips(steps[..., None], steps[..., None], steps)
    pairs = PreferenceBuffer(Dims((0, 1), 1, 1), [Preferences(clip, clip, np.ones(5, np.float32))] * 2)
    first = set()
    for _ in range(20):
        win = pairs.draw(76 * 2 * 4).win
        assert win.real.shape == (2, 4, 76) and (win.real.diff(dim=-1) == 3).all()
        first |= set(win.real[:, 0, 0].tolist())
    assert first == {0.0, 1.0, 2.0}
    assert pairs.read_all().win.real.shape == (2, 5, 76)


# ------------------------------------------------------------------------------------------------ what a regime may set


def rows_of(obs: Tensor) -> set:
    return {tuple(row) for row in obs.flatten(0, -2).tolist()}


@pytest.mark.parametrize("on", SOURCES)
def test_the_clone_is_trained_on_the_data_that_is_named(on, dataset):
    task = make_task(dataset)
    pairs, n = task.comparisons(), task.demos.count
    demos = rows_of(task.demos.data[:1, : n[0], :11])
    clips = rows_of(task.clips.data[:1, : task.clips.count[0], :11])
    winners = rows_of(pairs.win.obs[:1][pairs.win.real[:1] > 0])
    drawn = rows_of(SOURCES[on](task).sample(4000).obs[:1])
    expected = {"demos": demos, "clips": clips, "both": demos | clips, "winners": winners}[on]
    assert drawn <= expected and len(drawn) > 0.8 * len(expected)
    assert winners < clips


def test_all_transitions_of_both_are_drawn_alike(dataset):
    task = make_task(dataset)
    n_demos, n_clips = int(task.demos.count[0]), int(task.clips.count[0])
    demos = rows_of(task.demos.data[:1, :n_demos, :11])
    drawn = SOURCES["both"](task).sample(20_000).obs[0].tolist()
    share = np.mean([tuple(row) in demos for row in drawn])
    assert share == pytest.approx(n_demos / (n_demos + n_clips), abs=0.02)


def test_a_skipped_winner_is_not_imitated(dataset):
    task = make_task(dataset)
    task.comparisons().weight[:, 1:] = 0
    drawn = rows_of(SOURCES["winners"](task).sample(500).obs[:1])
    assert drawn == rows_of(task.comparisons().win.obs[:1, :1])


def test_the_clone_on_clips_differs_and_is_each_methods_reference(dataset):
    on_clips = dataclasses.replace(CLONE, on="clips")
    first = play("dpo", make_task(dataset), 0, clone=on_clips)[0].policy
    assert not torch.equal(first.mean.bias, play("dpo", make_task(dataset), 0)[0].policy.mean.bias)
    task = make_task(dataset)
    trainer = DirectTrainer(task, DIRECT, on_clips)
    same_policy(trainer.reference, first)
    assert trainer.cloned is task.clips


def test_a_clone_of_clips_needs_comparisons(dataset):
    with pytest.raises(BadInput, match=r"--clone\.on needs compared segments"):
        play("bc", make_task(dataset, 0), 1, clone=CloneConfig(on="clips"))


def test_beta_by_sum_is_beta_by_mean_times_the_length(dataset):
    """Segments of 10 steps: 0.1 on the sum is 1 on the mean."""
    by_sum, by_mean = (dataclasses.replace(DIRECT, **beta) for beta in ({"beta": 9.0, "beta_sum": 0.1}, {"beta": 1.0}))
    for name in ("dpo", "cpl", "rpo", "slic", "aihf_dpo", "lire"):
        online = {"online": OnlineConfig(length=10, phases=2)} if name == "lire" else {}
        one, other = (play(name, make_task(dataset), 5, direct=direct, **online)[-1] for direct in (by_sum, by_mean))
        for p, q in zip(one.policy.parameters(), other.policy.parameters(), strict=True):
            torch.testing.assert_close(p, q)
    assert by_sum.beta_of(50) == 5 and by_mean.beta_of(50) == 1
    with pytest.raises(BadInput, match=r"--direct\.beta-sum"):
        DirectConfig(beta_sum=-1.0)


@pytest.mark.parametrize("name", ["oaif", "bpo"])
def test_pairs_per_phase_and_epochs_per_phase(name, dataset):
    """20 labels, 8 a phase: two phases of 10. 3 epochs of 10 pairs, 5 pairs a step: six steps, then rest."""
    task = make_task(dataset, n_pairs=20)
    online = QueryConfig(length=10, pairs=8, epochs=3)
    direct = dataclasses.replace(DIRECT, pair_steps=100)
    cfg = dataclasses.replace(small_config(name, 20), online=online, direct=direct, clone=CLONE)
    run = itertools.islice(methods.load(name).train(task, cfg), 21)
    biases = [step.policy.mean.bias.detach().clone() for step in run]
    assert task.n_asked == 20
    moved = [not torch.equal(a, b) for a, b in itertools.pairwise(biases)]
    assert moved == [True] * 6 + [False] * 4 + [True] * 6 + [False] * 4
    with pytest.raises(BadInput, match=r"--online\.pairs 30: there are 20 labels"):
        play(name, make_task(dataset, 20), 1, online=QueryConfig(pairs=30))


@pytest.mark.parametrize(
    ("name", "online", "message"),
    [
        ("oaif", QueryConfig(pairs=2), r"--online\.pairs 2: 20 labels are 10 phases, more than --steps 9"),
        ("bpo", QueryConfig(phases=10), "--steps 9: this method asks in 10 phases of at least 1 step"),
        ("parl", OnlineConfig(phases=10), "--steps 9: this method asks in 10 phases of at least 1 step"),
        ("zpg", OnlineConfig(phases=10), "--steps 9: this method asks in 10 phases of at least 1 step"),
    ],
)
def test_more_phases_than_steps_are_refused_as_labels_were_left_unasked(name, online, message, dataset):
    with pytest.raises(BadInput, match=message):
        play(name, make_task(dataset, 20), 1, steps=9, online=online)


def test_starts_anywhere_are_states_of_episodes_that_are_not_held_out(dataset):
    task = make_task(dataset)
    starts = task.draw_starts(300, 6, anywhere=True)
    assert (starts[..., 0] < 0).all()
    held_out = set(dataset.meta["held_out"])
    prompts = [t for i, t in enumerate(dataset.pool) if i not in held_out]
    assert set((-1 - starts[..., 0]).flatten().tolist()) == set(range(len(prompts)))
    one = starts[:, :5]
    rollout = task.rollout(DirectTrainer(task, DIRECT, CLONE).policy, one, 3)
    for lane in range(2):
        for i, (episode, t_) in enumerate(one[lane].tolist()):
            np.testing.assert_allclose(rollout.clips.obs[lane, i, 0], prompts[-1 - episode].obs[t_], atol=1e-5)


def test_ipos_margin_reaches_the_online_methods():
    win, lose = t(2.0), t(0.0)
    assert PAIR_LOSSES["ipo"](win, lose, t(1.0), 5.0) == 9 and PAIR_LOSSES["dpo"](win, lose, t(1.0), 5.0) < 1


def test_expos_candidate_of_minus_one_is_the_clone(dataset):
    task = make_task(dataset)
    last = play("expo", task, 8, step_sizes=(-1.0,))[-1].policy
    for p, q in zip(last.parameters(), task.parts["trainer"].reference.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-6, rtol=1e-6)
    with pytest.raises(BadInput, match="none below -1"):
        expo.Config(step_sizes=(-1.5, 0.0))


def test_vars_baseline_by_hand():
    """Returns 1 + 2 s and residuals (.3, -.3, 0, 0): the weights are those of the residuals."""
    s, rest = torch.arange(4.0), torch.tensor([0.3, -0.3, 0.0, 0.0])
    x = torch.stack([torch.ones(4), s], -1)[None]
    factors = var.ridge(x, (1 + 2 * s)[None])
    torch.testing.assert_close(factors.squeeze(), torch.tensor([1.0, 2.0]), atol=2e-2, rtol=0)
    residual = (1 + 2 * s + rest)[None] - torch.bmm(x, factors).squeeze(-1)
    torch.testing.assert_close(var.weigh(residual, 0.1), var.weigh(rest[None], 0.1), atol=2e-2, rtol=0)


def test_vars_baseline_takes_the_first_states_share_of_the_return(task):
    class ByState:
        def clip_returns(self, obs, act, real):
            return 3 * obs[:, :, 0, 5] + act[:, :, 0, 0]

    b = var.fit_baseline(task, task.comparisons(), ByState())  # type: ignore[arg-type]
    win, lose, _ = task.comparisons().read_all()
    for clips in (win, lose):
        rest = 3 * clips.obs[:, :, 0, 5] + clips.act[:, :, 0, 0] - b(clips)
        assert (rest.std(1) < 0.5 * (3 * clips.obs[:, :, 0, 5]).std(1)).all()


def test_with_its_baseline_var_weighs_otherwise(dataset):
    plain, based = (play("var", make_task(dataset), 6, baseline=on)[-1].policy for on in (False, True))
    assert not torch.equal(plain.mean.bias, based.mean.bias)
