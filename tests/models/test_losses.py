"""Losses against values computed by hand, and the signs of their gradients."""

import math

import torch

from aihf_control.models.losses import bradley_terry, clip_return, demo_gap, gradient_penalty


def test_bradley_terry_by_hand():
    win, lose = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, 0.0], [3.0, 0.0]])
    weight = torch.tensor([[1.0, 1.0], [1.0, 3.0]])
    loss = bradley_terry(win, lose, weight)
    first = (math.log(1 + math.exp(-1)) + math.log(2)) / 2
    second = (math.log(1 + math.exp(3)) + 3 * math.log(1 + math.exp(-2))) / 4
    torch.testing.assert_close(loss, torch.tensor([first, second]))


def test_bradley_terry_raises_the_winner_and_lowers_the_loser():
    win, lose = torch.zeros(1, 1, requires_grad=True), torch.zeros(1, 1, requires_grad=True)
    bradley_terry(win, lose, torch.ones(1, 1)).sum().backward()
    assert win.grad is not None and lose.grad is not None
    torch.testing.assert_close(win.grad, torch.tensor([[-0.5]]))  # -(1 - sigmoid(0))
    torch.testing.assert_close(lose.grad, torch.tensor([[0.5]]))


def test_mistakes_bound_the_loss_of_a_wrong_label_by_hand():
    win = torch.tensor([[math.log(3), -50.0]], requires_grad=True)
    losses = [bradley_terry(win[:, i : i + 1], torch.zeros(1, 1), torch.ones(1, 1), mistakes=0.1) for i in range(2)]
    torch.testing.assert_close(torch.cat(losses), torch.tensor([-math.log(0.8 * 0.75 + 0.1), -math.log(0.1)]))
    torch.cat(losses).sum().backward()
    # -(1 - 2 m) sigmoid' / P = -0.8 * 0.75 * 0.25 / 0.7, and 0 for a label that is certainly wrong
    torch.testing.assert_close(win.grad, torch.tensor([[-0.15 / 0.7, 0.0]]))


def test_a_pair_of_weight_0_has_no_gradient():
    win = torch.zeros(1, 2, requires_grad=True)
    bradley_terry(win, torch.ones(1, 2), torch.tensor([[1.0, 0.0]])).sum().backward()
    assert win.grad is not None and win.grad[0, 0] < 0 and win.grad[0, 1] == 0


def test_demo_gap_by_hand():
    agent, demo = torch.tensor([[1.0, 3.0]]), torch.tensor([[4.0, 6.0]])
    gap = demo_gap(agent, demo, torch.tensor([0.25]), torch.tensor([0.0]))
    torch.testing.assert_close(gap, torch.tensor([0.75 * 2 - 5]))


def test_descending_the_demo_gap_raises_the_reward_of_demonstrations():
    agent, demo = torch.zeros(1, 4, requires_grad=True), torch.zeros(1, 4, requires_grad=True)
    demo_gap(agent, demo, torch.zeros(1), torch.zeros(1)).sum().backward()
    assert agent.grad is not None and demo.grad is not None
    assert (agent.grad > 0).all() and (demo.grad < 0).all()


def test_gradient_penalty_by_hand():
    """The slope of g(x) = w x is |w|: the penalty is (3 - 1)^2 for w = 3, and 0 for w = 0.5."""
    a, b, mixing = torch.randn(2, 8, 1), torch.randn(2, 8, 1), torch.rand(2, 8, 1)
    slope = torch.tensor([3.0, 0.5])[:, None]
    loss = gradient_penalty(lambda x: slope * x.squeeze(-1), a, b, mixing)
    torch.testing.assert_close(loss, torch.tensor([4.0, 0.0]))


def test_gradient_penalty_lowers_the_slope():
    w = torch.tensor(2.0, requires_grad=True)
    gradient_penalty(lambda x: w * x.sum(-1), torch.zeros(1, 4, 3), torch.ones(1, 4, 3), torch.rand(1, 4, 1)).backward()
    assert w.grad is not None and w.grad > 0


def test_clip_return_counts_no_step_after_the_end():
    reward, real = torch.tensor([[[1.0, 2.0, 4.0, 8.0]]]), torch.tensor([[[1.0, 1.0, 1.0, 0.0]]])
    torch.testing.assert_close(clip_return(reward, real, 0.5), torch.tensor([[7.0 / (0.5 * 4)]]))
