"""What a learned reward is worth by itself: policies trained from scratch on it alone, and their true return.

python -m aihf_control.retrain results/bench/main
python -m aihf_control.retrain results/runs/Hopper-v4/aihf/20261121-072237-495 --updates 50000

A reward that was learned beside a policy may be right only where that policy went. Here it is frozen, and SAC begins
with fresh networks and an empty replay: no clone, no demonstrations, no clips. Each run keeps its own `retrained.csv`.
With `--truth` the same learner is paid in truth as well, once for each environment of a folder: what the budget allows.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import tyro

from aihf_control.core.cli import exit_code
from aihf_control.core.errors import BadInput, at_least_one
from aihf_control.core.files import check_writable, read_json, write_bytes
from aihf_control.core.statistics import STAR_NOTE, Estimate, estimate, format_count, normalised
from aihf_control.environments.cards import folder_name
from aihf_control.environments.modules import allow_module, allowed_modules, check_module, set_allowed_modules
from aihf_control.experts.true_reward import TrueRewardConfig, learn
from aihf_control.learning.evaluation import greedy_returns
from aihf_control.learning.sac import SACConfig
from aihf_control.models.device import matmul_precision, use_one_thread
from aihf_control.models.saved import load_reward
from aihf_control.report.load import method_row

HEAD = ("run", "environment", "method", "demos", "pairs", "n", "its own policy", "retrained", "score", "diverged")
RESULT = "retrained.csv"


@dataclasses.dataclass(frozen=True)
class Options:
    """What is retrained, and for how long."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Finished runs, or folders with runs anywhere below them; those without a learned reward are passed over."""
    updates: int = 20_000
    """Updates, before each of which every environment takes a step."""
    envs: int = 4
    """Environments a lane."""
    episodes: int = 20
    """Greedy episodes by which the policies are judged, from the same starts as the runs' own."""
    truth: bool = False
    """Also trains on the true reward, for comparison."""
    env: tuple[str, ...] = ()
    """Environments of the rewards whose ids have a module part: confirms that these modules may be imported."""
    workers: int = 0
    """Runs at a time, one thread each; 0 is one a core."""
    sac: SACConfig = SACConfig(alpha=(0.1,), average=1e-3)
    """The learner, the same for every reward."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code: 0, or 2 for bad input."""
    about = (__doc__ or "").splitlines()[0]
    options = tyro.cli(Options, args=argv, prog="python -m aihf_control.retrain", description=about)
    try:
        return exit_code(retrain, options)
    except KeyboardInterrupt:
        print("broken off; what has been retrained stands, the same command does the rest", file=sys.stderr)
        return 130


def retrain(options: Options) -> None:
    """Retrains on the reward of every run that has not been, and prints and writes a table of all. Raises BadInput."""
    if not options.folders:
        raise BadInput("nothing to retrain: give the folder of a run, or one with runs below it")
    at_least_one({f"--{name}": getattr(options, name) for name in ("updates", "envs", "episodes")})
    if options.workers < 0:
        raise BadInput(f"--workers {options.workers}: give at least 0")
    allow_module(*options.env)
    found = {folder: works_below(folder, options.truth) for folder in options.folders}
    works = list({work.result.resolve(): work for below in found.values() for work in below}.values())
    for work in works:
        _check_budget(work.result, options)
    todo = [work for work in works if not work.result.exists()]
    for work in todo:
        check_module(load_reward(work.run / "reward.safetensors").spec.id)  # both raise now rather than in a worker
        check_writable(work.result.parent)
    workers = min(options.workers or len(os.sched_getaffinity(0)), max(1, len(todo)))
    n = sum(not work.truth for work in works)
    print(f"{n} runs with a learned reward, {n - sum(not w.truth for w in todo)} of them retrained before", flush=True)
    context = multiprocessing.get_context("spawn")
    modules = (allowed_modules(),)
    with concurrent.futures.ProcessPoolExecutor(workers, context, initializer=_begin, initargs=modules) as pool:
        for work, value in zip(todo, pool.map(keep, todo, [options] * len(todo)), strict=True):
            print(f"{work.result}: {value:.0f}", flush=True)
    for folder, below in found.items():
        text = table(folder, below)
        write_bytes(folder / "retrained.md", text.encode())
        print(text)


class Work(NamedTuple):
    """A training from scratch: on the reward of a run, or on the true one with all else as in that run."""

    result: Path
    run: Path
    truth: bool = False


