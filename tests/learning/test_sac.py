"""The lane learner: nets against their plain form, targets by hand, lanes apart, and that it learns."""

import copy
import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from aihf_control.learning.replay import Batch, Buffer, mix
from aihf_control.learning.sac import SAC, SACConfig
from aihf_control.models.lanes import Dims, Random
from aihf_control.models.networks import Linear, Policy, RewardNet, TwinQ
from aihf_control.training.summary import find_overvalued

TINY = SACConfig(hidden=(16, 16), lr=3e-3)


def dims(*seeds: int, n_obs: int = 3, n_act: int = 2, **more) -> Dims:
    return Dims(seeds or (0, 1), n_obs, n_act, **more)


def batch(d: Dims, n: int = 32, seed: int = 0) -> Batch:
    """The same transitions in every lane."""
    g = torch.Generator().manual_seed(seed)
    obs, next_obs = (torch.randn(n, d.n_obs, generator=g).expand(d.n_lanes, -1, -1) for _ in range(2))
    act = (torch.rand(n, d.n_act, generator=g) * 2 - 1).expand(d.n_lanes, -1, -1)
    done = (torch.rand(n, generator=g) < 0.3).float().expand(d.n_lanes, -1)
    return Batch(obs, act, next_obs, done, torch.zeros(d.n_lanes, n, dtype=torch.long))


def reward_of(obs, act):
    return obs[..., 0] - act[..., 0]


# ---------------------------------------------------------------------------------------------------------------- nets


def test_a_stack_of_layers_is_the_layers_one_by_one():
    d = dims(0, 1, 2)
    layer, x = Linear(Random(d, "x"), 3, 5), torch.randn(3, 7, 3)
    for i in range(3):
        torch.testing.assert_close(layer(x)[i], F.linear(x[i], layer.weight[i].T, layer.bias[i, 0]))


