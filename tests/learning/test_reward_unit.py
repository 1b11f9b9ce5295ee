"""The unit of rewards and the budget of the KL divergence, by hand."""

import math

import pytest
import torch

from aihf_control.core.errors import BadInput
from aihf_control.learning.reward_model import RewardModel
from aihf_control.learning.reward_unit import RATE, RewardUnit
from aihf_control.learning.sac import KL_WEIGHTS, SAC, SACConfig
from aihf_control.models.lanes import Dims
from aihf_control.models.networks import Policy

DIMS = Dims((0, 1), 3, 2)
X = torch.zeros(2, 3, 1)  # the rewards below do not look at it


class Constant(RewardModel):
    """A reward that returns given numbers."""

    def __init__(self):  # without a task and a network
        self.numbers = torch.tensor([[1.0, 2.0, 3.0], [10.0, 30.0, 50.0]])

    def __call__(self, obs, act):
        return self.numbers


def test_the_first_batch_is_centred_and_scaled():
    unit = RewardUnit(DIMS, Constant(), on=True)
    torch.testing.assert_close(unit(X, X), torch.tensor([[-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0]]))
    torch.testing.assert_close(unit.absorbing(), torch.tensor([[-2.0], [-1.5]]))


def test_a_step_keeps_its_distance_from_the_absorbing_state():
    """(r - m) / s minus (0 - m) / s is r / s, whatever m is."""
    r = Constant()
    unit = RewardUnit(DIMS, r, on=True)
    unit(X, X)
    r.numbers = r.numbers + torch.tensor([[5.0], [-20.0]])
    out = unit(X, X)
    torch.testing.assert_close(unit.mean, torch.tensor([[2 + 5 * RATE], [30 - 20 * RATE]]))
    torch.testing.assert_close(out - unit.absorbing(), r.numbers / torch.tensor([[1.0], [20.0]]))


def test_without_the_unit_the_reward_is_itself():
    r = Constant()
    unit = RewardUnit(DIMS, r, on=False)
    assert unit(X, X) is r.numbers
    assert unit.absorbing().tolist() == [[0.0], [0.0]]


def budgeted(n_updates: int) -> SAC:
    cfg = SACConfig(hidden=(8,), kl=(0.5, 8.0), kl_updates=100, kl_rate=0.1, alpha_start=1.0)
    sac = SAC(DIMS, cfg, prior=Policy(DIMS, (8,)).frozen_copy())
    sac.n_updates = n_updates
    return sac


def test_the_weight_of_the_kl_rises_above_the_budget_and_falls_below_it():
    sac = budgeted(50)  # budget 0.5 * 16 ** 0.5 = 2
    sac._weigh(torch.tensor([3.0, 1.0]))
    torch.testing.assert_close(sac.alpha(), torch.tensor([[math.exp(0.05)], [math.exp(-0.05)]]))


def test_the_weight_changes_by_the_rate_at_most_and_stays_in_its_bounds():
    sac = budgeted(1000)  # budget 8
    sac._weigh(torch.tensor([1e9, 8.0]))
    torch.testing.assert_close(sac.alpha(), torch.tensor([[math.exp(0.1)], [1.0]]))
    for _ in range(100):
        sac._weigh(torch.tensor([1e9, 0.0]))
    torch.testing.assert_close(sac.alpha(), torch.tensor([[KL_WEIGHTS[1]], [KL_WEIGHTS[0]]]))


@pytest.mark.parametrize("kl", [(1.0,), (0.0, 1.0), (1.0, -1.0), (1.0, 2.0, 3.0)])
def test_impossible_budgets_are_refused(kl):
    with pytest.raises(BadInput, match=r"--sac\.kl"):
        SACConfig(kl=kl)


def test_a_budget_without_a_prior_is_refused():
    with pytest.raises(BadInput, match=r"--sac\.kl is a budget"):
        SAC(DIMS, SACConfig(hidden=(8,), kl=(0.3, 4.0)))
