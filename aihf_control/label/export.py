"""People's answers as the training comparisons of a dataset, in the columns that the package's annotators fill."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from aihf_control.core.errors import BadInput
from aihf_control.data.dataset import Dataset
from aihf_control.data.pairs import PAIR_COLUMNS, references
from aihf_control.label.choosing import read_asked
from aihf_control.label.questions import answered_rows
from aihf_control.label.store import Store

COLUMNS = (*PAIR_COLUMNS, "seconds", "query")


def export(dataset: Dataset, store: Store, out: Path, keep: bool = False) -> Dataset:
    """Write a dataset with people's answers as its training comparisons, and everything else as in `dataset`.

    Skipped pairs, repeats and gold questions are left out. `keep` keeps the training comparisons of `dataset` before
    them. Raises BadInput if there is no answer, or if a comparison of the dataset itself would be lost.
    """
    people = people_rows(store)
    if not len(people):
        raise BadInput(f"{store.path} has no answer yet; label some pairs first")
    pairs, names = dataset.pairs, set(store.annotators().values())
    trained = pairs["split"] == "train"
    earlier = pairs.loc[trained & ~pairs["annotator"].isin(sorted(names))]
    if (out / "meta.json").exists() and len(earlier) and not keep:
        raise BadInput(
            f"--export {out}: there is a dataset, and its {len(earlier)} training comparisons would be lost; keep them "
            "with --keep, or give a new folder"
        )
    parts = [*([earlier] if keep and len(earlier) else []), people, pairs.loc[~trained]]
    table = pd.concat([p for p in parts if len(p)], ignore_index=True).reindex(columns=list(COLUMNS))
    touched = {c[0] for side in ("win", "lose") for c in references(table.loc[table["split"] == "train"], side)}
    meta = dataset.meta | {
        "held_out": [i for i in dataset.meta["held_out"] if i not in touched],
        "labelled": {"answers": len(store.answers()), "by": sorted(set(people["annotator"]))},
    }
    return Dataset(meta, dataset.pool, table).save(out)


def people_rows(store: Store) -> pd.DataFrame:
    """Return the answers that count as rows of `COLUMNS`, in the order of the questions; a tie is two of weight 0.5."""
    names, lengths = store.annotators(), {source["length"] for source in store.sources().values()}
    asked = {who: iter(questions) for who, questions in read_asked(store).items()}
    answers = {answer.question.id: answer for answer in store.answers()}
    rows = []
    for question in store.questions():
        given, answer = next(asked[question.annotator]), answers.get(question.id)
        for row in answered_rows([given]) if answer else []:
            rows.append(
                {
                    **dict(zip(PAIR_COLUMNS[:4], row, strict=False)),
                    "length": max(lengths),
                    "weight": row[4],
                    "split": "train",
                    "annotator": names[question.annotator],
                    "seconds": round(answer.seconds, 3) if answer else 0.0,
                    "query": question.query,
                }
            )
    return pd.DataFrame(rows, columns=list(COLUMNS))
