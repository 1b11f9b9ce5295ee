"""Runs on the same data share clones and fitted rewards, to the same bits, and only if all that matters is equal."""

import dataclasses

import pytest
import torch

from aihf_control.learning.bc import Cloner
from aihf_control.learning.reuse import compute_once, hash_of
from aihf_control.learning.reward_model import RewardModel
from aihf_control.models.lanes import Dims, Random
from aihf_control.training.events import Evaluated
from aihf_control.training.run import CheckpointPlace, train_lanes
from tests.helpers import EACH_METHOD, UPDATES_ARE_STEPS
from tests.laws.test_resume import cell_for, outcome, same, unbroken


class Memory(dict):
    """A store in memory."""

    put = dict.__setitem__


class Counter:
    """A part whose computation adds a random number."""

    def __init__(self, start: float = 0.0):
        self.value = torch.tensor(start)
        self.rng = Random(Dims((0,), 1, 1), "counter")
        self.computed = 0

    def compute(self) -> None:
        self.value = self.value + self.rng.uniform(1)
        self.computed += 1

    def state_dict(self):
        return {"value": self.value, "rng": self.rng.state_dict()}

    def load_state_dict(self, state):
        self.value = state["value"]
        self.rng.load_state_dict(state["rng"])


@pytest.fixture
def counted(monkeypatch) -> list[str]:
    """The gradient steps of clones and rewards that are computed."""
    steps: list[str] = []

    def count(owner, name):
        plain = getattr(owner, name)

        def counting(self, *given):
            steps.append(f"{owner.__name__}.{name}")
            return plain(self, *given)

        monkeypatch.setattr(owner, name, counting)

    count(Cloner, "step")
    count(RewardModel, "recentre")  # once in every step of `fit`, and not in those beside the policy
    return steps


def test_the_same_work_is_done_once_and_leaves_the_same_state_and_stream():
    store, first, second = Memory(), Counter(), Counter()
    for counter in (first, second):
        compute_once(store, ("count", 1), {"counter": counter}, counter.compute)
    assert (first.computed, second.computed) == (1, 0)
    assert torch.equal(first.value, second.value) and torch.equal(first.rng.uniform(3), second.rng.uniform(3))


def test_other_settings_another_start_or_another_place_in_the_stream_are_computed_anew():
    store, first = Memory(), Counter()
    compute_once(store, ("count", 1), {"counter": first}, first.compute)
    later = Counter()
    later.rng.uniform(1)
    for what, counter in ((("count", 2), Counter()), (("count", 1), Counter(1.0)), (("count", 1), later)):
        compute_once(store, what, {"counter": counter}, counter.compute)
        assert counter.computed == 1
    assert len(store) == 4


def test_a_hash_tells_values_types_shapes_and_orders_apart():
    a = torch.arange(4.0)
    trees = [
        a,
        a.view(2, 2),
        a.double(),
        a + 1,
        [a],
        {"x": a},
        {"y": a},
        [1, 2],
        [2, 1],
        [1, [2]],
        "12",
        12,
        12.0,
        None,
    ]
    assert len({hash_of(tree) for tree in trees}) == len(trees)
    assert hash_of({"x": a, "n": [1, 2.5]}) == hash_of({"x": a.clone(), "n": [1, 2.5]})


@pytest.mark.parametrize("method", EACH_METHOD)
def test_a_second_run_loads_what_the_first_computed_to_the_same_bits(method, dataset, tmp_path, counted):
    cell = cell_for(method)
    for i in range(2):
        counted.clear()
        place = CheckpointPlace(tmp_path / str(i), shared=tmp_path / "shared")
        same(outcome(train_lanes(cell, dataset, place=place)), unbroken(method, dataset))
    if method not in UPDATES_ARE_STEPS:  # those evaluate their clone on the way
        assert "Cloner.step" not in counted


def test_methods_share_a_clone_and_labels_are_counted_if_it_is_loaded(dataset, tmp_path, counted):
    labels = []
    for method in ("rlhf", "aihf"):
        counted.clear()
        place = CheckpointPlace(tmp_path / method, shared=tmp_path / "shared")
        events = list(train_lanes(cell_for(method), dataset, place=place))
        labels.append([row["labels"] for event in events if isinstance(event, Evaluated) for row in event.rows])
    assert "Cloner.step" not in counted
    assert set(labels[0]) == set(labels[1]) == {20}


def test_other_seeds_other_data_and_damage_are_computed_anew(dataset, tmp_path, counted):
    cell = cell_for("dpo")

    def files() -> set:
        return set((tmp_path / "shared").iterdir())

    def train(cell, name: str):
        return outcome(train_lanes(cell, dataset, place=CheckpointPlace(tmp_path / name, shared=tmp_path / "shared")))

    first = train(cell, "first")
    before = files()
    train(dataclasses.replace(cell, seeds=(0, 2)), "seeds")
    assert len(files()) == 2 * len(before)
    train(dataclasses.replace(cell, pairs=19), "pairs")
    assert len(files()) == 3 * len(before)
    for path in before:
        path.write_bytes(path.read_bytes()[:-1])
    counted.clear()
    same(train(cell, "damaged"), first)
    assert "Cloner.step" in counted
    counted.clear()
    same(train(cell, "mended"), first)
    assert "Cloner.step" not in counted


def test_a_killed_run_does_not_clone_again(dataset, tmp_path, counted):
    cell, whole = cell_for("dpo"), unbroken("dpo", dataset)
    events = train_lanes(cell, dataset, place=CheckpointPlace(tmp_path))
    next(event for event in events if isinstance(event, Evaluated))  # that of the clone
    events.close()
    counted.clear()
    same(outcome(train_lanes(cell, dataset, place=CheckpointPlace(tmp_path))), whole)
    assert "Cloner.step" not in counted
