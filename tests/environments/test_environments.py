"""The door to Gymnasium: what is refused, in which units actions pass, and that episodes do not touch each other."""

import warnings
from typing import Any

import gymnasium as gym
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from gymnasium.spaces import Box

from aihf_control.core.errors import BadInput
from aihf_control.data.pool import load_experts
from aihf_control.environments import cards, making
from aihf_control.environments import gym as environments
from aihf_control.environments.cards import Card, card_of
from aihf_control.environments.gym import Envs, EnvSpec, spec_of
from aihf_control.environments.rollout import rollout


class Walk(gym.Env):
    """One number that the action moves; what it shows at step `broken_at` is not finite."""

    def __init__(self, broken_at: int = -1, act_bound: float = 1.0, fall_at: float = np.inf):
        self.observation_space = Box(-np.inf, np.inf, (1,), np.float64)
        self.action_space = Box(-act_bound, act_bound, (1,), np.float32)
        self.broken_at, self.fall_at = broken_at, fall_at

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.x = 0, self.np_random.normal()
        return self._seen(), {}

    def step(self, action):
        self.t += 1
        self.x += float(action[0])
        return self._seen(), -abs(self.x), self.x > self.fall_at, False, {}

    def _seen(self):
        return np.array([np.nan if self.t == self.broken_at else self.x])


@pytest.fixture(scope="module", autouse=True)
def walk():
    gym.register("Walk-v0", Walk, max_episode_steps=20)
    gym.register("EndlessWalk-v0", Walk)
    yield
    del gym.registry["Walk-v0"], gym.registry["EndlessWalk-v0"]


def still(obs):
    return np.zeros((len(obs), 1), np.float32)


# ------------------------------------------------------------------------------------------------------------- refusal


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ("Nope-v0", "cannot make the environment 'Nope-v0'"),
        ("Hopper-v99", "cannot make the environment 'Hopper-v99'"),
        ("Hopper-v3", "cannot make the environment 'Hopper-v3'"),
        ("", "cannot make the environment ''"),
        ("a/b/c", "Malformed"),
        ("no_such_module:Foo-v0", "would import the module 'no_such_module'"),
        ("CartPole-v1", "actions of Discrete"),
        ("FrozenLake-v1", "observations of Discrete"),
    ],
)
def test_what_will_not_do_is_refused_in_one_line(env, words):
    with pytest.raises(BadInput) as refusal:
        spec_of(env)
    assert words in str(refusal.value) and "\n" not in str(refusal.value)


def test_unbounded_actions_are_refused():
    with pytest.raises(BadInput, match="Walk-v0 has unbounded actions"):
        spec_of("Walk-v0", act_bound=np.inf)


def test_options_that_the_environment_does_not_know_are_refused():
    with pytest.raises(BadInput, match=r"cannot make the environment 'Hopper-v4'.*nonsense"):
        spec_of("Hopper-v4", nonsense=3)


@pytest.mark.parametrize("at", [0, 3])
def test_an_observation_that_is_not_finite_is_refused(at):
    with pytest.raises(BadInput, match=r"Walk-v0: the observation .* is not finite"):
        rollout(spec_of("Walk-v0", broken_at=at), still, [0, 1])


# --------------------------------------------------------------------------------------------------------------- units


def test_a_spec_describes_the_environment():
    spec = spec_of("Hopper-v4", terminate_when_unhealthy=False)
    assert (spec.n_obs, spec.n_act, spec.horizon) == (11, 3, 1000)
    assert spec.options == {"terminate_when_unhealthy": False}
    assert spec_of("EndlessWalk-v0").horizon == environments.DEFAULT_HORIZON


bounds = st.floats(-50, 50).flatmap(lambda low: st.tuples(st.just(low), st.floats(low + 0.5, low + 100)))


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(st.lists(bounds, min_size=1, max_size=4), st.lists(st.floats(-1, 1), min_size=4, max_size=4))
def test_scaling_there_and_back_is_nothing(pairs, act):
    low, high = (np.array(x) for x in zip(*pairs, strict=True))
    spec, act = EnvSpec("any", {}, 1, len(low), low, high, 1), np.array(act[: len(low)])
    np.testing.assert_allclose(spec.from_env(spec.to_env(act)), act, atol=1e-5)
    there = low + (high - low) * (act + 1) / 2
    np.testing.assert_allclose(spec.to_env(spec.from_env(there)), there, atol=1e-4)
    np.testing.assert_allclose(spec.to_env(-np.ones(len(low))), low, atol=1e-9)
    np.testing.assert_allclose(spec.to_env(np.ones(len(low))), high, atol=1e-9)


def test_pendulum_runs_to_its_end_in_its_own_units():
    spec = spec_of("Pendulum-v1")
    assert (spec.low.item(), spec.high.item(), spec.horizon) == (-2.0, 2.0, 200)
    a, b = rollout(spec, lambda obs: np.full((len(obs), 1), 0.5), [3, 4])
    assert len(a) == len(b) == 200 and not a.terminated and not b.terminated
    env = gym.make("Pendulum-v1")
    obs, total = env.reset(seed=3)[0], 0.0
    for _ in range(200):
        obs, reward, *_ = env.step(np.array([1.0], np.float32))
        total += reward
    assert a.reward.sum() == pytest.approx(total)
    np.testing.assert_array_equal(a.obs[-1], obs)


