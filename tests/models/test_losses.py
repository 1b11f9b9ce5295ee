"""Losses against values computed by hand, and the signs of their gradients."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from aihf_control.models.losses import (
    bradley_terry,
    clip_return,
    demo_gap,
    gradient_penalty,
    robust_mean,
    worst_weights,
)


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
    half = gradient_penalty(lambda x: slope * x.squeeze(-1), a, b, mixing, most=0.5)  # (6 - 1)^2
    torch.testing.assert_close(half, torch.tensor([25.0, 0.0]))


def test_gradient_penalty_lowers_the_slope():
    w = torch.tensor(2.0, requires_grad=True)
    gradient_penalty(lambda x: w * x.sum(-1), torch.zeros(1, 4, 3), torch.ones(1, 4, 3), torch.rand(1, 4, 1)).backward()
    assert w.grad is not None and w.grad > 0


def test_clip_return_counts_no_step_after_the_end():
    reward, real = torch.tensor([[[1.0, 2.0, 4.0, 8.0]]]), torch.tensor([[[1.0, 1.0, 1.0, 0.0]]])
    torch.testing.assert_close(clip_return(reward, real, 0.5), torch.tensor([[7.0 / (0.5 * 4)]]))


# -------------------------------------------------------------------------------- the worst case in a ball (2503.00539)

LOSSES = torch.tensor([[0.2, 1.3, 0.1, 0.4]])  # not in order
EVEN = torch.ones(1, 4)


@pytest.mark.parametrize(
    ("rho", "weights", "value"),
    [
        (0.0, [0.25, 0.25, 0.25, 0.25], 0.5),
        (0.25, [0.25, 0.5, 0.0, 0.25], 0.8),  # all of 0.1's weight to 1.3
        (0.4, [0.1, 0.65, 0.0, 0.25], 0.965),  # 0.02 + 0.845 + 0.1
        (1.0, [0.0, 1.0, 0.0, 0.0], 1.3),
    ],
)
def test_the_worst_mean_by_hand(rho, weights, value):
    torch.testing.assert_close(worst_weights(LOSSES, EVEN, rho, 0.0), torch.tensor([weights]))
    torch.testing.assert_close(robust_mean(LOSSES, EVEN, rho, 0.0), torch.tensor([value]))


def test_a_cap_spreads_the_mass_over_the_largest_losses():
    """A top of 0.5 is 1.3 and 0.4, which get 0.1 each of rho 0.2; a top of 0.3 gives 5 parts of 6 to 1.3."""
    torch.testing.assert_close(worst_weights(LOSSES, EVEN, 0.2, 0.5), torch.tensor([[0.25, 0.35, 0.05, 0.35]]))
    by_hand = torch.tensor([[0.25, 0.25 + 0.2 * 5 / 6, 0.05, 0.25 + 0.2 / 6]])
    torch.testing.assert_close(worst_weights(LOSSES, EVEN, 0.2, 0.3), by_hand)


def test_the_worst_weights_are_those_of_a_linear_program():
    rng = np.random.default_rng(0)
    for rho in (0.05, 0.3, 0.7):
        losses, p = rng.exponential(size=7), rng.dirichlet(np.ones(7))
        # maximise (p + up - down) . losses, where up and down move a mass of at most rho
        cost = np.concatenate([-losses, losses])
        moved = np.concatenate([np.ones(7), np.zeros(7)])
        balance = np.concatenate([np.ones(7), -np.ones(7)])
        bounds = [(0, None)] * 7 + [(0, x) for x in p]
        best = linprog(cost, moved[None], [rho], balance[None], [0], bounds)
        got = robust_mean(torch.tensor(losses)[None], torch.tensor(p)[None], rho, 0.0)
        assert float(got) == pytest.approx(p @ losses - best.fun, abs=1e-5)


def test_pairs_of_weight_0_are_in_no_worst_case_and_lanes_do_not_mix():
    losses = torch.cat([LOSSES, torch.tensor([[9.0, 1.0, 2.0, 3.0]])])
    weight = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 1.0, 1.0, 0.0]])
    got = worst_weights(losses, weight, 0.25, 0.0)
    torch.testing.assert_close(got[0], worst_weights(LOSSES, EVEN, 0.25, 0.0)[0])
    torch.testing.assert_close(got[1], torch.tensor([0.0, 0.25, 0.75, 0.0]))
    assert torch.equal(worst_weights(LOSSES, torch.zeros(1, 4), 0.3, 0.1), torch.zeros(1, 4))


def test_the_gradient_of_the_worst_mean_is_its_weights():
    losses = LOSSES.clone().requires_grad_()
    robust_mean(losses, EVEN, 0.4, 0.0).sum().backward()
    torch.testing.assert_close(losses.grad, torch.tensor([[0.1, 0.65, 0.0, 0.25]]))
