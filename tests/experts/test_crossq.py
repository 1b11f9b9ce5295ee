"""CrossQ: its normalisation, its gradients, its resumption, and what it learns."""

import math
import shutil

import numpy as np
import pytest
import torch

from aihf_control.core.errors import BadInput
from aihf_control.environments.cards import card_of
from aihf_control.environments.gym import spec_of
from aihf_control.experts.__main__ import main as experts_main
from aihf_control.experts.crossq import EPS, CrossQ, CrossQConfig, NormedTwinQ, _normalise
from aihf_control.experts.true_reward import TrueRewardConfig, learn
from aihf_control.learning.evaluation import expert_returns, greedy_returns
from aihf_control.learning.replay import Batch
from aihf_control.models.expert import expert_of
from aihf_control.models.lanes import Dims
from aihf_control.models.sb3 import read_zip
from aihf_control.models.sb3_writer import write_zip

DIMS = Dims((0, 1), 5, 2)
TINY = TrueRewardConfig(
    updates=30,
    envs=2,
    warmup=10,
    batch=16,
    learner="crossq",
    crossq=CrossQConfig(hidden=(8, 8), actor=(8, 8), renorm=9),
)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def a_batch(n: int = 32, done: float = 0.0) -> Batch:
    columns = numbers(2, n, 5), numbers(2, n, 2, seed=1).tanh(), numbers(2, n, 5, seed=2)
    return Batch(*columns, torch.full((2, n), done), torch.zeros(2, n, dtype=torch.long))


def plain_values(q: NormedTwinQ, x: torch.Tensor) -> torch.Tensor:
    """relu(norm(x) W + b) for every layer but the last, by torch's own operations, (N, B, 1)."""
    layers = [*q.body.pairs(), q.out.pair()]
    for i, (w, b) in enumerate(layers):
        y = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + EPS).sqrt()
        x = y @ w + b
        x = x.relu() if i < len(layers) - 1 else x
    return x


def test_both_halves_are_normalised_together():
    q, batch, next_act = NormedTwinQ(DIMS, (8, 8)), a_batch(), numbers(2, 32, 2, seed=3).tanh()
    now, after = q(batch.obs, batch.act, batch.next_obs, next_act, 0.01, False)
    halves = [torch.cat(pair, -1) for pair in ((batch.obs, batch.act), (batch.next_obs, next_act))]
    plain = plain_values(q, torch.cat(halves, 1).repeat_interleave(2, 0)).view(2, 2, 64)
    torch.testing.assert_close(torch.cat([now, after], -1), plain, atol=1e-5, rtol=1e-4)


def test_the_gradient_is_that_of_batch_normalisation_where_the_halves_are_equal():
    q, batch = NormedTwinQ(DIMS, (8, 8)), a_batch()
    x = torch.cat([batch.obs, batch.act], -1).repeat_interleave(2, 0)
    towards = numbers(2, 2, 32, seed=4)
    now, after = q(batch.obs, batch.act, batch.obs, batch.act, 0.01, False)
    assert torch.equal(now, after) and not after.requires_grad
    mine = torch.autograd.grad((now - towards).square().sum(), list(q.parameters()))
    theirs = torch.autograd.grad((plain_values(q, x).view(2, 2, 32) - towards).square().sum(), list(q.parameters()))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)


def test_renormalised_rows_are_in_units_of_the_running_statistics():
    h, mean, var = numbers(4, 64, 8), 0.1 * numbers(4, 8, seed=1), 0.5 + numbers(4, 8, seed=2).abs()
    expected = (h - mean[:, None]) / (var[:, None] + EPS).sqrt()
    y, (_, _, scale) = _normalise(h, (mean, var), 0.01, renorm=True)
    inside = ((scale > 1 / 3) & (scale < 3))[:, None].expand_as(h)
    assert inside.float().mean() > 0.8
    torch.testing.assert_close(y[inside], expected[inside], atol=1e-5, rtol=1e-5)


