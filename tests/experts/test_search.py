"""The random search for linear policies."""

import dataclasses

import numpy as np
import pytest
import torch

from aihf_control.core.errors import BadInput
from aihf_control.environments.gym import spec_of
from aihf_control.experts.__main__ import main as experts_main
from aihf_control.experts.search import SearchConfig, compute_step, linear_expert, search_policy
from aihf_control.experts.snapshots import Snapshots
from aihf_control.models.expert import expert_of
from aihf_control.models.lanes import Dims
from aihf_control.models.networks import Policy
from aihf_control.models.sb3 import read_zip
from aihf_control.models.sb3_writer import write_zip


def test_the_network_is_the_linear_policy(tmp_path):
    rng = np.random.default_rng(0)
    weights, obs = rng.normal(size=(1, 4)), rng.normal(size=(20, 3))
    expert, spec = linear_expert(weights, -2.0), spec_of("Pendulum-v1")
    expected = np.tanh(obs @ weights[:, :3].T + weights[:, 3])
    rows = torch.as_tensor(obs, dtype=torch.float32)
    np.testing.assert_allclose(expert.act(rows).numpy(), expected, atol=1e-5)
    write_zip(tmp_path / "x.zip", expert, spec)
    np.testing.assert_allclose(read_zip(tmp_path / "x.zip", spec).act(rows).numpy(), expected, atol=1e-5)


def test_a_step_by_hand():
    """The better of two directions is kept: (3 - 1) times it, over the deviation 1 of its returns, times 0.5."""
    deltas = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    cfg = SearchConfig(directions=2, best=1, step=0.5)
    np.testing.assert_allclose(compute_step(deltas, np.array([3.0, 0.0]), np.array([1.0, 2.0]), cfg), [[1.0, 0.0]])


def test_the_same_seed_finds_the_same():
    spec, found = spec_of("Pendulum-v1"), []
    for _ in range(2):
        snapshots = Snapshots(spec, (1,), 2, 1)
        search_policy(spec, 1, SearchConfig(iterations=2), snapshots)
        found.append(snapshots.rows)
    assert found[0] == found[1] and len(found[0]) == 1


def test_the_search_may_start_from_the_output_layer_of_a_policy():
    spec = spec_of("Pendulum-v1")
    start = expert_of(Policy(Dims((0,), 3, 1), (8, 8)), 0)
    snapshots = Snapshots(spec, (1,), 1, 1)
    search_policy(spec, 1, SearchConfig(iterations=2, step=1e-6), snapshots, start)
    obs = torch.linspace(-1, 1, 30).view(10, 3)
    for s in snapshots.entries:
        assert all(torch.equal(a[0], b[0]) for a, b in zip(s.policy.layers[:-1], start.layers[:-1], strict=True))
        assert not torch.equal(s.policy.layers[-1][0], start.layers[-1][0])
        torch.testing.assert_close(s.policy.act(obs), start.act(obs), atol=1e-4, rtol=0)
    with pytest.raises(BadInput, match="this one clips its actions"):
        search_policy(spec, 1, SearchConfig(), snapshots, dataclasses.replace(start, squashed=False))


def test_impossible_settings_are_refused():
    with pytest.raises(BadInput, match="between 1 and"):
        SearchConfig(best=9)


@pytest.mark.slow
def test_the_command_leaves_graded_policies(tmp_path, capsys):
    words = ["search", "--env", "Pendulum-v1", "--iterations", "3", "--every", "1", "--episodes", "1"]
    assert experts_main([*words, "--out", str(tmp_path)]) == 0
    assert {"expert.zip", "card.toml", "training.csv"} <= {f.name for f in tmp_path.iterdir()}
    assert "experts search --env Pendulum-v1" in (tmp_path / "card.toml").read_text()
    assert experts_main([*words, "--every", "4", "--out", str(tmp_path)]) == 2
