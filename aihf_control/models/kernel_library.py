"""Libraries compiled from `kernel.c`: instruction sets, the cache of compiled libraries, and which one is used.

The source is compiled at first use by the C compiler `cc`, and stored in the user's cache folder under the hash of
source and flags. If the processor has no instruction set for a type of products, or there is no compiler, torch is used
(`functional.py`): slower, with the same results up to rounding.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import torch

from aihf_control.core.files import cache_folder, read_bytes, sha256

SOURCES = tuple(Path(__file__).with_name(name) for name in ("kernel.c", "elementwise.c", "products.h", "vectors.h"))
ROWS, MOST, EPS = 32, 8, 1e-5  # rows per block; maximum number of layers; epsilon of layer normalisation
SWITCH = "AIHF_KERNEL"  # environment variable; 0 disables the kernel


@dataclasses.dataclass(frozen=True)
class InstructionSet:
    """A set of instructions that `kernel.c` can be compiled for."""

    name: str
    products: torch.dtype
    """Type that the factors of products are rounded to."""
    vector: int
    """32-bit numbers per vector."""
    needs: tuple[str, ...]
    """Names of the instructions for the compiler's -m flags."""

    def flags(self) -> tuple[str, ...]:
        """Return the compiler's flags."""
        given = {"VECTOR": self.vector, "BF16": int(self.products == torch.bfloat16), "TILES": int(self.name == "amx")}
        given |= {"ROWS": ROWS, "MOST": MOST, "EPS": f"{EPS}f"}
        plain = ("-std=gnu11", "-O3", "-fno-math-errno", "-Wno-psabi", "-shared", "-fPIC")
        return (*plain, *(f"-m{name}" for name in self.needs), *(f"-D{name}={value}" for name, value in given.items()))

    def is_supported(self) -> bool:
        """Return whether the processor supports it."""
        asked = f"_is_{'amx_tile' if self.name == 'amx' else self.name}_supported"
        return getattr(torch.cpu, asked, bool)()  # private to torch; False if torch has removed it


_AVX512 = ("fma", "avx512f", "avx512bw", "avx512dq", "avx512vl")
SETS = (  # fastest first
    InstructionSet("amx", torch.bfloat16, 16, (*_AVX512, "avx512bf16", "amx-tile", "amx-bf16")),
    InstructionSet("avx512_bf16", torch.bfloat16, 16, (*_AVX512, "avx512bf16")),
    InstructionSet("avx512", torch.float32, 16, _AVX512),
    InstructionSet("avx2", torch.float32, 8, ("fma", "avx2")),
)


def library(products: torch.dtype) -> ctypes.CDLL | None:
    """Return the compiled kernel for a type of products, or None."""
    return _load(products)[0]


def state(products: torch.dtype | str) -> str:
    """Return what computes perceptrons on this CPU: the name of an instruction set, or "torch: " and the reason."""
    return _load(getattr(torch, products) if isinstance(products, str) else products)[1]


@functools.cache
def _load(products: torch.dtype) -> tuple[ctypes.CDLL | None, str]:
    if os.environ.get(SWITCH) == "0":
        return None, f"torch: {SWITCH} is 0"
    why = f"the processor has no instructions for {str(products).removeprefix('torch.')}"
    for instructions in SETS:
        if instructions.products != products or not instructions.is_supported():
            continue
        try:
            kernel = opened(instructions)
        except (OSError, RuntimeError, subprocess.CalledProcessError) as e:  # RuntimeError: no home folder
            lines = (getattr(e, "stderr", None) or str(e)).strip().splitlines()
            return None, f"torch: kernel.c cannot be compiled or loaded: {lines[0] if lines else e}"
        if kernel.usable() == 0:
            return kernel, instructions.name
        why = f"the system does not permit the instructions {instructions.name}"
    return None, f"torch: {why}"


def opened(instructions: InstructionSet) -> ctypes.CDLL:
    """Load the library for an instruction set; compile it again if it is damaged. Raises what `_compiled` does."""
    path = _compiled(instructions)
    try:
        return ctypes.CDLL(str(path))
    except OSError:
        path.unlink()
        return ctypes.CDLL(str(_compiled(instructions)))


def _compiled(instructions: InstructionSet) -> Path:
    """Return the library's path; compile it if missing. Raises RuntimeError, OSError or CalledProcessError."""
    folder, flags = cache_folder(), instructions.flags()
    path = (
        folder
        / f"kernel-{instructions.name}-{sha256(b''.join(map(read_bytes, SOURCES)) + ' '.join(flags).encode())[:16]}.so"
    )
    if not path.exists():
        compiler = shutil.which("cc")
        if not compiler:
            raise OSError("there is no C compiler, cc")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_owner(folder)
        with tempfile.TemporaryDirectory(dir=folder) as aside:  # several processes may compile at once
            made = Path(aside) / path.name
            subprocess.run(
                [compiler, *flags, *map(str, SOURCES[:2]), "-o", str(made), "-lm"],
                check=True,
                capture_output=True,
                text=True,
                errors="replace",
            )
            made.chmod(0o700)
            made.replace(path)
    _check_owner(folder)
    _check_owner(path)
    return path


def _check_owner(path: Path) -> None:
    """Raise OSError if users other than this one and root can have written the file, which will be executed."""
    found = path.stat()
    if found.st_uid not in (0, getattr(os, "geteuid", int)()):
        raise OSError(f"{path} belongs to another user: remove it")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise OSError(f"{path} can be written by other users: remove it, or chmod go-w")