def test_values_are_computed_with_the_running_statistics():
    q, batch = NormedTwinQ(DIMS, (8, 8)), a_batch()
    for _ in range(800):
        now, _ = q(batch.obs, batch.act, batch.obs, batch.act, 0.01, False)
    values = q.evaluate(batch.obs, batch.act)
    torch.testing.assert_close(values, now.detach(), atol=0.06, rtol=0.06)  # the running variance is unbiased
    act = batch.act.clone().requires_grad_()
    q.evaluate(batch.obs, act).sum().backward()
    assert act.grad is not None and act.grad.abs().min() > 0 and all(p.grad is None for p in q.parameters())


def test_the_value_of_a_terminated_step_is_its_reward():
    """With every step terminated and a reward of 3, both critics go to 3.

    The values are those under the statistics of the batch: running statistics lag behind so large a learning rate, and
    by how much depends on the rounding of the processor.
    """
    learner, batch = CrossQ(DIMS, CrossQConfig(hidden=(8, 8), actor=(8, 8), lr=0.01)), a_batch(done=1.0)
    for _ in range(600):
        learner.update(batch, lambda obs, act: torch.full(act.shape[:2], 3.0))
    with torch.no_grad():
        q, _ = learner.q(batch.obs, batch.act, batch.next_obs, batch.act, 0.0, False)
    assert (q - 3).abs().mean() < 0.6


def test_lanes_learn_alone():
    one, two = (list(learn(spec_of("Pendulum-v1"), seeds, TINY))[-1][1] for seeds in ((3,), (7, 3)))
    torch.testing.assert_close(one.policy.mean.weight[0], two.policy.mean.weight[1], atol=1e-5, rtol=1e-4)


def test_the_actor_moves_every_delay_updates():
    learner, batch = CrossQ(DIMS, CrossQConfig(hidden=(8, 8), actor=(8, 8), delay=3)), a_batch()
    moved, before = [], learner.policy.mean.weight.clone()
    for _ in range(6):
        learner.update(batch, lambda obs, act: act.sum(-1))
        moved.append(not torch.equal(before, learner.policy.mean.weight))
        before = learner.policy.mean.weight.clone()
    assert moved == [False, False, True, False, False, True]


def test_impossible_settings_are_refused():
    with pytest.raises(BadInput, match=r"--crossq\.delay"):
        CrossQConfig(delay=0)


def test_it_leaves_as_a_stable_baselines3_zip(tmp_path):
    spec = spec_of("Pendulum-v1")
    *_, (_, learner) = learn(spec, (0,), TINY)
    write_zip(tmp_path / "x.zip", expert_of(learner.average, 0), spec)
    obs = numbers(20, 3)
    torch.testing.assert_close(read_zip(tmp_path / "x.zip", spec).act(obs), learner.average.act(obs[None])[0])


@pytest.mark.slow
def test_it_swings_the_pendulum_up():
    """Random actions return about -1200, a good policy about -150."""
    spec, cfg = spec_of("Pendulum-v1"), CrossQConfig(hidden=(64, 64), actor=(32, 32), average=0.01)
    *_, (_, learner) = learn(
        spec, (0,), TrueRewardConfig(updates=4000, envs=2, warmup=250, learner="crossq", crossq=cfg)
    )
    assert greedy_returns(learner.average, spec, 10).mean() > -300


@pytest.mark.slow
def test_the_command_trains_with_it_and_resumes(tmp_path, capsys):
    words = ["train", "--env", "Pendulum-v1", "--learner", "crossq", "--envs", "2", "--warmup", "10", "--batch", "16"]
    words += [
        "--crossq.hidden",
        "8",
        "8",
        "--crossq.actor",
        "8",
        "8",
        "--every",
        "10",
        "--episodes",
        "1",
        "--seeds",
        "2",
    ]
    assert experts_main([*words, "--updates", "60", "--out", str(tmp_path)]) == 0
    assert "crossq on the true reward of Pendulum-v1" in capsys.readouterr().out
    assert {"expert.zip", "card.toml", "training.csv"} <= {f.name for f in tmp_path.iterdir()}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is out of date")
