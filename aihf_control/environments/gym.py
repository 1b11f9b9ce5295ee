"""The only file that knows Gymnasium: a vector of environments, actions in (-1, 1), seeds, cards."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box

from aihf_control.core.errors import BadInput

Array = np.ndarray


DEFAULT_HORIZON = 1000


EVALUATION_SEED = 20_000  # evaluation starts from seeds 20000, 20001, ...: no lane's and no dataset's


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
    """Steps until an episode runs out of time."""

    def to_env(self, act: Array) -> Array:
        """Actions from (-1, 1) to the environment's units."""
        return self.low + (np.asarray(act, np.float64) + 1) * (self.high - self.low) / 2

    def from_env(self, act: Array) -> Array:
        """Actions from the environment's units to (-1, 1)."""
        return (2 * (act - self.low) / (self.high - self.low) - 1).astype(np.float32)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self) | {"low": self.low.tolist(), "high": self.high.tolist()}

    @staticmethod
    def from_dict(fields: dict[str, Any]) -> EnvSpec:
        """What `as_dict` gave. Raises BadInput for something else."""
        try:
            bounds: dict[str, Any] = {name: np.array(fields[name], np.float64) for name in ("low", "high")}
            return EnvSpec(**{**fields, **bounds})
        except (TypeError, KeyError, ValueError) as e:
            raise BadInput(f"this describes no environment: {e}") from e


def spec_of(env_id: str, **options: Any) -> EnvSpec:
    """Makes the environment once, to see whether it will do. Raises BadInput where it will not."""
    env = _make(env_id, options)
    obs, act = env.observation_space, env.action_space
    for kind, space in (("observations", obs), ("actions", act)):
        if not isinstance(space, Box) or not np.issubdtype(space.dtype, np.floating):
            raise BadInput(f"{env_id} has {kind} of {space}; only Box spaces of floats can be used")
    assert isinstance(obs, Box) and isinstance(act, Box)
    low, high = act.low.ravel().astype(np.float64), act.high.ravel().astype(np.float64)
    if not (np.isfinite(low) & np.isfinite(high)).all():
        raise BadInput(f"{env_id} has unbounded actions; wrap it in gymnasium.wrappers.RescaleAction or ClipAction")
    horizon = (env.spec and env.spec.max_episode_steps) or DEFAULT_HORIZON
    env.close()
    return EnvSpec(env_id, options, int(np.prod(obs.shape)), low.size, low, high, horizon)


def make_env(spec: EnvSpec, **options: Any) -> gym.Env:
    """The environment itself, with further `options`, for a library that asks for one. Raises BadInput."""
    return _make(spec.id, {**spec.options, **options})


def spaces_of(spec: EnvSpec) -> tuple[gym.Space, gym.Space]:
    """The environment's own spaces of observations and of actions."""
    env = _make(spec.id, spec.options)
    env.close()
    return env.observation_space, env.action_space


