"""Dataset folder: a pool of trajectories, the indices of its demonstrations, and comparisons of segments (clips).

Loading checks hashes, shapes, types and finiteness and executes no code; errors name the file and the field.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aihf_control.core.errors import BadInput
from aihf_control.core.files import read_bytes, sha256, write_arrays, write_bytes, write_json
from aihf_control.core.text import count
from aihf_control.core.types import LaneSample, Preferences, Steps, Trajectory, correct_share, cut, join
from aihf_control.data.arrays import MAX_BYTES, read_json_table, read_npz
from aihf_control.data.labelling.principles import gaps
from aihf_control.data.pairs import check_references, margins, read_pairs, references
from aihf_control.data.ties import draw_rows, find_second_halves

Array = np.ndarray
SCHEMA = 1
META = (  # required fields of meta.json
    "schema",
    "sha256",
    "env",
    "options",
    "horizon",
    "demonstrations",
    "held_out",
    "expert_returns",
    "random_returns",
)
COLUMNS = ("obs", "act", "reward", "qpos", "qvel", "terminated", "seed", "level", "length")
KIND_NAMES = {"b": "booleans", "iu": "whole numbers", "U": "text"}


@dataclasses.dataclass(frozen=True, repr=False)
class Dataset:
    """Pool of trajectories, indices of its demonstrations, and comparisons between segments of them.

    On disk: a folder with `meta.json`, `pool.npz` and `preferences.csv` (references into the pool, never copies).
    """

    meta: dict[str, Any]
    pool: list[Trajectory]
    pairs: pd.DataFrame
    """One comparison per row in the columns of `PAIR_COLUMNS`; `split` is "train" or "test" (held out)."""

    def __repr__(self) -> str:
        parts = count(len(self.pool), "episode"), count(self.sizes[0], "demonstration")
        return f"Dataset({self.meta['env']}, {', '.join(parts)}, {count(self.sizes[1], 'comparison')} to learn from)"

    @property
    def demonstrations(self) -> list[Trajectory]:
        """Return the episodes to imitate, subsampled to every `demo_every`-th step if meta has that field."""
        every = self.meta.get("demo_every", 1)
        return [dataclasses.replace(self.pool[i], every=every) for i in self.meta["demonstrations"]]

    @property
    def held_out(self) -> list[Trajectory]:
        """Return the episodes that are neither demonstrations nor part of a training comparison."""
        return [self.pool[i] for i in self.meta["held_out"]]

    @property
    def sizes(self) -> tuple[int, int]:
        """Return the numbers of demonstrations and of training comparisons, of which lanes draw theirs."""
        return len(self.meta["demonstrations"]), len(self.pairs.loc[self.pairs["split"] == "train"])

    def draw(self, seed: int, n_demos: int, n_pairs: int) -> LaneSample:
        """Draw the data of the lane with this seed, without replacement. Raises BadInput if the dataset is too small.

        `n_pairs` counts table rows: a tie, which has two rows, is drawn whole and counts twice.
        """
        demos, rows = self._draw_rows(seed, n_demos, n_pairs)
        if not n_pairs:
            return LaneSample(demos, None, None)
        right = float(correct_share(margins(self.pool, rows)).mean())
        steps, segments = self._steps_inside(rows)
        return LaneSample(demos, self.preferences(rows), steps, right, segments)

    def _draw_rows(self, seed: int, n_demos: int, n_pairs: int) -> tuple[list[Trajectory], pd.DataFrame]:
        """Draw a lane's demonstrations and the rows of its comparisons."""
        train = self.pairs.loc[self.pairs["split"] == "train"]
        check_sizes(n_demos, n_pairs, self.sizes)
        rng = np.random.default_rng([seed, 1])
        there = self.demonstrations
        demos = [there[i] for i in rng.permutation(len(there))[:n_demos]]
        return demos, train.iloc[draw_rows(find_second_halves(train), n_pairs, rng)]

    def judge(self, seed: int, n_demos: int, n_pairs: int) -> Array:
        """Return a judge's opinion by principle of the comparisons that `draw` gives with these arguments, (N, m)."""
        train = self.pairs.loc[self.pairs["split"] == "train"]
        spread = gaps(self.pool, train).std(0)
        return gaps(self.pool, self._draw_rows(seed, n_demos, n_pairs)[1]) / np.where(spread > 0, spread, 1.0)

    def preferences(self, rows: pd.DataFrame) -> Preferences:
        """Cut the segments of these comparisons from the pool."""
        win = cut(self.pool, references(rows, "win"))
        return Preferences(win, cut(self.pool, references(rows, "lose")), rows["weight"].to_numpy(np.float32))

    def _steps_inside(self, rows: pd.DataFrame) -> tuple[Steps, Array]:
        """Return the transitions inside the compared segments, and the distinct segments as rows of them, (M, 3)."""
        distinct = sorted({*references(rows, "win"), *references(rows, "lose")})
        inside: dict[int, Array] = {}
        for episode, start, length in distinct:
            inside.setdefault(episode, np.zeros(len(self.pool[episode]), bool))[start : start + length] = True
        parts = [(self.pool[i].steps(), mask) for i, mask in inside.items()]
        steps = join([Steps(*(column[mask] for column in steps)) for steps, mask in parts])
        offsets = dict(zip(inside, np.cumsum([0, *(mask.sum() for mask in inside.values())]), strict=False))
        first = [offsets[episode] + inside[episode][:start].sum() for episode, start, _ in distinct]
        n = [min(length, len(self.pool[episode]) - start) for episode, start, length in distinct]
        return steps, np.stack([first, n, [length for _, _, length in distinct]], 1)

    def digest(self) -> str:
        """Return a short hash of the dataset's contents."""
        return sha256(json.dumps(self.meta, sort_keys=True, default=str).encode())[:12]

    def save(self, folder: str | Path) -> Dataset:
        """Write the folder, `meta.json` last, so a folder with one is complete; return the dataset with its hashes."""
        folder = Path(folder)
        write_arrays(folder / "pool.npz", _pack(self.pool))
        write_bytes(folder / "preferences.csv", self.pairs.to_csv(index=False, lineterminator="\n").encode())
        files = {name: sha256(read_bytes(folder / name)) for name in ("pool.npz", "preferences.csv")}
        saved = dataclasses.replace(self, meta={**self.meta, "schema": SCHEMA, "sha256": files})
        write_json(folder / "meta.json", saved.meta)
        return saved

    @staticmethod
    def load(folder: str | Path) -> Dataset:
        """Read and check a dataset folder. Raises BadInput that names the wrong file and field."""
        folder = Path(folder)
        meta = _read_meta(folder / "meta.json")
        contents = {name: read_bytes(folder / name, MAX_BYTES) for name in ("pool.npz", "preferences.csv")}
        for name, data in contents.items():
            if sha256(data) != meta["sha256"].get(name):
                raise BadInput(f"{folder / name} differs from its sha256 in meta.json; make the dataset again")
        pool = _unpack(contents["pool.npz"], folder / "pool.npz")
        pairs = read_pairs(contents["preferences.csv"], folder / "preferences.csv")
        check_references(pairs, pool, meta["horizon"], folder / "preferences.csv")
        for field in ("demonstrations", "held_out"):
            if not all(0 <= i < len(pool) for i in meta[field]):
                raise BadInput(f"{folder / 'meta.json'}: {field} names an episode that the pool does not have")
        return Dataset(meta, pool, pairs)


