"""Faulty environments: every fault raises BadInput with one line that names the environment and the moment."""

import os
import subprocess
import sys
import time

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box

from aihf_control.core.errors import BadInput
from aihf_control.environments import watchdog
from aihf_control.environments.cards import folder_name
from aihf_control.environments.checks import determinism_note
from aihf_control.environments.gym import Envs, EnvSpec, spec_of
from aihf_control.environments.rollout import rollout
from tests.helpers import ROOT


class Line(gym.Env):
    """One number moved by the action; subclasses add one fault each."""

    observation_space = Box(-np.inf, np.inf, (2,), np.float32)
    action_space = Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.x = 0, self.np_random.normal()
        return self.obs(), {}

    def obs(self):
        return np.array([self.x, self.t], np.float32)

    def reward(self):
        return -1.0

    def step(self, action):
        self.t += 1
        self.x += float(action[0])
        return self.obs(), self.reward(), False, False, {}


class FailsWhenMade(Line):
    def __init__(self, error=OSError):
        raise error("no robot\nat /dev/robot")


class LongObservation(Line):
    def obs(self):
        return np.zeros(3, np.float32)


class TextObservation(Line):
    def obs(self):
        return "left"


class FourValues(Line):
    def step(self, action):
        return super().step(action)[:4]


class ResetWithoutInfo(Line):
    def reset(self, **options):
        return super().reset(**options)[0]


class ResetWithoutSeed(Line):
    def reset(self):
        return super().reset()


class RaisesInStep(Line):
    def step(self, action):
        raise KeyError("joint 7")


class RaisesLater(Line):
    def step(self, action):
        if self.t == 4:
            raise RuntimeError("the cable is loose")
        return super().step(action)


class Pays(Line):
    def __init__(self, reward=0.0, at=1):
        self.fault, self.at = reward, at

    def reward(self):
        return self.fault if self.t == self.at else 0.0


class Noisy(Line):
    """Noise from a generator that no seed sets."""

    def __init__(self):
        self.noise = np.random.default_rng()

    def obs(self):
        return np.array([self.x, self.noise.normal()], np.float32)


class NoisyReward(Noisy):
    obs = Line.obs

    def reward(self):
        return self.noise.normal()


FAULTS = [
    (FailsWhenMade, "cannot make the environment .*no robot at /dev/robot"),
    (LongObservation, "the observation of reset has 3 numbers, and its observation space has 2"),
    (TextObservation, "the observation of reset is 'left', no numbers"),
    (FourValues, r"failed in step 1 of an episode: ValueError: not enough values .*step must return \(obs, reward"),
    (ResetWithoutInfo, "reset returned an array of shape .*reset must return"),
    (ResetWithoutSeed, "failed in reset: TypeError: .*reset must return"),
    (RaisesInStep, r"failed in step 1 of an episode: KeyError: 'joint 7' \(.*test_faults.py, line \d+\)"),
]
CLASSES = [*(cls for cls, _ in FAULTS), RaisesLater, Pays, Noisy, NoisyReward, Line]


@pytest.fixture(scope="module", autouse=True)
def registered():
    for cls in CLASSES:
        gym.register(f"{cls.__name__}-v0", cls, max_episode_steps=30)
    yield
    for cls in CLASSES:
        del gym.registry[f"{cls.__name__}-v0"]


def still(obs):
    return np.zeros((len(obs), 1), np.float32)


@pytest.mark.parametrize(("cls", "message"), FAULTS, ids=lambda x: getattr(x, "__name__", ""))
def test_a_faulty_environment_is_refused_when_first_made(cls, message):
    with pytest.raises(BadInput, match=message) as refusal:
        spec_of(f"{cls.__name__}-v0")
    assert f"{cls.__name__}-v0" in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("error", [OSError, RuntimeError, KeyError, AssertionError])
def test_any_exception_of_a_constructor_is_reported(error):
    with pytest.raises(BadInput, match="no robot"):
        spec_of("FailsWhenMade-v0", error=error)


def test_a_later_exception_names_its_step_and_place():
    spec = spec_of("RaisesLater-v0")
    with pytest.raises(
        BadInput, match=r"failed in step 5 of an episode: RuntimeError: the cable is loose \(.*line \d+"
    ):
        rollout(spec, still, [0])


@pytest.mark.parametrize("reward", [np.array([2.5]), np.array([[2.5]]), np.float32(2.5), np.array(2.5)])
def test_a_reward_of_one_element_is_accepted(reward):
    (t,) = rollout(spec_of("Pays-v0", reward=reward), still, [0])
    assert t.reward[0] == 2.5 and t.reward.dtype == np.float64 and len(t) == 30


@pytest.mark.parametrize("reward", [np.nan, np.inf, -np.inf, None, np.array([1.0, 2.0]), "much", np.array([np.nan])])
def test_a_reward_that_is_not_one_finite_number_is_refused_at_its_step(reward):
    spec = spec_of("Pays-v0", reward=reward, at=7)
    with pytest.raises(BadInput, match=r"Pays-v0: the reward in step 7 of an episode is .*one finite number"):
        rollout(spec, still, [0])


def test_the_nan_of_an_action_that_is_not_finite_is_not_a_fault():
    (t,) = rollout(spec_of("Pays-v0"), lambda obs: np.full((len(obs), 1), np.nan, np.float32), [0])
    assert len(t) == 1 and np.isnan(t.reward[0])


