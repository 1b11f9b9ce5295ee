"""Export of a policy as ONNX and TorchScript: observations to greedy actions, both in the environment's units."""

from __future__ import annotations

import importlib
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aihf_control.core.errors import BadInput
from aihf_control.core.files import write_bytes
from aihf_control.environments.gym import EnvSpec
from aihf_control.models.expert import Expert

OPSET, IR_VERSION = 17, 8  # of ONNX: old ones, which every runtime reads


class GreedyPolicy(nn.Module):
    """A policy as one network; its observations' units are folded into the first layer."""

    low: Tensor
    span: Tensor

    def __init__(self, expert: Expert, spec: EnvSpec):
        super().__init__()
        parts: list[nn.Module] = []
        for weight, bias in expert.layers:
            layer = nn.Linear(weight.shape[1], weight.shape[0])
            layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
            parts += [layer, nn.ReLU()]
        self.net = nn.Sequential(*parts[:-1], nn.Tanh())
        self.register_buffer("low", torch.as_tensor(spec.low, dtype=torch.float32))
        self.register_buffer("span", torch.as_tensor((spec.high - spec.low) / 2, dtype=torch.float32))
        self.requires_grad_(False)

    def forward(self, obs: Tensor) -> Tensor:
        """Return actions (n, A) for observations (n, O)."""
        return self.low + (self.net(obs) + 1) * self.span


def write_torchscript(path: str | Path, expert: Expert, spec: EnvSpec) -> None:
    """Write a file that `torch.jit.load` opens."""
    data = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch 2.13 prefers torch.export, which TorchScript is not
        torch.jit.save(torch.jit.trace(GreedyPolicy(expert, spec), torch.zeros(2, spec.n_obs)), data)
    write_bytes(Path(path), data.getvalue())


def write_onnx(path: str | Path, expert: Expert, spec: EnvSpec) -> None:
    """Write an ONNX model with the input `obs` and the output `act`. Raises BadInput if onnx is not installed."""
    try:
        onnx: Any = importlib.import_module("onnx")
    except ImportError as e:
        raise BadInput(f"{path} needs onnx; install it with pip install 'aihf_control[onnx]'") from e
    model = _model(onnx.helper, onnx.numpy_helper, onnx.TensorProto.FLOAT, expert, spec)
    onnx.checker.check_model(model)
    write_bytes(Path(path), model.SerializeToString())


def _model(helper: Any, numpy_helper: Any, number: int, expert: Expert, spec: EnvSpec) -> Any:
    """Return the graph of `GreedyPolicy`."""
    nodes, constants, last = [], [], "obs"

    def constant(name: str, value: Any) -> str:
        constants.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def add(kind: str, inputs: list[str], output: str, **options: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], **options))
        return output

    for i, (weight, bias) in enumerate(expert.layers):
        layer = [last, constant(f"weight{i}", weight.numpy()), constant(f"bias{i}", bias.numpy())]
        last = add("Gemm", layer, f"layer{i}", transB=1)
        last = add("Relu" if i < len(expert.layers) - 1 else "Tanh", [last], f"out{i}")
    last = add("Add", [last, constant("one", 1.0)], "above_low")
    last = add("Mul", [last, constant("span", (spec.high - spec.low) / 2)], "scaled")
    add("Add", [last, constant("low", spec.low)], "act")
    ends = [
        [helper.make_tensor_value_info(name, number, ["n", size])]
        for name, size in (("obs", spec.n_obs), ("act", spec.n_act))
    ]
    graph = helper.make_graph(nodes, spec.id, *ends, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
