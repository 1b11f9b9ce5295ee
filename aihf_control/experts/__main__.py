"""`aihf experts`: train, import, evaluate and document expert policies."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from aihf_control.core.cli import ends_with_reader, exit_code, make_console, print_table, subcommands
from aihf_control.core.errors import BadInput, InputWarning, at_least_one
from aihf_control.core.live import show_progress
from aihf_control.core.statistics import estimate, mean
from aihf_control.data.pool import check_expert, explain_missing
from aihf_control.environments.cards import card_of
from aihf_control.environments.gym import EnvSpec, spec_of
from aihf_control.environments.modules import allow_module
from aihf_control.environments.watchdog import DEFAULT_TIMEOUT, StepTimeout, watch
from aihf_control.experts.levels import format_spread, random_returns
from aihf_control.experts.model_card import write_card
from aihf_control.experts.search import SearchConfig, SearchOptions, search_experts
from aihf_control.experts.train import TrainOptions, train_experts
from aihf_control.experts.true_reward import TrueRewardConfig
from aihf_control.learning.evaluation import expert_episodes, expert_returns
from aihf_control.models.expert import keeps_clip
from aihf_control.models.sb3 import read_zip
from aihf_control.models.sb3_writer import write_zip
from aihf_control.models.vecnormalize import ObsStatistics, read_vecnormalize

Positional = tyro.conf.Positional
Unnamed = tyro.conf.arg(name="")  # no prefix on the flags of a dataclass
TRAIN, TRUE_REWARD = TrainOptions(), TrueRewardConfig()
SEARCH, SEARCH_CONFIG = SearchOptions(), SearchConfig()
EPISODES = 20  # of an evaluation
MOST_CLIPPED = 0.001  # share of observations that an imported policy may meet beyond a clipping that is not kept


@ends_with_reader
def main(argv: Sequence[str] | None = None) -> int:
    """Run `python -m aihf_control.experts train|import|show|card|search ...`; return the exit code."""
    commands = {"train": train, "import": import_policy, "show": show, "card": card, "search": search}
    return exit_code(subcommands, commands, argv, "experts")


def train(options: Annotated[TrainOptions, Unnamed] = TRAIN, cfg: Annotated[TrueRewardConfig, Unnamed] = TRUE_REWARD):
    """Train on the true reward, a lane per seed; save the best policy and weaker ones at 60 and 30 % of its score.

    Writes expert.zip, medium.zip, weak.zip (SB3 zips), training.csv and card.toml. After a kill, or after SIGTERM,
    which writes a checkpoint, the same command resumes with the same numbers. Ctrl-C ends the training early and saves
    the best policies so far, and so does the same command with `--updates` no larger than the number already done.
    """
    with watch(options.env, options.step_timeout), show_progress(options.env):
        train_experts(options, cfg)


def search(options: Annotated[SearchOptions, Unnamed] = SEARCH, cfg: Annotated[SearchConfig, Unnamed] = SEARCH_CONFIG):
    """Search for a linear policy on the true return (augmented random search); save graded policies as `train` does.

    Ctrl-C ends the search early and saves the best policies so far. It takes minutes and writes no checkpoint.
    """
    with watch(options.env, options.step_timeout), show_progress(options.env):
        search_experts(options, cfg)


def import_policy(
    path: Positional[Path],
    env: str,
    out: Path,
    vecnormalize: Path | None = None,
    activation: Literal["ReLU", "Tanh", "ELU"] | None = None,
    force: bool = False,
    step_timeout: StepTimeout = DEFAULT_TIMEOUT,
) -> None:
    """Read a foreign SB3 zip (SAC, TQC, TD3, DDPG, PPO) without executing its pickles; evaluate and rewrite it.

    A policy that is no better than random actions is refused, as it may have been read in the wrong way. ReLU layers
    keep the clipping of VecNormalize (with a clip_obs up to 100) by two layers more. Another policy is refused if more
    than 0.1 % of the observations in its episodes would be clipped; otherwise a warning gives the number of steps.

    Args:
        path: The zip.
        env: Gymnasium id of the policy's environment.
        out: The zip to write, which Stable-Baselines3 opens.
        vecnormalize: File of VecNormalize.save, if the policy was trained under VecNormalize.
        activation: Activation of the layers, if the zip does not state it.
        force: Write the policy even if it is no better than random actions, or acts without a clipping that matters.
    """
    allow_module(env)
    with watch(env, step_timeout):
        spec, statistics = spec_of(env), read_vecnormalize(vecnormalize) if vecnormalize else None
        expert = read_zip(path, spec, activation, statistics)
        with show_progress(env):
            episodes = expert_episodes(expert, spec, EPISODES)
        if statistics and not keeps_clip(expert, statistics.clip):
            _check_clipping(path, np.concatenate([t.obs[:-1] for t in episodes]), statistics, force)
        returns = np.array([t.reward.sum() for t in episodes])
        if not force:
            check_expert(list(returns), list(random_returns(spec, EPISODES)))
        write_zip(out, expert, spec)
    print(f"{out}: {returns.mean():.0f} over greedy episodes of {env} ({format_spread(returns)})")


def _check_clipping(path: Path, obs: np.ndarray, statistics: ObsStatistics, force: bool) -> None:
    """Warn how many of the observed steps (N, O) VecNormalize would have clipped. Raises BadInput for too many."""
    beyond = statistics.beyond(obs)
    steps, share = int(beyond.any(1).sum()), float(beyond.mean())
    found = (
        f"{path} is read without VecNormalize's clipping at {statistics.clip:g} standard deviations, which applies in "
        f"{steps:,} of {len(obs):,} steps of {EPISODES} greedy episodes"
    )
    if share > MOST_CLIPPED and not force:
        raise BadInput(
            f"{found}, to {share:.2%} of the observations; at most {MOST_CLIPPED:.1%} is allowed: give a policy "
            "of ReLU layers, which keep the clipping, or import it with --force"
        )
    warnings.warn(found, InputWarning, stacklevel=2)


def show(
    env: str,
    path: Positional[Path | None] = None,
    episodes: int = EPISODES,
    step_timeout: StepTimeout = DEFAULT_TIMEOUT,
) -> None:
    """Evaluate a policy, or all bundled ones of an environment, with greedy and with sampled actions.

    Args:
        env: Gymnasium id.
        path: An SB3 zip; the bundled policies if not given.
        episodes: Episodes per evaluation.
    """
    at_least_one({"--episodes": episodes})
    allow_module(env)
    with watch(env, step_timeout):
        _show(env, path, episodes)


def card(
    env: Positional[str], episodes: int = 50, folder: Path | None = None, step_timeout: StepTimeout = DEFAULT_TIMEOUT
) -> None:
    """Write README.md and pictures of an environment's bundled policies.

    Evaluates every level with greedy and with sampled actions, and with greedy actions in the v5 environment of the
    same name if its spaces are the same, for which a card.toml is written beside the folder. The rest is read from
    card.toml and training.csv. Draws an episode of every level if the environment can be rendered.

    Args:
        env: Gymnasium id.
        episodes: Episodes per evaluation.
        folder: Folder with the zips, card.toml and training.csv; the bundled one if not given.
    """
    with watch(env, step_timeout):
        write_card(env, episodes, folder)


def _show(env: str, path: Path | None, episodes: int) -> None:
    spec, bundled = spec_of(env), card_of(env)
    paths = {path.stem: path} if path else bundled.policies() if bundled else {}
    if not paths:
        raise BadInput(f"{explain_missing(env)}; give a zip")
    console = make_console()
    head = "policy", "greedy return", "sampled return", "layers", "KiB"
    print_table(console, head, _returns_rows(paths, spec, episodes))
    random = estimate(random_returns(spec, episodes), mean)
    console.print(f"random actions: {random}; means over {episodes} episodes, 95 % intervals")


def _returns_rows(paths: dict[str, Path], spec: EnvSpec, episodes: int) -> list[list[str]]:
    """Return a table's row per policy {name: zip}."""
    rows = []
    for name, path in paths.items():
        expert = read_zip(path, spec)
        with show_progress(name):
            both = [str(estimate(expert_returns(expert, spec, episodes, sampled=s), mean)) for s in (False, True)]
        layers = " x ".join(str(len(bias)) for _, bias in expert.layers[:-1])
        rows.append([name, *both, layers, f"{path.stat().st_size / 1024:.0f}"])
    return rows


if __name__ == "__main__":
    sys.exit(main())
