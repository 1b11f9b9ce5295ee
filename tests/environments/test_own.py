"""The package's own environments: the effect of every option on the model, determinism, and restored states."""

import copy
import math
import subprocess
import sys
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from aihf_control.core.errors import BadInput
from aihf_control.environments.checks import determinism_note
from aihf_control.environments.gym import EVALUATION_SEED, Envs, make_env, spec_of
from aihf_control.environments.point_maze import APART, MAZES, RADIUS, PointMaze
from aihf_control.environments.rollout import rollout
from aihf_control.environments.terrain import COURSE, FIRST_BOX, MOST_LEVELS
from aihf_control.environments.variants import DERIVED, FIRST_EVALUATION, LIBRARY

GROUPS: dict[str, Any] = {"shares": [0.5, 0.5], "mass": [1.0, 1.5], "friction": [1.0, 0.5], "gear": [1.0, 0.7]}
OWN: list[tuple[str, dict[str, Any]]] = [
    ("shifted/HalfCheetah-v4", GROUPS),
    ("shifted/Hopper-v5", GROUPS),
    ("aihf/PointMaze-v0", {"maze": "s"}),
    ("aihf/Terrain-v0", {}),
]


def made(env_id: str, **options: Any) -> Any:
    return make_env(spec_of(env_id, **options)).unwrapped


def random_actions(spec, seed: int = 0):
    rng = np.random.default_rng(seed)
    return lambda obs: rng.uniform(-1, 1, (len(obs), spec.n_act)).astype(np.float32)


# ----------------------------------------------------------------------------------------------------------------- all


