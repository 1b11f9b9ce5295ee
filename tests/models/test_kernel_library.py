"""Which library computes the products: compiled once, for the processor's best set, from a cache that is one's own."""

import os
import platform
import shutil
import stat
import subprocess

import pytest
import torch

from aihf_control.models import kernel_library
from aihf_control.models.functional import perceptron

needs_avx2 = pytest.mark.skipif(
    not torch.cpu._is_avx2_supported() or not shutil.which("cc"), reason="no AVX2 or no C compiler here"
)


@pytest.fixture
def anew(monkeypatch, tmp_path):
    """The kernel is looked for again, in an empty cache, on a processor that has AVX2."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(kernel_library.SWITCH, raising=False)
    monkeypatch.setattr(kernel_library, "SETS", [s for s in kernel_library.SETS if s.name == "avx2"])
    monkeypatch.setattr(torch.cpu, "_is_avx2_supported", lambda: True)
    kernel_library._load.cache_clear()
    yield monkeypatch
    kernel_library._load.cache_clear()


def compiler(folder, script: str) -> None:
    folder.mkdir()
    (folder / "cc").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "cc").chmod(stat.S_IRWXU)


def test_without_a_compiler_torch_multiplies_and_it_is_said(anew, tmp_path):
    anew.setenv("PATH", str(tmp_path))
    assert (
        kernel_library.state(torch.float32)
        == "torch: kernel.c cannot be compiled or loaded: there is no C compiler, cc"
    )
    layers = [(torch.ones(2, n_in, n_out), torch.ones(2, 1, n_out)) for n_in, n_out in ((4, 32), (32, 2))]
    assert perceptron(torch.ones(2, 8, 4), layers, torch.float32).shape == (2, 8, 2)


def test_a_compiler_that_fails_is_named_and_leaves_nothing(anew, tmp_path):
    compiler(tmp_path / "bin", "echo 'unknown option -mavx2' >&2; exit 1")
    anew.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    assert kernel_library.state(torch.float32) == "torch: kernel.c cannot be compiled or loaded: unknown option -mavx2"
    assert kernel_library.library(torch.float32) is None and not list((tmp_path / "cache" / "aihf_control").iterdir())


def test_a_cache_that_cannot_be_written_is_named(anew, tmp_path):
    compiler(tmp_path / "bin", "exit 0")
    (tmp_path / "cache").write_text("in the way")
    anew.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    assert kernel_library.state(torch.float32).startswith("torch: kernel.c cannot be compiled or loaded: [Errno ")


def test_without_a_home_torch_multiplies_and_it_is_said(anew):
    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    anew.delenv("XDG_CACHE_HOME")
    anew.setattr(kernel_library.Path, "home", nowhere)
    assert (
        kernel_library.state(torch.float32)
        == "torch: kernel.c cannot be compiled or loaded: Could not determine home directory."
    )


def test_it_can_be_switched_off(anew):
    anew.setenv(kernel_library.SWITCH, "0")
    assert kernel_library.state(torch.float32) == "torch: AIHF_KERNEL is 0"


def test_without_the_instructions_nothing_is_compiled(anew, tmp_path):
    anew.setattr(torch.cpu, "_is_avx2_supported", lambda: False)
    assert kernel_library.state(torch.float32) == "torch: the processor has no instructions for float32"
    assert kernel_library.state(torch.bfloat16) == "torch: the processor has no instructions for bfloat16"
    assert not (tmp_path / "cache").exists()


def test_the_first_set_that_the_processor_has_is_taken(anew):
    asked = []

    class Library:
        def usable(self):
            return 0 if len(asked) == 2 else -1  # a system that does not permit tiles

    sets = [kernel_library.InstructionSet(name, torch.bfloat16, 16, ()) for name in ("amx", "avx512_bf16")]
    anew.setattr(kernel_library, "SETS", sets)
    anew.setattr(kernel_library, "opened", lambda s: asked.append(s.name) or Library())
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        anew.setattr(torch.cpu, name, lambda: True)
    assert kernel_library.state(torch.bfloat16) == "avx512_bf16" and asked == ["amx", "avx512_bf16"]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler here")
@pytest.mark.parametrize("level", ["-O0", "-O3"])
@pytest.mark.parametrize("instructions", kernel_library.SETS, ids=lambda s: s.name)
def test_the_kernel_compiles_without_warnings(tmp_path, instructions, level):
    if "x86" not in platform.machine():
        pytest.skip("another processor's instructions")
    words = [
        "cc",
        *instructions.flags(),
        level,
        "-Wall",
        "-Wextra",
        "-Werror",
        *map(str, kernel_library.SOURCES[:2]),
        "-o",
        str(tmp_path / "k.so"),
    ]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@needs_avx2
def test_it_is_compiled_once(anew, tmp_path):
    assert kernel_library.state(torch.float32) == "avx2"
    (made,) = (tmp_path / "cache" / "aihf_control").iterdir()
    kernel_library._load.cache_clear()
    anew.setattr(kernel_library.subprocess, "run", None)  # would fail
    assert kernel_library.state(torch.float32) == "avx2" and made.exists()


@needs_avx2
def test_a_damaged_one_is_compiled_again(anew):
    made = kernel_library._compiled(kernel_library.SETS[0])
    made.write_bytes(b"\x7fELF")
    assert kernel_library.state(torch.float32) == "avx2" and made.stat().st_size > 4
    assert list(made.parent.iterdir()) == [made]


@needs_avx2
@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_a_cache_that_others_can_write_is_refused(anew, mode):
    made = kernel_library._compiled(kernel_library.SETS[0])
    for path in (made, made.parent):
        assert not path.stat().st_mode & 0o022
        path.chmod(mode)
        kernel_library._load.cache_clear()
        assert kernel_library.state(torch.float32).endswith(
            f"{path} can be written by other users: remove it, or chmod go-w"
        )
        path.chmod(0o700)
    kernel_library._load.cache_clear()
    assert kernel_library.state(torch.float32) == "avx2"


@needs_avx2
def test_a_library_of_another_user_is_refused(anew):
    made = kernel_library._compiled(kernel_library.SETS[0])
    anew.setattr(os, "geteuid", lambda: made.stat().st_uid + 1)
    if made.stat().st_uid == 0:
        os.chown(made.parent, 12345, -1)
    assert kernel_library.state(torch.float32).endswith(f"{made.parent} belongs to another user: remove it")


def test_a_relative_cache_path_is_refused(anew):
    anew.setenv("XDG_CACHE_HOME", "here")
    said = "torch: kernel.c cannot be compiled or loaded: XDG_CACHE_HOME must be an absolute path, got here"
    assert kernel_library.state(torch.float32) == said
