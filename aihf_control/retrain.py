"""Evaluate learned rewards: train policies from scratch on the frozen reward and report their true return.

python -m aihf_control.retrain results/bench/main
python -m aihf_control.retrain results/runs/Hopper-v4/aihf/20261121-072237-495 --updates 50000

A reward learned together with a policy may be accurate only in the states that the policy visited. Here it is frozen,
and SAC starts with new networks and an empty replay buffer, without clone, demonstrations or segments. The result is
written to `retrained.csv` in each run's folder. `--true-reward` also trains the same learner on the true reward, once
per environment of a folder, as a reference for the budget.
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

from aihf_control.core.cli import ends_with_reader, exit_code, program_name
from aihf_control.core.errors import BadInput, at_least_one
from aihf_control.core.files import check_writable, read_json, write_bytes
from aihf_control.core.live import show_progress
from aihf_control.core.progress import listening, report
from aihf_control.core.statistics import STAR_NOTE, Estimate, estimate, format_count, normalised
from aihf_control.core.tables import read_csv
from aihf_control.environments import watchdog
from aihf_control.environments.cards import folder_name
from aihf_control.environments.modules import allow_module, allowed_modules, check_module, set_allowed_modules
from aihf_control.experts.true_reward import TRAINING, TrueRewardConfig, learn
from aihf_control.learning.evaluation import greedy_returns
from aihf_control.learning.sac import SACConfig
from aihf_control.models.device import matmul_precision, use_one_thread
from aihf_control.models.saved import load_reward
from aihf_control.report.run_files import method_row

HEAD = ("run", "environment", "method", "demos", "pairs", "n", "its own policy", "retrained", "score", "diverged")
RESULT = "retrained.csv"

_clocks: Sequence[Any] = ()  # of a worker process: one per job, shared with the parent
_counts: Sequence[Any] = ()  # the same, of updates done


@dataclasses.dataclass(frozen=True)
class Options:
    """Runs and budget of retraining."""

    folders: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Finished runs, or folders with runs at any depth; runs without a learned reward are skipped."""
    updates: int = 20_000
    """Updates. Every environment takes a step before each."""
    envs: int = 4
    """Environments per lane."""
    episodes: int = 20
    """Greedy episodes of the evaluation, from the same initial states as in the runs."""
    true_reward: bool = False
    """Also train on the true reward, for comparison."""
    env: tuple[str, ...] = ()
    """Environments of the rewards whose ids have a module part: confirms that these modules may be imported."""
    workers: int = 0
    """Worker processes, one thread each; 0 means one per core."""
    step_timeout: float = watchdog.DEFAULT_TIMEOUT
    """Seconds after which the command ends if an environment does not return from one call; 0 is no limit."""
    sac: SACConfig = SACConfig(alpha=(0.1,), average=1e-3)
    """Settings of the learner, the same for every reward."""


