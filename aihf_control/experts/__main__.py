"""`aihf experts`: trains, brings and judges expert policies."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from aihf_control.core.cli import exit_code, subcommands
from aihf_control.core.errors import BadInput, at_least_one
from aihf_control.core.files import check_writable, read_bytes, sha256, write_bytes
from aihf_control.core.provenance import commit
from aihf_control.core.statistics import estimate, mean
from aihf_control.environments.cards import card_of, folder_name
from aihf_control.environments.gym import EVALUATION_SEED, EnvSpec, spec_of
from aihf_control.environments.modules import allow_module
from aihf_control.environments.rollout import rollout
from aihf_control.environments.watchdog import DEFAULT_TIMEOUT, watch
from aihf_control.experts.model_card import write_card
from aihf_control.experts.search import SearchConfig, search
from aihf_control.experts.session import Training
from aihf_control.experts.true_reward import Gallery, Learner, Pupil, TruthConfig, worth
from aihf_control.learning.evaluation import expert_returns
from aihf_control.models.device import matmul_precision, use_one_thread
from aihf_control.models.sb3 import read_zip, write_zip
from aihf_control.models.vecnormalize import read_vecnormalize

Positional = tyro.conf.Positional
TRUTH, SEARCH = TruthConfig(), SearchConfig()
SHARES = {"medium": 0.6, "weak": 0.3}
CHOICE = 30_000  # snapshots are judged on episodes from these seeds on, which no evaluation uses


def main(argv: Sequence[str] | None = None) -> int:
    """Run `python -m aihf_control.experts train|import|show|card|search ...`."""
    doors = {"train": train, "import": bring, "show": judge, "card": write_card, "search": look_for}
    return exit_code(subcommands, doors, argv, "aihf_control.experts")


def train(
    env: str = "Hopper-v4",
    out: Path | None = None,
    seeds: int = 3,
    first_seed: int = 100,
    episodes: int = 5,
    every: int = 10_000,
    enough: float = float("inf"),
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
    start: Path | None = None,
    checkpoint: float = 10.0,
    step_timeout: float = DEFAULT_TIMEOUT,
    cfg: Annotated[TruthConfig, tyro.conf.arg(name="")] = TRUTH,
) -> None:
    """Train on the true reward, a lane a seed, and save the best policy and weaker ones at 60 and 30 % of it.

    Writes expert.zip, medium.zip, weak.zip (SB3 zips), training.csv and card.toml. After a kill, or after SIGTERM,
    which writes a checkpoint, the same command resumes to the same numbers. Ctrl-C ends the training early and saves
    the policies seen so far, as does the same command with at most as many `--updates` as are done.

    Args:
        env: Gymnasium id.
        out: Folder to write; results/experts/<env> if not given.
        seeds: How many lanes.
        first_seed: The first of their seeds.
        episodes: Greedy episodes of each evaluation on the way.
        every: Updates from one evaluation to the next.
        enough: Stops when a lane's evaluation reaches this return.
        precision: float32, bfloat16, or auto: bfloat16 where the hardware multiplies it.
        start: An SB3 zip of SAC's kind to go on from, instead of a fresh policy.
        checkpoint: Minutes from one checkpoint to the next.
        step_timeout: Seconds after which the training ends if its environment does not return from one call; 0 is no
            limit.
        cfg: Settings of the learner.
    """
    use_one_thread()
    at_least_one({"--seeds": seeds, "--episodes": episodes, "--every": every, "--updates": cfg.updates})
    if not checkpoint > 0:
        raise BadInput(f"--checkpoint {checkpoint}: give minutes above 0")
    if not step_timeout >= 0:
        raise BadInput(f"--step-timeout must be at least 0 seconds, got {step_timeout}")
    allow_module(env)
    spec, lanes = spec_of(env), tuple(range(first_seed, first_seed + seeds))
    folder, gallery = out or Path("results/experts") / folder_name(env), Gallery(spec, lanes, every, episodes)
    inner = getattr(torch, matmul_precision(precision, "cpu"))
    pupil = Pupil(spec, lanes, cfg, read_zip(start, spec) if start else None, products=inner)
    begun = {"start": start and sha256(read_bytes(start)), "precision": str(inner), **dataclasses.asdict(cfg)}
    settings = {"env": env, "lanes": lanes, "episodes": episodes, "every": every, **begun}
    flags = {"env": env, "seeds": seeds, "first_seed": first_seed, "every": every, "episodes": episodes, "start": start}
    command = " ".join(["python -m aihf_control.experts train", *_words(flags), *_changed(cfg, TRUTH)])
    check_writable(folder)
    training = Training(pupil, gallery, folder, settings, checkpoint)
    about = f"{cfg.learner} on the true reward of {env}: seeds {lanes}, {cfg.updates:,} updates"
    print(f"{about}; writes to {folder}", flush=True)
    if k := training.restore(print):
        print(f"going on at update {k:,}", flush=True)
    with watch(env, step_timeout):
        _watch(training, every, enough)
    if not gallery.snapshots:
        training.close()
        raise BadInput(f"nothing to keep: the training ended before its first evaluation at update {every}")
    keep(gallery, spec, folder, f"Trained at commit {commit()}, ended at update {pupil.k:,}:\n  {command}")
    training.close()


def _watch(training: Training[Gallery], every: int, enough: float) -> None:
    """Trains to the end, to a return that is enough, or to Ctrl-C."""

    def look(k: int, sac: Learner) -> bool:
        if k % every:
            return False
        returns = training.seen.look(k, sac)
        print(f"update {k:,}  returns {' '.join(f'{r:.0f}' for r in returns)}", flush=True)
        return bool(returns.max() >= enough)

    try:
        training.run(look)
    except KeyboardInterrupt:
        print("ending with what there is")


def look_for(
    env: str = "Swimmer-v4",
    out: Path | None = None,
    seed: int = 100,
    episodes: int = 3,
    every: int = 5,
    cfg: Annotated[SearchConfig, tyro.conf.arg(name="")] = SEARCH,
) -> None:
    """Searches for a linear policy on the true return (augmented random search), and keeps graded ones as `train` does.

    Ctrl-C ends it with what there is. It is a matter of minutes, so it writes no checkpoint.

    Args:
        env: Gymnasium id.
        out: Folder to write; results/experts/<env> if not given.
        seed: Seed of the search.
        episodes: Greedy episodes of each evaluation on the way.
        every: Steps of the search from one evaluation to the next.
        cfg: Settings of the search.
    """
    use_one_thread()
    at_least_one({"--iterations": cfg.iterations, "--episodes": episodes, "--every": every})
    if cfg.iterations < every:
        raise BadInput(f"--every {every} is more than --iterations {cfg.iterations}: nothing would be evaluated")
    spec, folder = spec_of(env), out or Path("results/experts") / env.replace("/", "__")
    check_writable(folder)
    gallery = Gallery(spec, (seed,), every, episodes)
    try:
        search(spec, seed, cfg, gallery)
    except KeyboardInterrupt:
        print("ending with what there is")
    if not gallery.snapshots:
        raise BadInput(f"nothing to keep: the search ended before its first evaluation at step {every}")
    flags = _words({"env": env, "seed": seed, "episodes": episodes, "every": every})
    command = " ".join(["python -m aihf_control.experts search", *flags, *_changed(cfg, SEARCH)])
    keep(gallery, spec, folder, f"Found at commit {commit()}:\n  {command}")


def _changed(cfg: Any, default: Any, prefix: str = "") -> list[str]:
    """The flags of the settings that are not the default ones."""
    words = []
    for f in dataclasses.fields(cfg):
        value, usual = getattr(cfg, f.name), getattr(default, f.name)
        if dataclasses.is_dataclass(value):
            words += _changed(value, usual, f"{prefix}{f.name}.")
        elif value != usual:
            words += _words({prefix + f.name: value})
    return words


def _words(flags: dict[str, Any]) -> list[str]:
    """Flags as they are typed; those that are None are left out."""
    words = []
    for name, value in flags.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        elif value is not None:
            words += [flag, *(str(x) for x in (value if isinstance(value, tuple) else (value,)))]
    return words


def keep(gallery: Gallery, spec: EnvSpec, folder: Path, about: str = "") -> None:
    """Writes the graded policies, the training's evaluations, and a card that begins with the lines `about`."""
    levels = gallery.graded(SHARES, lambda policy: worth(expert_returns(policy, spec, 20, CHOICE)))
    lines = [f"# {line}" for line in about.splitlines()]
    lines += [f"random_return = {(random := _random_returns(spec, 50)).mean():.1f}  # {_spread(random)}"]
    for level, snapshot in levels.items():
        write_zip(folder / f"{level}.zip", snapshot.policy, spec)
        returns = expert_returns(snapshot.policy, spec, 50)
        seen = f"seed {snapshot.seed}, update {snapshot.step}, {_spread(returns)}"
        lines.append(f"{level}_return = {returns.mean():.1f}  # {seen}")
        print(f"{level}: {returns.mean():.0f}, {seen}")
    write_bytes(folder / "card.toml", ("\n".join(lines) + "\n").encode())
    write_bytes(folder / "training.csv", gallery.frame().round(1).to_csv(index=False, lineterminator="\n").encode())


