"""Reading of foreign files: regular files of bounded size, JSON and TOML of bounded depth and numbers."""

import json
import os
import time
from pathlib import Path

import pytest

from aihf_control.core.config import read_toml
from aihf_control.core.errors import BadInput
from aihf_control.core.files import JSON_BYTES, lock, parse_json, parse_toml, read_bytes, read_json, write_bytes


def refusal(call, *args) -> str:
    with pytest.raises(BadInput) as error:
        call(*args)
    assert "\n" not in str(error.value)
    return str(error.value)


DEEP = {
    "lists": (b"[" * 100_000, "nested more than 50 deep"),
    "closed lists": (b"[" * 100_000 + b"]" * 100_000, "nested more than 50 deep"),
    "after a string with a quote": (b'["\\"]", ' + b"[" * 60 + b"]" * 61, "nested more than 50 deep"),
    "digits": (b"[" + b"7" * 5000 + b"]", "more than 100 digits"),
    "digits of a float": (b"[0." + b"7" * 5000 + b"]", "more than 100 digits"),
    "digits of an exponent": (b"[1e" + b"7" * 5000 + b"]", "more than 100 digits"),
    "Latin-1": (b'["\xe9"]', "utf-8"),
    "half a surrogate": (b"[\xed\xa0\x80]", "utf-8"),
    "nothing": (b"", "not valid"),
    "NUL": (b"\0" * 100, "not valid"),
}


@pytest.mark.parametrize("case", DEEP)
def test_json_that_exceeds_a_limit_is_refused_in_one_line(case):
    data, words = DEEP[case]
    assert words in refusal(parse_json, data, "x.json")
    objects = b'{"a":' * 100_000
    assert "nested more than 50 deep" in refusal(parse_json, objects, "x.json")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a = " + "[" * 100_000, "nested more than 50 deep"),
        ("a = " + "{b=" * 100_000, "nested more than 50 deep"),
        ("a." * 100_000 + "a = 1", "nested more than 50 deep"),
        ("[" + '"a" . ' * 100_000 + "a]", "nested more than 50 deep"),
        ("seeds = " + "7" * 5000, "more than 100 digits"),
        ("seeds = 0x" + "f" * 5000, "more than 100 digits"),
        ("seeds = " + "7_7" * 2000, "more than 100 digits"),
        ("x = 'it''s' # [[[\ny = " + "[" * 60, "nested more than 50 deep"),
    ],
)
def test_toml_that_exceeds_a_limit_is_refused_in_one_line(tmp_path, text, words):
    (tmp_path / "x.toml").write_text(text)
    assert words in refusal(read_toml, tmp_path / "x.toml")


def test_brackets_and_digits_inside_strings_and_comments_do_not_count():
    inside = "[" * 200 + "7" * 200 + r"\\" + r"\""
    assert len(parse_json(f'["{inside}", "{inside}"]'.encode(), "")) == 2
    brackets = "[" * 200 + "7" * 200
    text = f"""# it's {brackets}
a = "{brackets}\\""  # "
b = '{brackets}\\'
c = \"\"\"
{brackets} " \\\"\"\" \"\"\"
d = '''{brackets} ' '''
"{brackets}" = 1.5
"""
    assert len(parse_toml(text.encode(), "")) == 5


@pytest.mark.parametrize("text", ['"' + '\\"' * 10**6, '"""' * 10**6, "'''" * 10**6, "a" * 10**6, "a " * 10**6])
def test_limits_are_checked_in_linear_time(text):
    start = time.process_time()
    for parse in (parse_json, parse_toml):
        refusal(parse, text[:1_000_000].encode(), "x")
    assert time.process_time() - start < 5


def test_what_is_within_the_limits_is_read(tmp_path):
    tree = {"a": [1, -2.5e-300, 12345678901234567890123, None, True, "é\ud7ff"], "b": {"c": [[[[{}]]]]}}
    (tmp_path / "x.json").write_text(json.dumps(tree, ensure_ascii=False))
    assert read_json(tmp_path / "x.json") == tree
    assert parse_json(b"[" * 50 + b"]" * 50, "") and parse_json(b"7" * 100, "") == int("7" * 100)


def test_a_pipe_or_a_device_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path / "link", Path("/dev/zero"), Path("/dev/null")):
        assert "it is not a regular file" in refusal(read_bytes, path)
    assert "Is a directory" in refusal(read_bytes, tmp_path)
    assert "No such file" in refusal(read_bytes, tmp_path / "absent")
    assert "null byte" in refusal(read_bytes, tmp_path / "a\0b")
    assert "File name too long" in refusal(read_bytes, tmp_path / ("a" * 5000))


def test_a_pipe_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadInput, match="pipe: it is not a regular file; choose another path"):
        write_bytes(tmp_path / "pipe", b"x")
    assert (tmp_path / "pipe").is_fifo() and len(list(tmp_path.iterdir())) == 1


def test_a_file_that_is_too_large_is_refused(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b" 12 ")
    assert read_bytes(path, 4) == b" 12 "
    assert "larger than" in refusal(read_bytes, path, 3)
    with path.open("wb") as f:
        f.truncate(JSON_BYTES + 1)
    assert "larger than 16 MiB" in refusal(read_json, path)


def test_a_lock_excludes_and_ends_with_its_file(tmp_path):
    first = lock(tmp_path / "new" / "lock", "taken")
    assert refusal(lock, tmp_path / "new" / "lock", "taken by another") == "taken by another"
    first.close()
    with lock(tmp_path / "new" / "lock", "taken"):
        refusal(lock, tmp_path / "new" / "lock", "taken")


def test_a_lock_ends_with_its_process(tmp_path):
    child = os.fork()
    if child == 0:
        held = lock(tmp_path / "lock", "taken")
        os._exit(0 if held else 1)
    os.waitpid(child, 0)
    lock(tmp_path / "lock", "taken").close()
