"""Files: atomic writes, locks, hashes, and bounded reading of JSON and TOML."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import math
import os
import re
import stat
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from aihf_control.core.errors import BadInput

JSON_BYTES = 16 * 2**20  # parsed, these take at most 25 times as much memory
MAX_DEPTH = 50  # of brackets inside each other
MAX_DIGITS = 100  # of a number; Python itself refuses integers beyond 4300
OPENING = np.frombuffer(b"[{", np.uint8)
# Each pattern of a string matches to the end of the text or line if the string does not end, so scans are linear.
_JSON_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_TOML_STRING = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*+(?:"""|\Z)|'
    r"'''(?:[^']|'(?!''))*+(?:'''|\Z)|"
    r'"(?:[^"\\\n]|\\.)*+"?|'
    r"'[^'\n]*+'?|#[^\n]*+",
    re.DOTALL,
)
_LONG_NUMBER = re.compile(rf"[0-9][0-9a-fA-F_xob]{{{MAX_DIGITS}}}")
_DOTTED_KEY = re.compile(rf"(?<![\w-])(?:[\w-]++[ \t]*+\.[ \t]*+){{{MAX_DEPTH}}}")


def cache_folder() -> Path:
    """Return the user's folder for what can be made again, which may not exist yet.

    Raises OSError if XDG_CACHE_HOME is relative, RuntimeError without a home folder.
    """
    given = os.environ.get("XDG_CACHE_HOME")
    if given and not os.path.isabs(given):
        raise OSError(f"XDG_CACHE_HOME must be an absolute path, got {given}")
    return (Path(given) if given else Path.home() / ".cache") / "aihf_control"


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically: to a temporary file in the same folder, which then replaces it.

    Raises BadInput if it cannot be written, or if there is a device, a pipe or a socket, which would be replaced.
    """
    if os.path.exists(path) and not path.is_file() and not path.is_dir():
        raise BadInput(f"cannot write {path}: it is not a regular file; choose another path")
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
    """Return the error for a failed write."""
    if e.errno in (errno.ENOSPC, errno.EDQUOT):
        return BadInput(f"cannot write {path}: {e.strerror}; free some space: what was written before is intact")
    return BadInput(f"cannot write {path}: {e.strerror}; choose another folder with --out")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Convert an OSError inside the block to BadInput."""
    try:
        yield
    except OSError as e:
        raise cannot_write(path, e) from e


def lock(path: Path, taken: str) -> IO[bytes]:
    """Lock a file, which is created if needed, until the returned file is closed or this process ends.

    Raises BadInput with the message `taken` if another process has locked it.
    """
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
    """Flush a folder's entries to disk, so that a rename survives a power failure."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def check_writable(folder: Path) -> None:
    """Check that `folder` can be written, without creating it. Raises BadInput if it cannot."""
    try:
        there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as e:
        raise BadInput(f"cannot write to {folder}: {e.strerror}; choose another folder with --out") from e


def remove_temporary_files(folder: Path) -> None:
    """Remove what `write_bytes` has left below a folder in processes that were killed."""
    for path in folder.rglob(".*.tmp"):
        if re.fullmatch(r"\..+\.\w+\.tmp", path.name):
            path.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, with null for numbers that are not finite."""
    write_bytes(path, (json.dumps(replace_nonfinite(value), indent=2, default=str, allow_nan=False) + "\n").encode())


def replace_nonfinite(value: Any) -> Any:
    """Return a tree with None in place of numbers that are not finite, which JSON cannot represent."""
    if isinstance(value, dict):
        return {name: replace_nonfinite(x) for name, x in value.items()}
    if isinstance(value, list | tuple):
        return [replace_nonfinite(x) for x in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write a compressed npz file, without pickles."""
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)  # pyright: ignore[reportArgumentType]  # mistakes the names for its flags
    write_bytes(path, out.getvalue())


def sha256(data: bytes) -> str:
    """Return the SHA-256 digest in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def read_bytes(path: Path, limit: int | None = None) -> bytes:
    """Read a regular file of at most `limit` bytes.

    Raises BadInput if it cannot be read, is larger, or is no regular file (a pipe or a device may never end).
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # opening a pipe would block
        info = os.fstat(file)
        if not stat.S_ISREG(info.st_mode):
            os.close(file)
            kind = "Is a directory," if stat.S_ISDIR(info.st_mode) else "it is"
            raise BadInput(f"cannot read {path}: {kind} not a regular file")
        with os.fdopen(file, "rb") as f:
            if limit is not None and info.st_size > limit:
                raise BadInput(f"cannot read {path}: it is larger than {limit / 2**20:g} MiB")
            # A read of n bytes allocates n first: ask for no more than the file has, and one to see that it grew.
            data = f.read() if limit is None else f.read(min(limit, info.st_size) + 1)
    except (OSError, ValueError) as e:  # ValueError: a path with a NUL character
        raise BadInput(f"cannot read {path}: {getattr(e, 'strerror', None) or e}") from e
    if limit is not None and len(data) > limit:
        raise BadInput(f"cannot read {path}: it is larger than {limit / 2**20:g} MiB")
    return data


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises BadInput if it cannot be read, is not valid, or exceeds a limit of `parse_json`."""
    return parse_json(read_bytes(path, JSON_BYTES), str(path))


def parse_json(data: bytes, name: str) -> Any:
    """Parse JSON in UTF-8. Raises BadInput if it is not valid, nests too deep, or has a number of too many digits."""
    return _parse(json.loads, _JSON_STRING, data, name, "JSON")


def parse_toml(data: bytes, name: str) -> dict[str, Any]:
    """Parse TOML, as `parse_json` does JSON. Raises BadInput."""
    return _parse(tomllib.loads, _TOML_STRING, data, name, "TOML")


def _parse(loads: Callable[[str], Any], string: re.Pattern[str], data: bytes, name: str, kind: str) -> Any:
    try:
        if len(data) > JSON_BYTES:
            raise ValueError(f"it is larger than {JSON_BYTES / 2**20:g} MiB")
        text = data.decode()
        bare = string.sub("s", text)  # no string, no comment
        brackets = np.frombuffer(re.sub(r"[^][{}]", "", bare).encode(), np.uint8)
        depth = np.cumsum(np.where(np.isin(brackets, OPENING), 1, -1), dtype=np.int32).max(initial=0)
        if depth > MAX_DEPTH or _DOTTED_KEY.search(bare):
            raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
        if _LONG_NUMBER.search(bare):
            raise ValueError(f"a number in it has more than {MAX_DIGITS} digits")
        return loads(text)
    except ValueError as e:
        raise BadInput(f"{name} is not valid {kind}: {e}") from e
