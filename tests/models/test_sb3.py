"""Stable-Baselines3 zips: a policy acts the same on both sides, and nothing in a zip is dropped or executed."""

import base64
import dataclasses
import io
import json
import pickle
import re
import shutil
import zipfile
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, DDPG, PPO, SAC, TD3
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from stable_baselines3.sac.policies import SACPolicy

from aihf_control.core.errors import BadInput, InputWarning
from aihf_control.core.types import Trajectory
from aihf_control.environments.gym import spec_of
from aihf_control.environments.rollout import rollout
from aihf_control.experts.__main__ import main as experts_main
from aihf_control.models import sb3_zip
from aihf_control.models.expert import _clip_first, expert_of, keeps_clip, policy_of
from aihf_control.models.lanes import Dims
from aihf_control.models.networks import Policy
from aihf_control.models.sb3 import read_zip
from aihf_control.models.sb3_writer import write_zip
from aihf_control.models.vecnormalize import read_vecnormalize

pytestmark = pytest.mark.filterwarnings("ignore:.*is out of date")  # of v4 environments
ENVS = ("Pendulum-v1", "Hopper-v4")
FOREIGN = Path(__file__).parents[3] / "shared" / "experts"
ON_POLICY = {"n_steps": 8}
OFF_POLICY = {"buffer_size": 8}
SIZES = {PPO: ON_POLICY | {"batch_size": 8}, A2C: ON_POLICY, SAC: OFF_POLICY, TD3: OFF_POLICY, DDPG: OFF_POLICY}


def model_of(kind, env: str, **settings):
    """Create a small model whose last layer, before squashing, has outputs of mean 0 and standard deviation 1.5."""
    model = kind("MlpPolicy", env, device="cpu", seed=1, policy_kwargs={"net_arch": [8, 8]} | settings, **SIZES[kind])
    on_policy = kind in (PPO, A2C)
    last = model.policy.action_net if on_policy else model.policy.actor.mu
    last = last[-2] if kind in (TD3, DDPG) else last
    outputs: list[torch.Tensor] = []
    hook = last.register_forward_hook(lambda layer, x, y: outputs.append(y))
    model.predict(observations(spec_of(env)), deterministic=True)
    hook.remove()
    scale, mean = 1.5 / outputs[0].std(0), outputs[0].mean(0)
    with torch.no_grad():
        last.weight.mul_(scale[:, None])
        last.bias.copy_((last.bias - mean) * scale)
    return model


def observations(spec, n: int = 50) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, spec.n_obs)).astype(np.float32)


def same_actions(model, expert, spec) -> None:
    """Check that greedy actions agree to 1e-6 of their range."""
    obs = observations(spec)
    theirs, _ = model.predict(obs, deterministic=True)
    ours = spec.to_env(expert.act(torch.as_tensor(obs)).numpy())
    assert np.std(theirs) > 0.1
    np.testing.assert_allclose(spec.from_env(ours), spec.from_env(theirs), atol=1e-6, rtol=0)


# ---------------------------------------------------------------------------------------------------------- round trip


@pytest.mark.parametrize("env", ENVS)
@pytest.mark.parametrize("kind", SIZES)
def test_a_policy_of_sb3_acts_the_same_here_and_back_there(kind, env, tmp_path):
    spec, model = spec_of(env), model_of(kind, env)
    model.save(tmp_path / "theirs.zip")
    expert = read_zip(tmp_path / "theirs.zip", spec)
    same_actions(model, expert, spec)
    write_zip(tmp_path / "ours.zip", expert, spec)
    same_actions((PPO if kind in (PPO, A2C) else SAC).load(tmp_path / "ours.zip"), expert, spec)
    same_actions(model, read_zip(tmp_path / "ours.zip", spec), spec)


@pytest.mark.parametrize("kind", [SAC, PPO])
@pytest.mark.parametrize("activation", [torch.nn.ReLU, torch.nn.Tanh, torch.nn.ELU])
def test_the_activation_is_the_zips(kind, activation, tmp_path):
    spec, model = spec_of("Pendulum-v1"), model_of(kind, "Pendulum-v1", activation_fn=activation)
    model.save(tmp_path / "theirs.zip")
    expert = read_zip(tmp_path / "theirs.zip", spec)
    assert expert.activation == activation.__name__
    same_actions(model, expert, spec)


def test_an_activation_that_is_not_known_is_refused(tmp_path):
    model_of(SAC, "Pendulum-v1", activation_fn=torch.nn.SiLU).save(tmp_path / "theirs.zip")
    with pytest.raises(BadInput, match="activation SiLU"):
        read_zip(tmp_path / "theirs.zip")


@pytest.mark.parametrize("kind", [SAC, PPO])
def test_sampled_actions_spread_as_the_models_do(kind, tmp_path):
    spec, model = spec_of("Pendulum-v1"), model_of(kind, "Pendulum-v1")
    model.save(tmp_path / "theirs.zip")
    expert, obs = read_zip(tmp_path / "theirs.zip", spec), np.tile(observations(spec, 1), (4000, 1))
    theirs, _ = model.predict(obs, deterministic=False)
    noise = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0))
    ours = spec.to_env(expert.act(torch.as_tensor(obs), noise).numpy())
    q = [0.05, 0.25, 0.5, 0.75, 0.95]
    assert np.ptp(np.quantile(theirs, q)) > 0.3
    np.testing.assert_allclose(np.quantile(ours, q), np.quantile(theirs, q), atol=0.15)


