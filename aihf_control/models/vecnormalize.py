"""Reader of VecNormalize files of Stable-Baselines3 that does not execute their pickles."""

from __future__ import annotations

import dataclasses
import io
import math
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np

from aihf_control.core.errors import BadInput
from aihf_control.core.files import read_bytes

Array = np.ndarray
MAX_BYTES = 4 * 2**20
PATH = "stable_baselines3.common.vec_env.vec_normalize.VecNormalize"


@dataclasses.dataclass(frozen=True)
class ObsStatistics:
    """Normalisation of observations: clip((obs - mean) / std, -clip, clip), each (O,) in float64."""

    mean: Array
    std: Array
    clip: float

    def beyond(self, obs: Array) -> Array:
        """Return which entries of observations (N, O) are clipped, (N, O)."""
        return np.abs((obs - self.mean) / self.std) > self.clip


def read_vecnormalize(path: Path) -> ObsStatistics | None:
    """Read the observation statistics of a file that `VecNormalize.save` wrote; None if it normalises rewards only.

    Objects of the pickle become records of their class names and states, of which nothing is executed. Raises BadInput
    for another file.
    """
    data = read_bytes(path, MAX_BYTES)
    try:
        return _statistics(_load_records(data))
    except Exception as e:  # pickle raises a dozen kinds on malformed input, and a record may lack any field
        raise BadInput(f"{path} is not a VecNormalize file of a Box space: {' '.join(str(e).split())[:200]}") from e


class _Record(dict):
    """An object of a pickle that is not created: its class's path, arguments and state."""

    path = ""
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any, **_: Any) -> Any:
        record: Any = super().__new__(cls)
        record.args, record.state = args, None
        return record

    def __init__(self, *_: Any, **__: Any):
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _RecordUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type[_Record]:
        return type("Record", (_Record,), {"path": f"{module}.{name}"})


def _load_records(data: bytes) -> Any:
    for opcode, arg, _ in pickletools.genops(data):
        if "PUT" in opcode.name and isinstance(arg, int) and arg > len(data):
            raise ValueError("its memo is larger than the file")  # the unpickler would allocate all of it
    return _RecordUnpickler(io.BytesIO(data)).load()


def _statistics(found: Any) -> ObsStatistics | None:
    if not isinstance(found, _Record) or found.path != PATH:
        raise ValueError(f"it stores {getattr(found, 'path', type(found).__name__)}")
    fields: dict[str, Any] = found.state
    if fields["norm_obs"] is False:
        return None
    mean, var = (_array(fields["obs_rms"].state[name]) for name in ("mean", "var"))
    epsilon, clip = _number(fields["epsilon"]), _number(fields["clip_obs"])
    std = np.sqrt(var + epsilon)
    if mean.ndim != 1 or mean.shape != std.shape or not (np.isfinite(mean) & np.isfinite(std) & (std > 0)).all():
        raise ValueError("its mean and variance are not finite vectors of one size")
    if not clip > 0:
        raise ValueError(f"it clips observations at {clip}")
    return ObsStatistics(mean, std, clip)


def _number(value: Any) -> float:
    """Decode a number, which may be a scalar of numpy."""
    if isinstance(value, _Record) and value.path.endswith(".multiarray.scalar"):
        value = float(_decode(value.args[1], value.args[0], ())[()])
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise ValueError(f"{value!r:.50} is not a number")
    return float(value)


def _array(value: Any) -> Array:
    """Decode an array from its record, in the form of protocol 5 or of an older one."""
    if value.path.endswith("._frombuffer"):
        data, dtype, shape, order = value.args
        return _decode(data, dtype, shape, order)
    if value.path.endswith(".multiarray._reconstruct"):
        _, shape, dtype, fortran, data = value.state
        return _decode(data, dtype, shape, "F" if fortran else "C")
    raise ValueError(f"{value.path} is not an array")


def _decode(data: Any, dtype: Any, shape: tuple[int, ...], order: Any = "C") -> Array:
    if isinstance(data, _Record) and data.path == "_codecs.encode":  # bytes in protocol 2
        data = data.args[0].encode("latin1")
    kind, byte_order = dtype.args[0], dtype.state[1]
    if dtype.path != "numpy.dtype" or kind not in ("f4", "f8") or byte_order not in ("<", ">"):
        raise ValueError(f"an array of it is of type {kind!r:.20}, not of floats")
    raw: Any = data
    return np.frombuffer(raw, byte_order + kind).reshape(shape, order=order).astype(np.float64)
