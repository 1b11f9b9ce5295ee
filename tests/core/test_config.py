"""Strict decoding of settings: types, limits, places in messages, and settings that survive JSON."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, Literal

import pytest

from aihf_control.core.config import convert, flags, jsonable, override, rebuild
from aihf_control.core.errors import BadInput, at_least_one


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    sizes: tuple[int, ...] = (1, 2)

    def __post_init__(self):
        at_least_one({"--inner.sizes": len(self.sizes)})


@dataclasses.dataclass(frozen=True)
class Outer:
    n: int = 1
    on: bool = False
    kind: Literal["a", "b"] = "a"
    name: str | None = None
    folder: Path | None = None
    levels: tuple[Literal["x", "y"], ...] = ("x",)
    inner: Inner = Inner()
    more: Any = None


WRONG = [
    ({"n": True}, "f.n = True: give a whole number"),
    ({"n": 1.0}, "f.n = 1.0: give a whole number"),
    ({"n": None}, "f.n = None: give a whole number"),
    ({"on": 1}, "f.on = 1: give true or false"),
    ({"kind": "c"}, "f.kind = 'c': give one of a, b"),
    ({"kind": ["a"]}, "f.kind = ['a']: give one of a, b"),
    ({"name": 3}, "f.name = 3: give a string"),
    ({"folder": 3}, "f.folder = 3: give a path"),
    ({"levels": "x"}, "f.levels = 'x': give a list, each of it one of x, y"),
    ({"levels": ["x", "z"]}, "f.levels[1] = 'z': give one of x, y"),
    ({"inner": 3}, "f.inner = 3: give a table"),
    ({"inner": {"rate": "fast"}}, "f.inner.rate = 'fast': give a number"),
    ({"inner": {"rate": True}}, "f.inner.rate = True: give a number"),
    ({"inner": {"sizes": [1, True]}}, "f.inner.sizes[1] = True: give a whole number"),
    ({"inner": {"sizes": []}}, "f.inner: --inner.sizes must be at least 1, got 0"),
    ({"inner": {"raet": 1.0}}, "f.inner: unknown key 'raet'; did you mean rate? known are rate, sizes"),
    ({"kinds": "a"}, "f: unknown key 'kinds'; did you mean kind?"),
]


@pytest.mark.parametrize(("table", "message"), WRONG)
def test_a_wrong_field_is_refused_with_its_place(table, message):
    with pytest.raises(BadInput) as error:
        override(Outer(), table, "f")
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


@pytest.mark.parametrize("value", [3, "x", [], None])
def test_a_table_is_needed(value):
    with pytest.raises(BadInput, match="give a table"):
        override(Outer(), value, "f")


def test_fields_that_are_not_given_keep_their_values():
    changed = override(Outer(n=7, inner=Inner(rate=0.1)), {"inner": {"sizes": [3]}, "name": "m", "folder": "d"}, "f")
    assert changed == Outer(n=7, name="m", folder=Path("d"), inner=Inner(0.1, (3,)))


def test_numbers_are_converted_only_without_loss():
    assert convert(float, 2, "") == 2.0 and type(convert(float, 2, "")) is float
    assert convert(float, "-inf", "") == -math.inf and math.isnan(convert(float, "nan", ""))
    assert convert(float | None, None, "") is None and convert(Any, {"a": [1]}, "") == {"a": [1]}
    for value in ("infinity", "1", [1.0]):
        with pytest.raises(BadInput, match="give a number"):
            convert(float, value, "x")


STORED = Outer(3, True, "b", "m", Path("a/b"), ("y", "x"), Inner(math.inf, (4,)), [1])


def test_settings_survive_json(tmp_path):
    tree = json.loads(json.dumps(jsonable(dataclasses.asdict(STORED)), default=str, allow_nan=False))
    assert rebuild(Outer, tree, tmp_path) == STORED


def test_every_wrong_or_missing_field_of_stored_settings_is_refused_with_its_place(tmp_path):
    tree = json.loads(json.dumps(jsonable(dataclasses.asdict(STORED)), default=str))
    for name in set(tree) - {"more"}:
        for damage in ({}, {name: {"a": 1}}, {name: [[]]}, {name: 1e999}):
            with pytest.raises(BadInput, match=f"config.json.*{name}.*damaged, or of another version"):
                rebuild(Outer, {k: v for k, v in tree.items() if k != name} | damage, tmp_path)
    with pytest.raises(BadInput, match=r"config.json.inner lacks rate; the file is damaged"):
        rebuild(Outer, tree | {"inner": {"sizes": [1]}}, tmp_path)
    with pytest.raises(BadInput, match=r"config\.json: unknown key 'extra'"):
        rebuild(Outer, tree | {"extra": 1}, tmp_path)


def test_a_message_about_a_huge_value_is_short():
    with pytest.raises(BadInput) as error:
        convert(int, ["x" * 1000] * 1000, "f")
    assert len(str(error.value)) < 300


def test_flags_reproduce_a_config():
    words = flags(Outer(n=2, on=True, inner=Inner(0.1, (3, 4))), Outer())
    assert words == ["--n", "2", "--on", "--inner.rate", "0.1", "--inner.sizes", "3", "4"]
