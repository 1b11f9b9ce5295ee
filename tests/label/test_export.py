"""Export: answers become comparisons of the dataset, on which training is that on a teacher's same answers."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from aihf_control.core.errors import BadInput
from aihf_control.data.comparison_csv import read_comparisons
from aihf_control.data.dataset import Dataset
from aihf_control.data.labelling.comparisons import collect_comparisons
from aihf_control.data.labelling.teachers import make_teacher
from aihf_control.data.ties import find_ties
from aihf_control.environments.gym import spec_of
from aihf_control.label.choosing import Chooser, open_dataset
from aihf_control.label.export import COLUMNS, export, people_rows
from aihf_control.label.plan import Plan
from aihf_control.label.questions import segment_pool
from aihf_control.label.schema import Draft
from aihf_control.label.store import Store
from aihf_control.training.api import train
from tests.helpers import tiny


@pytest.fixture
def chooser(dataset, tmp_path) -> Chooser:
    store = Store(tmp_path / "labels")
    store.add_annotators(["ann"])
    chooser = Chooser(store, Plan(pairs=40), spec_of("Hopper-v4"), dataset, segment_pool(dataset, 0), None)
    chooser.choose()
    return chooser


def clip_return(chooser: Chooser, clip: str) -> float:
    source = chooser.store.source(clip)
    return chooser.episodes[source["episode"]].return_of(source["start"], source["length"])


def answer_all(chooser: Chooser, choices: dict[int, str] | None = None, annotator: int = 1) -> None:
    """Answer every open question by the true return, or by `choices` at its place."""
    for place, q in enumerate(chooser.store.open_questions(annotator)):
        better = "first" if clip_return(chooser, q.first) > clip_return(chooser, q.second) else "second"
        chooser.store.answer(annotator, q.id, (choices or {}).get(place, better), 1.5)


def test_answers_are_the_rows_of_a_teacher_and_train_to_the_same_bits(dataset, chooser, tmp_path):
    answer_all(chooser)
    labelled = export(dataset, chooser.store, tmp_path / "out")
    pool, rng = chooser.pool, np.random.default_rng([0, 4, 0, 0])
    direct = collect_comparisons(pool, 40, make_teacher("oracle"), "train", rng)
    train_rows = labelled.pairs.loc[labelled.pairs["split"] == "train"]
    same = ["win_episode", "win_start", "lose_episode", "lose_start", "length", "weight"]
    pd.testing.assert_frame_equal(train_rows[same], direct[same])
    assert set(train_rows["annotator"]) == {"ann"} and (train_rows["seconds"] == 1.5).all()
    test_rows = dataset.pairs.loc[dataset.pairs["split"] == "test"]
    taught = dataclasses.replace(dataset, pairs=pd.concat([direct, test_rows]))
    few = {"evaluations": 1, "eval_episodes": 1, "final_episodes": 1, "pairs": 40}
    read = Dataset.load(tmp_path / "out")
    one, other = (train("rlhf", d, seeds=2, steps=8, cfg=tiny("rlhf"), **few) for d in (read, taught))
    weights = [result.policy.net.state_dict() for result in (one, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


def test_ties_are_two_rows_and_skipped_repeats_and_gold_are_left_out(dataset, chooser, tmp_path):
    questions = chooser.store.open_questions(1)
    new = [i for i, q in enumerate(questions) if q.kind == "new"]
    answer_all(chooser, {new[0]: "tie", new[1]: "skip"})
    rows = people_rows(chooser.store, "s1")
    assert len(rows) == 40 - 1 + 1 and tuple(rows.columns) == COLUMNS
    ties = find_ties(rows)
    assert ties.sum() == 2 and (rows["weight"][ties] == 0.5).all() and (rows["weight"][~ties] == 1).all()
    labelled = export(dataset, chooser.store, tmp_path / "out")
    assert labelled.sizes == (len(dataset.demonstrations), 40)
    assert len(labelled.pairs) == 40 + (dataset.pairs["split"] == "test").sum()


def test_the_csv_can_be_imported_elsewhere(dataset, chooser, tmp_path):
    answer_all(chooser)
    export(dataset, chooser.store, tmp_path / "out")
    pairs = read_comparisons(tmp_path / "out" / "preferences.csv", dataset.pool)
    assert (pairs["annotator"] == "ann").sum() == 40


def test_own_comparisons_are_kept_or_their_loss_is_refused(dataset, chooser, tmp_path):
    answer_all(chooser)
    out = tmp_path / "out"
    dataset.save(out)
    before = (out / "preferences.csv").read_bytes()
    with pytest.raises(BadInput, match="60 of its comparisons would be lost"):
        export(dataset, chooser.store, out)
    assert (out / "preferences.csv").read_bytes() == before
    for _ in range(2):  # a second export replaces the answers of the first
        kept = export(Dataset.load(out), chooser.store, out, keep=True)
        assert kept.sizes[1] == 100
    assert Dataset.load(out).pairs["annotator"].value_counts().to_dict() == {"synthetic": 90, "ann": 40}
    assert Dataset.load(out).pairs["query"].isna().sum() == 90


def test_another_dataset_is_not_overwritten(dataset, chooser, tmp_path):
    answer_all(chooser)
    fewer = dataclasses.replace(dataset, pool=[*dataset.pool[:-1], dataset.pool[0]])
    fewer.save(tmp_path / "episodes")
    other = dataset.pairs.iloc[::-1].assign(weight=0.25)
    bare = dataclasses.replace(dataset, pairs=dataset.pairs.loc[dataset.pairs["split"] == "test"])
    dataclasses.replace(dataset, pairs=other).save(tmp_path / "pairs")
    for name, message in (("episodes", "with other episodes"), ("pairs", f"{len(other)} of its comparisons")):
        before = {p.name: p.read_bytes() for p in (tmp_path / name).iterdir()}
        for keep in (False, True):
            with pytest.raises(BadInput, match=message):
                export(bare, chooser.store, tmp_path / name, keep)
        assert {p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} == before


def test_an_export_that_is_labelled_again_keeps_the_earlier_answers(dataset, chooser, tmp_path):
    """Both are of one annotator, and about the same pairs."""
    answer_all(chooser)
    first = export(dataset, chooser.store, tmp_path / "first")
    store = Store(tmp_path / "again")
    store.add_annotators(["ann"])
    again = Chooser(store, chooser.plan, chooser.spec, first, chooser.pool, None)
    again.choose()
    answer_all(again, {0: "tie"})
    for out in ("new", "first"):
        for _ in range(2):
            source = Dataset.load(tmp_path / "first")
            assert export(source, store, tmp_path / out, keep=True).sizes[1] == 40 + 41
    with pytest.raises(BadInput, match="40 of its comparisons"):
        export(Dataset.load(tmp_path / "first"), store, tmp_path / "first")


def test_every_comparison_has_the_length_of_its_clips(dataset, chooser, tmp_path):
    answer_all(chooser)
    longer = Chooser(chooser.store, Plan(pairs=50), chooser.spec, dataset, segment_pool(dataset, 20), None)
    longer.choose()
    answer_all(longer)
    assert people_rows(chooser.store, "s1")["length"].value_counts().to_dict() == {10: 40, 20: 10}
    dataset.save(tmp_path / "data")
    with pytest.raises(BadInput, match="has clips of 10 steps, not 20"):
        open_dataset(chooser.store, tmp_path / "data", Plan(clip=20), None)


def test_an_answer_counts_even_if_its_clip_cannot_be_drawn_any_more(dataset, chooser, tmp_path):
    answer_all(chooser)
    chooser.store.add_fault(chooser.store.questions()[0].first, "broken")
    assert len(people_rows(chooser.store, "s1")) == 40


def test_held_out_episodes_that_people_compared_are_no_longer_held_out(dataset, tmp_path):
    n = len(dataset.pool)
    bare = dataclasses.replace(
        dataset, meta=dataset.meta | {"demonstrations": [], "held_out": list(range(n))}, pairs=dataset.pairs.iloc[:0]
    )
    store = Store(tmp_path / "labels")
    store.add_annotators(["ann"])
    chooser = Chooser(store, Plan(pairs=40, clip=10), spec_of("Hopper-v4"), bare, segment_pool(bare, 10), None)
    chooser.choose()
    answer_all(chooser)
    labelled = export(bare, store, tmp_path / "out")
    touched = {*labelled.pairs["win_episode"], *labelled.pairs["lose_episode"]}
    assert set(labelled.meta["held_out"]) == set(range(n)) - touched and labelled.meta["held_out"]


def test_an_answer_that_comes_during_the_export_waits_for_the_next_one(dataset, chooser, tmp_path, monkeypatch):
    answer_all(chooser)
    other, read = Store(chooser.store.folder), chooser.store.answers

    def answers():
        found = read()
        q = chooser.store.questions()[0]
        draft = Draft(q.first, q.second, "first", "new", "uniform")
        other.answer(1, other.add_questions(1, [draft])[0], "tie", 1.0)
        return found

    monkeypatch.setattr(chooser.store, "answers", answers)
    assert export(dataset, chooser.store, tmp_path / "out").sizes[1] == 40
    monkeypatch.undo()
    assert export(dataset, chooser.store, tmp_path / "out").sizes[1] > 40


def test_without_an_answer_nothing_is_written(dataset, chooser, tmp_path):
    with pytest.raises(BadInput, match="has no answer yet"):
        export(dataset, chooser.store, tmp_path / "out")
    assert not (tmp_path / "out").exists()
