"""Offline-pre and offline-joint: rewards that are paid, and the identities at both ends of the weight of imitation."""

import itertools

import pytest
import torch

from aihf_control import methods
from aihf_control.core.errors import BadInput
from aihf_control.environments.gym import Envs
from aihf_control.learning.bc import initial_policy, step_logp
from aihf_control.learning.paid import PaidRewards
from aihf_control.learning.replay import Buffer
from aihf_control.learning.sac import SAC, Imitation, SACConfig
from aihf_control.models.lanes import Dims
from tests.helpers import make_task, play, small_config

JOINT = methods.load("offline_joint")


def test_paid_rewards_are_those_of_the_sampled_transitions():
    """A ring of 3: after rewards 0 to 4 it has 3, 4 and 2, in the places of the transitions that they were paid for."""
    dims = Dims((0, 1), 1, 1)
    buffer, paid = Buffer(dims, 3), PaidRewards(dims, 3)
    for k in range(5):
        x = torch.tensor([float(k), 10.0 * k])
        buffer.add(x[:, None], x[:, None], x[:, None], torch.zeros(2))
        paid.add(x)
    assert paid.rewards.tolist() == [[3, 4, 2], [30, 40, 20]]
    batch = buffer.sample(50)
    assert torch.equal(paid.of(batch)(batch.obs, batch.act), batch.obs.squeeze(-1))
    other = PaidRewards(dims, 3)
    other.load_state_dict(paid.state_dict())
    assert torch.equal(other.rewards, paid.rewards) and other.count == 5


def test_the_collector_pays_what_the_environment_did(dataset, monkeypatch):
    task, seen, real = make_task(dataset), [], Envs.step

    def watched(self, *args):
        result = real(self, *args)
        seen.append(result[1])
        return result

    monkeypatch.setattr(Envs, "step", watched)
    buffer, policy = Buffer(task.dims, 10), initial_policy(task, (8,), -1.0)
    rewards = [task.collect_paid(policy, into=buffer) for _ in range(5)]
    torch.testing.assert_close(torch.stack(rewards), torch.as_tensor(seen, dtype=torch.float32))
    assert task.n_steps.tolist() == [5, 5] and buffer.count.tolist() == [5, 5]


def updated(w: float | None, updates: int = 60) -> tuple[SAC, Imitation]:
    """SAC after updates on one batch, with actions to imitate at this weight."""
    dims = Dims((0, 1), 4, 2)
    rng = torch.Generator().manual_seed(0)
    sac, buffer = SAC(dims, SACConfig(hidden=(16, 16), lr=3e-3)), Buffer(dims, 64)
    for _ in range(64):
        obs, act, after = (torch.randn(2, n, generator=rng) for n in (4, 2, 4))
        buffer.add(obs, act.tanh(), after, torch.zeros(2))
    batch = buffer.read(torch.arange(64).expand(2, -1))
    imitation = Imitation(batch.obs, batch.obs[..., :2].tanh(), torch.full((2, 1), w or 0.0))
    for _ in range(updates):
        sac.update(batch, lambda obs, act: act[..., 0], imitation=None if w is None else imitation)
    return sac, imitation


def test_without_weight_imitation_changes_no_bit():
    (plain, _), (weightless, _) = updated(None), updated(0.0)
    for a, b in zip(plain.policy.parameters(), weightless.policy.parameters(), strict=True):
        assert torch.equal(a, b)


def test_with_a_large_weight_the_actor_imitates_and_without_it_earns():
    (earning, shown), (imitating, _) = updated(0.0), updated(1e4)
    errors = [-step_logp(sac.policy, shown.obs, shown.act).mean(-1) for sac in (earning, imitating)]
    rewards = [sac.policy.act(shown.obs)[..., 0].mean(-1) for sac in (earning, imitating)]
    assert (errors[1] < 0.3 * errors[0]).all() and (rewards[0] > rewards[1] + 0.3).all()


def test_the_gradient_of_imitation_by_hand():
    """-log pi is |a - tanh(m)|^2: at m = 0 its derivative is -2 a, times the weight, over the batch."""
    dims = Dims((0,), 3, 1)
    sac = SAC(dims, SACConfig(hidden=(4,)))
    with torch.no_grad():
        for p in (sac.policy.mean.weight, sac.policy.mean.bias):
            p.zero_()
    act = torch.tensor([[[0.5], [-0.1]]])
    loss = sac._imitation_loss(torch.randn(1, 2, 3), act, torch.tensor([[3.0]]))
    torch.testing.assert_close(loss, torch.tensor([3.0 * (0.25 + 0.01) / 2]))
    (slope,) = torch.autograd.grad(loss.sum(), sac.policy.mean.bias)
    torch.testing.assert_close(slope, torch.tensor([[[3.0 * (-2 * 0.5 + 2 * 0.1) / 2]]]))


@pytest.mark.parametrize(("k", "weight"), [(0, 8.0), (25, 6.0), (50, 4.0), (100, 0.0), (150, 0.0)])
def test_the_weight_of_imitation_falls_in_a_line(k, weight):
    assert JOINT.imitation_weight(JOINT.Config(w_demo=8.0, fade=100), k) == pytest.approx(weight)


def test_joint_learning_uses_its_demonstrations_while_their_weight_lasts(dataset):
    """With a fade of 5 steps imitation is over by the first update, that of step 5, after a warm-up of 4."""

    def weights(**more):
        return play("offline_joint", make_task(dataset), 9, **more)[-1].policy.state_dict()

    over, none, lasting = (weights(**more) for more in ({"fade": 5}, {"w_demo": 0.0}, {"w_demo": 50.0}))
    assert all(torch.equal(over[name], none[name]) for name in over)
    assert any(not torch.equal(over[name], lasting[name]) for name in over)


def test_pre_training_begins_as_the_clone_and_joint_learning_does_not(dataset):
    first = {name: play(name, make_task(dataset), 0)[0].policy for name in ("offline_pre", "offline_joint", "rlhf")}
    weight = {name: policy.mean.weight for name, policy in first.items()}
    assert torch.equal(weight["offline_pre"], weight["rlhf"])
    assert not torch.equal(weight["offline_joint"], weight["rlhf"])


@pytest.mark.parametrize("name", ["offline_pre", "offline_joint"])
def test_comparisons_are_not_needed_and_not_counted(name, dataset):
    task = make_task(dataset, n_pairs=0)
    list(itertools.islice(methods.load(name).train(task, small_config(name, 2)), 1))
    assert task.n_labels == 0


@pytest.mark.parametrize("flag", ["fade", "batch", "capacity"])
def test_counts_below_1_are_refused(flag):
    with pytest.raises(BadInput, match=f"--{flag} must be at least 1"):
        JOINT.Config(**{flag: 0})