def test_a_policy_without_hidden_layers_survives(tmp_path):
    spec = spec_of("Pendulum-v1")
    model = model_of(TD3, "Pendulum-v1", net_arch=[])
    model.save(tmp_path / "theirs.zip")
    expert = read_zip(tmp_path / "theirs.zip", spec)
    write_zip(tmp_path / "ours.zip", expert, spec)
    same_actions(SAC.load(tmp_path / "ours.zip"), expert, spec)


def trained_policy(spec, lanes: int = 2) -> Policy:
    """Create a policy with a normalization of observations and a standard deviation that depends on them."""
    g = torch.Generator().manual_seed(3)
    policy = Policy(Dims(tuple(range(lanes)), spec.n_obs, spec.n_act), (8, 8))
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(0.6 * torch.randn(p.shape, generator=g))
    shape = (lanes, spec.n_obs)
    policy.units.set(0.5 * torch.randn(shape, generator=g), 0.5 + torch.rand(shape, generator=g))
    return policy


@pytest.mark.parametrize("env", ENVS)
def test_an_exported_lane_acts_as_the_policy_with_its_normalization(env, tmp_path):
    spec = spec_of(env)
    policy, obs = trained_policy(spec), torch.as_tensor(observations(spec))
    noise = torch.randn(50, spec.n_act, generator=torch.Generator().manual_seed(0))
    for lane in range(2):
        expert = expert_of(policy, lane)
        for z in (None, noise):
            acted = policy.act(obs.expand(2, -1, -1), None if z is None else z.expand(2, -1, -1))[lane]
            torch.testing.assert_close(expert.act(obs, z), acted, atol=1e-5, rtol=1e-4)
        write_zip(tmp_path / "ours.zip", expert, spec)
        same_actions(SAC.load(tmp_path / "ours.zip"), expert, spec)
        read = read_zip(tmp_path / "ours.zip", spec)
        torch.testing.assert_close(read.act(obs, noise), expert.act(obs, noise), atol=0, rtol=0)


@pytest.mark.parametrize("env", ENVS)
def test_an_exported_zip_opens_with_its_environment(env, tmp_path):
    """Stable-Baselines3 compares spaces, including bounds and types."""
    spec = spec_of(env)
    write_zip(tmp_path / "ours.zip", expert_of(trained_policy(spec), 0), spec)
    model = SAC.load(tmp_path / "ours.zip", env=gym.make(env), device="cpu")
    action, _ = model.predict(model.env.reset(), deterministic=True)
    assert model.env.action_space.contains(action[0])


# ------------------------------------------------------------------------------------------------------------- refusal


@pytest.fixture
def good(tmp_path) -> Path:
    path = tmp_path / "good.zip"
    write_zip(path, expert_of(trained_policy(spec_of("Hopper-v4")), 0), spec_of("Hopper-v4"))
    return path


def changed(path: Path, **parts: bytes) -> Path:
    """The zip with some of its files replaced ("policy" stands for policy.pth)."""
    with zipfile.ZipFile(path) as z:
        files = {name: z.read(name) for name in z.namelist()}
    files |= {"policy.pth" if name == "policy" else name: content for name, content in parts.items()}
    out = path.with_name("changed.zip")
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
        for name, content in files.items():
            z.writestr(name, content)
    return out


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    with zipfile.ZipFile(path) as z:
        return torch.load(io.BytesIO(z.read("policy.pth")), weights_only=True)


def saved(weights) -> bytes:
    out = io.BytesIO()
    torch.save(weights, out)
    return out.getvalue()


def refused(path: Path, *words: str, env: str = "Hopper-v4") -> None:
    with pytest.raises(BadInput) as refusal:
        read_zip(path, spec_of(env))
    assert all(word in str(refusal.value) for word in words), refusal.value
    assert "\n" not in str(refusal.value)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"this is no zip")
    refused(tmp_path / "x.zip", "x.zip is not a Stable-Baselines3 zip")
    refused(tmp_path / "absent.zip", "absent.zip")
    refused(tmp_path, str(tmp_path))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_zip_is_refused(good, share):
    data = good.read_bytes()
    good.write_bytes(data[: int(share * len(data))])
    refused(good, "not a Stable-Baselines3 zip")


def test_a_zip_of_something_else_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as z:
        z.writestr("holiday.txt", "sea")
    refused(tmp_path / "x.zip", "not a Stable-Baselines3 zip")


def test_another_environments_policy_is_refused_with_both_sizes(good):
    refused(good, "11 observations and 3 actions", "Pendulum-v1 has 3 and 1", env="Pendulum-v1")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(good, value):
    weights = weights_of(good)
    weights["actor.mu.bias"][1] = value
    refused(changed(good, policy=saved(weights)), "not finite")


@pytest.mark.parametrize(
    "damage",
    [
        lambda w: w.pop("actor.mu.bias"),
        lambda w: w.pop("actor.latent_pi.0.bias"),
        lambda w: w.pop("actor.latent_pi.2.weight"),
        lambda w: w.update({"actor.latent_pi.2.weight": torch.zeros(8, 9)}),
        lambda w: w.update({"actor.mu.weight": torch.zeros(8)}),
        lambda w: w.update({"actor.log_std.bias": torch.zeros(4)}),
        lambda w: w.clear(),
    ],
)
def test_layers_that_do_not_fit_together_are_refused(good, damage):
    weights = weights_of(good)
    damage(weights)
    refused(changed(good, policy=saved(weights)), "holds no policy")


