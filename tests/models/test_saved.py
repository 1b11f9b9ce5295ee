"""Saved policies and rewards: what is saved is loaded, and every wrong field of a file is refused in one line."""

import dataclasses
import json
import math
import os

import numpy as np
import pytest
import safetensors.torch
import torch

from aihf_control.core.errors import BadInput
from aihf_control.environments.gym import EnvSpec
from aihf_control.models.lanes import Dims
from aihf_control.models.networks import Policy, RewardNet
from aihf_control.models.reward_state import of_network, rebuild
from aihf_control.models.saved import TrainedPolicy, TrainedReward, load_policy, load_reward

SPEC = EnvSpec("Pendulum-v1", {}, 3, 1, np.array([-2.0]), np.array([2.0]), 200)
DIMS = Dims((4, 7), 3, 1)
READERS = {"policy": load_policy, "reward": load_reward}
OBS, ACT = np.random.default_rng(0).normal(size=(5, 3)), np.zeros((5, 1))


@pytest.fixture(params=READERS)
def written(request, tmp_path):
    """Kind of a file, the file, its tensors and its description."""
    path = tmp_path / "x.safetensors"
    if request.param == "policy":
        TrainedPolicy(SPEC, DIMS.seeds, Policy(DIMS, (8, 4))).save(path)
    else:
        TrainedReward(SPEC, DIMS.seeds, of_network(RewardNet(DIMS, (8, 4), alive=0.1, bound=1.5))).save(path)
    with safetensors.safe_open(path, "pt") as f:
        about = json.loads(f.metadata()["about"])
    return request.param, path, safetensors.torch.load_file(path), about


def refused(written, tensors=None, about=None, *words: str) -> None:
    kind, path, own_tensors, own_about = written
    text = about if isinstance(about, str) else json.dumps(own_about if about is None else about)
    path.write_bytes(safetensors.torch.save(own_tensors if tensors is None else tensors, {"about": text}))
    with pytest.raises(BadInput) as error:
        READERS[kind](path)
    message = str(error.value)
    assert "\n" not in message and str(path) in message and all(word in message for word in words), message


def test_what_is_saved_is_loaded(tmp_path):
    policy, reward = Policy(DIMS, (8, 4)), RewardNet(DIMS, (8, 4), alive=0.1, bound=1.5, span=0.01)
    TrainedPolicy(SPEC, DIMS.seeds, policy).save(tmp_path / "TrainedPolicy")
    TrainedReward(SPEC, DIMS.seeds, of_network(reward)).save(tmp_path / "TrainedReward")
    loaded, loaded_reward = load_policy(tmp_path / "TrainedPolicy"), load_reward(tmp_path / "TrainedReward")
    assert loaded.seeds == loaded_reward.seeds == (4, 7) and loaded_reward.net.bound == 1.5 and loaded.spec.high == 2
    for lane in range(2):
        acts = [TrainedPolicy(SPEC, DIMS.seeds, policy).predict(OBS, lane=lane)[0], loaded.predict(OBS, lane=lane)[0]]
        with torch.no_grad():
            rewards = [
                TrainedReward(SPEC, DIMS.seeds, of_network(reward))(OBS, ACT, lane),
                loaded_reward(OBS, ACT, lane),
            ]
        assert np.array_equal(*acts) and np.array_equal(*rewards)
        assert np.abs(rewards[0] - 0.1).max() <= 0.01 + 1e-6  # the span is part of the file


@pytest.mark.parametrize("span", [-1, None, True, "x", math.inf])
def test_a_wrong_span_of_a_reward_is_refused(tmp_path, span):
    net = RewardNet(DIMS, (8, 4), alive=0.1, bound=1.5)
    state = dataclasses.replace(of_network(net), settings={"bound": 1.5, "span": span})
    with pytest.raises(BadInput, match="span must be a number of at least 0"):
        rebuild(state, DIMS)


def test_a_reward_without_a_span_is_unbounded():
    state = of_network(RewardNet(DIMS, (8, 4), alive=0.1, bound=1.5))
    assert rebuild(dataclasses.replace(state, settings={"bound": 1.5}), DIMS).span == 0