# ------------------------------------------------------------------------------------------------------------ episodes


def random_actor(n_act: int):
    rng = np.random.default_rng(5)
    return lambda obs: rng.uniform(-1, 1, (len(obs), n_act)).astype(np.float32)


def test_the_same_seeds_give_the_same_episodes():
    spec = spec_of("Hopper-v4")
    one, again = (rollout(spec, random_actor(3), [7, 8], "random", state=True) for _ in range(2))
    for a, b in zip(one, again, strict=True):
        assert (a.seed, a.level, a.terminated) == (b.seed, b.level, b.terminated)
        for name in ("obs", "act", "reward", "qpos", "qvel"):
            assert np.array_equal(getattr(a, name), getattr(b, name)), name
    assert not np.array_equal(one[0].obs[0], one[1].obs[0])


def test_an_episode_does_not_depend_on_those_beside_it():
    spec = spec_of("Hopper-v4")

    def act(obs):
        return np.tanh(obs[:, :3] * 3)

    alone, beside = rollout(spec, act, [8]), rollout(spec, act, [7, 8, 9])
    assert np.array_equal(alone[0].obs, beside[1].obs) and np.array_equal(alone[0].reward, beside[1].reward)


def test_a_recorded_episode_is_whole():
    (t,) = rollout(spec_of("Hopper-v4"), random_actor(3), [7], state=True)
    assert t.terminated and len(t.obs) == len(t.act) + 1 == len(t.reward) + 1
    assert t.qpos.shape == (len(t) + 1, 6) and t.qvel.shape == (len(t) + 1, 6)
    assert t.obs.dtype == t.act.dtype == np.float32
    np.testing.assert_allclose(t.obs[:, :5], t.qpos[:, 1:], atol=1e-6)  # of the same instant


def test_a_fall_is_termination_and_the_end_of_time_is_not():
    (fallen,) = rollout(spec_of("Walk-v0", fall_at=3.0), lambda obs: np.ones((len(obs), 1)), [0])
    (late,) = rollout(spec_of("Walk-v0"), still, [0])
    assert fallen.terminated and len(fallen) < 6
    assert not late.terminated and len(late) == 20


def test_an_environment_without_a_limit_ends_at_the_horizon():
    (t,) = rollout(spec_of("EndlessWalk-v0"), still, [0])
    assert len(t) == environments.DEFAULT_HORIZON and not t.terminated


def test_an_action_that_is_not_finite_ends_its_episode_and_no_other():
    spec, played = spec_of("Walk-v0"), []

    def act(obs):
        played.append(len(obs))
        a = np.full((len(obs), 1), 0.1, np.float32)
        a[1] = np.nan if len(played) > 4 else 0.1
        return a

    ill = rollout(spec, act, [0, 1, 2])
    well = rollout(spec, lambda obs: np.full((len(obs), 1), 0.1, np.float32), [0, 1, 2])
    assert len(ill[1]) == 5 and np.isnan(ill[1].reward[-1]) and not ill[1].terminated
    assert np.array_equal(ill[1].obs[:5], well[1].obs[:5]) and np.isfinite(ill[1].obs).all()
    for i in (0, 2):
        assert np.array_equal(ill[i].obs, well[i].obs) and np.array_equal(ill[i].reward, well[i].reward)


@pytest.mark.parametrize("env", ["Hopper-v4", "HalfCheetah-v4", "Walker2d-v4", "Ant-v4"])
def test_an_environment_continues_from_a_recorded_state(env):
    spec, rng = spec_of(env), np.random.default_rng(0)
    (episode,) = rollout(spec, lambda obs: rng.uniform(-1, 1, (len(obs), spec.n_act)), [3], state=True)
    assert episode.qpos is not None and episode.qvel is not None
    t, envs = len(episode) // 2, Envs(spec, 2)
    envs.reset(0, 5), envs.reset(1, 5)
    np.testing.assert_allclose(envs.put(1, episode.qpos[t], episode.qvel[t]), episode.obs[t], atol=1e-6)
    obs, *_ = envs.step(episode.act[t : t + 1], [1])
    np.testing.assert_allclose(obs[0], episode.obs[t + 1], atol=1e-3)
    assert envs.steps.tolist() == [0, 1]


def test_an_environment_that_shows_something_else_than_its_simulator_is_not_put():
    envs = Envs(spec_of("Hopper-v4"), 1)
    envs.envs[0] = gym.wrappers.TransformObservation(envs.envs[0], lambda x: 2 * x, None)
    inner: Any = envs.envs[0].unwrapped
    with pytest.raises(BadInput, match="wraps its observations"):
        envs.put(0, inner.init_qpos, inner.init_qvel)