def test_weights_that_are_no_tensors_are_refused(good):
    refused(changed(good, policy=saved([1, 2])), "not a table of tensors")
    refused(changed(good, policy=saved({"actor.mu.weight": 3})), "not a table of tensors")


def test_state_dependent_exploration_is_refused_not_misread(tmp_path):
    for kind in (SAC, PPO):
        more = {"n_steps": 8, "batch_size": 8} if kind is PPO else {"buffer_size": 8}
        kind("MlpPolicy", "Pendulum-v1", use_sde=True, device="cpu", **more).save(tmp_path / "sde.zip")
        refused(tmp_path / "sde.zip", "gSDE", env="Pendulum-v1")


def test_a_policy_for_discrete_actions_is_refused(tmp_path):
    PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, device="cpu").save(tmp_path / "discrete.zip")
    with pytest.raises(BadInput, match=r"action space of type gymnasium.spaces.discrete.Discrete; only Box"):
        read_zip(tmp_path / "discrete.zip")


def test_a_zip_bomb_is_refused_before_it_is_unpacked(good, monkeypatch):
    bomb = changed(good, pytorch_variables=bytes(2**20))
    assert bomb.stat().st_size < 2**18
    read_zip(bomb)
    monkeypatch.setattr(sb3_zip, "MAX_BYTES", 2**19)
    refused(bomb, "unpacks to more than")


def test_a_bomb_inside_the_weights_is_refused(good, monkeypatch):
    stored = zipfile.ZipFile(io.BytesIO(saved({"big": torch.zeros(2**18)})))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as z:
        for name in stored.namelist():
            z.writestr(name, stored.read(name))
    monkeypatch.setattr(sb3_zip, "MAX_BYTES", 2**19)
    refused(changed(good, policy=packed.getvalue()), "unpacks to more than")


def test_a_tensor_larger_than_its_storage_is_refused(good):
    weights = weights_of(good) | {"big": torch.zeros(1).expand(2**40)}
    refused(changed(good, policy=saved(weights)), "more than")


NET_ARCHS = {
    "list": [8, 4],
    "one layer": [5],
    "no hidden layer": [],
    "dict": {"pi": [8, 4], "qf": [3], "vf": [3]},
    "deep": [6, 5, 4, 3],
}


@pytest.mark.parametrize("activation", [torch.nn.ReLU, torch.nn.Tanh, torch.nn.ELU])
@pytest.mark.parametrize("net_arch", NET_ARCHS)
@pytest.mark.parametrize("kind", SIZES)
def test_every_architecture_agrees_with_predict_to_1e_6(kind, net_arch, activation, tmp_path):
    spec = spec_of("Pendulum-v1")
    model = model_of(kind, "Pendulum-v1", net_arch=NET_ARCHS[net_arch], activation_fn=activation)
    model.save(tmp_path / "theirs.zip")
    same_actions(model, read_zip(tmp_path / "theirs.zip", spec), spec)


@pytest.mark.parametrize("kind", SIZES)
def test_the_default_activation_is_that_of_the_class(kind, tmp_path):
    spec, model = spec_of("Pendulum-v1"), model_of(kind, "Pendulum-v1")
    model.save(tmp_path / "theirs.zip")
    same_actions(model, read_zip(tmp_path / "theirs.zip", spec), spec)


class Skewed(gym.Env):
    """Has action bounds that are not symmetric, and differ between dimensions."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = gym.spaces.Box(np.float32([-0.3, 1.0]), np.float32([2.0, 1.5]))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(3, np.float32), {}

    def step(self, action):
        return np.zeros(3, np.float32), 0.0, False, False, {}


gym.register("SkewedForSB3-v0", Skewed, max_episode_steps=5)


@pytest.mark.parametrize("kind", SIZES)
def test_asymmetric_action_bounds_agree_with_predict(kind, tmp_path):
    spec, model = spec_of("SkewedForSB3-v0"), model_of(kind, "SkewedForSB3-v0")
    model.save(tmp_path / "theirs.zip")
    expert = read_zip(tmp_path / "theirs.zip", spec)
    same_actions(model, expert, spec)
    write_zip(tmp_path / "ours.zip", expert, spec)
    same_actions(model, read_zip(tmp_path / "ours.zip", spec), spec)


@pytest.mark.parametrize("kind", [SAC, PPO])
def test_other_action_bounds_than_the_environments_are_reported_and_scaled(kind, tmp_path):
    env = gym.wrappers.RescaleAction(gym.make("Pendulum-v1"), -1.0, 1.0)
    model = kind("MlpPolicy", env, device="cpu", seed=1, **SIZES[kind])
    model.save(tmp_path / "theirs.zip")
    spec = spec_of("Pendulum-v1")
    with pytest.warns(InputWarning, match=r"trained with actions from \[-1\.\] to \[1\.\]: they are scaled"):
        expert = read_zip(tmp_path / "theirs.zip", spec)
    obs = observations(spec)
    np.testing.assert_allclose(expert.act(torch.as_tensor(obs)), model.predict(obs, deterministic=True)[0], atol=1e-6)


def with_data(path: Path, **fields) -> Path:
    """The zip with some fields of its data replaced."""
    with zipfile.ZipFile(path) as z:
        data = json.loads(z.read("data")) | fields
    return changed(path, data=json.dumps(data).encode())


def test_a_zip_of_tqc_is_read(tmp_path):
    """sb3-contrib's TQC has the actor of SAC, and critics of more outputs under the same names."""
    spec, model = spec_of("Pendulum-v1"), model_of(SAC, "Pendulum-v1")
    model.save(tmp_path / "theirs.zip")
    weights = weights_of(tmp_path / "theirs.zip")
    for name in [name for name in weights if re.fullmatch(r"critic(_target)?\.qf\d\.4\..*", name)]:
        weights[name] = weights[name].repeat_interleave(25, 0)
    policy = {":type:": "<class 'abc.ABCMeta'>", "__module__": "sb3_contrib.tqc.policies"}
    path = with_data(changed(tmp_path / "theirs.zip", policy=saved(weights)), policy_class=policy)
    same_actions(model, read_zip(path, spec), spec)


