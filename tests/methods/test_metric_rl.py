"""MetricRL: its loss by hand, the goals that it draws, and what it learns in a maze that can be reasoned about."""

import itertools
import math

import numpy as np
import pytest
import torch

from aihf_control import methods
from aihf_control.core.errors import BadInput
from aihf_control.core.types import Trajectory
from aihf_control.data.generate import DataConfig, make_dataset
from aihf_control.environments.goals import Goals, goals_of
from aihf_control.environments.gym import spec_of
from aihf_control.learning.bc import CloneConfig
from aihf_control.learning.goals import Embedding, GoalBatch, GoalDemos
from aihf_control.learning.task import Task
from aihf_control.models.expert import expert_of
from aihf_control.models.lanes import Dims
from aihf_control.models.networks import Policy
from aihf_control.models.sb3_writer import write_zip
from tests.helpers import make_task, play

METRIC = methods.load("metric_rl")
DIMS = Dims((0, 1), 6, 2)
COLUMNS = Goals((0, 1), (4, 5))


@pytest.fixture(scope="module")
def maze(tmp_path_factory):
    """Six episodes of random actions in the open maze."""
    zip_path = tmp_path_factory.mktemp("maze") / "expert.zip"
    spec = spec_of("aihf/PointMaze-v0", maze="open")
    write_zip(zip_path, expert_of(Policy(Dims((0,), 6, 2), (8, 8)), 0), spec)
    cfg = DataConfig(demos=30, demo_level="expert+1", levels=("expert",), episodes=4, pairs=0, test_pairs=0, clip=5)
    return make_dataset("aihf/PointMaze-v0", cfg, {"expert": zip_path}, options={"maze": "open"})


def task_of(maze, n: int = 30) -> Task:
    return Task(maze, (0, 1), n_demos=n, n_pairs=0)


def test_the_loss_by_hand():
    """Distances of successors: 1 and 2, so (0 + 1) / 2; of others: |0 - 5| and |3 - 1|, so -(ln 5 + ln 2) / 2."""
    z, next_z = torch.tensor([[[0.0], [3.0]]]), torch.tensor([[[1.0], [5.0]]])
    near, far = 0.5, -(math.log(5) + math.log(2)) / 2
    assert far == pytest.approx(-1.151, abs=1e-3)
    torch.testing.assert_close(METRIC.metric_loss(z, next_z, 0.0), torch.tensor([near]))
    torch.testing.assert_close(METRIC.metric_loss(z, next_z, 2.0), torch.tensor([near + 2 * far]), atol=1e-5, rtol=0)


def test_the_loss_draws_successors_to_distance_1_and_pushes_others_apart():
    z = torch.tensor([[[0.0], [3.0]]], requires_grad=True)
    next_z = torch.tensor([[[1.5], [3.5]]], requires_grad=True)
    METRIC.metric_loss(z, next_z, 0.0).sum().backward()
    assert next_z.grad is not None and next_z.grad[0, 0, 0] > 0 > next_z.grad[0, 1, 0]  # descending: 1.5 to 1, 0.5 to 1
    z.grad = None
    METRIC.metric_loss(z, next_z.detach(), 1e3).sum().backward()
    assert z.grad is not None and z.grad[0, 0, 0] > 0  # from 0 away from 3.5


def test_the_advantage_is_the_distance_gained():
    phi = Embedding(DIMS, (8,), 3, COLUMNS)
    obs, next_obs, goal = torch.randn(2, 5, 6), torch.randn(2, 5, 6), torch.randn(2, 5, 2)
    target = torch.zeros(2, 5, 6)
    target[..., :2] = goal
    by_hand = (phi(obs) - phi(target)).norm(dim=-1) - (phi(next_obs) - phi(target)).norm(dim=-1)
    got = METRIC.advantage(phi, GoalBatch(obs, torch.zeros(2, 5, 2), next_obs, goal))
    torch.testing.assert_close(got, by_hand.detach())