def test_the_density_is_torchs_own():
    policy, d = Policy(dims(), (8,)), dims()
    obs, noise = torch.randn(2, 5, 3), torch.randn(2, 5, 2)
    act, logp, raw = policy.sample(obs, noise)
    mean, log_std = policy(obs)
    normal = torch.distributions.Normal(mean, log_std.exp())
    squashed = torch.distributions.TransformedDistribution(normal, torch.distributions.TanhTransform(cache_size=1))
    assert d.n_lanes == 2
    torch.testing.assert_close(act, raw.tanh())
    torch.testing.assert_close(logp, (normal.log_prob(raw) - torch.log(1 - act.square())).sum(-1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(squashed.log_prob(act).sum(-1), logp, atol=1e-3, rtol=1e-3)


def test_the_density_is_finite_at_the_bounds():
    policy = Policy(dims(), (8,))
    assert torch.isfinite(policy.log_prob(torch.zeros(2, 1, 3), torch.full((2, 1, 2), 30.0))).all()


def test_critics_are_two_a_lane_and_differ():
    d = dims(0, 1)
    q = TwinQ(d, (8, 8), layer_norm=True)(torch.randn(2, 5, 3), torch.randn(2, 5, 2))
    assert q.shape == (2, 2, 5)
    assert not torch.allclose(q[0], q[1]) and not torch.allclose(q[:, 0], q[:, 1])


def test_the_reward_has_its_bonus_at_the_demonstrations_mean():
    r = RewardNet(dims(), (8,), alive=1.0, bound=2.0)
    obs, act = torch.randn(2, 64, 3), torch.randn(2, 64, 2)
    for _ in range(3000):
        r.recentre(r.features(r.inputs(obs, act)))
    torch.testing.assert_close(r(obs, act).mean(-1), torch.ones(2), atol=1e-3, rtol=1e-3)


def test_the_span_bounds_the_reward_and_keeps_its_slope_at_the_bonus():
    r = RewardNet(dims(), (8,), alive=1.0, bound=2.0, span=0.5)
    g = torch.tensor([[-100.0, 0.0, 0.5, 100.0]]).expand(2, -1).clone().requires_grad_()
    level = r.level(g)
    torch.testing.assert_close(level[0], torch.tensor([0.5, 1.0, 1 + 0.5 * math.tanh(1.0), 1.5]))
    (slope,) = torch.autograd.grad(level.sum(), g)
    torch.testing.assert_close(slope[0, 1], torch.tensor(1.0))
    free = RewardNet(dims(), (8,), alive=1.0, bound=2.0)
    torch.testing.assert_close(free.level(g)[0], g[0] + 1)


def test_bfloat16_products_stay_near_float32():
    d = dims()
    policy, obs = Policy(d, (32, 32)), torch.randn(2, 5, 3)
    torch.testing.assert_close(policy(obs, torch.bfloat16)[0], policy(obs)[0], atol=0.02, rtol=0.05)
    assert policy(obs, torch.bfloat16)[0].dtype == torch.float32


# -------------------------------------------------------------------------------------------------------------- random


def test_a_lanes_numbers_do_not_depend_on_the_lanes_beside_it():
    together, alone = Random(dims(3, 4, 5), "x"), Random(dims(4), "x")
    torch.testing.assert_close(together.normal(6)[1], alone.normal(6)[0], rtol=0, atol=0)


def test_purposes_do_not_share_their_numbers():
    assert not torch.equal(Random(dims(), "a").normal(9), Random(dims(), "b").normal(9))


def test_a_stream_of_random_numbers_resumes_exactly():
    rng = Random(dims(), "x")
    rng.normal(3)
    state = {k: v.clone() for k, v in rng.state_dict().items()}
    first = rng.uniform(4)
    rng.load_state_dict(state)
    assert torch.equal(rng.uniform(4), first)


def test_integers_stay_below_each_lanes_bound():
    drawn = Random(dims(), "x").integers(torch.tensor([1, 3]), 500)
    assert set(drawn[0].tolist()) == {0} and set(drawn[1].tolist()) == {0, 1, 2}


# -------------------------------------------------------------------------------------------------------------- buffer


def row(d: Dims, k: float):
    obs = torch.full((d.n_lanes, d.n_obs), k) + 100 * torch.arange(d.n_lanes)[:, None]
    return obs, torch.zeros(d.n_lanes, d.n_act), obs + 0.5, torch.full((d.n_lanes,), k % 2)


def test_the_ring_forgets_the_oldest_and_keeps_lanes_apart():
    d = dims()
    buffer = Buffer(d, 4)
    for k in range(6):
        buffer.add(*row(d, float(k)))
    drawn = buffer.sample(400)
    for lane in range(2):
        assert set(drawn.obs[lane, :, 0].tolist()) == {100 * lane + k for k in (2, 3, 4, 5)}
    torch.testing.assert_close(drawn.next_obs, drawn.obs + 0.5)
    torch.testing.assert_close(drawn.done, drawn.obs[..., 0] % 2)


def test_recent_draws_from_the_last_ones_only():
    d = dims()
    buffer = Buffer(d, 8)
    for k in range(11):
        buffer.add(*row(d, float(k)))
    assert set(buffer.sample_recent(400, last=3).obs[0, :, 0].tolist()) == {8, 9, 10}


def test_filling_a_lane_is_adding_to_it():
    d = dims()
    one, other = Buffer(d, 4), Buffer(d, 4)
    rows = [row(d, float(k)) for k in range(6)]
    for r in rows:
        one.add(*r)
    for lane in range(2):
        for r in rows:
            other.fill(lane, *(x[lane : lane + 1] for x in r))
    assert torch.equal(one.data, other.data) and torch.equal(one.count, other.count)


def test_a_mixed_batch_has_the_given_shares():
    d = dims()
    parts = [Buffer(d, 1, name) for name in "abc"]
    for k, buffer in enumerate(parts):
        buffer.add(*row(d, float(k)))
    drawn = mix([(parts[0], 0.0), (parts[1], 0.25), (parts[2], 0.125)], 64)
    counts = [int((drawn.obs[0, :, 0] == k).sum()) for k in range(3)]
    assert counts == [40, 16, 8]


# ----------------------------------------------------------------------------------------------------------------- sac


def test_targets_by_hand():
    """r + gamma (min Q' - alpha log pi) where the episode continues; r + gamma r_abs / (1 - gamma) where it ended."""
    d = dims()
    sac = SAC(d, dataclasses.replace(TINY, alpha=(0.3,), gamma=0.9))
    b, noise = batch(d), torch.randn(2, 32, 2)
    reward = reward_of(b.obs, b.act)
    target = sac.target(b, reward, torch.full((2, 1), -2.0 / 0.1), sac.alpha(), noise)
    act, logp, _ = sac.policy.sample(b.next_obs, noise)
    continued = reward + 0.9 * (sac.q_target(b.next_obs, act).amin(1) - 0.3 * logp)
    by_hand = torch.where(b.done > 0, reward + 0.9 * (-2.0 / 0.1), continued)
    torch.testing.assert_close(target, by_hand.detach())


def test_an_update_is_the_gradient_step_of_the_papers_losses():
    """Critics and actor after one update, against torch's own Adam on the losses written out in plain operations."""
    d = dims(3, 4)
    cfg = dataclasses.replace(TINY, alpha=(0.3,), gamma=0.9, layer_norm=False)
    sac = SAC(d, cfg)
    b, state = batch(d), sac.rng.state_dict()
    policy, q = copy.deepcopy(sac.policy), copy.deepcopy(sac.q)
    noise = sac.rng.normal(2, 32, 2)
    sac.rng.load_state_dict(state)
    info = sac.update(b, reward_of, absorbing=-2.0)

    def critic(obs, act):
        x = torch.cat([obs, act], -1).repeat_interleave(2, 0)
        for layer in q.body.layers:
            x = layer(x).relu()
        return q.out(x).view(2, 2, 32)

    def actor(obs, noise):
        for layer in policy.body.layers:
            obs = layer(obs).relu()
        normal = torch.distributions.Normal(policy.mean(obs), policy.log_std(obs).exp())
        raw = normal.mean + normal.stddev * noise
        return raw.tanh(), (normal.log_prob(raw) - torch.log(1 - raw.tanh().square())).sum(-1)

    with torch.no_grad():
        act, logp = actor(b.next_obs, noise[:, 0])
        continued = critic(b.next_obs, act).amin(1) - 0.3 * logp  # the targets still equal the critics
        target = reward_of(b.obs, b.act) + 0.9 * torch.where(b.done > 0, -20.0, continued)
    q_loss = 0.5 * (critic(b.obs, b.act) - target[:, None]).square().mean(-1).sum(1)
    step(q.parameters(), q_loss)
    act, logp = actor(b.obs, noise[:, 1])
    step(policy.parameters(), (0.3 * logp - critic(b.obs, act).amin(1)).mean(-1))
    torch.testing.assert_close(info["q_loss"], q_loss.detach())
    for mine, plain in zip(
        [*sac.q.parameters(), *sac.policy.parameters()], [*q.parameters(), *policy.parameters()], strict=True
    ):
        torch.testing.assert_close(mine, plain, atol=2e-5, rtol=1e-4)


def step(params, loss):
    params = list(params)
    opt = torch.optim.Adam(params, TINY.lr)
    for p, g in zip(params, torch.autograd.grad(loss.sum(), params), strict=True):
        p.grad = g
    opt.step()


def test_the_actor_is_frozen_for_the_given_updates_also_after_a_resume():
    d = dims()
    sac, moved = SAC(d, dataclasses.replace(TINY, hold=2)), []
    for k in range(4):
        before = copy.deepcopy(sac.policy)
        sac.update(batch(d), reward_of)
        moved.append(not torch.equal(before.mean.weight, sac.policy.mean.weight))
        if k == 0:
            resumed = SAC(d, dataclasses.replace(TINY, hold=2))
            resumed.load_state_dict(sac.state_dict())
            assert resumed.n_updates == 1
    assert moved == [False, False, True, True]


def test_updates_are_due_after_the_warm_up_and_the_critics_alone_first():
    assert [SAC(dims(), dataclasses.replace(TINY, hold=5)).due(k) for k in (-1, 0, 1, 2, 3)] == [0, 0, 6, 1, 1]
    assert [SAC(dims(), TINY).due(k) for k in (0, 1, 2)] == [0, 1, 1]


def test_the_weight_of_the_divergence_falls_from_the_first_update_of_the_actor():
    cfg = dataclasses.replace(TINY, hold=3, alpha=(0.5,), alpha_start=2.5, alpha_fade=1.0)
    sac = SAC(dims(), cfg, prior=Policy(dims(), (8,)))
    weights = [sac.update(batch(dims()), reward_of)["alpha"][0].item() for _ in range(5)]
    assert weights == pytest.approx([2.5, 2.5, 2.5, 0.5 + 2 * math.exp(-1), 0.5 + 2 * math.exp(-2)])


def test_a_frozen_actor_does_not_change_while_its_critics_do():
    d = dims()
    sac = SAC(d, TINY)
    policy, q = copy.deepcopy(sac.policy), copy.deepcopy(sac.q)
    sac.update(batch(d), reward_of, actor=False)
    assert torch.equal(sac.policy.mean.weight, policy.mean.weight)
    assert not torch.equal(sac.q.out.weight, q.out.weight)


def test_a_prior_equal_to_the_policy_costs_nothing():
    d = dims()
    policy = Policy(d, TINY.hidden)
    sac = SAC(d, TINY, policy, prior=policy.frozen_copy())
    _, cost = sac.sample_action(batch(d).obs, torch.randn(2, 32, 2))
    torch.testing.assert_close(cost, torch.zeros_like(cost), atol=1e-5, rtol=0)


def test_a_policy_stays_near_a_heavy_prior_and_leaves_a_light_one():
    d, moved = dims(), {}
    for alpha in (100.0, 1e-3):
        policy = Policy(d, TINY.hidden)
        prior = policy.frozen_copy()
        sac = SAC(d, dataclasses.replace(TINY, alpha=(alpha,), alpha_fade=0.0), policy, prior)
        for i in range(200):
            sac.update(batch(d, seed=i), lambda obs, act: -5 * act[..., 0])
        obs = batch(d).obs
        moved[alpha] = (sac.policy.act(obs) - prior.act(obs)).abs().mean()
    assert moved[100.0] < 0.1 < moved[1e-3]


def test_a_factor_by_lane_multiplies_the_weight_of_a_priors_divergence():
    d, cfg = dims(), dataclasses.replace(TINY, alpha=(0.2,), alpha_fade=0.0)
    policy, factor = Policy(d, TINY.hidden), torch.linspace(0.1, 1.0, d.n_lanes)
    held = SAC(d, cfg, policy, policy.frozen_copy(), factor)
    torch.testing.assert_close(held.alpha().squeeze(-1), 0.2 * factor)
    free = SAC(d, cfg, Policy(d, TINY.hidden), factor=factor)
    torch.testing.assert_close(free.alpha(), torch.full_like(free.alpha(), 0.2))  # of the entropy


def test_the_automatic_entropy_weight_falls_while_there_is_too_much_entropy():
    d = dims()
    sac = SAC(d, dataclasses.replace(TINY, alpha=()))
    before = sac.alpha().clone()
    for i in range(20):
        sac.update(batch(d, seed=i), reward_of)  # a fresh policy has more entropy than the target of -A
    assert (sac.alpha() < before).all()


def test_entropy_weights_are_assigned_to_the_lanes_in_turn():
    sac = SAC(dims(3, 4, 5), dataclasses.replace(TINY, alpha=(0.5, 0.25)))
    torch.testing.assert_close(sac.alpha(), torch.tensor([[0.25], [0.5], [0.25]]))


def test_the_weight_of_the_prior_fades_to_alpha():
    d = dims()
    cfg = dataclasses.replace(TINY, alpha=(0.1,), alpha_start=2.0, alpha_fade=10.0)
    policy = Policy(d, TINY.hidden)
    sac = SAC(d, cfg, policy, policy.frozen_copy())
    info = {}
    for i in range(10):
        info = sac.update(batch(d, seed=i), reward_of)
    expected = 0.1 + 1.9 * math.exp(-1)
    torch.testing.assert_close(sac.alpha(), torch.full((d.n_lanes, 1), expected))
    torch.testing.assert_close(info["alpha"], sac.alpha()[:, 0])


def test_without_a_prior_there_is_nothing_to_fade():
    cfg = dataclasses.replace(TINY, alpha=(0.1,), alpha_start=2.0, alpha_fade=10.0)
    torch.testing.assert_close(SAC(dims(), cfg).alpha(), torch.full((dims().n_lanes, 1), 0.1))


def test_the_average_follows_slowly():
    d = dims()
    sac = SAC(d, dataclasses.replace(TINY, average=0.25))
    start = sac.average.mean.weight.clone()
    sac.update(batch(d), reward_of)
    torch.testing.assert_close(sac.average.mean.weight, start + 0.25 * (sac.policy.mean.weight - start))


def test_a_lane_does_not_depend_on_the_others():
    together, alone = SAC(dims(3, 4, 5), TINY), SAC(dims(4), TINY)
    for i in range(10):
        together.update(batch(dims(3, 4, 5), seed=i), reward_of)
        alone.update(batch(dims(4), seed=i), reward_of)
    for a, b in zip(together.policy.parameters(), alone.policy.parameters(), strict=True):
        torch.testing.assert_close(a[1], b[0], atol=1e-5, rtol=1e-4)


def test_a_lane_with_nan_leaves_the_others_unchanged():
    sick, well = SAC(dims(3, 4, 5), TINY), SAC(dims(3, 4, 5), TINY)
    with torch.no_grad():
        sick.policy.mean.weight[1] = math.nan
    for i in range(5):
        infos = [sac.update(batch(dims(3, 4, 5), seed=i), reward_of) for sac in (sick, well)]
    assert infos[0]["q_loss"].isnan().tolist() == [False, True, False]
    for a, b in zip(sick.policy.parameters(), well.policy.parameters(), strict=True):
        assert torch.equal(a[[0, 2]], b[[0, 2]])


def test_a_restored_learner_continues_with_the_same_numbers():
    d = dims()
    one, other = SAC(d, TINY), SAC(d, TINY)
    one.update(batch(d), reward_of)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for sac in (one, other):
        sac.update(batch(d, seed=9), reward_of)
    for a, b in zip(one.policy.parameters(), other.policy.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("products", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
def test_it_learns_the_rewarded_action(products):
    """One step a episode, reward -|a - s|: from about -0.6 to better than -0.15 in every lane."""
    d = dims(0, 1, 2, n_obs=1, n_act=1, products=products)
    sac = SAC(d, SACConfig(hidden=(32, 32), lr=3e-3, alpha=(0.01,)))
    rng = Random(d, "test")

    def reward(obs, act):
        return -(act - obs).abs().squeeze(-1)

    for _ in range(600):
        obs, act = rng.uniform(64, 1) * 1.6 - 0.8, rng.uniform(64, 1) * 2 - 1
        sac.update(Batch(obs, act, obs, torch.ones(3, 64), torch.zeros(3, 64, dtype=torch.long)), reward)
    obs = torch.linspace(-0.8, 0.8, 50)[None, :, None].expand(3, -1, -1)
    assert (reward(obs, sac.policy.act(obs)).mean(-1) > -0.15).all()


def test_termination_has_the_value_of_the_absorbing_state():
    """Every transition terminates: Q = r + gamma r_abs / (1 - gamma)."""
    d = dims(n_obs=1, n_act=1)
    sac = SAC(d, SACConfig(hidden=(16,), lr=1e-2, gamma=0.9))
    b = Batch(*(torch.zeros(2, 32, 1) for _ in range(3)), torch.ones(2, 32), torch.zeros(2, 32, dtype=torch.long))
    for _ in range(400):
        sac.update(b, lambda obs, act: act[..., 0] * 0 + 1, absorbing=0.5)
    np.testing.assert_allclose(sac.q(b.obs, b.act).detach().numpy(), 1 + 0.9 * 0.5 / 0.1, atol=0.1)


def test_critics_beyond_every_reachable_return_are_named():
    d = dims()
    sac = SAC(d, dataclasses.replace(TINY, layer_norm=False))
    fair = sac.update(batch(d), lambda obs, act: torch.ones(2, 32))["q_of_reach"]
    with torch.no_grad():
        sac.q.out.bias[2:] += 1e6  # the second lane's two critics
    wild = sac.update(batch(d), lambda obs, act: torch.ones(2, 32))["q_of_reach"]
    assert (fair < 1).all() and (wild > 1).tolist() == [False, True]
    frame = pd.DataFrame({"q_of_reach": wild.tolist()}, index=pd.Index([3, 4], name="seed"))
    assert find_overvalued(frame) == [4] and find_overvalued(frame[[]]) == []