def test_shared_layers_of_old_versions_are_read(tmp_path):
    spec, model = spec_of("Pendulum-v1"), model_of(PPO, "Pendulum-v1", net_arch={"pi": [8, 4], "vf": [8, 4]})
    model.save(tmp_path / "theirs.zip")
    weights = {}
    for name, value in weights_of(tmp_path / "theirs.zip").items():
        name = name.replace("policy_net.0", "shared_net.0").replace("policy_net.2", "policy_net.0")
        weights[name] = value
    same_actions(model, read_zip(changed(tmp_path / "theirs.zip", policy=saved(weights)), spec), spec)


# -------------------------------------------------------------------------------------------------------- VecNormalize


@pytest.fixture(scope="module")
def normalized(tmp_path_factory) -> dict:
    """PPO and A2C (Tanh) and SAC (ReLU) trained for some steps under VecNormalize, and its file."""
    folder, models = tmp_path_factory.mktemp("normalized"), {}
    for kind in (PPO, A2C, SAC):
        env = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")] * 2))
        sizes = SIZES[kind] | ({"learning_starts": 1000} if kind is SAC else {})
        model = kind("MlpPolicy", env, device="cpu", seed=1, policy_kwargs={"net_arch": [8]}, **sizes)
        model.learn(200)
        model.save(folder / f"{kind.__name__}.zip")
        env.save(str(folder / f"{kind.__name__}.pkl"))
        models[kind.__name__] = (model, env)
    return {"folder": folder, **models}


@pytest.mark.parametrize("kind", ["PPO", "A2C", "SAC"])
def test_statistics_of_vecnormalize_are_folded_into_the_policy(normalized, kind, recwarn):
    folder, (model, env), spec = normalized["folder"], normalized[kind], spec_of("Pendulum-v1")
    statistics = read_vecnormalize(folder / f"{kind}.pkl")
    expert = read_zip(folder / f"{kind}.zip", spec, statistics=statistics)
    obs = observations(spec)
    theirs, _ = model.predict(env.normalize_obs(obs), deterministic=True)
    ours = expert.act(torch.as_tensor(obs)).numpy()
    assert np.std(theirs) > 1e-3 and not [w for w in recwarn if issubclass(w.category, InputWarning)]
    np.testing.assert_allclose(ours, spec.from_env(theirs), atol=1e-6)
    raw, _ = model.predict(obs, deterministic=True)
    assert np.abs(ours - spec.from_env(raw)).max() > 1e-3


RELU = {"net_arch": [8, 6], "activation_fn": torch.nn.ReLU}
CLIPPED = (0.5, 5.0, 10.0, 100.0)


def normalizer(env: str, clip: float) -> VecNormalize:
    """VecNormalize with statistics of different sizes, and an observation that does not vary."""
    wrapped = VecNormalize(DummyVecEnv([lambda: gym.make(env)]), clip_obs=clip)
    n, rng = wrapped.observation_space.shape[0], np.random.default_rng(3)
    wrapped.obs_rms.mean, wrapped.obs_rms.var = rng.normal(size=n), rng.uniform(0.5, 4.0, n) ** 2
    wrapped.obs_rms.mean[0], wrapped.obs_rms.var[0] = 0.0, 0.0
    return wrapped


def spread_observations(wrapped: VecNormalize) -> np.ndarray:
    """Observations (60, O) inside the clip, at it, and up to ten million standard deviations beyond."""
    rms, rng = wrapped.obs_rms, np.random.default_rng(4)
    scales = wrapped.clip_obs * np.array([0.01, 0.1, 0.5, 1.0, 2.0, 1e2, 1e5])
    z = rng.normal(size=(60, len(rms.mean))) * rng.choice(scales, (60, len(rms.mean)))
    z[0], z[1] = wrapped.clip_obs, -wrapped.clip_obs
    return (rms.mean + np.sqrt(rms.var + wrapped.epsilon) * z).astype(np.float32)