@pytest.mark.parametrize("env", ["Noisy-v0", "NoisyReward-v0"])
def test_an_environment_that_is_not_deterministic_gets_a_note(env):
    assert f"{env} is not deterministic" in str(determinism_note(spec_of(env)))


@pytest.mark.parametrize("env", ["Line-v0", "Pendulum-v1", "Hopper-v4", "Ant-v4"])
def test_a_deterministic_environment_gets_no_note(env):
    assert determinism_note(spec_of(env)) is None


def test_an_unknown_id_gets_a_hint_about_modules():
    with pytest.raises(BadInput, match="give the id as MODULE:ID, for example my_package:Reach-v0"):
        spec_of("Reach-v0")
    with pytest.raises(BadInput) as refusal:
        spec_of("Hopper-v99")
    assert "MODULE:ID" not in str(refusal.value)


@pytest.mark.parametrize(
    ("env", "name"),
    [("Hopper-v4", "Hopper-v4"), ("a/Reach-v0", "a__Reach-v0"), ("my.module:Reach-v0", "my.module__Reach-v0")],
)
def test_a_folder_name_has_no_separators(env, name):
    assert folder_name(env) == name


@pytest.mark.parametrize("env", ["", ".", "..", "../../etc", "x" * 5000, "a\0b", "a\nb", ".hidden", "ü" * 300])
def test_any_id_gives_the_name_of_one_visible_folder(env, tmp_path):
    name = folder_name(env)
    (tmp_path / name).mkdir()
    assert (tmp_path / name).parent == tmp_path and not name.startswith(".") and len(name.encode()) < 200


SPEC = {"id": "x", "options": {}, "n_obs": 2, "n_act": 1, "low": [-1.0], "high": [1.0], "horizon": 10}


@pytest.mark.parametrize(
    "change",
    [
        {"id": 3},
        {"options": []},
        {"n_obs": 0},
        {"n_obs": 2.5},
        {"n_act": True},
        {"n_act": 10**9},
        {"low": "a"},
        {"low": {}},
        {"low": [1, 2]},
        {"high": [float("nan")]},
        {"horizon": -1},
        {"more": 1},
    ],
)
def test_a_description_with_wrong_fields_is_refused(change):
    assert EnvSpec.from_dict(SPEC).n_obs == 2
    with pytest.raises(BadInput, match="not the description of an environment"):
        EnvSpec.from_dict(SPEC | change)


@pytest.mark.parametrize("fields", [None, [], "x", 3, {}])
def test_a_description_that_is_no_table_is_refused(fields):
    with pytest.raises(BadInput, match="not the description of an environment"):
        EnvSpec.from_dict(fields)


# ------------------------------------------------------------------------------------------------------------ watchdog


def test_the_clock_runs_only_inside_calls():
    envs, seen = Envs(spec_of("Line-v0"), 1), []
    envs.reset(0, 0)
    assert watchdog._clock.value == 0
    envs.envs[0].unwrapped.reward = lambda: seen.append(watchdog._clock.value) or 0.0
    envs.step(np.zeros((1, 1)))
    assert 0 < seen[0] <= time.monotonic() and watchdog._clock.value == 0


def test_the_clock_stops_after_a_fault():
    with pytest.raises(BadInput):
        spec_of("RaisesInStep-v0")
    assert watchdog._clock.value == 0


def test_the_watchdog_reports_a_call_that_hangs_and_no_other():
    reports: list[str] = []
    with watchdog.watch("Line-v0", 0.05, reports.append):
        time.sleep(0.2)  # outside of calls
        assert not reports
        watchdog.start_call()
        time.sleep(0.3)
        watchdog.end_call()
    assert reports == [watchdog.timeout_message("Line-v0", 0.05)]


def test_no_limit_starts_no_thread():
    with watchdog.watch("Line-v0", 0.0, pytest.fail):
        assert not watchdog.overdue(watchdog._clock, 0.0)


HANG = """
import time
from aihf_control.environments import watchdog
with watchdog.watch("Stuck-v0", 0.2):
    watchdog.start_call()
    time.sleep(60)
"""


def test_a_process_whose_environment_hangs_ends_in_one_line():
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", HANG], capture_output=True, text=True, env=os.environ)
    assert done.returncode == watchdog.TIMEOUT_CODE and time.monotonic() - began < 50
    assert done.stderr == f"error: {watchdog.timeout_message('Stuck-v0', 0.2)}\n"


def test_a_negative_limit_is_refused():
    with pytest.raises(BadInput, match="--step-timeout must be at least 0 seconds, got -1"), watchdog.watch("A-v0", -1):
        pass


STUCK_DATA = """
import sys, time
import gymnasium
from gymnasium.envs.mujoco.hopper_v4 import HopperEnv
from aihf_control.data.__main__ import main
class Stuck(HopperEnv):
    def reset(self, **kwargs):
        time.sleep(60)
gymnasium.register("Stuck-v0", Stuck, max_episode_steps=100)
line = ["make", "--env", "Stuck-v0", "--out", sys.argv[1], "--step-timeout", "1", "--policy", "expert=none.zip"]
sys.exit(main(line))
"""


@pytest.mark.slow
def test_data_of_an_environment_that_hangs_ends_in_one_line(tmp_path):
    out = tmp_path / "data"
    line = [sys.executable, "-c", STUCK_DATA, str(out)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == watchdog.TIMEOUT_CODE and not out.exists()
    assert done.stderr == f"error: {watchdog.timeout_message('Stuck-v0', 1.0)}\n"