def check_sizes(n_demos: int, n_pairs: int, sizes: tuple[int, int]) -> None:
    """Raise BadInput if a lane asks for more demonstrations or comparisons than a dataset of these sizes has."""
    for flag, asked, n in (("--demos", n_demos, sizes[0]), ("--pairs", n_pairs, sizes[1])):
        if not 0 <= asked <= n:
            raise BadInput(f"{flag} {asked}: the dataset has {n}; ask for 0 to {n}")


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        meta = read_json_table(path)
    except BadInput as e:
        if isinstance(e.__cause__, FileNotFoundError):
            raise BadInput(f"{e}; {path.parent} is no dataset, `aihf data make` makes one") from e
        raise
    missing = set(META) - set(meta)
    if missing:
        raise BadInput(f"{path} lacks {', '.join(sorted(missing))}")
    if type(meta["schema"]) is not int or meta["schema"] != SCHEMA:
        raise BadInput(f"{path} has schema {meta['schema']}, this version reads {SCHEMA}; make the dataset anew")
    wrong = [name for name, (valid, _) in FIELDS.items() if name in meta and not valid(meta[name])]
    if wrong:
        raise BadInput(f"{path}: {wrong[0]} is no {FIELDS[wrong[0]][1]}, got {str(meta[wrong[0]])[:60]!r}")
    return meta


