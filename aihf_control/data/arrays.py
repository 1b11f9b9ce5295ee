"""Arrays from foreign files (npz, hdf5): size, count and type are checked from the headers before any allocation."""

from __future__ import annotations

import io
import math
import stat
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from aihf_control.core.errors import BadInput
from aihf_control.core.files import read_json

Array = np.ndarray
MAX_BYTES = 4 * 2**30  # of all arrays of a file, unpacked
MAX_TEXT = 256 * 2**20  # of a JSON or csv file
MAX_MEMBERS = 10_000
FREE_BYTES, MAX_RATIO = 64 * 2**20, 100  # above so many bytes, a file may unpack to at most so many times its size
KINDS = "fiubU"  # numbers, flags and text; all other dtypes are refused, objects among them


def check_regular(path: Path, limit: int = MAX_BYTES) -> None:
    """Raise BadInput if the path is no regular file (a pipe would block) or is larger than `limit` bytes."""
    try:
        info = path.stat()
    except (OSError, ValueError) as e:
        raise BadInput(f"cannot read {path}: {getattr(e, 'strerror', None) or e}") from e
    if not stat.S_ISREG(info.st_mode):
        kind = "a folder" if stat.S_ISDIR(info.st_mode) else "a pipe, socket or device"
        raise BadInput(f"cannot read {path}: it is {kind}; give a regular file")
    if info.st_size > limit:
        raise BadInput(f"{path} has {info.st_size:,} bytes, at most {limit:,} are read; give it in parts")