def bring(
    path: Positional[Path],
    env: str,
    out: Path,
    vecnormalize: Path | None = None,
    activation: Literal["ReLU", "Tanh", "ELU"] | None = None,
) -> None:
    """Reads a foreign SB3 zip (SAC, TQC, TD3, DDPG, PPO) without executing its pickles, judges it, and writes it clean.

    Args:
        path: The zip.
        env: The environment that it is for.
        out: The zip to write, which Stable-Baselines3 opens.
        vecnormalize: File of VecNormalize.save, if the policy was trained under VecNormalize.
        activation: Activation of the layers, if the zip does not state it.
    """
    allow_module(env)
    spec = spec_of(env)
    expert = read_zip(path, spec, activation, read_vecnormalize(vecnormalize) if vecnormalize else None)
    write_zip(out, expert, spec)
    returns = expert_returns(expert, spec, 20)
    print(f"{out}: {returns.mean():.0f} over greedy episodes of {env} ({_spread(returns)})")


def judge(env: str, path: Positional[Path | None] = None, episodes: int = 20) -> None:
    """Evaluates a policy, or all that are bundled for an environment, greedily and sampled.

    Args:
        env: Gymnasium id.
        path: An SB3 zip; without it the bundled ones.
        episodes: Episodes of each evaluation.
    """
    allow_module(env)
    spec, card = spec_of(env), card_of(env)
    paths = {path.stem: path} if path else card.policies() if card else {}
    if not paths:
        raise BadInput(f"there is no bundled policy for {env}; name a zip")
    table = Table("policy", "greedy return", "sampled return", "layers", "KiB", box=box.SIMPLE_HEAD)
    for name, zip_path in paths.items():
        expert = read_zip(zip_path, spec)
        both = (expert_returns(expert, spec, episodes, sampled=s) for s in (False, True))
        layers = " x ".join(str(len(bias)) for _, bias in expert.layers[:-1])
        cells = (str(estimate(returns, mean)) for returns in both)
        table.add_row(name, *cells, layers, f"{zip_path.stat().st_size / 1024:.0f}")
    console = Console(highlight=False)
    console.print(table)
    random = estimate(_random_returns(spec, episodes), mean)
    console.print(f"random actions: {random}; means over {episodes} episodes, 95 % intervals")


def _spread(returns: np.ndarray) -> str:
    about = estimate(returns, mean)
    return f"std {returns.std():.1f}, 95 % [{about.low:.0f}, {about.high:.0f}], n {about.n}"


def _random_returns(spec: EnvSpec, n: int) -> np.ndarray:
    """True returns of n episodes of uniformly random actions, (n,)."""
    rng = np.random.default_rng(0)

    def act(obs: np.ndarray) -> np.ndarray:
        return rng.uniform(-1, 1, (len(obs), spec.n_act)).astype(np.float32)

    seeds = range(EVALUATION_SEED, EVALUATION_SEED + n)
    return np.array([t.reward.sum() for t in rollout(spec, act, seeds)])


if __name__ == "__main__":
    sys.exit(main())
