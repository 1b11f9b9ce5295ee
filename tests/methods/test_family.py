"""ZPG, MTPO, SALMON, LINVIT, Ask and Density: their formulas by hand, and who is whose identity.

`dataset` is the small Hopper-v4 dataset of conftest.py.
"""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from aihf_control import methods
from aihf_control.core.errors import BadInput
from aihf_control.core.types import Clips, Trajectory
from aihf_control.data.labelling.principles import features as principle_features
from aihf_control.data.labelling.teachers import make_teacher
from aihf_control.learning.annotators import TeacherAnnotator
from aihf_control.learning.online import OnlineConfig
from aihf_control.learning.principled_reward import MOST, PrincipledReward, decide, draw_principles
from aihf_control.learning.reward_model import RewardConfig, RewardModel
from aihf_control.learning.segments import Segments
from aihf_control.learning.selection import ChosenDemos, keep_best
from aihf_control.learning.task import Task
from aihf_control.methods import ask, density, linvit, mtpo, salmon, zpg
from aihf_control.models.lanes import Dims, Random
from aihf_control.models.mixture import Mixture
from aihf_control.models.networks import Policy
from tests.helpers import TINY, make_task, play, tiny


@pytest.fixture
def task(dataset) -> Task:
    return make_task(dataset)


def t(*values: float) -> Tensor:
    return torch.tensor([values])


def windows_of(*rows: int) -> Segments:
    sizes = torch.tensor([rows])
    return Segments(sizes.cumsum(-1) - sizes, sizes, sizes, torch.ones_like(sizes))


# ----------------------------------------------------------------------------------------------------------------- ZPG


def test_zpgs_gradient_by_hand():
    """V = w . theta, w = (1, 0), v = (.6, .8), mu = .5: p = sigmoid(.3) = .5744, g = (2 / .5) .3 v = (.72, .96)."""
    v = t(0.6, 0.8)[:, None]
    p = torch.tensor(0.5 * (0.6 * 1 + 0.8 * 0)).sigmoid().view(1, 1, 1)
    torch.testing.assert_close(p.squeeze(), torch.tensor(0.5744), atol=1e-4, rtol=0)
    g = zpg.gradient(zpg.value_gain(p, 0.1), v, 0.5)
    torch.testing.assert_close(g, t(0.72, 0.96), atol=1e-4, rtol=0)


def test_votes_are_trimmed_and_averaged_as_logits():
    p = torch.tensor([[[1.0, 0.5], [0.0, 0.8]]])
    by_hand = t((math.log(9) + 0) / 2, (-math.log(9) + math.log(4)) / 2)
    torch.testing.assert_close(zpg.value_gain(p, 0.1), by_hand)


@pytest.mark.parametrize("block", [0, 1, 2])
def test_zpgs_gradient_is_unbiased_whatever_the_block(block, task):
    """E g = w for V = w . theta: over many directions of three coordinates, all or a random block of them."""
    theta = zpg.LastLayer(task, Policy(Dims((0, 1), 11, 1), (2,)), 0.1)
    v, w = theta.draw_directions(60_000, block), torch.tensor([1.0, -2.0, 3.0])
    assert v.shape == (2, 60_000, 3, 1)
    torch.testing.assert_close(v.norm(dim=(2, 3)), torch.ones(2, 60_000))
    assert block == 0 or ((v != 0).sum((2, 3)) == block).all()
    gain = 0.5 * (v.squeeze(-1) * w).sum(-1)
    g = zpg.gradient(gain, v, 0.5).squeeze(-1)
    torch.testing.assert_close(g, w.expand(2, 3), atol=0.08, rtol=0)


def test_a_perturbed_policy_is_the_policy_with_another_last_layer():
    dims = Dims((0, 1), 4, 2)
    policy, obs = Policy(dims, (8, 5)), torch.randn(2, 6, 4)
    step = torch.randn(2, 3, 6, 2)
    act = zpg.Perturbed(policy, step).act(obs)
    for j in range(3):
        by_hand = policy.frozen_copy()
        by_hand.mean.weight += step[:, j, :-1]
        by_hand.mean.bias += step[:, j, -1:]
        part = slice(2 * j, 2 * j + 2)
        torch.testing.assert_close(act[:, part], by_hand.act(obs[:, part]))