@pytest.mark.parametrize("clip", CLIPPED)
@pytest.mark.parametrize("env", ENVS)
@pytest.mark.parametrize("kind", [SAC, PPO, TD3])
def test_relu_layers_keep_the_clipping_of_vecnormalize(kind, env, clip, tmp_path):
    spec, model, wrapped = spec_of(env), model_of(kind, env, **RELU), normalizer(env, clip)
    model.save(tmp_path / "theirs.zip")
    wrapped.save(str(tmp_path / "x.pkl"))
    obs = spread_observations(wrapped)
    clipped = wrapped.normalize_obs(obs)
    assert 0.3 < (np.abs(clipped) == np.float32(clip)).mean() < 0.7
    theirs, _ = model.predict(clipped, deterministic=True)
    expert = read_zip(tmp_path / "theirs.zip", spec, statistics=read_vecnormalize(tmp_path / "x.pkl"))
    assert [len(bias) for _, bias in expert.layers[:-1]] == [spec.n_obs, spec.n_obs, 8, 6]
    ours = spec.to_env(expert.act(torch.as_tensor(obs)).numpy())
    close = {"atol": 1e-6 * max(1.0, clip), "rtol": 0}
    assert np.std(theirs) > 0.1
    np.testing.assert_allclose(spec.from_env(ours), spec.from_env(theirs), **close)
    write_zip(tmp_path / "ours.zip", expert, spec)
    written, _ = (PPO if kind is PPO else SAC).load(tmp_path / "ours.zip").predict(obs, deterministic=True)
    np.testing.assert_allclose(spec.from_env(written), spec.from_env(theirs), **close)


@pytest.mark.parametrize("clip", CLIPPED)
def test_clipped_observations_are_exact_to_a_millionth_of_the_clip(clip):
    """The first layer is the identity, so that the layers return the clipped observations themselves."""
    wrapped = normalizer("Hopper-v4", clip)
    obs, rms, n = spread_observations(wrapped), wrapped.obs_rms, 11
    mean, std = (torch.as_tensor(x)[None] for x in (rms.mean, np.sqrt(rms.var + wrapped.epsilon)))
    layer = torch.eye(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
    first, second, third = ((w.float(), b.float()) for w, b in _clip_first(layer, mean, std, clip))
    linear = torch.nn.functional.linear
    ours = linear(linear(linear(torch.as_tensor(obs), *first).relu(), *second).relu(), *third).numpy()
    np.testing.assert_allclose(ours, wrapped.normalize_obs(obs), atol=1e-6 * clip, rtol=0)


def test_a_policy_that_keeps_its_clipping_can_be_trained_further(tmp_path):
    model, wrapped = model_of(SAC, "Pendulum-v1", **RELU), normalizer("Pendulum-v1", 0.5)
    model.save(tmp_path / "theirs.zip")
    wrapped.save(str(tmp_path / "x.pkl"))
    expert = read_zip(tmp_path / "theirs.zip", statistics=read_vecnormalize(tmp_path / "x.pkl"))
    policy, obs = policy_of(expert, Dims((0, 1), 3, 1)), torch.as_tensor(spread_observations(wrapped))
    for lane in policy.act(obs.expand(2, -1, -1)):
        torch.testing.assert_close(lane, expert.act(obs), atol=1e-5, rtol=0)


def test_clipping_is_kept_by_relu_layers_up_to_a_limit(tmp_path):
    model_of(SAC, "Pendulum-v1", **RELU).save(tmp_path / "relu.zip")
    model_of(SAC, "Pendulum-v1").save(tmp_path / "tanh.zip")
    relu = read_zip(tmp_path / "relu.zip")
    for name, kept in (
        ("ReLU", [True, True, False, True]),
        ("Tanh", [False] * 3 + [True]),
        ("ELU", [False] * 3 + [True]),
    ):
        policy = dataclasses.replace(relu, activation=name)
        assert [keeps_clip(policy, clip) for clip in (5.0, 100.0, 101.0, float("inf"))] == kept


def import_words(normalized, folder: Path, *more: str) -> list[str]:
    words = ["import", str(normalized["folder"] / "PPO.zip"), "--env", "Pendulum-v1", "--out", str(folder / "x.zip")]
    return [*words, "--vecnormalize", str(folder / "x.pkl"), *more]


@pytest.mark.parametrize(("clip", "steps"), [(3.0, 20), (4.0, 0)])
def test_import_counts_the_steps_in_which_a_clipping_is_lost(normalized, clip, steps, tmp_path, capsys, monkeypatch):
    """In 20 episodes of 200 steps the first angular velocity is 8, 3.5 standard deviations from the mean 1."""

    def episodes(policy, spec, n, *_):
        obs = np.zeros((201, 3), np.float32)
        obs[[0, 200], 2] = 8.0  # no action follows on the last one
        return [Trajectory(obs, np.zeros((200, 1), np.float32), np.zeros(200), False, i, "") for i in range(n)]

    command = "aihf_control.experts.__main__"
    monkeypatch.setattr(f"{command}.expert_episodes", episodes)
    rms = RunningMeanStd(shape=(3,))
    rms.mean, rms.var = np.array([0.0, 0.0, 1.0]), np.full(3, 4.0)
    vecnormalize_file(tmp_path / "x.pkl", obs_rms=rms, clip_obs=clip, epsilon=0.0)
    found = f"at {clip:g} standard deviations, which applies in {steps} of 4,000 steps of 20 greedy episodes"
    for share, force in ((20 / 12_000, ()), (0.001, ("--force",))):
        monkeypatch.setattr(f"{command}.MOST_CLIPPED", share)
        assert experts_main(import_words(normalized, tmp_path, *force)) == 0
        err = capsys.readouterr().err
        assert err.startswith("warning: ") and err.count("\n") == 1 and found in err
    (tmp_path / "x.zip").unlink()
    assert experts_main(import_words(normalized, tmp_path)) == (2 if steps else 0)
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and (f"{found}, to 0.17% of the observations; at most 0.1% is" in err) == bool(steps)
    assert (tmp_path / "x.zip").exists() != bool(steps)


@pytest.mark.parametrize("kind", ["PPO", "A2C"])
def test_a_zip_of_vecnormalize_without_its_statistics_is_reported(normalized, kind):
    with pytest.warns(InputWarning, match="trained under VecNormalize: give its statistics with --vecnormalize"):
        read_zip(normalized["folder"] / f"{kind}.zip")


@pytest.mark.parametrize("kind", SIZES)
def test_a_zip_without_vecnormalize_is_read_without_a_warning(kind, tmp_path, recwarn):
    model = kind("MlpPolicy", "Pendulum-v1", device="cpu", policy_kwargs={"net_arch": [8]}, **SIZES[kind])
    model.learn(16)
    model.save(tmp_path / "plain.zip")
    read_zip(tmp_path / "plain.zip", spec_of("Pendulum-v1"))
    assert not [w for w in recwarn if issubclass(w.category, InputWarning)]


def test_import_takes_the_statistics_and_prints_warnings_in_one_line(normalized, tmp_path, capsys):
    words = ["import", str(normalized["folder"] / "PPO.zip"), "--env", "Pendulum-v1", "--out", str(tmp_path / "x.zip")]
    words += ["--force"]  # it was hardly trained
    assert experts_main(words) == 0
    assert capsys.readouterr().err.count("trained under VecNormalize") == 1
    assert experts_main([*words, "--vecnormalize", str(normalized["folder"] / "PPO.pkl")]) == 0
    err = capsys.readouterr().err
    assert err.startswith("warning: ") and err.count("\n") == 1
    assert "without VecNormalize's clipping at 10 standard deviations, which applies in 0 of 4,000 steps" in err
    model, env = normalized["PPO"]
    obs = observations(spec_of("Pendulum-v1"))
    theirs = model.predict(env.normalize_obs(obs), deterministic=True)[0]
    ours = PPO.load(tmp_path / "x.zip", device="cpu").predict(obs, deterministic=True)[0]
    np.testing.assert_allclose(ours, theirs, atol=2e-6)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_statistics_are_read_from_every_protocol(normalized, protocol, tmp_path):
    env = normalized["PPO"][1]
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(env, protocol=protocol))
    statistics = read_vecnormalize(tmp_path / "x.pkl")
    assert statistics is not None and statistics.clip == 10
    np.testing.assert_array_equal(statistics.mean, env.obs_rms.mean)
    np.testing.assert_array_equal(statistics.std, np.sqrt(env.obs_rms.var + env.epsilon))


