"""Film policies: a run, a policy file or a bundled expert, or several side by side.

python -m aihf_control.play results/runs/Hopper-v4/aihf/20261121-072237-495   # its best, middle and worst seed
python -m aihf_control.play Hopper-v4:expert --out expert.mp4
python -m aihf_control.play results/runs/film/bc results/runs/film/aihf --out before_after.gif

A run's folder that is filmed with others, or with --out, shows its middle seed; FOLDER:SEED shows another. Pictures are
drawn without a window (MUJOCO_GL=egl or osmesa). mp4 needs `pip install 'aihf_control[video]'`; gif needs no extra.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from aihf_control.core.cli import ends_with_reader, exit_code, program_name
from aihf_control.core.errors import BadInput
from aihf_control.data.films import KINDS, FilmConfig, find_player, write_film, write_run_films
from aihf_control.environments.modules import allow_module
from aihf_control.environments.watchdog import DEFAULT_TIMEOUT, TIMEOUT_CODE, EnvTimeout, watch


@dataclasses.dataclass(frozen=True)
class Options:
    """Policies to film."""

    sources: tyro.conf.Positional[tuple[str, ...]] = ()
    """Each a run's folder (also FOLDER:SEED), a file .safetensors (also FILE:SEED), a zip of Stable-Baselines3 with
    --env, or ENV:LEVEL such as Hopper-v4:expert. Several are shown side by side."""
    out: Path | None = None
    """Film to write, .mp4 or .gif. Without it every source must be a run's folder, which gets films/best.mp4,
    films/middle.mp4 and films/worst.mp4."""
    captions: tuple[str, ...] = ()
    """A caption for each source; the default is its name. The return follows."""
    env: str | None = None
    """Environment of zips. If its id has a module part, this confirms that the module may be imported."""
    step_timeout: float = DEFAULT_TIMEOUT
    """Seconds after which the command ends if an environment does not return from one call; 0 is no limit."""


Unnamed = tyro.conf.arg(name="")  # no prefix on the flags of a dataclass
OPTIONS, FILM = Options(), FilmConfig()


def _command(
    options: Annotated[Options, Unnamed] = OPTIONS, film: Annotated[FilmConfig, Unnamed] = FILM
) -> tuple[Options, FilmConfig]:
    return options, film


@ends_with_reader
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0, 2 for bad input, 124 if an environment hangs."""
    about = (__doc__ or "").splitlines()[0]
    options, film = tyro.cli(_command, args=argv, prog=program_name("play"), description=about)
    try:
        return exit_code(play, options, film)
    except EnvTimeout as e:
        print(f"error: {e}", file=sys.stderr)
        return TIMEOUT_CODE


def play(options: Options, film: FilmConfig) -> None:
    """Write the films. Raises BadInput, and EnvTimeout if an environment hangs."""
    if not options.sources:
        raise BadInput(f"nothing to play: give {KINDS}")
    allow_module(options.env or "")
    with watch(options.env or options.sources[0], options.step_timeout):
        if options.out:
            players = [find_player(source, options.env) for source in options.sources]
            n = write_film(players, options.out, film, options.captions)
            print(f"{options.out}: {n} pictures, {options.out.stat().st_size / 1024:,.0f} KiB")
        else:
            for run in _runs(options):
                for path in write_run_films(run, film):
                    print(f"{path}: {path.stat().st_size / 1024:,.0f} KiB")


def _runs(options: Options) -> list[Path]:
    """Return the sources as folders of runs. Raises BadInput if one is something else."""
    other = [source for source in options.sources if not (Path(source) / "policy.safetensors").is_file()]
    if other:
        raise BadInput(f"{other[0]} is not the folder of a finished run; give --out FILE.mp4 or FILE.gif to film it")
    return [Path(source) for source in options.sources]


if __name__ == "__main__":
    sys.exit(main())