@ends_with_reader
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0, 2 for bad input, 124 if an environment hangs, 130 if interrupted."""
    about = (__doc__ or "").splitlines()[0]
    options = tyro.cli(Options, args=argv, prog=program_name("retrain"), description=about)
    try:
        return exit_code(retrain, options)
    except watchdog.EnvTimeout as e:
        print(f"error: {e}", file=sys.stderr)
        return watchdog.TIMEOUT_CODE
    except KeyboardInterrupt:
        print("Aborted. Finished results are kept; the same command continues with the rest.", file=sys.stderr)
        return 130


def retrain(options: Options) -> None:
    """Retrain on the reward of each run without a result, and write a table of all runs.

    Raises BadInput, and EnvTimeout if an environment hangs.
    """
    _check(options)
    allow_module(*options.env)
    found = {folder: find_jobs(folder, options.true_reward) for folder in options.folders}
    jobs = list({os.path.realpath(job.result): job for below in found.values() for job in below}.values())
    for job in jobs:
        _check_budget(job.result, options)
    pending = [job for job in jobs if not job.result.exists()]
    for job in pending:
        check_module(load_reward(job.run / "reward.safetensors").spec.id)  # both raise here rather than in a worker
        check_writable(job.result.parent)
    n, n_pending = (sum(not job.true_reward for job in some) for some in (jobs, pending))
    print(f"{n} runs with a learned reward, {n - n_pending} of them already retrained", flush=True)
    _run_jobs(pending, options)
    for folder, below in found.items():
        text = format_table(folder, below)
        write_bytes(folder / "retrained.md", text.encode())
        print(text)


def _check(options: Options) -> None:
    if not options.folders:
        raise BadInput("nothing to retrain: give the folder of a run, or a folder with runs")
    at_least_one({f"--{name}": getattr(options, name) for name in ("updates", "envs", "episodes")})
    if options.workers < 0:
        raise BadInput(f"--workers must be at least 0, got {options.workers}")
    watchdog.check_limit(options.step_timeout)


class Job(NamedTuple):
    """A training from scratch on the reward of a run, or on the true reward with all else as in that run."""

    result: Path
    run: Path
    true_reward: bool = False


def find_jobs(folder: Path, true_reward: bool) -> list[Job]:
    """Return a job per finished run below a folder; with `true_reward` also one per environment and seeds."""
    runs = find_runs(folder)
    jobs = [Job(run / RESULT, run) for run in runs]
    for run in runs if true_reward else ():
        reward = load_reward(run / "reward.safetensors")
        seeds = f"{reward.seeds[0]}-{reward.seeds[-1]}"
        job = Job(folder / f"true_reward-{folder_name(reward.spec.id)}-{seeds}.csv", run, true_reward=True)
        jobs += [job] if job.result not in [other.result for other in jobs] else []
    return jobs


def _check_budget(path: Path, options: Options) -> None:
    """Raise BadInput if a result was made with another budget, since a table compares equal budgets."""
    if not path.exists():
        if path.is_symlink():
            raise BadInput(f"{path} is a link that leads to no file; remove it")
        return
    frame = _read(path)
    for name, given in (("updates", options.updates), ("envs", options.envs)):
        stored = sorted({int(x) for x in frame[name]})
        if stored != [given]:
            raise BadInput(f"{path} was made with --{name} {stored[0]}, not {given}; remove it or give the same value")


def find_runs(folder: Path) -> list[Path]:
    """Return the finished runs with a learned reward at any depth of a folder. Raises BadInput if there is none."""
    runs = [path.parent for path in sorted(folder.rglob("summary.json"))]
    found = [run for run in runs if (run / "reward.safetensors").exists()]
    if not found:
        raise BadInput(
            f"no finished run with a learned reward in {folder}; methods such as aihf, irl and rlhf save one"
        )
    return found


def _run_jobs(jobs: Sequence[Job], options: Options) -> None:
    """Run the jobs in worker processes and print the mean return of each. Raises EnvTimeout if an environment hangs."""
    workers = min(options.workers or len(os.sched_getaffinity(0)), max(1, len(jobs)))
    context = multiprocessing.get_context("spawn")
    clocks, counts = ([context.Value(kind, 0, lock=False) for _ in jobs] for kind in "di")
    inherited = (allowed_modules(), clocks, counts)
    executor = concurrent.futures.ProcessPoolExecutor(workers, context, _set_up_worker, inherited)
    with show_progress("retrain"), executor as pool:
        futures = [pool.submit(_run_job_number, i, job, options) for i, job in enumerate(jobs)]
        for job, future in zip(jobs, futures, strict=True):
            while not concurrent.futures.wait([future], timeout=0.5).done:
                _check_clocks(jobs, clocks, options.step_timeout)
                report(f"updates of {len(jobs)} runs", sum(c.value for c in counts), len(jobs) * options.updates)
            print(f"{job.result}: {future.result():.0f}", flush=True)


def _check_clocks(jobs: Sequence[Job], clocks: Sequence[Any], limit: float) -> None:
    """Kill the worker processes and raise EnvTimeout if a call into the environment of a job hangs."""
    for job, clock in zip(jobs, clocks, strict=True):
        if watchdog.overdue(clock, limit):
            for process in multiprocessing.active_children():
                process.kill()
            env = load_reward(job.run / "reward.safetensors").spec.id
            raise watchdog.EnvTimeout(watchdog.timeout_message(env, limit))


def _set_up_worker(modules: tuple[str, ...], clocks: Sequence[Any], counts: Sequence[Any]) -> None:
    """Set up a worker process: one thread, clocks for the watchdog, counts of updates, no traceback after Ctrl-C."""
    global _clocks, _counts
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    use_one_thread()
    set_allowed_modules(modules)
    _clocks, _counts = clocks, counts


def _run_job_number(i: int, job: Job, options: Options) -> float:
    """Run a job with its clock and its count of updates, which the parent process reads."""
    watchdog.share_clock(_clocks[i])

    def count(phase: str, done: int, total: int) -> None:
        if phase == TRAINING:
            _counts[i].value = done

    with listening(count):
        return run_job(job, options)


def run_job(job: Job, options: Options) -> float:
    """Train from scratch and write the returns; return their mean."""
    frame = train_from_scratch(job, options)
    write_bytes(job.result, frame.to_csv(index=False, lineterminator="\n").encode())
    return float(frame["return"].to_numpy().mean())


def train_from_scratch(job: Job, options: Options) -> pd.DataFrame:
    """Train policies on the job's reward only, a lane per seed; return the true returns, a row per greedy episode."""
    reward = load_reward(job.run / "reward.safetensors")
    cfg = TrueRewardConfig(options.updates, options.envs, sac=options.sac)
    reward_fn, products = None if job.true_reward else reward.net, getattr(torch, matmul_precision("auto", "cpu"))
    *_, (_, learner) = learn(reward.spec, reward.seeds, cfg, reward=reward_fn, products=products)
    returns = greedy_returns(learner.average, reward.spec, options.episodes)
    rows = [
        {"seed": seed, "episode": e, "return": float(r), "updates": options.updates, "envs": options.envs}
        for seed, row in zip(reward.seeds, returns, strict=True)
        for e, r in enumerate(row)
    ]
    return pd.DataFrame(rows)


