"""From clips in a real browser to a policy: the same bits as from the same answers given directly."""

import pytest

pytest.importorskip("starlette", reason="needs pip install 'aihf_control[label]'")
pytest.importorskip("av", reason="needs pip install 'aihf_control[label]'")

import pandas as pd

from tests.label.browser import find_chromium
from tests.label.experiment import equal_bits, run_experiment


@pytest.mark.slow
def test_a_hundred_pairs_labelled_in_a_browser_train_to_the_bits_of_the_same_answers(dataset, tmp_path, can_render):
    find_chromium()
    dataset.save(tmp_path / "data")
    labelled, by_people, direct = run_experiment(tmp_path / "data", 100)
    assert labelled.answers == 110 and len(labelled.shown_after) == 109
    train = by_people.pairs.loc[by_people.pairs["split"] == "train"]
    same = ["win_episode", "win_start", "lose_episode", "lose_start", "length", "weight"]
    pd.testing.assert_frame_equal(train[same], direct.pairs[same].iloc[:100])
    for method in ("dpo", "rlhf"):
        equal, n = equal_bits(method, [by_people, direct], 100)
        assert equal == n > 1000