def test_zpg_ascends_along_its_gradient(task):
    theta = zpg.LastLayer(task, Policy(Dims((0, 1), 4, 2), (3,)), 0.01)
    before, g = theta.policy.mean.weight.clone(), torch.ones(2, 4, 2)
    theta.ascend(g)
    torch.testing.assert_close(theta.policy.mean.weight, before + 0.01)


def test_votes_are_shares_of_answers_and_count_as_labels(dataset):
    """Take 6 pairs with 3 votes each: an oracle is unanimous, and prefers the higher return."""
    task = make_task(dataset, n_pairs=20)
    task._queries.annotator = TeacherAnnotator(make_teacher("oracle"), dataset.pool)
    starts = task.draw_starts(6, 8)
    policy = Policy(task.dims, (8,))
    first, second = (task.rollout(policy, starts, 8) for _ in range(2))
    share = task.vote(first, second, 3)
    played = [task._queries.played[x.key].rewards for x in (first, second)]
    margin = (played[0] - played[1]).sum(1).reshape(2, 6)
    assert task.n_asked == 18 and np.array_equal(share.numpy(), (margin > 0).astype(np.float32))


def test_zpg_plans_its_labels(dataset):
    task = make_task(dataset, n_pairs=20)
    cfg = dataclasses.replace(tiny("zpg"), online=OnlineConfig(length=4, phases=2), directions=3, votes=2)
    assert cfg.plan(task) == (3, 1)
    with pytest.raises(BadInput, match="--pairs 20: 2 phases of 11 votes need 22"):
        dataclasses.replace(cfg, votes=11).plan(task)
    play("zpg", task, 4, steps=4, online=cfg.online, directions=3, votes=2)
    assert task.n_asked == 12


# ---------------------------------------------------------------------------------------------------------------- MTPO


def test_mtpos_improvement_by_hand():
    """pi = (.5, .5), mu = (.8, .2), Q = (.3, .7), eta = 1, c = .5: the actor's loss has its minimum at (.573, .427)."""
    pi, mu, q = t(0.5, 0.5), t(0.8, 0.2), t(0.3, 0.7)
    centre = 0.5 * pi.log() + 0.5 * mu.log()
    logits = torch.zeros(1, 2, requires_grad=True)
    opt = torch.optim.Adam([logits], 0.02)
    for _ in range(1000):
        new = logits.softmax(-1)
        loss = (new * (1.0 * (new.log() - centre) - q)).sum()  # alpha cost - Q, as in SAC, alpha = 1 / eta
        opt.zero_grad()
        loss.backward()
        opt.step()
    torch.testing.assert_close(logits.detach().softmax(-1), t(0.573, 0.427), atol=1e-3, rtol=0)


@pytest.mark.parametrize("c", [0.0, 0.3, 1.0])
def test_a_mixtures_density_is_the_normalised_product(c):
    """On a line of raw actions: log p = (1 - c) log a + c log b - log of the integral."""
    dims = Dims((0,), 2, 1)
    a, b, obs = Policy(dims, (4,)), Policy(dims, (4,)), torch.ones(1, 1, 2)
    with torch.no_grad():
        b.mean.bias += 0.7
        b.log_std.bias -= 0.5
    raw = torch.linspace(-8, 8, 4001).view(1, -1, 1)
    points = obs.expand(1, 4001, 2)
    slope = (1 - raw.tanh().square()).log().squeeze(-1)
    product = ((1 - c) * a.log_prob(points, raw) + c * b.log_prob(points, raw) + slope).exp()
    by_hand = product / (product.sum() * 16 / 4000)
    torch.testing.assert_close((Mixture(a, b, c).log_prob(points, raw) + slope).exp(), by_hand, atol=1e-3, rtol=1e-3)