def test_an_environment_that_is_no_simulator_cannot_be_put():
    envs = Envs(spec_of("Walk-v0"), 1)
    with pytest.raises(BadInput, match="Walk-v0 has no state that can be set"):
        envs.put(0, np.zeros(1), np.zeros(1))


def test_an_environment_continues_after_an_action_that_is_not_finite():
    envs = Envs(spec_of("Walk-v0"), 2)
    obs = np.stack([envs.reset(i, i) for i in range(2)])
    seen, reward, terminated, truncated = envs.step(np.array([[np.inf], [0.5]]))
    assert np.isnan(reward[0]) and truncated.tolist() == [True, False] and not terminated.any()
    assert seen[0] == obs[0] and np.isfinite(reward[1])
    envs.reset(0)
    assert np.isfinite(envs.step(np.zeros((2, 1)))[1]).all()


# --------------------------------------------------------------------------------------------------------------- noise


def test_halfcheetah_is_made_and_played_in_silence(tmp_path, monkeypatch, capfd):
    """Its XML has a deprecated word, of which MuJoCo would tell the user, and a file in the user's folder."""
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings(action="error"):
        spec = spec_of("HalfCheetah-v4")
        Envs(spec, 1).reset(0, 0)
    said = capfd.readouterr()
    assert not list(tmp_path.iterdir()) and not said.out and not said.err


def test_other_warnings_of_the_simulator_reach_the_user():
    with pytest.warns(RuntimeWarning, match="MuJoCo: something else"):
        making._mujoco_warning("something else")
    with warnings.catch_warnings(action="error"):
        making._mujoco_warning("settotalmass is deprecated")


def test_other_warnings_while_making_reach_the_user():
    class Old(Walk):
        def __init__(self):
            warnings.warn("this walk hurts the knees", UserWarning, stacklevel=1)
            super().__init__()

    gym.register("OldWalk-v0", Old)
    with pytest.warns(UserWarning, match="hurts the knees"):
        spec_of("OldWalk-v0")
    del gym.registry["OldWalk-v0"]


# --------------------------------------------------------------------------------------------------------------- cards


@pytest.fixture
def card(tmp_path, monkeypatch):
    """A folder of cards with room for Hopper's."""
    monkeypatch.setattr(cards, "envs_folder", lambda: tmp_path)
    (tmp_path / "Hopper-v4").mkdir()
    return tmp_path / "Hopper-v4" / "card.toml"


def test_a_card_is_optional(card):
    assert card_of("Hopper-v4") is None and card_of("Pendulum-v1") is None


def test_a_card_has_returns_and_policies_best_first(card):
    card.write_text(
        "random_return = 18.5\nexpert_return = 3000.0  # seed 3\nmedium_return = 1800.0\nweak_return = 900\n"
    )
    for level in ("weak", "expert"):
        (card.parent / f"{level}.zip").touch()
    found = card_of("Hopper-v4")
    assert isinstance(found, Card) and (found.random_return, found.expert_return) == (18.5, 3000.0)
    assert list(found.policies()) == ["expert", "weak"]


def test_a_card_may_name_the_environment_whose_policies_it_shares(card):
    (card.parent / "expert.zip").touch()
    card.write_text("expert_return = 3000")
    newer = card.parents[1] / "Hopper-v5"
    newer.mkdir()
    (newer / "card.toml").write_text('policies_of = "Hopper-v4"\nexpert_return = 3100')
    found = card_of("Hopper-v5")
    assert found and found.expert_return == 3100 and found.policies() == {"expert": card.parent / "expert.zip"}
    assert cards.bundled_versions("Hopper-v3") == ["Hopper-v4", "Hopper-v5"]
    assert cards.bundled_versions("Hopper") == cards.bundled_versions("Walker2d-v4") == []


BAD_CARDS = ["random_return = ", "colour = 'red'", "random_return = nan", "expert_return = true", "weak_return = '1'"]
BAD_CARDS += [
    f"expert_return = {'9' * 5000}",
    f"expert_return = {'[' * 100_000}",
    "expert_return = [1]",
    "policies_of = 4",
]


@pytest.mark.parametrize("text", BAD_CARDS)
def test_a_card_that_cannot_be_understood_is_refused(card, text):
    card.write_text(text)
    with pytest.raises(BadInput, match=r"card\.toml"):
        card_of("Hopper-v4")


def test_an_environment_without_policies_names_the_version_that_has_some():
    with pytest.raises(
        BadInput, match=r"no bundled policy for Ant-v5 \(there are some for Ant-v4, which has other obs"
    ):
        load_experts("Ant-v5", spec_of("Ant-v5"), None)


def test_every_bundled_card_is_understood_and_has_its_expert():
    paths = sorted(cards.envs_folder().glob("*/card.toml"))
    if not paths:
        pytest.skip("no card is bundled yet")
    for path in paths:
        found = card_of(path.parent.name)
        assert found and found.random_return is not None and found.expert_return is not None, path
        assert found.expert_return > found.random_return and "expert" in found.policies(), path
