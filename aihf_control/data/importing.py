"""A dataset of what a user brings: demonstrations, episodes, and a csv of comparisons that names clips of them."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from aihf_control.core.errors import BadInput, BadLines
from aihf_control.core.files import read_bytes
from aihf_control.core.provenance import versions
from aihf_control.core.types import Trajectory
from aihf_control.data.dataset import PAIR_COLUMNS, REFERENCE_COLUMNS, Dataset, references
from aihf_control.data.pool import bundled, returns_of
from aihf_control.data.sources import read_episodes, renumbered
from aihf_control.environments.gym import EnvSpec, spec_of
from aihf_control.environments.modules import allow_module
from aihf_control.models.sb3 import read_zip

DEFAULTS = {"weight": "1", "split": "train", "annotator": "imported"}


@dataclasses.dataclass(frozen=True)
class Imported:
    """What a dataset is made of. A source of episodes is FILE.npz, minari:ID, or one of our dataset folders."""

    demos: tuple[str, ...] = ()
    """Sources of demonstrations."""
    pool: tuple[str, ...] = ()
    """Sources of the episodes that are compared, numbered from 0 through all sources in this order."""
    pairs: Path | None = None
    """csv with the columns win_episode, win_start, lose_episode, lose_start, length, and perhaps weight, split (train
    or test), annotator. A tie is two lines of weight 0.5, one after the other, one each way."""
    expert: Path | None = None
    """SB3 zip whose greedy return is to be score 1; else the bundled expert's, else that of the demonstrations."""
    demo_every: int = 1
    """Learners get every so many-th step of a demonstration."""
    terminate: bool = True
    """Whether a fall ends the episode (`--no-terminate`: the environment's `terminate_when_unhealthy` is off)."""


def bring(env: str, brought: Imported, out: Path | None = None) -> Dataset:
    """The dataset, written to the folder `out` if given. Raises BadInput; BadLines with a reason for each bad line."""
    if not brought.demos and not brought.pool:
        raise BadInput("nothing to import: give --demos, --pool, or both")
    if brought.demo_every < 1:
        raise BadInput(f"--demo-every {brought.demo_every}: give at least 1")
    allow_module(env)
    spec = spec_of(env, **({} if brought.terminate else {"terminate_when_unhealthy": False}))
    compared, demos = (
        [t for s in sources for t in read_episodes(s, spec)] for sources in (brought.pool, brought.demos)
    )
    pairs = read_comparisons(brought.pairs, compared) if brought.pairs else _no_pairs()
    pool = renumbered([*compared, *demos])
    trained = pairs.loc[pairs["split"] == "train"]
    touched = {clip[0] for side in ("win", "lose") for clip in references(trained, side)}
    meta: dict[str, Any] = {
        "env": env,
        "options": spec.options,
        "horizon": spec.horizon,
        "brought": dataclasses.asdict(brought),
        "demonstrations": list(range(len(compared), len(pool))),
        "demo_every": brought.demo_every,
        "held_out": sorted(set(range(len(compared))) - touched),
        "expert_returns": _expert_returns(env, spec, brought.expert, demos or compared),
        "random_returns": returns_of(spec, None),
        "versions": versions(),
    }
    dataset = Dataset(meta, pool, pairs)
    return dataset.save(out) if out else dataset


def _expert_returns(env: str, spec: EnvSpec, zip_path: Path | None, best: Sequence[Trajectory]) -> list[float]:
    path = zip_path or bundled(env).get("expert")
    if path:
        return returns_of(spec, read_zip(path, spec))
    return [float(t.reward.sum()) for t in best]


def _no_pairs() -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series(dtype=int if name in REFERENCE_COLUMNS else object) for name in PAIR_COLUMNS})


# --------------------------------------------------------------------------------------------------------- comparisons


def read_comparisons(path: Path, pool: Sequence[Trajectory]) -> pd.DataFrame:
    """The comparisons of a csv, in the columns of `PAIR_COLUMNS`. Raises BadInput, or BadLines with every bad line."""
    try:
        reader = csv.DictReader(io.StringIO(read_bytes(path).decode("utf-8-sig"), newline=""), strict=True)
        lines = [(reader.line_num, line) for line in reader]
    except (UnicodeDecodeError, csv.Error) as e:
        raise BadInput(f"cannot read {path} as a csv: {e}") from e
    lacking = set(REFERENCE_COLUMNS) - set(reader.fieldnames or ())
    if lacking:
        raise BadInput(
            f"{path} lacks the columns {', '.join(sorted(lacking))}; it needs {', '.join(REFERENCE_COLUMNS)}"
        )
    if not lines:
        raise BadInput(f"{path} has no line of comparisons")
    rows, faults, length = [], [], lines[0][1]["length"]
    for number, line in lines:
        row = {name: line.get(name) or DEFAULTS.get(name) or "" for name in PAIR_COLUMNS}
        fault = "it has more cells than the header" if None in line else _fault(row, pool, length)
        faults += [f"{path}, line {number}: {fault}"] if fault else []
        rows.append(row)
    if faults:
        raise BadLines(str(path), faults)
    types: dict[str, Any] = {name: int for name in REFERENCE_COLUMNS} | {"weight": float}
    return pd.DataFrame(rows, columns=list(PAIR_COLUMNS)).astype(types)


def _fault(row: dict[str, str], pool: Sequence[Trajectory], length: str | None) -> str | None:
    """What is wrong with a line, if anything is."""
    for name in REFERENCE_COLUMNS:
        if not row[name].isdecimal() or len(row[name]) > 15:
            return f"{name} is {row[name]!r}, no whole number from 0 up" if row[name] else f"{name} is empty"
    if row["length"] != length:
        return f"length is {row['length']}, that of the first line is {length}; all clips must be alike"
    sides = [(int(row[f"{side}_episode"]), int(row[f"{side}_start"])) for side in ("win", "lose")]
    for episode, start in sides:
        if episode >= len(pool):
            return f"there is no episode {episode}; --pool has {len(pool)}, numbered from 0"
        if int(row["length"]) < 1 or start >= pool[episode].starts(int(row["length"])):
            ending = f"{'falls' if pool[episode].terminated else 'ends'} after {len(pool[episode])} steps"
            return f"no clip of {row['length']} steps begins at {start} of episode {episode}, which {ending}"
    if sides[0] == sides[1]:
        return "a clip is compared with itself"
    if row["split"] not in ("train", "test"):
        return f"split is {row['split']!r}, neither train nor test"
    return None if _weighs(row["weight"]) else f"weight is {row['weight']!r}, no number above 0"


def _weighs(cell: str) -> bool:
    try:
        return 0 < float(cell) < math.inf
    except ValueError:
        return False