@pytest.mark.parametrize("deterministic", [True, False])
def test_stable_baselines3_measures_the_return_that_show_does(deterministic):
    """Its own evaluate_policy on the bundled zip: other starts and other noise, so the means agree within errors."""
    import gymnasium as gym
    from stable_baselines3 import SAC
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.monitor import Monitor

    card, spec = card_of("HalfCheetah-v4"), spec_of("HalfCheetah-v4")
    assert card
    path = card.policies()["weak"]
    ours = expert_returns(read_zip(path, spec), spec, 6, sampled=not deterministic)
    env = Monitor(gym.make("HalfCheetah-v4"))
    env.reset(seed=5)
    theirs, _ = evaluate_policy(
        SAC.load(path, device="cpu"), env, 6, deterministic=deterministic, return_episode_rewards=True
    )
    error = math.hypot(np.std(ours), np.std(theirs)) / math.sqrt(6) + 0.01 * abs(np.mean(ours))
    assert abs(np.mean(ours) - np.mean(theirs)) < 4 * error


@pytest.mark.slow
def test_a_model_card_is_written_from_what_lies_beside_the_policies(tmp_path, capsys):
    words = ["train", "--env", "Pendulum-v1", "--learner", "crossq", "--envs", "2", "--warmup", "10", "--batch", "16"]
    words += ["--crossq.hidden", "8", "8", "--crossq.actor", "8", "8", "--every", "10", "--episodes", "1"]
    assert experts_main([*words, "--updates", "30", "--out", str(tmp_path)]) == 0
    assert experts_main(["card", "Pendulum-v1", "--folder", str(tmp_path), "--episodes", "2"]) == 0
    text = (tmp_path / "README.md").read_text()
    for part in ("# Policies for Pendulum-v1", "| expert | -", "training.png", "--crossq.actor 8 8", "no Pendulum-v5"):
        assert part in text, part
    assert (tmp_path / "training.png").stat().st_size < 100_000


@pytest.mark.slow
def test_a_model_card_shares_its_policies_with_v5(tmp_path, capsys):
    found = card_of("Swimmer-v4")
    assert found
    shutil.copytree(found.folder, tmp_path / "Swimmer-v4", ignore=shutil.ignore_patterns("medium*", "weak*", "*.png"))
    assert experts_main(["card", "Swimmer-v4", "--folder", str(tmp_path / "Swimmer-v4"), "--episodes", "2"]) == 0
    newer = card_of("Swimmer-v5", tmp_path / "Swimmer-v5")
    assert newer and newer.expert_return and newer.expert_return > 300
    assert newer.policies() == {"expert": tmp_path / "Swimmer-v4" / "expert.zip"}


@pytest.mark.parametrize("text", ["", "seed,step\n1,2\n", "seed,step,actor,return\n1,2,raw,x\n", '"seed,step'])
def test_a_card_with_a_damaged_training_csv_is_refused(text, tmp_path, capsys):
    (tmp_path / "card.toml").write_text("random_return = -1200.0\n")
    (tmp_path / "training.csv").write_text(text)
    assert experts_main(["card", "Pendulum-v1", "--folder", str(tmp_path), "--episodes", "1"]) == 2
    error = capsys.readouterr().err
    assert f"cannot read {tmp_path / 'training.csv'}: " in error and error.count("\n") == 1


@pytest.mark.parametrize("n", ["0", "-3"])
def test_a_policy_is_shown_over_at_least_one_episode(n, capsys):
    assert experts_main(["show", "--env", "Hopper-v4", "--episodes", n]) == 2
    assert capsys.readouterr().err == f"error: --episodes must be at least 1, got {n}\n"


def test_a_card_without_policies_is_refused(tmp_path, capsys):
    assert experts_main(["card", "Pendulum-v1", "--folder", str(tmp_path)]) == 2
    assert "there is no card.toml for Pendulum-v1" in capsys.readouterr().err
