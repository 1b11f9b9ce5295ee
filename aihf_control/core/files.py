"""The one place that touches the disk's formats: atomic writing, hashing, safetensors, and the error of bad input."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from aihf_control.core.errors import BadInput


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all: to a temporary beside it, then renamed over it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, tmp = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(fd, "wb") as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
            os.chmod(tmp, 0o644)
            os.replace(tmp, path)
            _sync(path.parent)
        except BaseException:
            Path(tmp).unlink(missing_ok=True)
            raise
    except OSError as e:
        raise cannot_write(path, e) from e


def cannot_write(path: Path, e: OSError) -> BadInput:
    """What to say of a path that the disk does not take."""
    if e.errno in (errno.ENOSPC, errno.EDQUOT):
        return BadInput(f"cannot write {path}: {e.strerror}; make room, and nothing that was written before is lost")
    return BadInput(f"cannot write {path}: {e.strerror}; choose another folder with --out")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Makes BadInput of what the disk has against it."""
    try:
        yield
    except OSError as e:
        raise cannot_write(path, e) from e


def lock(path: Path, taken: str) -> IO[bytes]:
    """Takes hold of a file, made if it is not there, for as long as what is returned stays open. Raises BadInput with
    what `taken` says where another process has it."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
        file.close()
        raise BadInput(taken) from e
    return file


def _sync(folder: Path) -> None:
    """Makes a renaming in a folder outlast a power cut."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def check_writable(folder: Path) -> None:
    """Raises BadInput where `folder` could not be written, and leaves nothing behind, not even the folder."""
    try:
        there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as e:
        raise BadInput(f"cannot write to {folder}: {e.strerror}; choose another folder with --out") from e


def write_json(path: Path, value: Any) -> None:
    write_bytes(path, (json.dumps(replace_nonfinite(value), indent=2, default=str, allow_nan=False) + "\n").encode())


def replace_nonfinite(value: Any) -> Any:
    """The same with None for numbers that are not finite, for which JSON has no word."""
    if isinstance(value, dict):
        return {name: replace_nonfinite(x) for name, x in value.items()}
    if isinstance(value, list | tuple):
        return [replace_nonfinite(x) for x in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """A compressed npz, without pickles."""
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)  # pyright: ignore[reportArgumentType]  # mistakes the names for its flags
    write_bytes(path, out.getvalue())


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise BadInput(f"cannot read {path}: {e.strerror}") from e


def read_json(path: Path) -> Any:
    try:
        return json.loads(read_bytes(path))
    except ValueError as e:
        raise BadInput(f"{path} is not valid JSON: {e}") from e