class Envs:
    """`n` environments stepped together. Actions come in (-1, 1), observations go out as float32 rows.

    An action that is not finite, which a diverged lane gives, is not played: its episode ends there with reward NaN.
    """

    def __init__(self, spec: EnvSpec, n: int):
        self.spec = spec
        self.envs = [_make(spec.id, spec.options) for _ in range(n)]
        self.shape = self.envs[0].action_space.shape
        self.steps = np.zeros(n, int)
        self.last = np.zeros((n, spec.n_obs), np.float32)
        self.begun: list[Any] = [None] * n  # with what each episode began: a seed, or the generator's state
        self.played: list[list[Array]] = [[] for _ in range(n)]  # each episode's actions, in the environment's units

    def reset(self, i: int, seed: int | None = None) -> Array:
        """Starts an episode in environment i: its first observation, (O,). Without a seed its randomness goes on."""
        self.steps[i], self.played[i] = 0, []
        self.begun[i] = self.envs[i].unwrapped.np_random.bit_generator.state if seed is None else seed
        return self._checked(i, self.envs[i].reset(seed=seed)[0])

    def step(self, act: Array, which: Sequence[int] | None = None) -> tuple[Array, Array, Array, Array]:
        """Steps the environments `which` (all, if not given) with act (n, A).

        Returns obs (n, O), reward, terminated, truncated (n,).
        """
        which = range(len(self.envs)) if which is None else which
        act = self.spec.to_env(act)
        rows = [self._step(i, a) for i, a in zip(which, act, strict=True)]
        obs, reward, terminated, truncated = zip(*rows, strict=True)
        return np.stack(obs), np.array(reward, np.float64), np.array(terminated), np.array(truncated)

    def state(self, i: int) -> tuple[Array, Array] | None:
        """Positions and velocities of a MuJoCo simulator, or None."""
        data = getattr(self.envs[i].unwrapped, "data", None)
        if data is None or not hasattr(data, "qpos"):
            return None
        return data.qpos.copy(), data.qvel.copy()

    def put(self, i: int, qpos: Array, qvel: Array) -> Array:
        """Begins an episode of environment i in a state that `state` gave: its observation, (O,).

        Raises BadInput where the environment is no MuJoCo simulator that can be put anywhere, or a wrapper shows
        something else than it does.
        """
        inner: Any = self.envs[i].unwrapped
        if not hasattr(inner, "set_state") or not hasattr(inner, "_get_obs"):
            raise BadInput(f"{self.spec.id} cannot be put into a state; this needs one of Gymnasium's MuJoCo tasks")
        if not np.array_equal(self.reset(i), np.asarray(inner._get_obs(), np.float32).ravel()):
            raise BadInput(f"{self.spec.id} wraps its observations, so it cannot be begun in a given state")
        inner.set_state(np.asarray(qpos, np.float64), np.asarray(qvel, np.float64))
        return self._checked(i, inner._get_obs())

    def state_dict(self) -> dict[str, Any]:
        """How each environment came to where it is. A simulator's own state would not do: what Ant and Humanoid show
        next depends on more than can be read out of it. Playing the episode again gives the same bits in all."""
        played = [np.stack(acts) if acts else np.zeros((0, self.spec.n_act)) for acts in self.played]
        return {"begun": list(self.begun), "played": played, "last": self.last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises BadInput where an environment does not come to where it was."""
        for i, (begun, played) in enumerate(zip(state["begun"], state["played"], strict=True)):
            if isinstance(begun, dict):
                self.envs[i].unwrapped.np_random.bit_generator.state = begun
            self.reset(i, None if isinstance(begun, dict) else begun)
            for act in played:
                self._step(i, act)
            if not np.array_equal(self.last[i], state["last"][i]):
                raise BadInput(f"{self.spec.id} does not play an episode twice alike, so this run cannot be resumed")

    def _step(self, i: int, act: Array) -> tuple[Array, float, bool, bool]:
        self.played[i].append(act)
        if not np.isfinite(act).all():
            return self.last[i], np.nan, False, True
        obs, reward, terminated, truncated, _ = self.envs[i].step(act.astype(np.float32).reshape(self.shape))
        self.steps[i] += 1
        truncated = truncated or self.steps[i] >= self.spec.horizon
        return self._checked(i, obs), float(reward), bool(terminated), bool(truncated and not terminated)

    def _checked(self, i: int, obs: Array) -> Array:
        self.last[i] = obs = np.asarray(obs, np.float32).ravel()
        if not np.isfinite(obs).all():
            raise BadInput(f"{self.spec.id} gave an observation that is not finite: {obs}")
        return obs


def _make(env_id: str, options: dict[str, Any]) -> gym.Env:
    try:
        with _silence_known_warnings():
            return gym.make(env_id, disable_env_checker=True, **options)
    except (gym.error.Error, ImportError, TypeError, ValueError) as e:
        raise BadInput(f"cannot make the environment {env_id!r}: {' '.join(str(e).split())}") from e


@contextlib.contextmanager
def _silence_known_warnings() -> Iterator[None]:
    """No word on v4 ids being old (they are the benchmark's) nor on the deprecated `settotalmass` of HalfCheetah's XML,
    which MuJoCo would also write to MUJOCO_LOG.TXT. Every other warning goes on to the user."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message=".*is out of date")
        with contextlib.suppress(ImportError):
            import mujoco

            hear = mujoco.set_mju_user_warning  # pyright: ignore[reportAttributeAccessIssue]  # not in its stubs
            hear(_mujoco_warning)
            stack.callback(hear, None)
        yield


def _mujoco_warning(message: str) -> None:
    if "settotalmass" not in message:
        warnings.warn(f"MuJoCo: {message}", RuntimeWarning, stacklevel=2)
