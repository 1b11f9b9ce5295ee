"""Hostile inputs end in success or in one line, never in a traceback, foreign code, 1 GiB of memory or 20 s.

The large test runs only where AIHF_FUZZ_CASES says how many cases it makes (AIHF_FUZZ_SEED: which): 1200 take long.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import drive
from tests.helpers import ROOT


def findings(n: int, seed: int, out: Path) -> list[str]:
    """Run the cases in a process of their own, as it forks."""
    line = [sys.executable, "-m", "tests.fuzz.drive", str(n), str(seed), str(out)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert (out / "findings.json").exists(), done.stderr[-2000:]
    read = json.loads((out / "findings.json").read_text())
    assert read["cases"] == n
    return [f"{f['case']}: {f['verdict']} {f['line']}" for f in read["findings"]]


def test_some_hostile_inputs_end_in_one_line(tmp_path):
    found = findings(3, 2, tmp_path)
    assert not found, "\n".join(found)


@pytest.mark.slow
def test_a_hostile_input_of_each_kind_ends_in_one_line(tmp_path):
    found = findings(len(drive.KINDS) + len(drive.LINES) + len(drive.SPECIAL), 1, tmp_path)
    assert not found, "\n".join(found)


@pytest.mark.slow
@pytest.mark.skipif("AIHF_FUZZ_CASES" not in os.environ, reason="AIHF_FUZZ_CASES does not say how many cases")
def test_a_thousand_hostile_inputs_end_in_one_line(tmp_path):
    n, seed = int(os.environ["AIHF_FUZZ_CASES"]), int(os.environ.get("AIHF_FUZZ_SEED", "0"))
    found = findings(n, seed, tmp_path)
    assert not found, f"{len(found)} findings\n" + "\n".join(found)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        ("raise ValueError('odd')", "traceback: ValueError: odd"),
        ("import os; os._exit(7)", "ended with 7"),
        ("open(hostile.SENTINEL, 'w')", "executed code"),
        ("bytearray(b'x') * (5 * 2**28)", "took 1"),
        ("while True: pass", "ended with timeout"),
        ("raise BadInput('two\\nlines')", "ended with 98"),
        ("raise BadInput('one line')", ""),
        ("return 2", ""),
        ("raise SystemExit(0)", ""),
    ],
)
def test_the_judge_finds_each_kind_of_fault(body, verdict, tmp_path, monkeypatch):
    """Judge functions that do what no command may do."""
    code = (
        "import sys; from pathlib import Path; from tests.fuzz import drive, hostile\n"
        "from aihf_control.core.errors import BadInput\n"
        "drive.SECONDS = 1.0\n"
        f"def do(_):\n    {body}\n"
        "out = Path(sys.argv[1]); code, _, memory = drive.attempt(do, out)\n"
        "print(drive.judge(code, memory, out))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().startswith(verdict) and bool(done.stdout.strip()) == bool(verdict), done.stdout