def vecnormalize_file(path: Path, **fields) -> Path:
    env = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]))
    vars(env).update(fields)
    env.save(str(path))
    return path


def test_what_statistics_cannot_keep_is_refused(normalized, tmp_path):
    path = normalized["folder"] / "PPO.zip"
    for clip in (5.0, np.float64(5.0), 9, np.inf):
        assert read_vecnormalize(vecnormalize_file(tmp_path / "x.pkl", clip_obs=clip)).clip == clip
    hopper = VecNormalize(DummyVecEnv([lambda: gym.make("Hopper-v4")]))
    hopper.save(str(tmp_path / "x.pkl"))
    with pytest.raises(BadInput, match="has 3 observations, and the VecNormalize file 11"):
        read_zip(path, statistics=read_vecnormalize(tmp_path / "x.pkl"))
    assert read_vecnormalize(vecnormalize_file(tmp_path / "x.pkl", norm_obs=False)) is None
    for fields in ({"clip_obs": float("nan")}, {"clip_obs": "10"}, {"epsilon": -2.0}, {"obs_rms": None}):
        with pytest.raises(BadInput, match="is not a VecNormalize file"):
            read_vecnormalize(vecnormalize_file(tmp_path / "x.pkl", **fields))


def test_a_pickle_in_place_of_statistics_is_not_executed(bomb, tmp_path):
    path = vecnormalize_file(tmp_path / "x.pkl", obs_rms=bomb, old_obs=bomb)
    for data in (pickle.dumps(bomb), pickle.dumps([bomb]), path.read_bytes()):
        path.write_bytes(data)
        with pytest.raises(BadInput, match="is not a VecNormalize file"):
            read_vecnormalize(path)
    assert not bomb.marker.exists()


def test_damaged_statistics_are_refused_in_one_line(normalized, tmp_path):
    good, rng = (normalized["folder"] / "PPO.pkl").read_bytes(), np.random.default_rng(0)
    memo = b"\x80\x04Nr\xff\xff\xff\xff."  # LONG_BINPUT, for which the unpickler would allocate 64 GB
    cases = [b"", b"[" * 1000, memo, good[:-1], *(good[:n] for n in rng.integers(0, len(good) - 1, 50))]
    for data in cases:
        (tmp_path / "x.pkl").write_bytes(data)
        with pytest.raises(BadInput) as error:
            read_vecnormalize(tmp_path / "x.pkl")
        assert "\n" not in str(error.value)
    for _ in range(300):
        data = bytearray(good)
        data[rng.integers(len(data))] = rng.integers(256)
        (tmp_path / "x.pkl").write_bytes(bytes(data))
        try:
            read_vecnormalize(tmp_path / "x.pkl")
        except BadInput as e:
            assert "\n" not in str(e)


# --------------------------------------------------------------------------------------------- nothing of a zip is lost


