"""The firewall: a method reaches its data and environment by its task alone, by doors that are open to it.

`OPEN` are the doors of every method. Each door of `RESTRICTED` is of the named methods only, and the table says why.
"""

import ast
import dataclasses
import inspect

import pytest
import torch

from aihf_control import methods
from aihf_control.data.dataset import Dataset
from aihf_control.learning.task import Task
from tests.helpers import make_task, play

OPEN = {
    *("demos", "demo_absorbed", "demo_clips", "clips", "comparisons", "given", "compute_obs_stats", "absorbed"),
    *("spec", "dims", "iterations", "collect", "draw_starts", "rollout", "n_offered", "counted"),
}
RESTRICTED = {
    "vote": {"zpg"},  # several answers about one pair, each a label
    "judge": {"salmon"},  # an opinion by principle, each a label; from states and actions, not from rewards
    "demo_windows": {"ask", "density"},  # which rows of the demonstrations are one window
    "collect_paid": {"offline_pre", "offline_joint"},  # the true reward, which their paper's environments pay
}
"""Doors of some methods only."""
PAID = RESTRICTED["collect_paid"]
OF_LEARNING = {"compare", "by_regret", "n_asked", "play_greedy", "goals", "demo_ends", "compute_once"}
"""Used by `learning/online.py`, `tilt.py` and `goals.py`."""
OF_TRAINING = {
    "n_steps",
    "n_labels",
    "labels_right",
    "step",
    "parts",
    "resume",
    "state_dict",
}  # of the run, not a method
ASKS = {"oaif", "bpo", "parl", "zpg"}  # their annotator compares by the true reward, in other words, they see labels


def doors_of(name: str) -> set[str]:
    """The attributes of `task` that a method's file reads."""
    tree = ast.parse(inspect.getsource(methods.load(name)))
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and ((isinstance(node.value, ast.Name) and node.value.id == "task") or ast.unparse(node.value) == "self.task")
    }


@pytest.mark.parametrize("name", methods.registry.list_own_names())
def test_a_method_uses_no_door_that_is_not_open_to_it(name):
    allowed = OPEN | {door for door, names in RESTRICTED.items() if name in names}
    assert doors_of(name) <= allowed


def test_every_door_of_the_task_is_in_a_table():
    public = {name for name in vars(Task) if not name.startswith("_")} | {"spec", "dims", "n_offered", "by_regret"}
    assert public == OPEN | RESTRICTED.keys() | OF_LEARNING | OF_TRAINING


def test_every_restricted_door_is_used_by_those_that_it_names():
    for door, names in RESTRICTED.items():
        assert {name for name in methods.registry.list_own_names() if door in doors_of(name)} == names


@pytest.mark.parametrize("name", sorted(set(methods.registry.list_own_names()) - ASKS - PAID))
def test_what_is_learned_does_not_depend_on_the_true_reward(name, dataset):
    """With the same labels, episodes that are paid otherwise give the same policy to the last bit."""
    changed = [dataclasses.replace(t, reward=-1000 * t.reward + 1) for t in dataset.pool]
    first, second = (
        play(name, make_task(Dataset(dataset.meta, pool, dataset.pairs)), 6)[-1].policy
        for pool in (dataset.pool, changed)
    )
    for p, q in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(p, q)
