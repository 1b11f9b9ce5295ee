"""Preferences in a circle, the mixture of policies that Nash-MD plays against, and what PARL's reward adds."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from aihf_control import methods
from aihf_control.core.errors import BadInput
from aihf_control.core.types import Clips, Preferences
from aihf_control.learning.best import BestConfig
from aihf_control.learning.online import OnlineConfig
from aihf_control.learning.preference_buffer import PreferenceBuffer
from aihf_control.learning.preference_model import PreferenceModel
from aihf_control.learning.replay import Buffer
from aihf_control.learning.reward_model import RewardConfig, RewardModel
from aihf_control.learning.task import Task
from aihf_control.models.lanes import Dims
from aihf_control.models.losses import clip_return
from aihf_control.models.mixture import Mixture
from aihf_control.models.networks import Policy
from tests.helpers import TINY, make_task, play, tiny

FAST = RewardConfig(hidden=(16,), batch=32, lr=1e-2, pair_steps=400, penalty=1.0, mistakes=0.0)
CFG = RewardConfig(hidden=(16,), batch=32, pair_steps=80, last=50, tau=0.5)


def some_clips(seed: int, n: int = 4) -> Clips:
    g = torch.Generator().manual_seed(seed)
    real = (torch.rand(2, n, 10, generator=g) < 0.8).float()
    return Clips(torch.randn(2, n, 10, 11, generator=g), torch.rand(2, n, 10, 3, generator=g) * 2 - 1, real)


def circling(dataset) -> PreferenceModel:
    """A model whose form is not zero, as it is at first."""
    model = PreferenceModel(make_task(dataset), CFG, 3)
    with torch.no_grad():
        model.net.form.copy_(torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(5)))
    return model


# -------------------------------------------------------------------------------------------------- general preferences


def test_one_of_two_is_preferred(dataset):
    """P(a > b) + P(b > a) = 1."""
    model, a, b = circling(dataset), some_clips(0), some_clips(1)
    torch.testing.assert_close(model.logit(a, b), -model.logit(b, a), atol=1e-4, rtol=1e-4)


def test_the_logit_by_hand(dataset):
    model, a, b = circling(dataset), some_clips(0), some_clips(1)
    (lane, i), steps = (1, 2), []
    for clips in (a, b):
        x = model.net.inputs(clips.obs[:, i], clips.act[:, i])
        e = (model.net(x)[lane] * clips.real[lane, i, :, None]).sum(0) / 10
        r = (model.r(clips.obs[:, i], clips.act[:, i])[lane] * clips.real[lane, i]).sum() / 10
        steps.append((r, e))
    (r_a, e_a), (r_b, e_b) = steps
    form = model.net.form[lane]
    model.share[lane] = 0.25
    by_hand = (r_a - r_b + 0.25 * (e_a @ form @ e_b - e_b @ form @ e_a)) / 0.5
    torch.testing.assert_close(model.logit(a, b)[lane, i], by_hand, atol=1e-5, rtol=1e-4)


def test_the_reward_of_a_step_is_what_it_adds_to_the_logit(dataset):
    """Between two clips against one opponent the logits differ by the returns."""
    model, b = circling(dataset), some_clips(1, n=1)
    model.share[1] = 0.5
    model.set_opponent(b)
    returns, logits = [], []
    for seed in (2, 3):
        a = some_clips(seed, n=1)
        returns.append(clip_return(model(a.obs[:, 0], a.act[:, 0]), a.real[:, 0], 0.5))
        logits.append(model.logit(a, b)[:, 0])
    torch.testing.assert_close(logits[0] - logits[1], returns[0] - returns[1], atol=1e-4, rtol=1e-4)


def compared(kinds_of_pairs: list[tuple[int, int]]) -> Task:
    """Comparisons of clips of kinds (winner, loser), as a task has them: clips of a kind show one observation."""
    task = SimpleNamespace(dims=Dims((0, 1), 11, 3), compute_once=lambda what, parts, compute: compute())
    kinds = torch.eye(3, 11)[:, None].expand(3, 10, 11)
    n = len(kinds_of_pairs)

    def clips(side: int) -> Clips:
        obs = kinds[[pair[side] for pair in kinds_of_pairs]]
        return Clips(*(x.numpy() for x in (obs, torch.zeros(n, 10, 3), torch.ones(n, 10))))

    pairs = PreferenceBuffer(task.dims, [Preferences(clips(0), clips(1), torch.ones(n).numpy())] * 2)
    steps = Buffer(task.dims, 3, "clips")
    for k in range(3):
        steps.add(kinds[k, :1].expand(2, 11), torch.zeros(2, 3), kinds[k, :1].expand(2, 11), torch.zeros(2))
    task.compute_obs_stats = lambda: (torch.zeros(2, 11), torch.ones(2, 11))
    task.comparisons, task.clips, task.demos = (lambda: pairs), steps, steps
    return task  # type: ignore[return-value]


def test_it_learns_a_circle_that_no_reward_can_order():
    """Each of three kinds beats the next, in random order."""
    model = PreferenceModel(compared([(0, 1), (1, 2), (2, 0)] * 20), FAST, 3)
    model.fit(300)
    win, lose, _ = model.task.comparisons().read_all()
    assert (model.share == 1).all() and (model.logit(win, lose) > 1).all()
    assert (5 * model.transitive_logit(win, lose).abs() < model.cyclic_logit(win, lose)).all()


def test_an_order_that_a_reward_explains_is_left_to_the_reward():
    model = PreferenceModel(compared([(0, 1), (1, 2), (0, 2)] * 20), FAST, 3)
    model.fit(300)
    win, lose, _ = model.task.comparisons().read_all()
    assert (model.transitive_logit(win, lose) > 1).all()
    assert (model.cyclic_logit(win, lose).abs() < model.transitive_logit(win, lose)).all()


def test_a_circle_that_explains_nothing_new_has_no_share():
    """The share under which given pairs are likeliest, where the circle is against them, and where it is with them."""
    model = PreferenceModel(compared([(0, 1), (1, 2), (2, 0)] * 20), FAST, 3)
    for _ in range(100):
        model.descend(model.task.comparisons().draw(400))
    win, lose, weight = model.task.comparisons().read_all()
    assert model.choose_share(Preferences(win, lose, weight)).tolist() == [[1.0], [1.0]]
    assert model.choose_share(Preferences(lose, win, weight)).tolist() == [[0.0], [0.0]]
    assert model.choose_share(model.task.comparisons().read(torch.zeros(2, 0, dtype=torch.long))).tolist() == [
        [0.0],
        [0.0],
    ]


def test_the_penalty_by_hand():
    """Features that are the first input's tanh and a constant, so that the reward has a known slope there."""
    model = PreferenceModel(compared([(0, 1), (1, 2), (2, 0)]), CFG, 2)
    with torch.no_grad():
        for layer in [*model.net.body.layers, model.net.out]:
            layer.weight.zero_(), layer.bias.zero_()
        model.net.body.layers[0].weight[:, 0, 0] = 1.0
        model.net.out.weight[:, 0, 0] = 1.0
        model.net.form[:, 0, 1] = 5.0
    model.task.clips.data[..., 0] = 0.0  # every step shows 0 in the first input, where tanh(tanh(x)) has slope 1
    opponent = torch.tensor([[0.0, 1.0], [0.0, 0.1]])  # rewards 5 tanh(tanh(x)) and a tenth of it
    expected = torch.tensor([10.0 * (5 / 0.1 - 1) ** 2, 10.0 * (0.5 / 0.1 - 1) ** 2])
    torch.testing.assert_close(model.penalty(opponent), expected)


