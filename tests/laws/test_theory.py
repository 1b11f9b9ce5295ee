"""The theorem under the method: the likelihood's gradient is a difference of expectations (AIHF, section 3.2).

On a tabular MDP the soft optimal policy of a reward is exact, so the gradient of the demonstrations' log likelihood can
be taken by finite differences and held against the estimator that training uses.
"""

import numpy as np
import pytest
import torch

from aihf_control.models.losses import bradley_terry, demo_gap

S, A, GAMMA, ALPHA = 4, 3, 0.8, 0.7


def mdp(seed: int):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(S), size=(S, A)), rng.dirichlet(np.ones(S)), rng.normal(size=(S, A))


def soft_optimal(transition, reward):
    """The policy that maximises E sum gamma^t (r + alpha entropy), by soft value iteration to machine precision."""
    value = np.zeros(S)
    for _ in range(160):
        q = reward + GAMMA * transition @ value
        value = ALPHA * np.log(np.exp(q / ALPHA).sum(1))
    return np.exp((q - value[:, None]) / ALPHA)


def occupancy(transition, start, policy):
    """Discounted visits of each (s, a), summing to 1 / (1 - gamma)."""
    moves = np.einsum("sa,sat->st", policy, transition)
    states = np.linalg.solve(np.eye(S) - GAMMA * moves.T, start)
    return states[:, None] * policy


def log_likelihood(transition, start, expert, reward):
    """E over the expert of sum gamma^t log pi_r(a_t | s_t): L1."""
    return (occupancy(transition, start, expert) * np.log(soft_optimal(transition, reward))).sum()


@pytest.mark.parametrize("seed", range(3))
def test_the_likelihoods_gradient_is_the_difference_of_expectations(seed):
    transition, start, reward = mdp(seed)
    expert = soft_optimal(transition, np.random.default_rng(seed + 100).normal(size=(S, A)))
    step, by_differences = 1e-5, np.zeros((S, A))
    for i in np.ndindex(S, A):
        nudge = np.zeros((S, A))
        nudge[i] = step
        up, down = (log_likelihood(transition, start, expert, reward + sign * nudge) for sign in (1, -1))
        by_differences[i] = (up - down) / (2 * step)

    theta = torch.tensor(reward, requires_grad=True)
    agent = occupancy(transition, start, soft_optimal(transition, reward))
    gap = expected_gap(theta, agent, occupancy(transition, start, expert))
    gap.backward()
    assert theta.grad is not None
    np.testing.assert_allclose(by_differences, -theta.grad.numpy() / ALPHA, atol=1e-6)


def expected_gap(theta, agent, demo):
    """`demo_gap` in expectation: each (s, a) is a sample, weighted by its visits (S * A makes its mean a sum)."""
    rewards = [(S * A * torch.as_tensor(visits) * theta).reshape(1, -1) for visits in (agent, demo)]
    nothing = torch.zeros(1, dtype=torch.float64)
    return demo_gap(*rewards, nothing, nothing).sum()


def test_ascending_the_likelihood_recovers_the_experts_policy():
    transition, start, true = mdp(7)
    expert = soft_optimal(transition, true)
    theta = np.zeros((S, A))
    demo = occupancy(transition, start, expert)
    for _ in range(600):
        theta += 0.5 * (demo - occupancy(transition, start, soft_optimal(transition, theta)))
    np.testing.assert_allclose(soft_optimal(transition, theta), expert, atol=2e-3)


def test_bradley_terry_recovers_a_known_rewards_ranking():
    """2000 noisy comparisons of clips in which each of 8 states appears: the learned rewards rank as the true ones."""
    rng, true = np.random.default_rng(0), np.linspace(-1, 1, 8)
    clips = torch.as_tensor(rng.multinomial(10, np.ones(8) / 8, size=(2, 2000)), dtype=torch.float32)
    margin = (clips[0] - clips[1]) @ torch.as_tensor(true, dtype=torch.float32)
    first = torch.rand(2000, generator=torch.Generator().manual_seed(0)) < margin.sigmoid()
    win, lose = torch.where(first[:, None], clips[0], clips[1]), torch.where(first[:, None], clips[1], clips[0])
    theta = torch.zeros(8, requires_grad=True)
    opt = torch.optim.Adam([theta], 0.05)
    for _ in range(300):
        opt.zero_grad()
        bradley_terry((win @ theta)[None], (lose @ theta)[None], torch.ones(1, 2000)).sum().backward()
        opt.step()
    learned = theta.detach().numpy()
    assert (np.argsort(learned) == np.arange(8)).all()
    np.testing.assert_allclose(learned - learned.mean(), true, atol=0.25)