@pytest.mark.parametrize(("env_id", "options"), OWN)
def test_an_own_environment_follows_gymnasiums_interface(env_id, options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # unbounded observations, as in all of Gymnasium's MuJoCo tasks
        check_env(gym.make(env_id, **options).unwrapped, skip_render_check=True)


@pytest.mark.parametrize(("env_id", "options"), OWN)
def test_an_own_environment_repeats_an_interrupted_episode(env_id, options):
    assert determinism_note(spec_of(env_id, **options)) is None


@pytest.mark.parametrize(("env_id", "options"), OWN)
def test_an_episode_continues_from_each_recorded_state(env_id, options):
    """From the state of step 5, put into an environment that was elsewhere, the same actions give the same steps."""
    spec = spec_of(env_id, **options)
    for t in rollout(spec, random_actions(spec), [3, 4, 5, 6], state=True):
        assert t.qpos is not None and t.qvel is not None and len(t) > 10
        envs = Envs(spec, 1)
        envs.reset(0, seed=99)
        np.testing.assert_allclose(envs.put(0, t.qpos[5], t.qvel[5], t.seed), t.obs[5], atol=1e-6)
        for step in range(5, 10):
            obs, *_ = envs.step(t.act[step : step + 1])
            np.testing.assert_allclose(obs[0], t.obs[step + 1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("env_id", ["shifted/HalfCheetah-v4", "aihf/Terrain-v0"])
def test_a_state_whose_seed_is_unknown_is_refused(env_id):
    envs = Envs(spec_of(env_id), 1)
    envs.reset(0, 0)
    with pytest.raises(BadInput, match="is not known"):
        envs.put(0, *envs.state(0))  # type: ignore[misc]


@pytest.mark.parametrize(
    ("env_id", "options", "words"),
    [
        ("shifted/HalfCheetah-v4", {"shares": [0.5, 0.4]}, "add up to 1"),
        ("shifted/HalfCheetah-v4", {"shares": [0.5, 0.5], "mass": [1.0]}, "for each of the 2 groups"),
        ("shifted/HalfCheetah-v4", {"gear": 0}, "above 0"),
        ("shifted/HalfCheetah-v4", {"base": "CartPole-v1"}, "not one of Gymnasium's MuJoCo tasks"),
        ("shifted/HalfCheetah-v4", {"base": "some_module:Env-v0"}, "not one of Gymnasium's MuJoCo tasks"),
        ("aihf/PointMaze-v0", {"maze": "z"}, "known are open, u, s"),
        ("aihf/Terrain-v0", {"levels": 51}, "from 1 to 50"),
        ("aihf/Terrain-v0", {"boxes": 3.0}, "boxes 3.0"),
    ],
)
def test_an_impossible_option_is_refused_in_one_line(env_id, options, words):
    with pytest.raises(BadInput, match=words) as error:
        spec_of(env_id, **options)
    assert "\n" not in str(error.value)


def test_evaluations_of_variants_begin_where_those_of_the_package_do():
    assert FIRST_EVALUATION == EVALUATION_SEED


# ------------------------------------------------------------------------------------------------------------- shifted


@pytest.mark.parametrize("base", ["HalfCheetah-v4", "Ant-v5", "Walker2d-v5", "Swimmer-v4", "Reacher-v5"])
def test_without_options_a_shifted_task_is_the_task(base):
    specs = spec_of(base), spec_of(f"shifted/{base}")
    one, other = (rollout(spec, random_actions(spec), [1, 2]) for spec in specs)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a.obs, b.obs)
        np.testing.assert_array_equal(a.reward, b.reward)


def test_a_group_scales_its_quantities_and_no_others():
    env, plain = made("shifted/HalfCheetah-v4", **GROUPS), made("HalfCheetah-v4").model
    env.reset(seed=EVALUATION_SEED + 1)
    assert env.variant == 1
    np.testing.assert_allclose(env.model.body_mass, 1.5 * plain.body_mass)
    np.testing.assert_allclose(env.model.body_inertia, 1.5 * plain.body_inertia)
    np.testing.assert_allclose(env.model.geom_friction, plain.geom_friction * [0.5, 1, 1])
    np.testing.assert_allclose(env.model.actuator_gear, 0.7 * plain.actuator_gear)
    np.testing.assert_array_equal(env.model.geom_size, plain.geom_size)
    env.reset(seed=EVALUATION_SEED)
    for name in (*env.changed, *DERIVED):
        np.testing.assert_array_equal(getattr(env.model, name), getattr(plain, name))


def test_derived_quantities_are_those_of_the_scaled_model():
    env, by_hand = made("shifted/Walker2d-v4", mass=1.3), copy.copy(made("Walker2d-v4").model)
    by_hand.body_mass[:] *= 1.3
    by_hand.body_inertia[:] *= 1.3
    LIBRARY.mj_setConst(by_hand, LIBRARY.MjData(by_hand))
    env.reset(seed=0)
    for name in dir(by_hand):
        value = getattr(by_hand, name, None)
        if isinstance(value, np.ndarray) and not name.startswith(("_", "cam_", "light_")):
            np.testing.assert_array_equal(getattr(env.model, name), value, name)


def test_groups_have_their_shares_in_training_and_take_turns_in_evaluations():
    env = made("shifted/Hopper-v4", shares=[0.9, 0.1], gear=[1.0, 0.5])
    drawn = [env.variant_of(seed) for seed in range(2000)]
    assert 0.08 < np.mean(drawn) < 0.12 and drawn == [env.variant_of(seed) for seed in range(2000)]
    assert [env.variant_of(EVALUATION_SEED + i) for i in range(4)] == [0, 1, 0, 1]
    env.reset(seed=0)
    assert len({env.reset()[1]["variant"] for _ in range(60)}) == 2


# ---------------------------------------------------------------------------------------------------------------- maze


def test_the_point_moves_a_tenth_of_a_metre_a_step_and_back():
    """Speed follows force with a time constant of 0.05 s: after many steps 1 m/s, and the way back is as long."""
    env = made("aihf/PointMaze-v0", maze="open")
    env.reset(seed=0)
    env.set_state(np.array([-1.0, -1.0, 1.3, 1.3]), np.zeros(4))
    xs = [env.step(np.array([1.0, 0.0]))[0][0] for _ in range(10)]
    assert xs[9] - xs[8] == pytest.approx(0.1, abs=1e-3)
    back = [env.step(np.array([-1.0, 0.0]))[0] for _ in range(10)][-1]
    # there 1 - 0.05 (it starts from rest), back 1 - 2 * 0.05 (it turns from 1 m/s)
    assert back[0] == pytest.approx(-0.95, abs=2e-3) and back[1] == pytest.approx(-1)
    np.testing.assert_array_equal(back[4:], [1.3, 1.3])


@pytest.mark.parametrize(("maze", "stopped"), [("open", False), ("u", True), ("s", False)])
def test_the_wall_in_the_middle_stops_the_point_in_the_u_maze(maze, stopped):
    env = made("aihf/PointMaze-v0", maze=maze)
    env.reset(seed=0)
    env.set_state(np.array([-0.5, -0.3, 1.0, 1.0]), np.zeros(4))
    ys = [env.step(np.array([0.0, 1.0]))[0][1] for _ in range(6)]
    assert (max(ys) < -0.15) == stopped


def test_the_reward_is_the_arrival_at_the_goal():
    env = made("aihf/PointMaze-v0", maze="open")
    env.reset(seed=0)
    env.set_state(np.array([0.0, 0.0, 0.5, 0.0]), np.zeros(4))
    steps = [env.step(np.array([1.0, 0.0])) for _ in range(5)]
    arrived = [abs(step[0][0] - 0.5) < RADIUS for step in steps]
    assert [step[1] for step in steps] == [float(x) for x in arrived] == [float(step[2]) for step in steps]
    assert arrived[-1] and not arrived[0]


@pytest.mark.parametrize("maze", MAZES)
def test_starts_and_goals_are_free_and_apart(maze):
    env = made("aihf/PointMaze-v0", maze=maze)
    assert isinstance(env, PointMaze)
    drawn = np.stack([env.reset(seed=seed)[0] for seed in range(300)])
    for row in drawn:
        assert env.is_free(row[:2]) and env.is_free(row[4:]) and np.linalg.norm(row[:2] - row[4:]) >= APART
    assert (drawn.min(0)[[0, 1, 4, 5]] < -1.2).all() and (drawn.max(0)[[0, 1, 4, 5]] > 1.2).all()


# ------------------------------------------------------------------------------------------------------------- terrain


def test_a_level_is_a_function_of_the_seed_and_evaluations_take_unseen_ones():
    env = made("aihf/Terrain-v0")
    assert {env.variant_of(seed) for seed in range(1000)} == set(range(MOST_LEVELS))
    assert [env.variant_of(EVALUATION_SEED + i) for i in (0, 1, 49, 50)] == [50, 51, 99, 50]
    few = made("aihf/Terrain-v0", levels=3)
    assert {few.variant_of(seed) for seed in range(100)} == {0, 1, 2}


def test_a_copy_of_the_environment_has_its_options():
    env = copy.deepcopy(made("aihf/Terrain-v0", levels=3, slope=1.0))
    assert (env.levels, env.slope, env.metres) == (3, 1.0, 2.0)


def test_a_level_sets_slope_friction_masses_and_boxes():
    env, plain = made("aihf/Terrain-v0"), made("HalfCheetah-v5").model
    slopes, factors = [], []
    for i in range(20):
        env.reset(seed=EVALUATION_SEED + i)
        gravity = env.model.opt.gravity
        assert np.linalg.norm(gravity) == pytest.approx(9.81) and gravity[1] == 0
        slopes.append(math.degrees(math.atan2(-gravity[0], -gravity[2])))
        masses = env.model.body_mass[1:8] / plain.body_mass[1:8]
        frictions = env.model.geom_friction[:, 0] / 0.4
        assert np.ptp(masses) < 1e-9 and np.ptp(frictions) < 1e-9
        factors.append((masses[0], frictions[0]))
        boxes = env.data.xpos[env.box_ids]
        assert ((boxes[:, 0] >= FIRST_BOX) & (boxes[:, 0] <= COURSE)).all()
        tops = boxes[:, 2] + 0.1
        assert (tops >= 0).all() and (tops <= 0.08).all()
    assert -8 <= min(slopes) < -3 and 3 < max(slopes) <= 8
    low, high = np.min(factors, 0), np.max(factors, 0)
    assert (low >= [0.8, 0.7]).all() and (high <= [1.2, 1.3]).all() and (high - low > 0.1).all()


def test_without_its_options_the_terrain_is_half_cheetahs_floor():
    flat, plain = spec_of("aihf/Terrain-v0", slope=0, friction=0, mass=0, boxes=0), spec_of("HalfCheetah-v5")
    (a,), (b,) = (rollout(spec, random_actions(spec), [1]) for spec in (flat, plain))
    np.testing.assert_allclose(a.obs[:20], b.obs[:20], atol=1e-5)


def test_a_box_holds_the_robot():
    """A robot that is dropped over a box comes to rest higher than beside it, by the height of the box."""
    heights = {}
    for boxes in (0.0, 0.2):
        env = made("aihf/Terrain-v0", slope=0.0, boxes=boxes)
        env.reset(seed=EVALUATION_SEED)
        high = int(np.argmax(env.model.body_pos[env.box_ids, 2]))
        qpos = env.init_qpos.copy()
        qpos[0] = env.model.body_pos[env.box_ids[high], 0] - 0.5  # the rear foot is about half a metre behind
        env.set_state(qpos, np.zeros(9))
        for _ in range(60):
            env.step(np.zeros(6))
        heights[boxes] = env.data.qpos[1], abs(env.data.qpos[2])
    assert heights[0.2][0] - heights[0.0][0] > 0.01 or heights[0.2][1] - heights[0.0][1] > 0.02


def test_progress_is_paid_once_every_two_metres():
    env = made("aihf/Terrain-v0")
    env.reset(seed=0)

    def paid_at(x: float) -> float:
        env.data.qpos[0] = x
        return env.step(np.zeros(6))[1]

    assert [paid_at(x) for x in (1.0, 2.5, 3.0, 6.5, 4.5, 6.6, 8.5)] == [0, 1, 0, 2, 0, 0, 1]
    qpos = env.data.qpos.copy()
    qpos[0] = 21.0
    env.set_state(qpos, np.zeros(9))
    assert paid_at(21.5) == 0 and paid_at(22.5) == 1


# -------------------------------------------------------------------------------------------------------- registration


@pytest.mark.parametrize("lines", ["import gymnasium, aihf_control", "import gymnasium, aihf_control.environments"])
def test_the_ids_are_registered_when_the_package_is_imported(lines):
    code = f"{lines}\nfor i in ('aihf/PointMaze-v0', 'aihf/Terrain-v0', 'shifted/Ant-v5'): print(gymnasium.spec(i).id)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["aihf/PointMaze-v0", "aihf/Terrain-v0", "shifted/Ant-v5"]