def read_json_table(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises BadInput if the file is large, deeply nested, or no JSON object."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise BadInput(f"{path} is no JSON object")
    return value


# ---------------------------------------------------------------------------------------------------------------- npz


def read_npz(path: Path, raw: bytes | None = None, names: Collection[str] | None = None) -> dict[str, Array]:
    """Read the arrays of an npz (those with these `names`, if given) from `path`, or from its bytes `raw`.

    Raises BadInput if a member is encrypted, compressed by another method than deflate, of an unsupported dtype, or
    of another size than its header states, and if the file unpacks to more than `MAX_BYTES`.
    """
    if raw is None:
        check_regular(path)
    try:
        with zipfile.ZipFile(path if raw is None else io.BytesIO(raw)) as archive:
            members = archive.infolist()
            if len(members) > MAX_MEMBERS:
                raise BadInput(f"{path} has {len(members):,} members, at most {MAX_MEMBERS:,} are read")
            wanted = {
                member.filename.removesuffix(".npy"): member
                for member in members
                if names is None or member.filename.removesuffix(".npy") in names
            }
            check_size(path, sum(m.file_size for m in wanted.values()), sum(m.compress_size for m in wanted.values()))
            return {name: _read_member(path, archive, member) for name, member in wanted.items()}
    except (
        ValueError,
        TypeError,
        EOFError,
        OSError,
        zipfile.BadZipFile,
        zlib.error,
        RuntimeError,
        MemoryError,
        struct.error,
        SyntaxError,  # of a header that is no Python literal
        tokenize.TokenError,
    ) as e:
        raise BadInput(f"cannot read {path} as an npz: {' '.join(str(e).split()) or type(e).__name__}") from e


def check_size(path: Path, unpacked: int, packed: int) -> None:
    """Raise BadInput if a file unpacks to more than `MAX_BYTES`, or to more than `MAX_RATIO` times its size."""
    if unpacked > MAX_BYTES:
        raise BadInput(f"{path} unpacks to {unpacked:,} bytes, at most {MAX_BYTES:,} are read; give it in parts")
    if unpacked > FREE_BYTES and unpacked > MAX_RATIO * max(packed, 1):
        raise BadInput(
            f"{path} unpacks from {packed:,} to {unpacked:,} bytes, more than {MAX_RATIO} times; "
            "write it uncompressed (numpy.savez)"
        )


def _read_member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    where = f"{path}, {member.filename!r}"
    if member.flag_bits & 1:
        raise BadInput(f"{where} is encrypted; write it without a password")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BadInput(f"{where} is compressed by method {member.compress_type}; write it with numpy.savez_compressed")
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
        else:
            raise BadInput(f"{where} has npy version {version}, 1.0 and 2.0 are read")
        check_type(where, shape, dtype)
        size = math.prod(shape) * dtype.itemsize
        if size != member.file_size - file.tell():
            raise BadInput(f"{where} states {shape} of {dtype}, {size:,} bytes, but has {member.file_size:,}")
        data = file.read()
    if len(data) != size:
        raise BadInput(f"{where} states {size:,} bytes, but has {len(data):,}")
    array = np.frombuffer(bytearray(data), dtype).reshape(shape[::-1] if fortran else shape)
    return array.T if fortran else array


def check_type(where: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Raise BadInput for objects and other unsupported dtypes, and for rows without columns."""
    if dtype.kind not in KINDS:
        what = "Python objects" if dtype.hasobject else f"dtype {dtype}"
        raise BadInput(f"{where} holds {what}; numbers, booleans and text are read (objects are never unpickled)")
    if 0 in shape[1:] or min(shape, default=0) < 0:
        raise BadInput(f"{where} has the shape {shape}, rows without columns")


# --------------------------------------------------------------------------------------------------------------- hdf5


def read_hdf5(path: Path, names: Collection[str]) -> dict[str, Array]:
    """Read the datasets with these names from the root of an hdf5 file, such as D4RL's.

    Raises BadInput without h5py, for links and data in other files, and beyond the limits of `read_npz`.
    """
    try:
        import h5py
    except ImportError as e:
        raise BadInput(f"{e}; hdf5 files need: pip install 'aihf_control[hdf5]'") from e
    check_regular(path)
    try:
        with h5py.File(path, "r") as file:
            wanted = {name: _check_node(path, h5py, file, name) for name in sorted(names) if name in file}
            unpacked = sum(math.prod(d.shape) * d.dtype.itemsize for d in wanted.values())
            check_size(path, unpacked, sum(d.id.get_storage_size() for d in wanted.values()))
            return {name: np.asarray(node[()]) for name, node in wanted.items()}
    except (OSError, ValueError, TypeError, RuntimeError, KeyError, MemoryError) as e:
        raise BadInput(f"cannot read {path} as hdf5: {' '.join(str(e).split())[:200] or type(e).__name__}") from e


def check_hdf5(path: Path) -> None:
    """Check all groups of an hdf5 file before another library reads it.

    Raises BadInput if it has links, data in other files, cycles, or more data than `read_npz` would read.
    """
    import h5py

    check_regular(path)
    try:
        with h5py.File(path, "r") as file:
            nodes = list(_walk(path, h5py, file))
            check_size(path, sum(math.prod(d.shape) * d.dtype.itemsize for d in nodes), path.stat().st_size)
    except (OSError, ValueError, TypeError, RuntimeError, KeyError) as e:
        raise BadInput(f"cannot read {path} as hdf5: {' '.join(str(e).split())[:200] or type(e).__name__}") from e


def _walk(path: Path, h5py: Any, file: Any) -> Iterator[Any]:
    """Yield all datasets. Raises BadInput for a link, and for a group that can be reached in two ways."""
    groups, seen = [file], {h5py.h5o.get_info(file.id).addr}
    while groups:
        group = groups.pop()
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise BadInput(f"{path}, {group.name}: {name!r} is a link; only plain groups and datasets are read")
            node = group[name]
            address = h5py.h5o.get_info(node.id).addr
            if isinstance(node, h5py.Dataset):
                yield _check_storage(f"{path}, {node.name}", node)
            elif address in seen:
                raise BadInput(f"{path}, {group.name}: {name!r} is a link to another group")
            else:
                groups.append(node)
            seen.add(address)


def _check_storage(where: str, node: Any) -> Any:
    if node.is_virtual or node.external or node.shape is None:
        raise BadInput(f"{where} is empty or stored in another file; only plain datasets are read")
    return node


def _check_node(path: Path, h5py: Any, file: Any, name: str) -> Any:
    where = f"{path}, {name!r}"
    if not isinstance(file.get(name, getlink=True), h5py.HardLink) or not isinstance(file[name], h5py.Dataset):
        raise BadInput(f"{where} is a link or a group; only plain datasets are read")
    node = _check_storage(where, file[name])
    check_type(where, node.shape, node.dtype)
    return node