@pytest.mark.parametrize("value", [None, True, -1, 0, 10**9, 1.5, "x", [], [1], [[1]], {}, {"a": 1}])
@pytest.mark.parametrize(
    "field", ["kind", "seeds", "spec", "spec.id", "spec.n_obs", "spec.n_act", "spec.low", "spec.high", "spec.horizon"]
)
def test_every_wrong_field_of_the_description_is_refused(written, field, value):
    about = json.loads(json.dumps(written[3]))
    first, _, second = field.partition(".")
    if (field, value) in (("spec.id", "x"), ("spec.horizon", 10**9), ("spec.low", [1]), ("spec.high", [1])):
        pytest.skip("this is right")
    if second:
        about[first][second] = value
    else:
        about[first] = value
    refused(written, None, about)


@pytest.mark.parametrize("field", ["kind", "seeds", "spec", "more", "spec.id", "spec.low", "spec.more"])
def test_a_missing_or_unknown_field_is_named(written, field):
    about = json.loads(json.dumps(written[3]))
    table, name = (about["spec"], field[5:]) if field.startswith("spec.") else (about, field)
    if name in table:
        del table[name]
    else:
        table[name] = 1.0
    refused(written, None, about, name)


@pytest.mark.parametrize("bound", [0, -1.0, "nan", "x", None, [1]])
def test_a_wrong_bound_is_refused(written, bound):
    if written[0] == "reward":
        refused(written, None, written[3] | {"settings": {"bound": bound}}, "bound")
        if bound is not None:  # as files of earlier versions have it
            refused(written, None, written[3] | {"bound": bound}, "bound")


def test_a_reward_of_an_earlier_version_is_read(written):
    kind, path, tensors, about = written
    if kind == "reward":
        old = {name: about[name] for name in ("kind", "spec", "seeds")} | {"bound": 1.5}
        path.write_bytes(safetensors.torch.save(tensors, {"about": json.dumps(old)}))
        assert load_reward(path).net.bound == 1.5


@pytest.mark.parametrize("about", ["", "null", "3", "[]", "[" * 100_000, '{"seeds": ' + "7" * 5000 + "}", "{"])
def test_a_description_that_is_no_table_is_refused(written, about):
    refused(written, None, about, "cannot read")


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(()), torch.zeros(3), torch.zeros(2, 3, 0), torch.zeros(2, 4, 8), torch.zeros(1, 3, 8)],
    ids=lambda t: str(tuple(t.shape)),
)
def test_a_tensor_of_another_shape_is_refused(written, tensor):
    for name in written[2]:
        if written[2][name].shape != tensor.shape and not (written[0] == "reward" and name == "body.layers.0.weight"):
            refused(written, written[2] | {name: tensor}, None)


def test_a_missing_or_further_tensor_is_refused(written):
    for name in written[2]:
        refused(written, {k: v for k, v in written[2].items() if k != name}, None)
    refused(written, written[2] | {"more": torch.zeros(1)}, None, "more")
    refused(written, {}, None)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.float8_e4m3fn, torch.int64, torch.bool])
def test_a_tensor_of_another_type_is_refused(written, dtype):
    name = "body.layers.0.bias"
    refused(written, written[2] | {name: written[2][name].to(dtype)}, None, name, str(dtype))


HEADERS = [
    "[]",
    "3",
    "null",
    '{"a": 3}',
    '{"a": {"dtype": "F32"}}',
    '{"__metadata__": 3}',
    '{"__metadata__": {"a": 1}}',
]
HEADERS += ['{"a": {"dtype": "F32", "shape": [1000000000000], "data_offsets": [0, 4]}}', "[" * 100_000, "7" * 5000]
HEADERS += ['{"a": {"dtype": "X", "shape": [1], "data_offsets": [0, 4]}}', '{"a": {"dtype": 3, "shape": "x"}}', "{}"]


@pytest.mark.parametrize("header", HEADERS, ids=lambda x: x[:30])
def test_a_wrong_header_is_refused(written, header):
    kind, path = written[:2]
    for data in (header.encode(), header.encode() + bytes(4)):
        path.write_bytes(len(header).to_bytes(8, "little") + data)
        with pytest.raises(BadInput) as error:
            READERS[kind](path)
        assert "\n" not in str(error.value)
    path.write_bytes(b"\xff" * 8 + header.encode())
    with pytest.raises(BadInput):
        READERS[kind](path)


def test_a_pipe_is_refused(written, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadInput, match="not a regular file"):
        READERS[written[0]](tmp_path / "pipe")


def test_one_kind_is_not_read_as_the_other(written):
    kind, path = written[:2]
    other = {"policy": load_reward, "reward": load_policy}[kind]
    with pytest.raises(BadInput, match=r"kind|unknown key"):
        other(path)