def _is_whole(value: Any, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _is_list(value: Any, valid: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(valid, value))


def _is_table(value: Any, valid: Callable[[Any], bool] = lambda _: True) -> bool:
    return isinstance(value, dict) and all(map(valid, value.values()))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_annotator(value: Any) -> bool:
    return _is_table(value, lambda x: x is None or _is_number(x))


FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "env": (_is_text, "text"),
    "options": (_is_table, "table"),
    "sha256": (lambda x: _is_table(x, _is_text), "table of text"),
    "horizon": (lambda x: _is_whole(x, 1), "whole number from 1 up"),
    "demo_every": (lambda x: _is_whole(x, 1), "whole number from 1 up"),
    "demonstrations": (lambda x: _is_list(x, _is_whole), "list of episode numbers"),
    "held_out": (lambda x: _is_list(x, _is_whole), "list of episode numbers"),
    "expert_returns": (lambda x: _is_list(x, _is_number) and bool(x), "list of finite numbers"),
    "random_returns": (lambda x: _is_list(x, _is_number) and bool(x), "list of finite numbers"),
    "config": (_is_table, "table"),
    "annotator": (_is_annotator, "table of numbers"),
    "versions": (lambda x: _is_table(x, _is_text), "table of text"),
    "notes": (lambda x: _is_list(x, _is_text), "list of text"),
}
"""Check of each field of meta.json, and its type in words."""


def _pack(pool: Sequence[Trajectory]) -> dict[str, Array]:
    arrays = {name: np.concatenate([getattr(t, name) for t in pool]) for name in ("obs", "act", "reward")}
    for name in ("qpos", "qvel"):
        if all(getattr(t, name) is not None for t in pool):
            arrays[name] = np.concatenate([getattr(t, name) for t in pool])
    for name in ("terminated", "seed", "level"):
        arrays[name] = np.array([getattr(t, name) for t in pool])
    return {**arrays, "length": np.array([len(t) for t in pool])}


def _unpack(data: bytes, path: Path) -> list[Trajectory]:
    arrays = read_npz(path, data, COLUMNS)
    _check_arrays(arrays, path)
    length, n_episodes = arrays["length"].astype(np.int64), len(arrays["length"])
    steps, rows = np.cumsum(length)[:-1], np.cumsum(length + 1)[:-1]
    cuts = {"obs": rows, "qpos": rows, "qvel": rows, "act": steps, "reward": steps}
    parts: dict[str, Any] = {name: np.split(arrays[name], cuts[name]) for name in cuts.keys() & arrays.keys()}
    return [
        Trajectory(
            **{name: column[i] for name, column in parts.items()},
            terminated=bool(arrays["terminated"][i]),
            seed=int(arrays["seed"][i]),
            level=str(arrays["level"][i]),
        )
        for i in range(n_episodes)
    ]


def _check_arrays(arrays: dict[str, Array], path: Path) -> None:
    dimensions = {"obs": 2, "act": 2, "reward": 1, "terminated": 1, "seed": 1, "level": 1, "length": 1}
    missing = dimensions.keys() - arrays.keys()
    if missing:
        raise BadInput(f"{path} lacks {', '.join(sorted(missing))}")
    for name, n in dimensions.items():
        if arrays[name].ndim != n:
            raise BadInput(f"{path}: {name} has {arrays[name].ndim} dimensions, it needs {n}")
    for name, kinds in (("terminated", "b"), ("seed", "iu"), ("level", "U")):
        if arrays[name].dtype.kind not in kinds:
            raise BadInput(f"{path}: {name} is of {arrays[name].dtype}, it needs {KIND_NAMES[kinds]}")
    for name in ("obs", "act", "reward", "qpos", "qvel"):
        if name in arrays and (arrays[name].dtype.kind != "f" or not np.isfinite(arrays[name]).all()):
            raise BadInput(f"{path}: {name} has entries that are not finite numbers")
    _check_lengths(arrays, path)


def _check_lengths(arrays: dict[str, Array], path: Path) -> None:
    length = arrays["length"]
    if length.dtype.kind not in "iu" or (length < 1).any():
        raise BadInput(f"{path}: length has episodes without steps")
    if not len(length) or (length > len(arrays["act"])).any():  # their sum could overflow
        raise BadInput(f"{path}: length has no episodes, or one longer than all steps of the pool")
    n_steps, n_episodes = int(length.sum()), len(length)
    rows = {"act": n_steps, "reward": n_steps} | dict.fromkeys(("obs", "qpos", "qvel"), n_steps + n_episodes)
    for name, array in arrays.items():
        needed = rows.get(name, n_episodes)
        if array.shape[:1] != (needed,):
            raise BadInput(f"{path}: {name} has the shape {array.shape}, its episodes need {needed} rows")
