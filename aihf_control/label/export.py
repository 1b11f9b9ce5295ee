"""People's answers as the training comparisons of a dataset, in the columns that the package's annotators fill."""

from __future__ import annotations

import secrets
from collections import Counter
from pathlib import Path

import pandas as pd

from aihf_control.core.errors import BadInput
from aihf_control.data.dataset import Dataset
from aihf_control.data.pairs import PAIR_COLUMNS, references
from aihf_control.label.choosing import read_asked
from aihf_control.label.questions import answered_rows
from aihf_control.label.store import Store

COLUMNS = (*PAIR_COLUMNS, "seconds", "query", "store")


def export(dataset: Dataset, store: Store, out: Path, keep: bool = False) -> Dataset:
    """Write a dataset with people's answers as its training comparisons, and everything else as in `dataset`.

    Skipped pairs, repeats and gold questions are left out. `keep` keeps the training comparisons of `dataset` before
    them, except those that an earlier export of this store wrote. Raises BadInput if there is no answer, or if a
    comparison of a dataset in `out` would be lost.
    """
    own = store_id(store)
    with store.reading():
        people, answers = people_rows(store, own), len(store.answers())
    if not len(people):
        raise BadInput(f"{store.path} has no answer yet; label some pairs first")
    pairs = dataset.pairs
    trained = pairs["split"] == "train"
    earlier = _written_elsewhere(pairs.loc[trained], own)
    parts = [*([earlier] if keep else []), people, pairs.loc[~trained]]
    table = pd.concat([p for p in parts if len(p)], ignore_index=True).reindex(columns=list(COLUMNS))
    if (out / "meta.json").exists():
        _check_nothing_lost(out, dataset, table, own)
    touched = {c[0] for side in ("win", "lose") for c in references(table.loc[table["split"] == "train"], side)}
    meta = dataset.meta | {
        "held_out": [i for i in dataset.meta["held_out"] if i not in touched],
        "labelled": {"answers": answers, "by": sorted(set(people["annotator"])), "store": own},
    }
    return Dataset(meta, dataset.pool, table).save(out)


def store_id(store: Store) -> str:
    """Return the random name of a store, by which its rows are known in a dataset. A csv reads it as text."""
    return store.fact("id", f"s{secrets.token_hex(8)}")


def _written_elsewhere(rows: pd.DataFrame, own: str) -> pd.DataFrame:
    """Return the comparisons that the store of this id did not write."""
    return rows.loc[rows["store"] != own] if "store" in rows else rows


def _check_nothing_lost(out: Path, dataset: Dataset, table: pd.DataFrame, own: str) -> None:
    """Raise BadInput if `out` has other episodes than `dataset`, or comparisons that `table` lacks."""
    there = Dataset.load(out)
    found, ours = ([meta["env"], meta["sha256"]["pool.npz"]] for meta in (there.meta, dataset.meta))
    if found != ours:
        raise BadInput(f"--export {out}: there is a dataset with other episodes; give a new folder")
    lost = (_count(_written_elsewhere(there.pairs, own)) - _count(table)).total()
    if lost:
        raise BadInput(
            f"--export {out}: there is a dataset, and {lost} of its comparisons would be lost; give a new folder, or "
            "--keep if they are those of the labelled dataset"
        )


def _count(rows: pd.DataFrame) -> Counter[tuple[object, ...]]:
    """Count the comparisons by what they say and the store that wrote them."""
    return Counter(rows.reindex(columns=[*PAIR_COLUMNS, "store"]).astype(str).itertuples(index=False, name=None))


def people_rows(store: Store, own: str) -> pd.DataFrame:
    """Return the answers that count as rows of `COLUMNS`, in the order of the questions; a tie is two of weight 0.5.

    `own` is the store's id.
    """
    names, sources = store.annotators(), store.sources()
    asked = {who: iter(questions) for who, questions in read_asked(store).items()}
    answers = {answer.question.id: answer for answer in store.answers()}
    rows = []
    for question in store.questions():
        given, answer = next(asked[question.annotator]), answers.get(question.id)
        for row in answered_rows([given]) if answer else []:
            rows.append(
                {
                    **dict(zip(PAIR_COLUMNS[:4], row, strict=False)),
                    "length": sources[question.first]["length"],
                    "weight": row[4],
                    "split": "train",
                    "annotator": names[question.annotator],
                    "seconds": round(answer.seconds, 3) if answer else 0.0,
                    "query": question.query,
                    "store": own,
                }
            )
    return pd.DataFrame(rows, columns=list(COLUMNS))
