"""Labels by regret: the expert regrets nothing, others do, and the sum telescopes as it should."""

import dataclasses

import numpy as np
import pytest

from aihf_control.core.errors import BadInput
from aihf_control.data.generate import DataConfig, make_dataset
from aihf_control.data.labelling.regret import CUT, Regret
from aihf_control.data.labelling.segments import SegmentPool
from aihf_control.data.pool import find_bundled_policies, play_episodes
from aihf_control.environments.gym import spec_of
from aihf_control.environments.rollout import rollout
from aihf_control.models.sb3 import read_zip

GAMMA = 0.9  # played out after 44 steps


@pytest.fixture(scope="module")
def regret() -> Regret:
    paths = find_bundled_policies("Hopper-v4")
    if not paths:
        pytest.skip("Hopper-v4 has no bundled expert")
    spec = spec_of("Hopper-v4")
    return Regret(spec, {level: read_zip(path, spec) for level, path in paths.items()}, GAMMA)


@pytest.fixture(scope="module")
def pool(regret):
    """An episode of the expert's own, one with noise, one that falls at once."""
    rng = np.random.default_rng(0)
    own, noisy = (
        play_episodes(regret.spec, regret.experts, name, 1, iter([3]), rng)[0] for name in ("expert", "expert+0.5")
    )
    (fallen,) = rollout(regret.spec, lambda obs: np.ones((len(obs), 3), np.float32), [3], state=True)
    assert len(own) == 1000 and noisy.qpos is not None and fallen.terminated and len(fallen) < 60
    return [own, noisy, dataclasses.replace(fallen, level="expert")]


def value(regret: Regret, episode, t: int) -> float:
    return float(regret.values([(episode.qpos[t], episode.qvel[t])], "expert")[0])


def test_a_value_is_the_experts_discounted_return_from_that_state(regret, pool):
    t, own = 200, pool[0]
    expected = (own.reward[t : t + 44] * GAMMA ** np.arange(44)).sum()
    assert value(regret, own, t) == pytest.approx(expected, rel=1e-3)


def test_the_expert_regrets_nothing(regret, pool):
    total = regret.step_scores(pool, [(0, 0), (0, 100), (0, 700)], 30).sum(1)
    assert np.abs(total).max() < 2 * CUT * value(regret, pool[0], 100)


def test_noise_is_regretted(regret, pool):
    starts = range(0, len(pool[1]) - 10, 10)
    total = regret.step_scores(pool, [(1, t) for t in starts], 10).sum(1)
    assert np.mean(total) < -0.05 and len(total) > 3


def test_the_sum_telescopes(regret, pool):
    whole = regret.step_scores(pool, [(1, 0)], 20).sum()
    first, second = (regret.step_scores(pool, [(1, t)], 10).sum() for t in (0, 10))
    scale = value(regret, pool[1], 0)  # both restart the simulator, whose contact solver stops at a relative tolerance
    assert whole == pytest.approx(first + GAMMA**10 * second, abs=1e-6 * scale)


def test_after_a_fall_there_is_nothing_to_come(regret, pool):
    fallen, t = pool[2], len(pool[2]) - 5
    scores = regret.step_scores(pool, [(2, t)], 8)
    discounted = (fallen.reward[t:] * GAMMA ** np.arange(5)).sum()
    assert scores.shape == (1, 8) and scores.sum() == pytest.approx(discounted - value(regret, fallen, t))
    exact = regret.step_scores(pool, [(2, t)], 5)
    assert exact.sum() == pytest.approx(scores.sum())


def test_an_episode_cut_by_time_has_a_future(regret, pool):
    own = pool[0]
    ending = regret.step_scores(pool, [(0, 990)], 10)
    expected = (own.reward[990:] * GAMMA ** np.arange(10)).sum() - value(regret, own, 990)
    assert ending.sum() == pytest.approx(expected + GAMMA**10 * value(regret, own, 1000))


def test_episodes_without_states_cannot_be_regretted(regret, pool):
    with pytest.raises(BadInput, match="labels by regret need the simulator's states"):
        regret.step_scores([dataclasses.replace(pool[0], qpos=None)], [(0, 0)], 5)


@pytest.mark.slow
def test_the_better_label_by_regret_may_be_the_worse_by_return(regret):
    cfg = {"demos": 0, "episodes": 4, "levels": ("expert", "weak"), "pairs": 30, "test_pairs": 0, "clip": 10}
    made = make_dataset("Hopper-v4", DataConfig(**cfg, label="regret", teacher="oracle", discount=GAMMA))
    worth = {}
    for side in ("win", "lose"):
        clips = list(zip(made.pairs[f"{side}_episode"], made.pairs[f"{side}_start"], strict=True))
        worth[side] = regret.step_scores(made.pool, clips, 10).sum(1)
    assert (worth["win"] >= worth["lose"] - 1e-9).all()
    returns = {
        side: [made.pool[r[f"{side}_episode"]].return_of(r[f"{side}_start"], 10) for _, r in made.pairs.iterrows()]
        for side in worth
    }
    assert (np.array(returns["win"]) < np.array(returns["lose"])).any()


def test_what_is_no_simulator_gives_no_labels_by_regret(tmp_path):
    from tests.helpers import random_policies

    with pytest.raises(BadInput, match="labels by regret need the simulator's states"):
        cfg = DataConfig(demos=0, episodes=4, levels=("expert",), pairs=2, test_pairs=0, clip=10, label="regret")
        make_dataset("Pendulum-v1", cfg, random_policies("Pendulum-v1", tmp_path))


def test_a_segment_is_regretted_against_the_level_that_acted(regret, pool):
    """The weak policy's own greedy steps have no regret against itself, and some against the expert."""
    rng = np.random.default_rng(0)
    (weak,) = play_episodes(regret.spec, regret.experts, "weak", 1, iter([3]), rng)
    own = dataclasses.replace(weak, level="weak+0.3")  # the noise of a level is not part of its policy
    clips = [(0, t) for t in range(0, len(weak) - 20, 20)]
    acted, by_expert = (
        dataclasses.replace(regret, of=of).step_scores([own], clips, 20).sum(1) for of in ("", "expert")
    )
    assert np.abs(acted).mean() < 0.2 * np.abs(by_expert).mean()
    with pytest.raises(BadInput, match="'best': there is no policy of that level; known are"):
        dataclasses.replace(regret, of="best").step_scores(pool, [(0, 0)], 5)


def test_segments_on_a_grid_share_the_values_of_their_ends(regret, pool, monkeypatch):
    simulated = []
    values = Regret.values
    monkeypatch.setattr(Regret, "values", lambda self, s, level: simulated.append(len(s)) or values(self, s, level))
    free, grid = (SegmentPool(pool, [1], 10, regret, step) for step in (1, 5))
    clips = grid.draw(200, np.random.default_rng(0))
    assert {t % 5 for _, t in clips} == {0} and max(t for _, t in clips) == (len(pool[1]) - 1) // 5 * 5
    grid.step_scores(clips)
    free.step_scores(free.draw(200, np.random.default_rng(0)))
    assert simulated[0] <= len(pool[1]) // 5 + 1 < simulated[1]


def test_a_grid_of_one_draws_as_before(pool):
    starts = SegmentPool(pool, [0], 10).draw(50, np.random.default_rng(4))
    rng = np.random.default_rng(4)
    rng.choice([0], 50)
    assert [t for _, t in starts] == [int(rng.integers(991)) for _ in range(50)]
