"""Gymnasium environments behind one interface: vectors of environments, actions in (-1, 1), seeds, one-line errors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box

from aihf_control.core.errors import BadInput
from aihf_control.environments import watchdog
from aihf_control.environments.faults import INTERFACE, describe, fault, one_line, report_faults
from aihf_control.environments.making import make

Array = np.ndarray
DEFAULT_HORIZON = 1000
EVALUATION_SEED = 20_000  # evaluation resets with seeds 20000, 20001, ...; no lane and no dataset uses them


@dataclasses.dataclass(frozen=True)
class EnvSpec:
    """A Gymnasium environment with Box observations and Box actions: its id, its options, its sizes."""

    id: str
    options: dict[str, Any]
    n_obs: int
    n_act: int
    low: Array
    high: Array
    horizon: int
    """Steps after which an episode is truncated."""

    def to_env(self, act: Array) -> Array:
        """Convert actions from (-1, 1) to the environment's units."""
        return self.low + (np.asarray(act, np.float64) + 1) * (self.high - self.low) / 2

    def from_env(self, act: Array) -> Array:
        """Convert actions from the environment's units to (-1, 1)."""
        return (2 * (act - self.low) / (self.high - self.low) - 1).astype(np.float32)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return dataclasses.asdict(self) | {"low": self.low.tolist(), "high": self.high.tolist()}

    @staticmethod
    def from_dict(fields: Any) -> EnvSpec:
        """Return the spec that `as_dict` described. Raises BadInput if the fields are not those of one."""
        try:
            spec = EnvSpec(**{**fields, **{name: np.array(fields[name], np.float64) for name in ("low", "high")}})
        except (TypeError, KeyError, ValueError, OverflowError) as e:
            raise BadInput(f"not the description of an environment: {one_line(e)}") from e
        for name, kind in (("id", str), ("options", dict), ("n_obs", int), ("n_act", int), ("horizon", int)):
            value = getattr(spec, name)
            if type(value) is not kind or (isinstance(value, int) and value < 1):
                raise BadInput(f"not the description of an environment: its {name} is {value!r}"[:300])
        shaped = spec.low.shape == spec.high.shape == (spec.n_act,)
        if not shaped or not (np.isfinite(spec.low) & np.isfinite(spec.high)).all():
            raise BadInput(f"not the description of an environment: its bounds are not {spec.n_act} finite numbers")
        return spec


def spec_of(env_id: str, **options: Any) -> EnvSpec:
    """Make the environment once, play one step of it and return its spec.

    Raises BadInput if its id has a module part that was not allowed (`modules.allow_module`), if it cannot be made, if
    its spaces are not supported, or if reset or step do not follow Gymnasium's interface.
    """
    env = make(env_id, options)
    try:
        spec = _read_spec(env_id, options, env)
        envs = Envs(spec, 1, [env])
        envs.reset(0, seed=0)
        envs.step(np.zeros((1, spec.n_act)))
    finally:
        with report_faults(env_id, "in close"):
            env.close()
    return spec


def _read_spec(env_id: str, options: dict[str, Any], env: gym.Env) -> EnvSpec:
    with report_faults(env_id, "in its spaces"):
        obs, act = env.observation_space, env.action_space
    for kind, space in (("observations", obs), ("actions", act)):
        if not isinstance(space, Box) or not np.issubdtype(space.dtype, np.floating):
            raise BadInput(f"{env_id} has {kind} of {space}; only Box spaces of floats can be used")
        if not np.prod(space.shape):
            raise BadInput(f"{env_id} has {kind} of {space}, which is empty")
    assert isinstance(obs, Box) and isinstance(act, Box)
    low, high = act.low.ravel().astype(np.float64), act.high.ravel().astype(np.float64)
    if not (np.isfinite(low) & np.isfinite(high)).all():
        raise BadInput(f"{env_id} has unbounded actions; wrap it in gymnasium.wrappers.RescaleAction or ClipAction")
    if not (low < high).all():
        raise BadInput(f"{env_id} has actions whose lower bound is not below the upper one: {act}")
    limit = env.spec.max_episode_steps if env.spec else None
    horizon = limit if limit and limit > 0 else DEFAULT_HORIZON
    return EnvSpec(env_id, options, int(np.prod(obs.shape)), low.size, low, high, horizon)


