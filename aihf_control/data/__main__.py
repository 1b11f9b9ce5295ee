"""`aihf data`: make, import, show, verify and export datasets."""

from __future__ import annotations

import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from aihf_control.core.cli import ends_with_reader, exit_code, subcommands
from aihf_control.core.errors import BadInput
from aihf_control.core.live import show_progress
from aihf_control.core.provenance import versions
from aihf_control.data.dataset import Dataset
from aihf_control.data.figure import write_figure
from aihf_control.data.generate import DataConfig, make_dataset
from aihf_control.data.importing import ImportConfig, import_dataset
from aihf_control.data.minari import write_minari
from aihf_control.data.summary import print_summary
from aihf_control.data.verify import verify
from aihf_control.data.video import render_comparison
from aihf_control.environments.modules import allow_module
from aihf_control.environments.watchdog import DEFAULT_TIMEOUT, StepTimeout, watch

Positional = tyro.conf.Positional
DATA = DataConfig()
IMPORT = ImportConfig()


@ends_with_reader
def main(argv: Sequence[str] | None = None) -> int:
    """Run `python -m aihf_control.data make|import|export|verify|show ...`; return the exit code."""
    commands = {"make": make, "import": import_, "export": export, "verify": check, "show": show}
    return exit_code(subcommands, commands, argv, "data")


def make(
    env: str,
    out: Path,
    policy: tuple[str, ...] = (),
    env_option: tuple[str, ...] = (),
    overwrite: bool = False,
    force: bool = False,
    step_timeout: StepTimeout = DEFAULT_TIMEOUT,
    cfg: Annotated[DataConfig, tyro.conf.arg(name="")] = DATA,
) -> None:
    """Make a dataset: rollouts of graded policies, demonstrations, and comparisons of their segments.

    Args:
        env: Gymnasium id.
        out: Folder to write.
        policy: LEVEL=FILE.zip per level, SB3 zips to use in place of the bundled policies.
        env_option: KEY=VALUE per option of the environment, the value as in TOML (true, 0.5, [0, 1], text).
        overwrite: Replace the dataset in the folder.
        force: Accept an expert that is no better than random actions.
        cfg: Settings of the dataset.
    """
    _check_free(out, overwrite)
    policies = dict(_parse_level(word) for word in policy) or None
    began = time.monotonic()
    with watch(env, step_timeout), show_progress(env):
        dataset = make_dataset(env, cfg, policies, out, _parse_options(env_option), force)
    print(f"made in {time.monotonic() - began:.1f} s")
    print_summary(dataset, out)


def import_(
    env: str,
    out: Path,
    env_option: tuple[str, ...] = (),
    overwrite: bool = False,
    force: bool = False,
    step_timeout: StepTimeout = DEFAULT_TIMEOUT,
    config: Annotated[ImportConfig, tyro.conf.arg(name="")] = IMPORT,
) -> None:
    """Import your own episodes and comparisons. If anything is wrong, every fault is printed and nothing is written.

    Args:
        env: Gymnasium id.
        out: Folder to write.
        env_option: KEY=VALUE per option of the environment, the value as in TOML; by default those the sources state.
        overwrite: Replace the dataset in the folder.
        force: Accept an expert that is no better than random actions, and episodes that do not replay here.
        config: Sources.
    """
    _check_free(out, overwrite)
    with watch(env, step_timeout), show_progress(env):
        dataset = import_dataset(env, config, out, _parse_options(env_option), force)
    print_summary(dataset, out)


def export(folder: Positional[Path], minari: str, env: str = "", step_timeout: StepTimeout = DEFAULT_TIMEOUT) -> None:
    """Write the episodes of a dataset as a Minari dataset, under MINARI_DATASETS_PATH.

    Args:
        folder: The dataset.
        minari: Id of the Minari dataset, for instance hopper/graded-v0.
        env: The dataset's environment, if its id has a module part: confirms that the module may be imported.
    """
    allow_module(env)
    dataset = Dataset.load(folder)
    with watch(dataset.meta["env"], step_timeout):
        written = write_minari(dataset, minari)
    print(f"{len(dataset.pool)} episodes as {minari} in {written}")
    print(f"comparisons stay in {folder / 'preferences.csv'}; `import --pool minari:{minari} --pairs ...` reads both")


