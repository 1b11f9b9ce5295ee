"""Policies in and out: Stable-Baselines3's zips mean the same on both sides, and nothing in them is executed."""

import base64
import io
import json
import pickle
import shutil
import zipfile
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import DDPG, PPO, SAC, TD3

from aihf_control.core.errors import BadInput
from aihf_control.environments.gym import spec_of
from aihf_control.environments.rollout import rollout
from aihf_control.experts.__main__ import main as experts_main
from aihf_control.models import sb3 as experts
from aihf_control.models.lanes import Dims
from aihf_control.models.networks import Policy
from aihf_control.models.sb3 import expert_of, read_zip, write_zip

pytestmark = pytest.mark.filterwarnings("ignore:.*is out of date")  # SB3 and gym.make say it of v4
ENVS = ("Pendulum-v1", "Hopper-v4")
FOREIGN = Path(__file__).parents[3] / "shared" / "experts"


def model_of(kind, env: str, **settings):
    """A small fresh model whose last layer, before any squashing, gives a mean of 0 and a deviation of 1.5."""
    more = {"n_steps": 8, "batch_size": 8} if kind is PPO else {"buffer_size": 8}
    model = kind("MlpPolicy", env, device="cpu", seed=1, policy_kwargs={"net_arch": [8, 8]} | settings, **more)
    last = (
        model.policy.action_net if kind is PPO else model.policy.actor.mu if kind is SAC else model.policy.actor.mu[-2]
    )
    said: list[torch.Tensor] = []
    hook = last.register_forward_hook(lambda layer, x, y: said.append(y))
    model.predict(observations(spec_of(env)), deterministic=True)
    hook.remove()
    scale, mean = 1.5 / said[0].std(0), said[0].mean(0)
    with torch.no_grad():
        last.weight.mul_(scale[:, None])
        last.bias.copy_((last.bias - mean) * scale)
    return model


def observations(spec, n: int = 50) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, spec.n_obs)).astype(np.float32)


def same_actions(model, expert, spec) -> None:
    obs = observations(spec)
    theirs, _ = model.predict(obs, deterministic=True)
    ours = spec.to_env(expert.act(torch.as_tensor(obs)).numpy())
    assert np.std(theirs) > 0.1
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


# ---------------------------------------------------------------------------------------------------------- round trip


@pytest.mark.parametrize("env", ENVS)
@pytest.mark.parametrize("kind", [SAC, TD3, DDPG, PPO])
def test_a_policy_of_sb3_acts_the_same_here_and_back_there(kind, env, tmp_path):
    spec, model = spec_of(env), model_of(kind, env)
    model.save(tmp_path / "theirs.zip")
    expert = read_zip(tmp_path / "theirs.zip", spec)
    same_actions(model, expert, spec)
    write_zip(tmp_path / "ours.zip", expert, spec)
    same_actions((PPO if kind is PPO else SAC).load(tmp_path / "ours.zip"), expert, spec)
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
    """A policy with observation units and a deviation, as training leaves one."""
    g = torch.Generator().manual_seed(3)
    policy = Policy(Dims(tuple(range(lanes)), spec.n_obs, spec.n_act), (8, 8))
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(0.6 * torch.randn(p.shape, generator=g))
    shape = (lanes, spec.n_obs)
    policy.units.set(0.5 * torch.randn(shape, generator=g), 0.5 + torch.rand(shape, generator=g))
    return policy


@pytest.mark.parametrize("env", ENVS)
def test_a_lane_leaves_as_the_policy_it_was_units_and_deviation_and_all(env, tmp_path):
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
    """Stable-Baselines3 compares the spaces, bounds and types of numbers included."""
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


def test_what_is_no_zip_is_refused(tmp_path):
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
    with pytest.raises(BadInput, match="holds no policy"):
        read_zip(tmp_path / "discrete.zip")


def test_a_zip_bomb_is_refused_before_it_is_unpacked(good, monkeypatch):
    bomb = changed(good, pytorch_variables=bytes(2**20))
    assert bomb.stat().st_size < 2**18
    read_zip(bomb)
    monkeypatch.setattr(experts, "MAX_BYTES", 2**19)
    refused(bomb, "unpacks to more than")


def test_a_bomb_inside_the_weights_is_refused(good, monkeypatch):
    stored = zipfile.ZipFile(io.BytesIO(saved({"big": torch.zeros(2**18)})))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as z:
        for name in stored.namelist():
            z.writestr(name, stored.read(name))
    monkeypatch.setattr(experts, "MAX_BYTES", 2**19)
    refused(changed(good, policy=packed.getvalue()), "unpacks to more than")


def test_a_tensor_larger_than_its_storage_is_refused(good):
    weights = weights_of(good) | {"big": torch.zeros(1).expand(2**40)}
    refused(changed(good, policy=saved(weights)), "more than")


# ---------------------------------------------------------------------------------------------------- nothing executed


class Bomb:
    """Unpickled, it writes a file."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.write_text, (self.marker, "executed")


@pytest.fixture
def bomb(tmp_path) -> Bomb:
    """A bomb that would go off."""
    bomb = Bomb(tmp_path / "marker")
    pickle.loads(pickle.dumps(bomb))
    bomb.marker.unlink()
    return bomb


@pytest.fixture
def with_pickled_data(good, bomb) -> Path:
    """A good policy among whose data, where SB3 keeps its pickles, lies a bomb."""
    with zipfile.ZipFile(good) as z:
        data = json.loads(z.read("data"))
    code = base64.b64encode(pickle.dumps(bomb)).decode()
    for name in ("policy_class", "policy_kwargs", "observation_space", "action_space", "lr_schedule"):
        data[name] = {":type:": "<class 'dict'>", ":serialized:": code}
    return changed(good, data=json.dumps(data).encode())


@pytest.fixture
def with_pickled_weights(good, bomb) -> Path:
    """A zip whose policy.pth executes what it likes when it is unpickled."""
    return changed(good, policy=saved({"actor.mu.weight": bomb}))


def test_the_bomb_goes_off_where_pickles_are_loaded(with_pickled_data, bomb):
    """That the tests below can fail: Stable-Baselines3 itself executes it."""
    with pytest.raises(Exception):  # noqa: B017  # whatever the wreckage raises
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
    assert experts_main(words) == 0
    spec = spec_of("Hopper-v4")
    same_actions(SAC.load(tmp_path / "clean.zip"), read_zip(with_pickled_data), spec)
    assert not bomb.marker.exists()
    assert "over greedy episodes" in capsys.readouterr().out


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


# ------------------------------------------------------------------------------------------------------- of the world


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