def format_table(folder: Path, jobs: Sequence[Job]) -> str:
    """Format a Markdown table with a row per job: IQM over seeds with 95 % intervals, without diverged seeds."""
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    lines += [f"| {' | '.join(_format_row(folder, job))} |" for job in jobs]
    return "\n".join([*lines, "", STAR_NOTE, ""])


def _format_row(folder: Path, job: Job) -> list[str]:
    summary: dict[str, Any] = read_json(job.run / "summary.json")
    frame = _read(job.result)
    returns = np.asarray(frame.groupby("seed")["return"].mean(), np.float64)
    finite = returns[np.isfinite(returns)]
    cells = ["-", "-"]
    if len(finite):
        score = normalised(finite, summary["random_return"], summary["expert_return"])
        cells = [str(estimate(finite)), str(estimate(score))]
    own = method_row(summary)["return"]
    own_return = "-" if own is None or job.true_reward else str(Estimate.read(own))
    first = [str(job.run.relative_to(folder)), *(str(summary[name]) for name in ("env", "method", "demos", "pairs"))]
    if job.true_reward:
        first = ["-", summary["env"], "the true reward", "-", "-"]
    return [*first, format_count(len(finite)), own_return, *cells, str(len(returns) - len(finite))]


def _read(path: Path) -> pd.DataFrame:
    """Read the returns of a job. Raises BadInput if the file is damaged."""
    try:
        return read_csv(path, {"return": float, "seed": int, "updates": int, "envs": int})
    except BadInput as e:
        raise BadInput(f"{e}; remove it and run the command again") from e


if __name__ == "__main__":
    sys.exit(main())