def check(folder: Positional[Path], env: str = "", step_timeout: StepTimeout = DEFAULT_TIMEOUT) -> None:
    """Replay every episode from its seed and compare it bit by bit with the recorded one.

    Args:
        folder: The dataset.
        env: The dataset's environment, if its id has a module part: confirms that the module may be imported.
    """
    allow_module(env)
    dataset = Dataset.load(folder)
    with watch(dataset.meta["env"], step_timeout):
        found = [difference for difference in verify(dataset) if difference]
    for difference in found[:10]:
        print(difference)
    origin = "imported" if "brought" in dataset.meta else "made"
    print(f"{origin} with {_compare_versions(dataset.meta.get('versions', {}), versions())}")
    if found:
        raise BadInput(f"{folder}: {len(found)} of {len(dataset.pool)} episodes differ from their replay here")
    print(f"{folder}: all {len(dataset.pool)} episodes equal their replay here, bit for bit")


def show(
    folder: Positional[Path],
    figure: Path | None = None,
    render: int | None = None,
    out: Path = Path("pair.mp4"),
    env: str = "",
    step_timeout: StepTimeout = DEFAULT_TIMEOUT,
) -> None:
    """Print a summary of a dataset: levels, returns, lengths, margins, and the share of correct labels.

    Args:
        folder: The dataset.
        figure: PNG to write: returns by level, and labels by margin.
        render: Row of preferences.csv, from 0, whose segments are rendered side by side, the preferred one on the left.
        out: The mp4 or gif to write them to.
        env: The dataset's environment, if its id has a module part: confirms that the module may be imported.
    """
    allow_module(env)
    dataset = Dataset.load(folder)
    print_summary(dataset, folder)
    if figure:
        write_figure(dataset, figure)
        print(f"wrote {figure}")
    if render is not None:
        began = time.monotonic()
        with watch(dataset.meta["env"], step_timeout):
            frames = render_comparison(dataset, render, out)
        print(f"wrote {out}: {frames} frames in {time.monotonic() - began:.1f} s")


def _check_free(out: Path, overwrite: bool) -> None:
    """Raise BadInput if the folder has a complete dataset that is not to be replaced."""
    if (out / "meta.json").exists() and not overwrite:
        raise BadInput(f"--out {out}: there is a dataset already; choose another folder or replace it with --overwrite")


def _compare_versions(then: dict[str, str], now: dict[str, str]) -> str:
    """List the recorded versions, each with the installed one if it differs."""
    listed = [f"{name} {v}" + ("" if v == now.get(name) else f" (here {now.get(name)})") for name, v in then.items()]
    return ", ".join(listed) or "unknown versions"


def _parse_level(word: str) -> tuple[str, Path]:
    level, equals, path = word.partition("=")
    if not equals:
        raise BadInput(f"--policy {word}: write it as LEVEL=FILE.zip")
    return level, Path(path)


def _parse_options(words: Sequence[str]) -> dict[str, Any]:
    """Parse KEY=VALUE words, values as in TOML; a value that is no TOML is text. Raises BadInput."""
    options: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key.isidentifier():
            raise BadInput(f"--env-option {word}: write it as KEY=VALUE")
        if key in options:
            raise BadInput(f"--env-option {word}: {key} is given twice")
        try:
            options[key] = tomllib.loads(f"value = {value}")["value"] if "\n" not in value else value
        except (tomllib.TOMLDecodeError, RecursionError):
            options[key] = value
    return options


if __name__ == "__main__":
    sys.exit(main())