def test_the_reward_depends_on_the_opponent(dataset):
    model, obs, act = circling(dataset), torch.randn(2, 5, 11), torch.zeros(2, 5, 3)
    rewards = []
    for seed in (1, 2):
        model.set_opponent(some_clips(seed))
        rewards.append(model(obs, act))
    assert not torch.allclose(*rewards)
    with torch.no_grad():
        model.net.form.zero_()
    torch.testing.assert_close(model(obs, act), model.r(obs, act))


def test_a_model_resumes_from_its_state(dataset):
    one, other = circling(dataset), PreferenceModel(make_task(dataset), CFG, 3)
    one.fit(2)
    one.set_opponent(some_clips(1))
    other.load_state_dict(one.state_dict())
    obs, act = torch.randn(2, 5, 11), torch.zeros(2, 5, 3)
    assert torch.equal(one(obs, act), other(obs, act))


# --------------------------------------------------------------------------------------------------------- the mixture


def test_the_mixture_is_the_normalised_product_of_the_densities():
    """Worked out on a grid of actions before the squashing, for two policies of other means and deviations."""
    dims = Dims((0,), 2, 1)
    a, b = Policy(dims, (4,)), Policy(dims, (4,))
    with torch.no_grad():
        a.mean.bias += 0.5
        b.mean.bias -= 1.0
        b.log_std.bias += 0.7
    obs, c = torch.ones(1, 1, 2), 0.3
    grid = torch.linspace(-12, 12, 40_001, dtype=torch.float64)
    log = torch.zeros_like(grid)
    for policy, share in ((a, 1 - c), (b, c)):
        mean, log_std = (x.double().item() for x in policy(obs))
        log += share * torch.distributions.Normal(mean, torch.tensor(log_std).exp().item()).log_prob(grid)
    density = log.softmax(0)
    mean = (density * grid).sum()
    std = (density * (grid - mean).square()).sum().sqrt()
    mixture = Mixture(a, b, c)
    for noise in (-1.0, 0.0, 2.0):
        act = mixture.act(obs, torch.full((1, 1, 1), noise))
        torch.testing.assert_close(act.double().squeeze(), (mean + noise * std).tanh(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(mixture.act(obs), mixture.act(obs, torch.zeros(1, 1, 1)))


@pytest.mark.parametrize("c", [0.0, 1.0])
def test_at_its_ends_the_mixture_is_one_of_the_two(c):
    dims = Dims((0, 1), 2, 1)
    a, b = Policy(dims, (4,)), Policy(Dims((5, 6), 2, 1), (4,))
    obs, noise = torch.randn(2, 3, 2), torch.randn(2, 3, 1)
    torch.testing.assert_close(Mixture(a, b, c).act(obs, noise), (b if c else a).act(obs, noise))


def test_the_mixture_follows_the_policy_that_learns():
    dims = Dims((0,), 2, 1)
    a = Policy(dims, (4,))
    mixture, obs = Mixture(a, a.frozen_copy(), 0.5), torch.ones(1, 1, 2)
    before = mixture.act(obs)
    with torch.no_grad():
        a.mean.bias += 1.0
    assert (mixture.act(obs) > before).all()
    assert set(mixture.state_dict()) == {f"b.{name}" for name in a.state_dict()}


# --------------------------------------------------------------------------------------------------------- the methods


def test_nash_md_without_circles_is_rlhf(dataset, monkeypatch):
    rlhf = play("rlhf", make_task(dataset), 12, best=BestConfig(every=0))[-1]
    monkeypatch.setattr(PreferenceModel, "fit", lambda self, updates: self.r.fit(updates))
    nash = play("nash_md", make_task(dataset), 12)[-1]
    assert all(map(torch.equal, rlhf.policy.parameters(), nash.policy.parameters()))


def test_nash_md_with_circles_is_not_rlhf(dataset):
    one, other = (play(name, make_task(dataset), 12)[-1].policy for name in ("rlhf", "nash_md"))
    assert not all(map(torch.equal, one.parameters(), other.parameters()))


def test_nash_md_faces_its_opponent_at_the_beginning_of_a_phase(dataset, monkeypatch):
    """A mixture of the policy that learns and of the clone, with the share that was asked for."""
    faced, played = [], []
    face, rollout = PreferenceModel.set_opponent, Task.rollout
    monkeypatch.setattr(
        PreferenceModel, "set_opponent", lambda self, clips: (faced.append(task.step), face(self, clips))
    )
    monkeypatch.setattr(Task, "rollout", lambda self, policy, *x: (played.append(policy), rollout(self, policy, *x))[1])
    task = make_task(dataset)
    clone_, *_ = play("nash_md", task, 10, steps=10, mixture=0.25)
    assert faced == [1, 6] and played[0] is played[1]  # two phases
    (learner,) = played[0].a
    assert played[0].c == 0.25 and learner is task.parts["sac"].policy
    assert not torch.equal(played[0].b.mean.weight, learner.mean.weight)
    assert clone_.policy is learner  # which was the clone when it was yielded
    clips = 2 * 3 * 6  # phases, clips in each, steps of a clip at most
    assert 10 < task.n_steps.max() <= 10 + clips and task.n_labels == 20


def test_the_agents_reward_by_hand(dataset):
    task = make_task(dataset)
    task._collector.endings[0].extend([(40, True), (1000, False)])  # 960 of 2000 steps absorbed
    r, buffer = RewardModel(task, TINY["reward"]), Buffer(task.dims, 10)
    obs, act = torch.randn(2, 11), torch.zeros(2, 3)
    buffer.add(obs, act, obs, torch.zeros(2))
    task.demos.data[:] = task.demos.data[:, :1]  # all its steps alike
    demo = task.demos.sample(1)
    above = r(obs[:, None], act[:, None]) - r(demo.obs, demo.act)
    rewards, penalty = r.agent_term(buffer)
    torch.testing.assert_close(rewards, torch.tensor([1 - 0.48, 1.0]) * above.squeeze(1), atol=1e-5, rtol=1e-4)
    assert penalty.shape == (2,)
    rewards.sum().backward()
    assert r.net.alive.grad is None and r.net.body.layers[0].weight.grad.abs().max() > 0


def test_parls_reward_includes_the_last_term(dataset):
    """Against AIHF, whose gap lowers it."""
    rewards = {}
    for weight in (0.0, 100.0):
        quick = dataclasses.replace(TINY["reward"], lr=1e-2, actions=True, span=0.0)
        *_, last = play("parl", make_task(dataset), 40, w_agent=weight, reward_every=1, reward=quick)
        rewards[weight] = last.info["agent"]
    assert (rewards[100.0] > rewards[0.0]).all()


def test_parl_queries_the_whole_budget_and_keeps_every_answer(dataset):
    task = make_task(dataset)
    online = OnlineConfig(length=6, phases=4)
    asked, labels = [], 0
    iterations = methods.load("parl").train(task, tiny("parl", steps=12, online=online))
    for k, _ in zip(range(13), iterations, strict=False):
        if task.n_labels > labels:
            asked.append(k)
            labels = task.n_labels
    assert asked == [1, 4, 7, 10] and labels == 20
    assert task.parts["answers"].pairs.weight.sum(1).tolist() == [20, 20]


def test_parl_keeps_every_answer_of_a_teacher_with_ties(dataset):
    """And a lane keeps the same whoever learns beside it."""
    ties = dataclasses.replace(dataset, meta={**dataset.meta, "annotator": {**dataset.meta["annotator"], "equal": 0.3}})
    kept = []
    for seeds in ((0, 1, 2), (2,)):
        task = make_task(ties, seeds=seeds)
        play("parl", task, 12, steps=12, online=OnlineConfig(length=6, phases=4))
        kept.append(task.parts["answers"].pairs.weight[-1])
    assert kept[0].sum() == 20 and (kept[0] == 0.5).any()
    assert torch.equal(*kept)


def test_features_that_go_in_no_circle_are_refused():
    with pytest.raises(BadInput, match="--features must be at least 2, got 1"):
        methods.load("nash_md").Config(features=1)
