"""Run hostile inputs against every reader and command: `python -m tests.fuzz.drive CASES SEED FOLDER [KIND ...]`.

Each case runs in a forked process with its own copy of the files, a limit of memory and of time. FOLDER/findings.json
lists the cases that ended in a traceback, in another exit code than 0 or 2, above 1 GiB of memory or 20 s, or that
executed code of a file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aihf_control import compare, retrain, run
from aihf_control.bench import __main__ as bench
from aihf_control.core.errors import BadInput
from aihf_control.core.files import sha256
from aihf_control.core.types import join
from aihf_control.data.__main__ import main as data_main
from aihf_control.data.dataset import Dataset
from aihf_control.data.generate import DataConfig, make_dataset
from aihf_control.experts.__main__ import main as experts_main
from aihf_control.models.saved import load_policy, load_reward
from aihf_control.report import __main__ as report
from aihf_control.training import result
from tests.fuzz import hostile
from tests.helpers import in_this_process, random_policies, words

MEMORY = 2**30  # bytes of resident memory
SECONDS = 20.0
ENV = "Pendulum-v1"
SIZES = DataConfig(demos=2, episodes=4, noise=(0.0,), levels=("expert",), pairs=20, test_pairs=9, clip=5)
MODULE = f"import pathlib\npathlib.Path({hostile.SENTINEL!r}).touch()\n"


class Reached(BaseException):
    """Raised in place of a training: the input was read and accepted."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """A way to spoil a file, and the command that reads it."""

    file: str
    spoil: Callable[[bytes, random.Random], bytes]
    command: Callable[[Path], Any]


def make_material(folder: Path) -> None:
    """Write one valid file of every kind that is read."""
    policies = random_policies(ENV, folder / "zips")
    make_dataset(ENV, SIZES, policies, folder / "data")
    shutil.copy(policies["expert"], folder / "policy.zip")
    shutil.copy(folder / "data" / "preferences.csv", folder / "mine.csv")
    pool = Dataset.load(folder / "data").pool
    steps, ends = join([t.steps() for t in pool]), np.cumsum([len(t) for t in pool]) - 1
    columns = {"obs": steps.obs, "act": steps.act, "next_obs": steps.next_obs, "reward": 0 * steps.done}
    truncated = np.isin(np.arange(len(steps.act)), ends)
    np.savez(folder / "mine.npz", **columns, terminated=steps.done > 0, truncated=truncated)
    line = [ENV if word == "Hopper-v4" else word for word in words("irl", folder / "data", folder / "runs")]
    own, result.run_workers = result.run_workers, in_this_process
    assert run.main(line) == 0
    result.run_workers = own
    (found,) = (folder / "runs").glob("*/*/*")
    found.rename(folder / "run")
    shutil.rmtree(folder / "runs")
    shutil.copytree(folder / "run", folder / "unfinished")
    for name in ("summary.json", "policy.safetensors", "reward.safetensors"):
        (folder / "unfinished" / name).unlink()
    config = json.loads((folder / "unfinished" / "config.json").read_text())
    config["options"]["dataset"] = "data"
    (folder / "unfinished" / "config.json").write_text(json.dumps(config))
    hostile.bomb(folder / "bomb.npz", "obs.npy")
    hostile.bomb(folder / "bomb.zip", "policy.pth")
    (folder / f"{hostile.PLANTED}.py").write_text(MODULE)


def _import(*more: str) -> int:
    return data_main(["import", "--env", ENV, "--out", "made", "--expert", "policy.zip", *more])


def _signed(command: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """Write the hashes of the spoilt files into meta.json first, so that reading does not end at the hash."""

    def signed(folder: Path) -> Any:
        meta = json.loads((folder / "data" / "meta.json").read_text())
        with contextlib.suppress(OSError):  # an unreadable file is for the command to find
            meta["sha256"] = {name: sha256((folder / "data" / name).read_bytes()) for name in meta["sha256"]}
        (folder / "data" / "meta.json").write_text(json.dumps(meta))
        return command(folder)

    return signed


def _show(_: Path) -> int:
    return data_main(["show", "data"])


def _resume(_: Path) -> int:
    return run.main(["--resume", "unfinished"])


KINDS = {
    "meta.json, show": Kind("data/meta.json", hostile.spoil_json, _show),
    "meta.json, verify": Kind("data/meta.json", hostile.spoil_json, lambda _: data_main(["verify", "data"])),
    "pool.npz, show": Kind("data/pool.npz", hostile.spoil_npz, _signed(_show)),
    "pool.npz, bytes": Kind("data/pool.npz", hostile.spoil_bytes, _signed(_show)),
    "preferences.csv, show": Kind("data/preferences.csv", hostile.spoil_csv, _signed(_show)),
    "comparisons, import": Kind(
        "mine.csv", hostile.spoil_csv, lambda _: _import("--pool", "data", "--pairs", "mine.csv")
    ),
    "npz, import": Kind("mine.npz", hostile.spoil_npz, lambda _: _import("--pool", "mine.npz")),
    "npz, bytes": Kind("mine.npz", hostile.spoil_bytes, lambda _: _import("--demos", "mine.npz")),
    "policy.zip, import": Kind(
        "policy.zip",
        hostile.spoil_policy_zip,
        lambda _: experts_main(["import", "policy.zip", "--env", ENV, "--out", "clean.zip", "--force"]),
    ),
    "policy.zip, bytes": Kind(
        "policy.zip",
        hostile.spoil_bytes,
        lambda _: experts_main(["show", "policy.zip", "--env", ENV, "--episodes", "1"]),
    ),
    "policy.safetensors": Kind(
        "run/policy.safetensors", hostile.spoil_safetensors, lambda _: load_policy("run/policy.safetensors")
    ),
    "reward.safetensors": Kind(
        "run/reward.safetensors", hostile.spoil_safetensors, lambda _: load_reward("run/reward.safetensors")
    ),
    "reward.safetensors, retrain": Kind(
        "run/reward.safetensors", hostile.spoil_safetensors, lambda _: retrain.main(["run", "--workers", "1"])
    ),
    "config.json, resume": Kind("unfinished/config.json", hostile.spoil_json, _resume),
    "config.json, report": Kind("run/config.json", hostile.spoil_json, lambda _: report.main(["run"])),
    "config.json, compare": Kind("run/config.json", hostile.spoil_json, lambda _: compare.main(["run", "unfinished"])),
    "summary.json, report": Kind("run/summary.json", hostile.spoil_json, lambda _: report.main(["run"])),
    "log.jsonl, report": Kind("run/log.jsonl", hostile.spoil_lines, lambda _: report.main(["run"])),
    "log.jsonl, compare": Kind("run/log.jsonl", hostile.spoil_lines, lambda _: compare.main(["run", "run"])),
    "experiment, list": Kind("", lambda _, rng: hostile.toml(rng), lambda _: bench.main(["grid.toml", "--list"])),
}

LINES: dict[str, tuple[Callable[[list[str]], Any], str, str]] = {  # command, valid line, flags to add
    "run": (
        run.main,
        f"--env {ENV} --dataset data --method bc --demos 1 --pairs 5 --seeds 1",
        "env method seeds first-seed demos pairs dataset evaluations eval-episodes device precision workers out folder "
        "checkpoint resume step-timeout steps hidden nonsense",
    ),
    "data make": (
        lambda line: data_main(["make", *line]),
        f"--env {ENV} --out made --policy expert=policy.zip --levels expert --noise 0 --demos 1 --episodes 4 --pairs 5 "
        "--test-pairs 2 --clip 5",
        "env out policy demos demo-level levels noise balance pairs clip teacher label query temperature error skip "
        "equal memory discount seed",
    ),
    "data show": (lambda line: data_main(["show", "data", *line]), "", "figure render out env"),
    "data import": (
        lambda line: data_main(["import", *line]),
        f"--env {ENV} --out made --pool mine.npz",
        "env out pool demos pairs expert demo-every",
    ),
    "experts show": (
        lambda line: experts_main(["show", "policy.zip", *line]),
        f"--env {ENV} --episodes 1",
        "env episodes",
    ),
    "report": (report.main, "run", "out nonsense"),
    "compare": (compare.main, "run run", "nonsense"),
    "retrain": (retrain.main, "run", "updates envs episodes workers env sac.hidden"),
    "bench": (bench.main, "grid.toml --list", "only workers retries engine cores gpu out"),
}
SIZED = {"seeds", "steps", "demos", "pairs", "episodes", "evaluations", "eval-episodes", "workers", "hidden", "updates"}
SPECIAL = ("fifo", "directory", "device", "loop", "bomb", "unreadable")


def command_line(name: str, rng: random.Random) -> list[str]:
    """Draw a command line with one or two hostile values; sizes that only ask for much work are left out."""
    _, valid, flags = LINES[name]
    line, flags = valid.split(), flags.split()
    for _ in range(rng.randrange(1, 3)):
        flag, word = rng.choice(flags), rng.choice(hostile.WORDS)
        if flag in SIZED and word.isdigit() and len(word) > 1:
            word = "-3"
        line += [f"--{flag}", *([word] if rng.random() < 0.95 else [])]
    return [word for word in line if "\0" not in word]


def special_file(name: str, path: Path, folder: Path) -> None:
    """Put something that is no regular small file in the place of a file."""
    path.unlink()
    if name == "fifo":
        os.mkfifo(path)
    elif name == "directory":
        path.mkdir()
    elif name == "device":
        path.symlink_to("/dev/zero")
    elif name == "loop":
        path.symlink_to(path.name)
    elif name == "bomb":
        os.link(folder / ("bomb.zip" if path.suffix == ".zip" else "bomb.npz"), path)
    else:
        path.symlink_to("/proc/self/mem")


def cases(n: int, seed: int, only: list[str]) -> Iterator[tuple[str, Callable[[Path], Any]]]:
    """Yield `n` cases in turns over all kinds: a name, and a function of a fresh copy of the files."""
    names = [*KINDS, *(f"line: {name}" for name in LINES), *(f"special: {name}" for name in SPECIAL)]
    names = [name for name in names if not only or any(word in name for word in only)]
    for i in range(n):
        name = names[i % len(names)]
        yield f"{name} #{i // len(names)}", _case(name, random.Random(f"{seed}/{name}/{i // len(names)}"))


def _case(name: str, rng: random.Random) -> Callable[[Path], Any]:
    def do(folder: Path) -> Any:
        (folder / "grid.toml").write_text('environments = ["Hopper-v4"]\nmethods = ["bc"]\nseeds = 2\npairs = 20\n')
        if name.startswith("line: "):
            command = name.removeprefix("line: ")
            line = command_line(command, rng)
            (folder / "line.txt").write_text(repr(line)[:2000])
            return LINES[command][0](line)
        if name.startswith("special: "):
            kind = rng.choice([kind for kind in KINDS.values() if kind.file])
            special_file(name.removeprefix("special: "), folder / kind.file, folder)
            (folder / "line.txt").write_text(kind.file)
            return kind.command(folder)
        kind = KINDS[name]
        path = folder / (kind.file or "grid.toml")
        path.write_bytes(kind.spoil(path.read_bytes(), rng))
        return kind.command(folder)

    return do


def _stop(*_: Any, **__: Any) -> Any:
    raise Reached


def _child(do: Callable[[Path], Any], folder: Path) -> int:
    """Run a case in this (forked) process and return its exit code, 99 for a traceback."""
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    virtual = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (virtual + 2 * MEMORY, resource.RLIM_INFINITY))
    setattr(result, "run_workers", _stop)  # noqa: B010
    setattr(retrain.concurrent.futures, "ProcessPoolExecutor", _stop)  # noqa: B010
    run.Display.plan = lambda *_: None  # measures the machine for seconds
    try:
        code = do(folder)
    except Reached:
        return 0
    except BadInput as e:
        return 2 if "\n" not in str(e) else 98
    except SystemExit as e:
        return e.code if isinstance(e.code, int) else 1 if e.code else 0
    except BaseException:
        traceback.print_exc()
        return 99
    return code if isinstance(code, int) else 0


def attempt(do: Callable[[Path], Any], folder: Path) -> tuple[int | str, float, int]:
    """Fork, run a case, and return its exit code (or "timeout"), seconds, and peak resident bytes."""
    began, pid = time.monotonic(), os.fork()
    if not pid:
        code = 97
        with contextlib.suppress(BaseException):
            with open(folder / "output.txt", "wb", buffering=0) as out:
                os.dup2(out.fileno(), 1), os.dup2(out.fileno(), 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            code = _child(do, folder)
            sys.stdout.flush(), sys.stderr.flush()
        os._exit(code & 0xFF)
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        seconds = time.monotonic() - began
        if done:
            return os.waitstatus_to_exitcode(status), seconds, usage.ru_maxrss * 1024
        if usage.ru_utime > SECONDS or seconds > 3 * SECONDS:  # other processes may slow this one down
            os.kill(pid, signal.SIGKILL)
            _, _, usage = os.wait4(pid, 0)
            return "timeout", seconds, usage.ru_maxrss * 1024
        time.sleep(0.005)


def judge(code: int | str, memory: int, folder: Path) -> str:
    """Return what a case did that no input may do, or ""."""
    text = (folder / "output.txt").read_text(errors="replace") if (folder / "output.txt").exists() else ""
    if (folder / hostile.SENTINEL).exists():
        return "executed code"
    if memory > MEMORY:
        return f"took {memory / 2**20:.0f} MiB"
    if "Traceback (most recent call last)" in text:
        last = text.strip().splitlines()[-1]
        places = [
            line.strip() for line in text.splitlines() if line.strip().startswith("File") and "aihf_control" in line
        ]
        return f"traceback: {last[:150]} | {places[-1].partition('aihf_control/')[2] if places else ''}"
    return "" if code in (0, 2) else f"ended with {code}: {text.strip()[-150:]}"


def main(n: int, seed: int, out: Path, *only: str) -> int:
    """Run the cases; write and print what was found. Returns the number of findings."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    material = Path(tempfile.mkdtemp(dir=out))
    make_material(material)
    found, kept = [], out / "kept"
    for name, do in cases(n, seed, list(only)):
        folder = out / "case"
        shutil.copytree(material, folder, copy_function=_link_large)
        code, seconds, memory = attempt(do, folder)
        verdict = judge(code, memory, folder)
        if verdict:
            line = (folder / "line.txt").read_text() if (folder / "line.txt").exists() else ""
            found.append({"case": name, "verdict": verdict, "seconds": round(seconds, 1), "line": line})
            print(f"{name}: {verdict} {line[-120:]}", flush=True)
            shutil.copyfile(folder / "output.txt", kept.with_name(f"{len(found)}.txt"))
        shutil.rmtree(folder)
    shutil.rmtree(material)
    (out / "findings.json").write_text(json.dumps({"cases": n, "seed": seed, "findings": found}, indent=1))
    print(f"{n} cases, {len(found)} findings")
    return len(found)


def _link_large(source: str, target: str) -> None:
    if "bomb" in source:
        os.link(source, target)
    else:
        shutil.copy2(source, target)


if __name__ == "__main__":
    sys.exit(bool(main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]).resolve(), *sys.argv[4:])))