def make_env(spec: EnvSpec, **options: Any) -> gym.Env:
    """Return the Gymnasium environment itself, with further `options`. Raises BadInput if it cannot be made."""
    return make(spec.id, {**spec.options, **options})


def spaces_of(spec: EnvSpec) -> tuple[gym.Space, gym.Space]:
    """Return the environment's own spaces of observations and of actions. Raises BadInput if it cannot be made."""
    env = make(spec.id, spec.options)
    env.close()
    return env.observation_space, env.action_space


def groups_of(spec: EnvSpec, seeds: Sequence[int]) -> list[int] | None:
    """Return the group of dynamics of the episode from each seed (`shifted.py`), or None if there is one at most."""
    if not spec.id.startswith("shifted/") or len(spec.options.get("shares", ())) < 2:
        return None
    env: Any = make(spec.id, spec.options)
    env.close()
    return [env.unwrapped.variant_of(seed) for seed in seeds]


class Envs:
    """`n` environments stepped together, with actions in (-1, 1) and float32 observations.

    An action that is not finite, as a diverged lane returns, is not played: its episode is truncated there with reward
    NaN. Every fault of an environment raises BadInput with the environment's own message and the step: an exception, an
    observation of another size, a reward or an observation that is not finite.
    """

    def __init__(self, spec: EnvSpec, n: int, envs: list[gym.Env] | None = None):
        self.spec = spec
        self.envs = envs or [make(spec.id, spec.options) for _ in range(n)]
        self.shape = self.envs[0].action_space.shape
        self.steps = np.zeros(n, int)
        self.last = np.zeros((n, spec.n_obs), np.float32)
        self.begun: list[Any] = [None] * n  # how each episode was reset: a seed, or the state of the generator
        self.played: list[list[Array]] = [[] for _ in range(n)]  # actions of each episode, in the environment's units

    def reset(self, i: int, seed: int | None = None) -> Array:
        """Reset environment i and return its first observation, (O,). Without a seed its generator continues."""
        self.steps[i], self.played[i] = 0, []
        env = self.envs[i]
        with report_faults(self.spec.id, "in reset"):
            self.begun[i] = env.unwrapped.np_random.bit_generator.state if seed is None else seed
            pair = env.reset(seed=seed)
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise BadInput(f"{self.spec.id}: reset returned {describe(pair)}; {INTERFACE}")
        return self._check_obs(i, pair[0])

    def step(self, act: Array, which: Sequence[int] | None = None) -> tuple[Array, Array, Array, Array]:
        """Step the environments `which` (default: all) with act (n, A).

        Returns obs (n, O), reward, terminated, truncated (n,).
        """
        which = range(len(self.envs)) if which is None else which
        act = self.spec.to_env(act)
        rows = [self._step(i, a) for i, a in zip(which, act, strict=True)]
        obs, reward, terminated, truncated = zip(*rows, strict=True)
        return np.stack(obs), np.array(reward, np.float64), np.array(terminated), np.array(truncated)

    def state(self, i: int) -> tuple[Array, Array] | None:
        """Return positions and velocities of a MuJoCo simulator, or None."""
        data = getattr(self.envs[i].unwrapped, "data", None)
        if data is None or not hasattr(data, "qpos"):
            return None
        return data.qpos.copy(), data.qvel.copy()

    def put(self, i: int, qpos: Array, qvel: Array, seed: int = -1) -> Array:
        """Start an episode of environment i in a state that `state` returned; return its observation, (O,).

        `seed`, of the reset of the episode that was in this state, is needed where it determines the dynamics
        (`variants.py`). Raises BadInput if it is missing there, if the environment is not one of Gymnasium's MuJoCo
        tasks, or if a wrapper changes its observations.
        """
        inner: Any = self.envs[i].unwrapped
        if not hasattr(inner, "set_state") or not hasattr(inner, "_get_obs"):
            raise BadInput(f"{self.spec.id} has no state that can be set; this needs one of Gymnasium's MuJoCo tasks")
        if hasattr(inner, "variant_of") and seed < 0:
            raise BadInput(f"{self.spec.id} has other dynamics from each seed, and that of this state is not known")
        first = self.reset(i, seed if hasattr(inner, "variant_of") else None)
        if not np.array_equal(first, np.asarray(inner._get_obs(), np.float32).ravel()):
            raise BadInput(f"{self.spec.id} wraps its observations, so an episode cannot start in a given state")
        with report_faults(self.spec.id, "in set_state"):
            inner.set_state(np.asarray(qpos, np.float64), np.asarray(qvel, np.float64))
            obs = inner._get_obs()
        return self._check_obs(i, obs)

    def state_dict(self) -> dict[str, Any]:
        """Return how each environment reached its state: its reset and the actions since.

        The simulator's own state is not enough: later observations of Ant and Humanoid depend on more than can be read
        from it. Replaying the episode restores all of it bit for bit.
        """
        played = [np.stack(acts) if acts else np.zeros((0, self.spec.n_act)) for acts in self.played]
        return {"begun": list(self.begun), "played": played, "last": self.last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Replay the episodes of `state_dict`. Raises BadInput if an environment ends with another observation."""
        for i, (begun, played) in enumerate(zip(state["begun"], state["played"], strict=True)):
            if isinstance(begun, dict):
                self.envs[i].unwrapped.np_random.bit_generator.state = begun
            self.reset(i, None if isinstance(begun, dict) else begun)
            for act in played:
                self._step(i, act)
            if not np.array_equal(self.last[i], state["last"][i]):
                raise BadInput(
                    f"{self.spec.id} is not deterministic: the same reset and actions gave another observation, so "
                    "this run cannot be resumed"
                )

    def _step(self, i: int, act: Array) -> tuple[Array, float, bool, bool]:
        self.played[i].append(act)
        if not np.isfinite(act).all():
            return self.last[i], np.nan, False, True
        self.steps[i] += 1
        watchdog.start_call()
        try:
            obs, reward, terminated, truncated, _ = self.envs[i].step(act.astype(np.float32).reshape(self.shape))
            terminated, truncated = bool(terminated), bool(truncated)
        except Exception as e:
            raise fault(self.spec.id, self._moment(i), e) from e
        finally:
            watchdog.end_call()
        truncated = truncated or self.steps[i] >= self.spec.horizon
        return self._check_obs(i, obs), self._check_reward(i, reward), terminated, bool(truncated and not terminated)

    def _check_obs(self, i: int, obs: Any) -> Array:
        try:
            row = np.asarray(obs, np.float32).ravel()
        except (TypeError, ValueError) as e:
            raise BadInput(f"{self.spec.id}: the observation {self._moment(i)} is {describe(obs)}, no numbers") from e
        if row.size != self.spec.n_obs:
            raise BadInput(
                f"{self.spec.id}: the observation {self._moment(i)} has {row.size} numbers, and its observation space "
                f"has {self.spec.n_obs}; {INTERFACE}"
            )
        if not np.isfinite(row).all():
            raise BadInput(f"{self.spec.id}: the observation {self._moment(i)} is not finite: {one_line(row)}")
        self.last[i] = row
        return row

    def _check_reward(self, i: int, reward: Any) -> float:
        if not isinstance(reward, float):  # arrays of one element are accepted
            try:
                array = np.asarray(reward, np.float64)
                reward = array.item() if array.size == 1 else reward
            except (TypeError, ValueError):
                pass
        if not isinstance(reward, float) or not math.isfinite(reward):
            raise BadInput(
                f"{self.spec.id}: the reward {self._moment(i)} is {describe(reward)}; it must be one finite number"
            )
        return float(reward)

    def _moment(self, i: int) -> str:
        return f"in step {self.steps[i]} of an episode" if self.steps[i] else "of reset"