class Scaling(FlattenExtractor):
    """A features extractor without tensors."""

    def forward(self, observations):
        return 3 * super().forward(observations)


class Embedding(BaseFeaturesExtractor):
    """A features extractor with tensors."""

    def __init__(self, observation_space):
        super().__init__(observation_space, 3)
        self.layer = torch.nn.Linear(3, 3)

    def forward(self, observations):
        return self.layer(observations)


class Own(SACPolicy):
    """A subclass that sets the activation itself."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **(kwargs | {"activation_fn": torch.nn.Tanh}))


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("extractor", [Scaling, Embedding])
def test_a_features_extractor_is_refused(kind, extractor, tmp_path):
    kwargs = {"net_arch": [8], "features_extractor_class": extractor}
    kind("MlpPolicy", "Pendulum-v1", device="cpu", policy_kwargs=kwargs, **SIZES[kind]).save(tmp_path / "x.zip")
    refused(tmp_path / "x.zip", "features extractor of its own", extractor.__name__, env="Pendulum-v1")


def test_the_flatten_extractor_may_be_named(tmp_path):
    model = model_of(SAC, "Pendulum-v1", features_extractor_class=FlattenExtractor)
    model.save(tmp_path / "x.zip")
    same_actions(model, read_zip(tmp_path / "x.zip", spec_of("Pendulum-v1")), spec_of("Pendulum-v1"))


@pytest.mark.parametrize(
    "name",
    [
        "actor.features_extractor.layer.weight",
        "pi_features_extractor.cnn.0.weight",
        "actor.latent_pi.1.running_mean",
        "lstm_actor.weight_ih_l0",
        "actor.latent_pi.0.weight_orig",
        "critic.features_extractor.layer.weight",
        "",
    ],
)
def test_a_tensor_that_is_not_used_is_named(good, name):
    refused(changed(good, policy=saved(weights_of(good) | {name: torch.zeros(3)})), "no part of a plain", name)


def test_a_policy_class_of_ones_own_needs_its_activation(tmp_path):
    spec = spec_of("Pendulum-v1")
    model = SAC(Own, "Pendulum-v1", device="cpu", seed=1, policy_kwargs={"net_arch": [8]}, **OFF_POLICY)
    model.save(tmp_path / "x.zip")
    refused(tmp_path / "x.zip", "not of Stable-Baselines3", "--activation", env="Pendulum-v1")
    obs = observations(spec)
    theirs = spec.from_env(model.predict(obs, deterministic=True)[0])
    expert = read_zip(tmp_path / "x.zip", spec, activation="Tanh")
    np.testing.assert_allclose(expert.act(torch.as_tensor(obs)), theirs, atol=1e-6)


def test_an_activation_other_than_the_stated_one_is_refused(good):
    with pytest.raises(BadInput, match="has the activation ReLU, not Tanh; leave out --activation"):
        read_zip(good, activation="Tanh")


@pytest.mark.parametrize("kwargs", [None, [], "ReLU"])
def test_a_zip_without_arguments_of_the_policy_needs_its_activation(good, kwargs):
    refused(with_data(good, policy_kwargs=kwargs), "--activation")


@pytest.mark.parametrize("text", ["functools.partial(<class 'torch.nn.modules.activation.ELU'>)", "mine.ReLU", ""])
def test_an_activation_that_is_no_plain_class_is_refused(good, text):
    refused(with_data(good, policy_kwargs={"activation_fn": text}), "has the activation")


TENSORS = {
    "sparse": lambda: torch.eye(3).to_sparse(),
    "csr": lambda: torch.eye(3).to_sparse_csr(),
    "meta": lambda: torch.zeros(3, device="meta"),
    "float8": lambda: torch.zeros(3).to(torch.float8_e4m3fn),
    "quantized": lambda: torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8),
    "nested": lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
    "complex": lambda: torch.zeros(3, dtype=torch.complex64),
    "integer": lambda: torch.zeros(3, dtype=torch.int64),
}


@pytest.mark.filterwarnings("ignore")  # of torch, about prototypes
@pytest.mark.parametrize("kind", TENSORS)
@pytest.mark.parametrize("name", ["actor.mu.bias", "critic.qf0.0.weight"])
def test_other_tensors_than_dense_floats_are_refused(good, kind, name):
    refused(changed(good, policy=saved(weights_of(good) | {name: TENSORS[kind]()})), "changed.zip")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_of_floats_are_read(good, dtype):
    weights = {name: x.to(dtype) for name, x in weights_of(good).items()}
    assert read_zip(changed(good, policy=saved(weights))).layers[0][0].dtype == torch.float32


@pytest.mark.parametrize("key", [3, ("actor", "mu"), None, b"actor.mu.bias"])
def test_keys_that_are_not_strings_are_refused(good, key):
    refused(changed(good, policy=saved(weights_of(good) | {key: torch.zeros(3)})), "changed.zip")


def test_numbers_beyond_float32_are_refused(good):
    weights = weights_of(good)
    weights["actor.mu.bias"] = torch.full((3,), 1e308, dtype=torch.float64)
    refused(changed(good, policy=saved(weights)), "actor.mu.bias", "not finite in float32")


def test_weights_that_give_nan_are_refused(good):
    weights = weights_of(good)
    weights["actor.latent_pi.2.weight"][:4], weights["actor.latent_pi.2.weight"][4:] = 3e38, 2e38
    weights["actor.latent_pi.0.weight"][:] = 3e38
    weights["actor.mu.weight"][:, ::2], weights["actor.mu.weight"][:, 1::2] = 1.0, -1.0
    refused(changed(good, policy=saved(weights)), "makes actions NaN")


@pytest.mark.parametrize("data", [b"[" * 100_000, b"7" * 5000, b"[]", b"null", b"", b'{"a": 1'])
def test_data_that_is_no_table_is_refused(good, data):
    refused(changed(good, data=data), "changed.zip")


# ---------------------------------------------------------------------------------------------------- nothing executed


class Bomb:
    """Unpickled, it writes a file."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.write_text, (self.marker, "executed")