def test_mtpos_payoffs_by_hand():
    """Three episodes with returns 0, log 3 and -log 3 in logits: 1/4 of the way above or below, and twice that."""
    returns = t(0.0, math.log(3), -math.log(3))
    found = mtpo.mean_payoff(returns[:, :, None] - returns[:, None, :])
    p = [0.75 - 0.5, 0.9 - 0.5]  # sigmoid(log 3) and sigmoid(log 9)
    torch.testing.assert_close(found, t((-p[0] + p[0]) / 2, (p[0] + p[1]) / 2, -(p[0] + p[1]) / 2))


def test_in_a_circle_no_episode_has_a_payoff():
    """Rock, paper, scissors: everyone wins one and loses one."""
    circle = torch.tensor([[[0.0, 2.0, -2.0], [-2.0, 0.0, 2.0], [2.0, -2.0, 0.0]]])
    torch.testing.assert_close(mtpo.mean_payoff(circle), torch.zeros(1, 3))


def test_mtpos_critics_regress_on_the_payoff_of_the_episode(task):
    """Steps after a fall are not drawn, and the target has nothing of the next state."""
    episodes = mtpo.Episodes(task)
    n = torch.arange(2 * 3 * 4.0).view(2, 3, 4)
    real = torch.ones(2, 3, 4)
    real[:, 1, 2:] = 0
    clips = Clips(n[..., None].expand(2, 3, 4, 11), n[..., None].expand(2, 3, 4, 3), real)
    episodes.replace(clips, t(0.1, 0.2, 0.3).expand(2, 3))
    batch, payoff = episodes.draw(400)
    step = batch.obs[0, :, 0].long()
    assert set(step.tolist()) == set(range(12)) - {6, 7}
    torch.testing.assert_close(payoff[0], torch.tensor([0.1, 0.2, 0.3])[step // 4])
    sac = mtpo.SAC(task.dims, TINY["sac"])
    target = sac.target(batch, payoff, torch.zeros(2, 1), sac.alpha(), torch.randn(2, 400, 3))
    assert torch.equal(target, payoff)


def test_mtpos_opponent_is_the_policy_of_the_phase(dataset):
    task = make_task(dataset)
    play("mtpo", task, 6, steps=6)  # phases at 1 and 4
    pi_k, policy = task.parts["pi_k"], task.parts["sac"].policy
    assert not torch.equal(pi_k.mean.bias, policy.mean.bias)
    assert not torch.equal(pi_k.mean.bias, task.parts["sac"].prior.b.mean.bias)


# -------------------------------------------------------------------------------------------------------------- SALMON


def test_salmons_label_by_hand():
    """Gaps speed +.3, effort -.8: under both b wins, by effort; under speed alone a; to avoid effort, a."""
    gaps = torch.tensor([0.3, -0.8, 0.0, 0.0])
    for c, first in (((1, 1, 0, 0), False), ((1, 0, 0, 0), True), ((0, -1, 0, 0), True), ((-1, 0, 0, 0), False)):
        assert bool(decide(gaps, torch.tensor(c, dtype=torch.float)) > 0) is first


def test_one_to_three_principles_are_in_force_each_with_a_random_sign(task):
    c = draw_principles(Random(task.dims, "any").uniform(6000, 9))
    n, of_each = (c != 0).sum(-1), torch.full((4,), (1 + 2 + 3) / 3 / 4)
    assert set(n.unique().tolist()) == set(range(1, MOST + 1)) and set(c.unique().tolist()) == {-1.0, 0.0, 1.0}
    torch.testing.assert_close(c.mean((0, 1)), torch.zeros(4), atol=0.05, rtol=0)
    torch.testing.assert_close(c.abs().mean((0, 1)), of_each, atol=0.03, rtol=0)


def test_the_judges_features_by_hand():
    act = np.array([[0.5, 0.0], [0.5, 1.0], [-0.5, 1.0]], np.float32)
    qpos, qvel = (
        np.array([[9, 1, 0], [9, 2, 0], [9, 3, 0], [9, 9, 0]], np.float32),
        np.arange(4.0)[:, None].repeat(3, 1),
    )
    obs = np.zeros((4, 1), np.float32)
    one = Trajectory(obs, act, np.zeros(3), False, 0, "any", qpos, qvel)
    np.testing.assert_allclose(principle_features(one, 0, 3), [1, (0.25 + 1.25 + 1.25) / 3, 2, -1])
    np.testing.assert_allclose(principle_features(one, 1, 9), [1.5, 1.25, 2.5, -1])
    free = dataclasses.replace(one, qpos=np.pad(qpos, ((0, 0), (0, 1)), constant_values=7))
    assert principle_features(free, 0, 3)[2] == 0  # x, y, z of a root that turns freely
    with pytest.raises(BadInput, match="the judge of principles needs the simulator's states"):
        principle_features(dataclasses.replace(one, qvel=None), 0, 3)


def test_the_judges_opinion_is_of_the_lanes_own_comparisons_and_counts(dataset):
    task = make_task(dataset)
    opinion = task.judge()
    assert opinion.shape == (2, 20, 4) and task.n_labels == 80
    sides = task.comparisons().read_all()
    effort = [(side.act.square().sum(-1) * side.real).sum(-1) / side.real.sum(-1) for side in sides[:2]]
    gap = effort[0] - effort[1]
    assert (torch.sign(gap) == torch.sign(opinion[..., 1])).float().mean() > 0.98
    scale = gap / opinion[..., 1]
    torch.testing.assert_close(scale, scale.mean().expand_as(scale), rtol=2e-2, atol=0)


def test_a_steered_reward_is_the_principled_one_at_these_principles(task):
    principled = PrincipledReward(task, TINY["reward"], task.judge())
    with torch.no_grad():
        principled.net.body.layers[0].weight[:, -4:] += 1.0
    c, obs, act = torch.tensor([1.0, 0.0, -1.0, 0.5]), torch.randn(2, 5, 11), torch.rand(2, 5, 3)
    steered = principled.steer(c)
    told = torch.cat([act, c.expand(2, 5, 4)], -1)
    torch.testing.assert_close(
        steered.features(steered.inputs(obs, act)), principled.net.features(principled.net.inputs(obs, told))
    )
    torch.testing.assert_close(steered(obs, act), principled.net(obs, told))


def test_one_fit_serves_opposite_principles(task):
    """After one fit, the reward for each principle, and for its opposite, orders the segments as the judge does."""
    opinion, cfg = task.judge(), RewardConfig(lr=3e-3, pair_steps=400, batch=32)
    principled = PrincipledReward(task, cfg, opinion)
    principled.fit(600)
    win, lose, _ = task.comparisons().read_all()
    r, right = RewardModel(task, cfg), []
    for c in [sign * e for e in torch.eye(4) for sign in (1, -1)]:
        r.net = principled.steer(c)
        margin = (r.clip_returns(*win) - r.clip_returns(*lose)).detach()
        right.append(float(((margin > 0) == ((opinion * c).sum(-1) > 0)).float().mean()))
    assert min(right) > 0.65 and np.mean(right) > 0.75


def test_no_principle_is_refused():
    with pytest.raises(BadInput, match="one of them not 0"):
        salmon.Config(speed=0.0)


# -------------------------------------------------------------------------------------------------------------- LINVIT


def test_linvits_value_and_policy_by_hand():
    """pi_0 = (.8, .2), Q = (0, 1), lambda = 1: V = log(.8 + .2 e) = .2954, pi = (.595, .405).

    Under draws from pi itself, whatever it is, the mean over them of pi_0 / pi exp(Q) is the same number.
    """
    prior, q = torch.tensor([0.8, 0.2]), torch.tensor([0.0, 1.0])
    value = (prior * q.exp()).sum().log()
    torch.testing.assert_close(value, torch.tensor(0.2954), atol=1e-4, rtol=0)
    pi = prior * (q - value).exp()
    torch.testing.assert_close(pi, torch.tensor([0.595, 0.405]), atol=1e-3, rtol=0)
    for acting in (pi, torch.tensor([0.5, 0.5])):
        drawn = torch.multinomial(acting, 40_000, replacement=True, generator=torch.Generator().manual_seed(0))
        cost = (acting.log() - prior.log())[drawn]
        found = linvit.soft_value(q[drawn].view(-1, 1, 1), cost.view(-1, 1, 1), torch.ones(1, 1))
        torch.testing.assert_close(found.squeeze(), value, atol=0.01, rtol=0)
    exact = linvit.soft_value(q.view(2, 1, 1), (pi.log() - prior.log()).view(2, 1, 1), torch.ones(1, 1))
    torch.testing.assert_close(exact.squeeze(), value)  # at the optimum every draw gives V


def test_optimism_by_hand():
    """Critics 1 and 3: mean 2, standard deviation 1."""
    q = torch.tensor([[[1.0], [3.0]]])
    assert [linvit.upper(q, c).item() for c in (0.5, 0.0, -1.0)] == [2.5, 2.0, 1.0]


def test_without_optimism_linvits_actor_is_rlhfs(dataset):
    """The first update of the actor: the same data, noise and critics, and -1 deviations are the least critic."""
    weights = []
    for name, more in (("rlhf", {}), ("linvit", {"optimism": -1.0}), ("linvit", {"optimism": 2.0})):
        task = make_task(dataset)
        play(name, task, 5, **more)
        weights.append(task.parts["sac"].policy.body.layers[0].weight.detach())
    rlhf, cautious, bold = weights
    far = (bold - rlhf).abs().mean()
    assert (cautious - rlhf).abs().mean() < 0.05 * far


def test_without_a_prior_the_first_policy_knows_nothing(dataset):
    first = play("linvit", make_task(dataset), 0, prior=False)[0].policy
    assert torch.equal(first.log_std.bias, torch.zeros_like(first.log_std.bias))
    task = make_task(dataset)
    play("linvit", task, 5, prior=False)
    assert task.parts["sac"].prior is None


# ----------------------------------------------------------------------------------------------------- Ask and Density


def test_densitys_weights_by_hand():
    """Points 0, 0, 0 and 10, bandwidth 1: the three share what the fourth has: (1/6, 1/6, 1/6, 1/2)."""
    x = torch.tensor([[[0.0], [0.0], [0.0], [10.0], [99.0]]])
    there = torch.tensor([[True, True, True, True, False]])
    torch.testing.assert_close(density.inverse_density(x, there, 1.0), t(1 / 6, 1 / 6, 1 / 6, 1 / 2, 0.0))
    torch.testing.assert_close(density.inverse_density(x, there, math.inf), t(0.25, 0.25, 0.25, 0.25, 0.0))


def test_densitys_features_are_the_moments_of_the_windows(task):
    windows = task.demo_windows(7)
    mean, std = task.compute_obs_stats()
    rows = slice(7, 14)
    x = density.features(task, windows)[0, 1]
    obs = (task.demos.data[0, rows, :11] - mean[0]) / std[0]
    torch.testing.assert_close(x[:11], obs.mean(0), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(x[14:25], obs.std(0, correction=0), atol=1e-3, rtol=1e-3)


def test_a_lane_chooses_alike_whatever_lanes_are_beside_it(dataset):
    """Lanes have demonstrations of other lengths, so their windows are padded differently."""
    chosen = []
    for seeds in ((0, 1, 2), (1,)):
        task = Task(dataset, seeds, n_demos=3, n_pairs=20)
        x, windows = density.features(task, task.demo_windows(4)), task.demo_windows(4)
        lane, n = seeds.index(1), int((windows.rows[seeds.index(1)] > 0).sum())
        u = Random(task.dims, "density").uniform(windows.rows.shape[1])
        chosen.append((x[lane, :n], u[lane, :n]))
    for a, b in zip(*chosen, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_a_share_of_the_windows_is_kept():
    score, windows = t(0.1, 0.9, 0.5, 7.0, 0.4), windows_of(5, 5, 5, 0, 5)
    assert keep_best(score, windows, 0.5).tolist() == [[0, 1, 1, 0, 0]]
    assert keep_best(score, windows, 0.01).tolist() == [[0, 1, 0, 0, 0]]
    assert keep_best(score, windows, 1.0).tolist() == [[1, 1, 1, 0, 1]]


def test_windows_partition_the_demonstrations(dataset):
    task = Task(dataset, (0, 1), n_demos=3, n_pairs=20)
    lengths = [[len(demo) for demo in lane] for lane in task._data.trajectories]
    whole, cut = task.demo_windows(0), task.demo_windows(4)
    for lane in range(2):
        assert whole.rows[lane][whole.rows[lane] > 0].tolist() == lengths[lane]
        assert cut.rows[lane].sum() == sum(lengths[lane]) and cut.rows.max() == 4
        assert (cut.rows[lane] > 0).sum() == sum(-(-n // 4) for n in lengths[lane])
        ends = (cut.first + cut.rows)[lane][cut.rows[lane] > 0]
        assert set(np.cumsum(lengths[lane])) <= set(ends.tolist())  # no window has steps of two demonstrations


def test_only_steps_of_chosen_windows_are_drawn(dataset):
    task = Task(dataset, (0, 1), n_demos=3, n_pairs=20)
    windows = task.demo_windows(4)
    chosen = torch.zeros_like(windows.rows).float()
    chosen[:, 2] = 1
    chosen[:, 5] = 1
    index = ChosenDemos(task, windows, chosen).sample(500).index
    for lane in range(2):
        rows = {int(windows.first[lane, w]) + i for w in (2, 5) for i in range(int(windows.rows[lane, w]))}
        assert set(index[lane].tolist()) == rows


def test_asks_judge_keeps_the_demonstrations_of_high_reward(dataset):
    class Judge:
        cfg = RewardConfig()

        def __call__(self, obs, act):
            return obs[..., 5]

    task = Task(dataset, (0, 1), n_demos=4, n_pairs=20)
    windows = task.demo_windows(0)
    score = ask.scores(task, Judge(), windows)  # type: ignore[arg-type]
    for lane, demos in enumerate(task._data.trajectories):
        by_hand = torch.tensor([float(demo.obs[:-1, 5].mean()) / RewardConfig.tau for demo in demos])
        torch.testing.assert_close(score[lane, : len(demos)], by_hand, rtol=1e-3, atol=1e-3)


def test_p_yes_of_the_median_is_a_half():
    torch.testing.assert_close(
        ask.p_yes(t(0.0, 1.0, 5.0, 99.0), windows_of(1, 1, 1, 0)), t(1 / (1 + math.e), 0.5, 1 / (1 + math.exp(-4)), 1.0)
    )


def test_what_is_kept_whole_is_bc_on_all_demonstrations(dataset):
    """With a share of 1 every step is drawn alike, as by bc, from another stream of random numbers."""
    task = Task(dataset, (0, 1), n_demos=3, n_pairs=20)
    index = ChosenDemos(task, task.demo_windows(5), (task.demo_windows(5).rows > 0).float()).sample(20_000).index[0]
    count = torch.bincount(index, minlength=int(task.demos.count[0]))
    assert len(count) == task.demos.count[0] and count.min() > 0.5 * count.float().mean()


@pytest.mark.parametrize("name", ["ask", "density"])
def test_a_clone_of_something_else_is_refused(name):
    with pytest.raises(BadInput, match="this method clones demonstrations"):
        tiny(name, clone=dataclasses.replace(TINY["clone"], on="clips"))


def test_a_judge_that_sees_no_difference_decides_nothing():
    gaps = torch.tensor([[0.0, 0.0], [0.5, 0.0]])
    assert decide(gaps, torch.tensor([[1.0, -1.0], [-1.0, 1.0]])).tolist() == [0.0, -1.0]


def test_salmon_counts_the_judges_opinions_also_after_its_reward_was_made(dataset):
    task = make_task(dataset, n_pairs=20)
    play("salmon", task, 1)
    assert task.n_labels == 20 * 4


@pytest.mark.parametrize("more", [{"span": 0.1}, {"mistakes": 0.1}, {"actions": False}])
def test_salmon_refuses_settings_that_its_reward_does_not_have(more):
    config = methods.load("salmon").Config
    with pytest.raises(BadInput, match=r"leave --reward\.actions"):
        config(reward=dataclasses.replace(config().reward, **more))


@pytest.mark.parametrize("name", ["ask", "density"])
def test_a_clones_updates_are_refused_where_steps_count(name):
    config = methods.load(name).Config
    with pytest.raises(BadInput, match="give --steps 77"):
        config(clone=dataclasses.replace(config().clone, updates=77))
