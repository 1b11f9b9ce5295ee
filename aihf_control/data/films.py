"""Films of policies: an episode each, side by side, with a caption above each picture."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from aihf_control.core.errors import BadInput
from aihf_control.core.files import write_bytes
from aihf_control.core.types import Trajectory
from aihf_control.data.pool import find_bundled_policies
from aihf_control.data.video import add_caption, encoder_of, frame_rate
from aihf_control.environments.camera import Camera
from aihf_control.environments.gym import EVALUATION_SEED, EnvSpec, spec_of
from aihf_control.environments.modules import check_module
from aihf_control.environments.rollout import rollout
from aihf_control.models.saved import TrainedPolicy, load_policy
from aihf_control.models.sb3 import read_zip
from aihf_control.report.films import RANKS, film_path
from aihf_control.report.grid_results import numbers
from aihf_control.report.run_files import read_config, read_log

Array = np.ndarray
KINDS = (
    "a run's folder (also FOLDER:SEED), a file .safetensors (also FILE:SEED), a zip of Stable-Baselines3 with --env, "
    "or ENV:LEVEL such as Hopper-v4:expert"
)


@dataclasses.dataclass(frozen=True)
class Player:
    """A policy to film: greedy actions (n, A) in (-1, 1) for observations (n, O)."""

    name: str
    spec: EnvSpec
    act: Callable[[Array], Array]


@dataclasses.dataclass(frozen=True)
class FilmConfig:
    """Settings of the pictures of an episode."""

    reset: int = EVALUATION_SEED
    """Seed of the episode's reset; the default is the first episode of every evaluation."""
    start: int = 0
    """First step that is shown."""
    length: int = 300
    """Number of steps that are shown; of a shorter episode the last picture is repeated in grey."""


# ------------------------------------------------------------------------------------------------------------- sources


def find_player(source: str, env: str | None = None) -> Player:
    """Load the policy that a word of the command line names. Raises BadInput."""
    path, _, last = source.rpartition(":")
    if Path(source).is_dir():
        return run_players(Path(source), ("middle",))["middle"]
    if Path(source).is_file():
        return _player_of_file(Path(source), env)
    if path and Path(path).is_dir() and last.isdecimal():
        return _player_of_seed(_policy_of(Path(path)), int(last), path)
    if path.endswith(".safetensors") and Path(path).is_file() and last.isdecimal():
        return _player_of_seed(load_policy(path), int(last), path)
    if path:
        return _bundled_player(path, last)
    raise BadInput(f"cannot play {source}: there is no such file; give {KINDS}")


def run_players(run: Path, ranks: Sequence[str] = RANKS) -> dict[str, Player]:
    """Return the policies of the best, the middle and the worst seed of a run, by rank. Raises BadInput."""
    policy = _policy_of(run)
    log = read_log(run / "log.jsonl")
    last = log.groupby("seed").tail(1)
    returns = np.nan_to_num(numbers(last, "return"), nan=-np.inf)
    order = numbers(last, "seed").astype(int)[np.argsort(-returns, kind="stable")].tolist()
    seeds = {"best": order[0], "middle": order[len(order) // 2], "worst": order[-1]}
    method = read_config(run / "config.json")["cell"].get("method", run.name)
    names = {rank: f"{method}, {rank} of {len(order)}" if len(order) > 1 else str(method) for rank in ranks}
    return {rank: _player_of_seed(policy, seeds[rank], names[rank]) for rank in ranks}


def _policy_of(run: Path) -> TrainedPolicy:
    path = run / "policy.safetensors"
    if not path.is_file():
        raise BadInput(f"cannot play {run}: it has no policy.safetensors; give {KINDS}")
    return load_policy(path)


def _player_of_seed(policy: TrainedPolicy, seed: int, name: str) -> Player:
    if seed not in policy.seeds:
        raise BadInput(f"cannot play seed {seed} of {name}: it has the seeds {' '.join(map(str, policy.seeds))}")
    lane = policy.seeds.index(seed)
    check_module(policy.spec.id)

    def act(obs: Array) -> Array:
        rows = torch.as_tensor(obs).expand(len(policy.seeds), *obs.shape)
        return policy.net.act(rows)[lane].numpy()

    return Player(f"{name}, seed {seed}", policy.spec, act)


def _player_of_file(path: Path, env: str | None) -> Player:
    if path.suffix == ".zip":
        if not env:
            raise BadInput(f"cannot play {path}: a zip does not name its environment; give --env")
        return _player_of_zip(path, spec_of(env), path.stem)
    policy = load_policy(path)
    return _player_of_seed(policy, policy.seeds[0], path.stem)


def _bundled_player(env: str, level: str) -> Player:
    spec = spec_of(env)
    known = find_bundled_policies(env)
    if level not in known:
        raise BadInput(f"cannot play {env}:{level}: {env} has the levels {', '.join(known) or 'none'}; give {KINDS}")
    return _player_of_zip(known[level], spec, f"{level} of {env}")


def _player_of_zip(path: Path, spec: EnvSpec, name: str) -> Player:
    expert = read_zip(path, spec)
    return Player(name, spec, lambda obs: expert.act(torch.as_tensor(obs)).numpy())


# --------------------------------------------------------------------------------------------------------------- films


def write_film(players: Sequence[Player], path: Path, cfg: FilmConfig, captions: Sequence[str] = ()) -> int:
    """Write a film of the policies side by side as mp4 or gif; return the number of pictures.

    A caption is the policy's name and the episode's return, or what `captions` has for it. Raises BadInput.
    """
    encode = encoder_of(path)
    envs = list(dict.fromkeys(player.spec.id for player in players))
    if len(envs) > 1:
        raise BadInput(f"cannot film {' beside '.join(envs)}: give policies of one environment")
    _check(cfg, players, captions)
    spec = players[0].spec
    with Camera(spec) as camera, torch.no_grad():
        every, rate = frame_rate(camera, cfg.length)
        sides = []
        for player, caption in itertools.zip_longest(players, captions):
            (episode,) = rollout(spec, player.act, [cfg.reset], state=True)
            text = f"{caption or player.name}: return {episode.reward.sum():.0f}"
            sides.append([add_caption(x, text) for x in _pictures(camera, episode, cfg, every)])
    frames = [np.hstack(row) for row in zip(*sides, strict=True)]
    write_bytes(path, encode(frames, rate))
    return len(frames)


def _check(cfg: FilmConfig, players: Sequence[Player], captions: Sequence[str]) -> None:
    if cfg.start < 0 or cfg.length < 1 or cfg.reset < 0:
        raise BadInput(
            f"--start and --reset must be at least 0 and --length at least 1, got {cfg.start}, {cfg.reset} and "
            f"{cfg.length}"
        )
    if captions and len(captions) != len(players):
        raise BadInput(f"there are {len(captions)} --captions for {len(players)} policies; give one for each")


def _pictures(camera: Camera, episode: Trajectory, cfg: FilmConfig, every: int) -> list[Array]:
    if cfg.start >= len(episode):
        raise BadInput(f"--start {cfg.start}: an episode ends after {len(episode)} steps; give a smaller number")
    return list(camera.clip(episode, cfg.start, cfg.length, every))


def write_run_films(run: Path, cfg: FilmConfig) -> list[Path]:
    """Write a film of the best, the middle and the worst seed into a run's folder; return their paths."""
    paths = []
    for rank, player in run_players(run).items():
        write_film([player], film_path(run, rank), cfg)
        paths.append(film_path(run, rank))
    return paths
