"""`aihf data`: makes, brings, shows and checks datasets."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from aihf_control.core.cli import exit_code, subcommands
from aihf_control.core.errors import BadInput
from aihf_control.core.provenance import versions
from aihf_control.data.dataset import Dataset
from aihf_control.data.figure import picture
from aihf_control.data.generate import DataConfig, make_dataset
from aihf_control.data.importing import Imported, bring
from aihf_control.data.minari import to_minari
from aihf_control.data.summary import describe
from aihf_control.data.verify import verify
from aihf_control.data.video import film
from aihf_control.environments.modules import allow_module

Positional = tyro.conf.Positional
DATA = DataConfig()
BROUGHT = Imported()


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m aihf_control.data make|import|export|verify|show ...`."""
    doors = {"make": make, "import": import_, "export": export, "verify": check, "show": show}
    return exit_code(subcommands, doors, argv, "aihf_control.data")


def make(
    env: str,
    out: Path,
    policy: tuple[str, ...] = (),
    cfg: Annotated[DataConfig, tyro.conf.arg(name="")] = DATA,
) -> None:
    """Makes a dataset: rollouts of graded policies, demonstrations, and comparisons of their clips.

    Args:
        env: Gymnasium id.
        out: Folder to write.
        policy: LEVEL=FILE.zip, for each level an SB3 zip to use in place of the bundled policies.
        cfg: What the dataset is made of.
    """
    policies = dict(_level(word) for word in policy) or None
    began = time.monotonic()
    dataset = make_dataset(env, cfg, policies, out)
    print(f"made in {time.monotonic() - began:.1f} s")
    describe(dataset, out)


def import_(env: str, out: Path, brought: Annotated[Imported, tyro.conf.arg(name="")] = BROUGHT) -> None:
    """Makes a dataset of your own episodes and comparisons. Every bad line is named; then nothing is written.

    Args:
        env: Gymnasium id.
        out: Folder to write.
        brought: What is brought.
    """
    describe(bring(env, brought, out), out)


def export(folder: Positional[Path], minari: str, env: str = "") -> None:
    """Writes the episodes of a dataset as a Minari dataset, under MINARI_DATASETS_PATH.

    Args:
        folder: The dataset.
        minari: Id of the Minari dataset, for instance hopper/graded-v0.
        env: The dataset's environment, if its id has a module part: confirms that the module may be imported.
    """
    allow_module(env)
    dataset = Dataset.load(folder)
    print(f"{len(dataset.pool)} episodes as {minari} in {to_minari(dataset, minari)}")
    print(f"comparisons stay in {folder / 'preferences.csv'}; `import --pool minari:{minari} --pairs ...` reads both")


def check(folder: Positional[Path], env: str = "") -> None:
    """Plays every episode again from its reset: does the simulator here agree bit for bit with the one that made it?

    Args:
        folder: The dataset.
        env: The dataset's environment, if its id has a module part: confirms that the module may be imported.
    """
    allow_module(env)
    dataset = Dataset.load(folder)
    found = [difference for difference in verify(dataset) if difference]
    for difference in found[:10]:
        print(difference)
    done = "imported" if "brought" in dataset.meta else "made"
    print(f"{done} with {_versions(dataset.meta.get('versions', {}), versions())}")
    if found:
        raise BadInput(f"{folder}: {len(found)} of {len(dataset.pool)} episodes are not what the simulator gives here")
    print(f"{folder}: all {len(dataset.pool)} episodes are what the simulator gives here, bit for bit")


def show(
    folder: Positional[Path],
    figure: Path | None = None,
    render: int | None = None,
    out: Path = Path("pair.mp4"),
    env: str = "",
) -> None:
    """Prints what a dataset holds: levels, returns, lengths, margins, and how often its labels are right.

    Args:
        folder: The dataset.
        figure: PNG to write: returns by level, and labels by margin.
        render: Row of preferences.csv, from 0, whose two clips are drawn side by side, the preferred one on the left.
        out: The mp4 or gif to write them to.
        env: The dataset's environment, if its id has a module part: confirms that the module may be imported.
    """
    allow_module(env)
    dataset = Dataset.load(folder)
    describe(dataset, folder)
    if figure:
        picture(dataset, figure)
        print(f"wrote {figure}")
    if render is not None:
        began = time.monotonic()
        frames = film(dataset, render, out)
        print(f"wrote {out}: {frames} frames in {time.monotonic() - began:.1f} s")


def _versions(then: dict[str, str], now: dict[str, str]) -> str:
    """Those of then, and where they are others, those of now."""
    told = [f"{name} {v}" + ("" if v == now.get(name) else f" (here {now.get(name)})") for name, v in then.items()]
    return ", ".join(told) or "unknown versions"


def _level(word: str) -> tuple[str, Path]:
    level, equals, path = word.partition("=")
    if not equals:
        raise BadInput(f"--policy {word}: write it as LEVEL=FILE.zip")
    return level, Path(path)


if __name__ == "__main__":
    sys.exit(main())