def test_an_embedding_does_not_depend_on_the_goal():
    phi, obs = Embedding(DIMS, (8,), 3, COLUMNS), torch.randn(2, 5, 6)
    other = obs.clone()
    other[..., 4:] = 7.0
    assert torch.equal(phi(obs), phi(other))
    other[..., 0] += 1
    assert not torch.allclose(phi(obs), phi(other))


def test_reached_goals_are_later_positions_of_the_same_episode(maze):
    task = task_of(maze)
    batch = GoalDemos(task).sample_reached(400)
    for lane, trajectories in enumerate(task._data.trajectories):
        for obs, goal in zip(batch.obs[lane].numpy(), batch.goal[lane].numpy(), strict=True):
            assert any(_passes(t, obs, goal) for t in trajectories)
    assert torch.equal(batch.obs[..., 4:], batch.goal) and torch.equal(batch.next_obs[..., 4:], batch.goal)


def _passes(t: Trajectory, obs: np.ndarray, goal: np.ndarray) -> bool:
    at = np.flatnonzero((t.obs[:, :4] == obs[:4]).all(1))
    return len(at) > 0 and bool((t.obs[at[0] + 1 :, :2] == goal).all(1).any())


def test_other_goals_are_positions_of_the_data(maze):
    task = task_of(maze)
    batch = GoalDemos(task).sample(100)
    places = [{tuple(row) for t in lane for row in t.obs[:, :2].tolist()} for lane in task._data.trajectories]
    assert all(tuple(g) in places[lane] for lane in (0, 1) for g in batch.goal[lane].tolist())


def test_the_rows_of_an_episode_end_where_it_does(maze):
    task = task_of(maze, n=3)
    lengths = [len(t) for t in task._data.trajectories[0]]
    first, second, third = np.cumsum(lengths) - 1
    by_hand = [first] * lengths[0] + [second] * lengths[1] + [third] * lengths[2]
    assert task.demo_ends()[0].tolist()[: sum(lengths)] == by_hand


def test_an_environment_without_goals_is_refused(dataset, monkeypatch):
    monkeypatch.setattr("aihf_control.learning.task.goals_of", goals_of)
    with pytest.raises(BadInput, match="Hopper-v4 has no goals"):
        play("metric_rl", make_task(dataset), 0)


@pytest.mark.parametrize("columns", [((0, 1), (1, 2)), ((0,), (1, 2)), ((0, 1), (4, 6))])
def test_columns_that_are_no_goals_are_refused(columns, monkeypatch):
    from aihf_control.environments.point_maze import PointMaze

    monkeypatch.setattr(PointMaze, "position_columns", columns[0])
    monkeypatch.setattr(PointMaze, "goal_columns", columns[1])
    with pytest.raises(BadInput, match="must be different columns"):
        goals_of(spec_of("aihf/PointMaze-v0"))


@pytest.mark.slow
def test_random_walks_teach_the_way_in_the_open_maze(maze):
    """In a room without walls the way to a goal is straight: the greedy action points to it."""
    cfg = METRIC.Config(steps=1500, hidden=(64, 64), clone=CloneConfig(updates=1))
    *_, last = itertools.islice(METRIC.train(task_of(maze), cfg), 1501)
    rng = np.random.default_rng(0)
    obs = np.zeros((2, 200, 6), np.float32)
    obs[..., [0, 1, 4, 5]] = rng.uniform(-1.2, 1.2, (2, 200, 4))
    way = obs[..., 4:] - obs[..., :2]
    act = last.policy.act(torch.as_tensor(obs)).numpy()
    cosine = (act * way).sum(-1) / np.linalg.norm(act, axis=-1) / np.linalg.norm(way, axis=-1)
    far = np.linalg.norm(way, axis=-1) > 0.5
    assert np.mean(cosine[far]) > 0.7