@pytest.fixture
def bomb(tmp_path) -> Bomb:
    """A bomb of which a test shows that it works."""
    bomb = Bomb(tmp_path / "marker")
    pickle.loads(pickle.dumps(bomb))
    bomb.marker.unlink()
    return bomb


@pytest.fixture
def with_pickled_data(good, bomb) -> Path:
    """A good policy with a bomb in place of each pickle in its data."""
    with zipfile.ZipFile(good) as z:
        data = json.loads(z.read("data"))
    code = base64.b64encode(pickle.dumps(bomb)).decode()
    for name in ("policy_class", "policy_kwargs", "observation_space", "action_space", "lr_schedule"):
        data[name] = (data[name] if isinstance(data[name], dict) else {}) | {":serialized:": code}
    return changed(good, data=json.dumps(data).encode())


@pytest.fixture
def with_pickled_weights(good, bomb) -> Path:
    """A zip whose policy.pth is a bomb."""
    return changed(good, policy=saved({"actor.mu.weight": bomb}))


def test_the_bomb_goes_off_where_pickles_are_loaded(with_pickled_data, bomb):
    """The tests below can fail: Stable-Baselines3 itself executes the pickle."""
    with pytest.raises(Exception):  # noqa: B017  # of any kind, after the execution
        SAC.load(with_pickled_data)
    assert bomb.marker.exists()


def test_pickles_among_the_data_are_not_executed(with_pickled_data, bomb):
    assert read_zip(with_pickled_data, spec_of("Hopper-v4")).n_obs == 11
    assert not bomb.marker.exists()


def test_pickles_in_place_of_weights_are_not_executed(with_pickled_weights, good, bomb):
    refused(with_pickled_weights, "not a Stable-Baselines3 zip")
    refused(changed(good, policy=pickle.dumps(bomb)), "not a Stable-Baselines3 zip")
    assert not bomb.marker.exists()


def test_import_writes_a_malicious_zip_clean(with_pickled_data, bomb, tmp_path, capsys):
    words = ["import", str(with_pickled_data), "--env", "Hopper-v4", "--out", str(tmp_path / "clean.zip")]
    assert experts_main([*words, "--force"]) == 0
    spec = spec_of("Hopper-v4")
    same_actions(SAC.load(tmp_path / "clean.zip"), read_zip(with_pickled_data), spec)
    assert not bomb.marker.exists()
    assert "over greedy episodes" in capsys.readouterr().out


def test_a_policy_that_is_no_better_than_random_is_refused(good, tmp_path, capsys):
    words = ["import", str(good), "--env", "Hopper-v4", "--out", str(tmp_path / "out.zip")]
    assert experts_main(words) == 2 and not (tmp_path / "out.zip").exists()
    assert "it is no better than random; give a better one, or use it with --force" in capsys.readouterr().err
    assert experts_main([*words, "--force"]) == 0 and (tmp_path / "out.zip").is_file()


def test_show_does_not_execute_a_malicious_zip(with_pickled_data, bomb, capsys):
    assert experts_main(["show", "--env", "Hopper-v4", "--episodes", "1", str(with_pickled_data)]) == 0
    assert not bomb.marker.exists()
    assert "8 x 8" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["import", "show"])
def test_the_commands_refuse_malicious_weights_in_one_line(with_pickled_weights, bomb, command, tmp_path, capsys):
    out = tmp_path / "clean.zip"
    words = [command, str(with_pickled_weights), "--env", "Hopper-v4", *(["--out", str(out)] * (command == "import"))]
    assert experts_main(words) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and said.err.count("\n") == 1 and not said.out
    assert not bomb.marker.exists() and not out.exists()


# ----------------------------------------------------------------------------------------------- policies of the RL zoo


needs_foreign = pytest.mark.skipif(not FOREIGN.is_dir(), reason="the foreign policies are not here")


@needs_foreign
@pytest.mark.parametrize(
    ("name", "env"), [("Hopper-v3.tqc.zip", "Hopper-v4"), ("HalfCheetah-v3.sac.zip", "HalfCheetah-v4")]
)
def test_a_policy_of_the_zoo_is_read_and_opens_in_sb3_once_imported(name, env, tmp_path):
    spec, theirs = spec_of(env), shutil.copy(FOREIGN / name, tmp_path)
    expert = read_zip(theirs, spec)
    write_zip(tmp_path / "ours.zip", expert, spec)
    same_actions(SAC.load(tmp_path / "ours.zip"), expert, spec)


@needs_foreign
def test_the_zoos_hopper_hops():
    spec = spec_of("Hopper-v4")
    expert = read_zip(FOREIGN / "Hopper-v3.tqc.zip", spec)
    (episode,) = rollout(spec, lambda obs: expert.act(torch.as_tensor(obs)).numpy(), [20_000])
    assert episode.reward.sum() > 2000