def works_below(folder: Path, truth: bool) -> list[Work]:
    """The trainings of the finished runs below; with `truth` one more for each environment and its seeds."""
    runs = runs_below(folder)
    works = [Work(run / RESULT, run) for run in runs]
    for run in runs if truth else ():
        reward = load_reward(run / "reward.safetensors")
        seeds = f"{reward.seeds[0]}-{reward.seeds[-1]}"
        work = Work(folder / f"truth-{folder_name(reward.spec.id)}-{seeds}.csv", run, truth=True)
        works += [work] if work.result not in [w.result for w in works] else []
    return works


def _check_budget(path: Path, options: Options) -> None:
    """Raises BadInput where a result was made with another budget: one table tells of one."""
    if not path.exists():
        return
    frame = _read(path)
    for name, asked in (("updates", options.updates), ("envs", options.envs)):
        there = sorted({int(x) for x in frame[name]})
        if there != [asked]:
            raise BadInput(f"{path} was made with --{name} {there[0]}, not {asked}; remove it or give the same")


def runs_below(folder: Path) -> list[Path]:
    """Finished runs with a learned reward. Raises BadInput where there is none."""
    runs = [path.parent for path in sorted(folder.rglob("summary.json"))]
    found = [run for run in runs if (run / "reward.safetensors").exists()]
    if not found:
        raise BadInput(
            f"no finished run with a learned reward below {folder}; methods like aihf, irl and rlhf leave one"
        )
    return found


def _begin(modules: tuple[str, ...]) -> None:
    """Of a working process: one thread, and at Ctrl-C it is gone without a word."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    use_one_thread()
    set_allowed_modules(modules)


def keep(work: Work, options: Options) -> float:
    """Trains from scratch and writes what came of it; the mean return."""
    frame = scratch(work, options)
    write_bytes(work.result, frame.to_csv(index=False, lineterminator="\n").encode())
    return float(frame["return"].to_numpy().mean())


def scratch(work: Work, options: Options) -> pd.DataFrame:
    """True returns of greedy episodes, a row each, of policies trained on nothing but a reward, a lane a seed."""
    reward = load_reward(work.run / "reward.safetensors")
    cfg = TrueRewardConfig(options.updates, options.envs, sac=options.sac)
    paid, precision = None if work.truth else reward.net, getattr(torch, matmul_precision("auto", "cpu"))
    *_, (_, sac) = learn(reward.spec, reward.seeds, cfg, reward=paid, products=precision)
    returns = greedy_returns(sac.average, reward.spec, options.episodes)
    rows = [
        {"seed": seed, "episode": e, "return": float(r), "updates": options.updates, "envs": options.envs}
        for seed, row in zip(reward.seeds, returns, strict=True)
        for e, r in enumerate(row)
    ]
    return pd.DataFrame(rows)


def table(folder: Path, works: Sequence[Work]) -> str:
    """Markdown: a row a training, IQM over its seeds with 95 % intervals, those that diverged left out."""
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    lines += [f"| {' | '.join(_row(folder, work))} |" for work in works]
    return "\n".join([*lines, "", STAR_NOTE, ""])


def _row(folder: Path, work: Work) -> list[str]:
    summary: dict[str, Any] = read_json(work.run / "summary.json")
    frame = _read(work.result)
    returns = np.asarray(frame.groupby("seed")["return"].mean(), np.float64)
    finite = returns[np.isfinite(returns)]
    told = ["-", "-"]
    if len(finite):
        score = normalised(finite, summary["random_return"], summary["expert_return"])
        told = [str(estimate(finite)), str(estimate(score))]
    own = method_row(summary)["return"]
    before = "-" if own is None or work.truth else str(Estimate.read(own))
    first = [str(work.run.relative_to(folder)), *(str(summary[name]) for name in ("env", "method", "demos", "pairs"))]
    if work.truth:
        first = ["-", summary["env"], "the true reward", "-", "-"]
    return [*first, format_count(len(finite)), before, *told, str(len(returns) - len(finite))]


def _read(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_csv(path)
        kinds = {"return": float, "seed": int, "updates": int, "envs": int}
        return frame.assign(**{name: frame[name].astype(kind) for name, kind in kinds.items()})
    except (ValueError, KeyError, OSError) as e:
        raise BadInput(f"{path} is not what retraining leaves ({e}); remove it and run again") from e


if __name__ == "__main__":
    sys.exit(main())
