"""The bench: what dies is tried again and goes on, what is finished is never run again, Ctrl-C loses nothing."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from aihf_control.bench import __main__ as bench
from aihf_control.bench import child as leash
from aihf_control.bench.display import Ledger, expected_seconds
from aihf_control.bench.experiment import read
from aihf_control.bench.grid import chosen, jobs_of
from aihf_control.bench.local import Advanced, Attempted, Job, Started, run_here
from aihf_control.bench.ray import packed, unpack
from aihf_control.core.errors import BadInput
from aihf_control.training.run_folder import is_running, lock_run

ROOT = Path(__file__).parents[2]

# A run in miniature: counts to ten with a line in its log each, its state in config.json, ends as it is told to.
CELL = """
import json, os, pathlib, signal, sys, time
folder, how, resumed = pathlib.Path(sys.argv[1]), sys.argv[2], len(sys.argv) > 3
folder.mkdir(parents=True, exist_ok=True)
with (folder / "starts").open("a") as f: f.write("resumed\\n" if resumed else "fresh\\n")
if how == "refuse": print("error: --pairs 5: too many"); sys.exit(2)
state = folder / "config.json"
step = json.loads(state.read_text()) if resumed else 0
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
while step < 10:
    step += 1
    with (folder / "log.jsonl").open("a") as f: f.write(json.dumps({"step": step}) + "\\n")
    state.write_text(str(step))
    if how == "die" and step in (3, 6): os.kill(os.getpid(), signal.SIGKILL)
    if how == "crash": print("ValueError: a bug"); sys.exit(1)
    if how == "slow": time.sleep(0.2)
    if how == "child" and not resumed: os.fork() or time.sleep(60); os.kill(os.getpid(), signal.SIGKILL)
told = json.dumps([len(os.sched_getaffinity(0)), os.environ["OMP_NUM_THREADS"]])
if how != "forget": (folder / "summary.json").write_text(told)
"""


def work(folder: Path, how: str = "well") -> Job:
    words = ("-c", CELL, str(folder), how)
    return Job(folder.name, folder, words, (*words, "again"), output=folder.with_suffix(".txt"), steps=10)


def done(works: list[Job], n: int = 2, retries: int = 3, stop=None) -> list:
    return list(run_here(works, [()] * n, retries, stop or threading.Event(), wait=0.01))


def starts(w: Job) -> list[str]:
    return (w.folder / "starts").read_text().split()


def log(w: Job) -> list[int]:
    return [json.loads(line)["step"] for line in (w.folder / "log.jsonl").read_text().splitlines()]


# ---------------------------------------------------------------------------------------------------------- the engine


def test_what_is_killed_is_tried_again_and_goes_on(tmp_path):
    dying, well = work(tmp_path / "dying", "die"), work(tmp_path / "well")
    events = done([dying, well])
    assert starts(dying) == ["fresh", "resumed", "resumed"] and log(dying) == list(range(1, 11))
    tried = [(e.attempt, e.code, e.final) for e in events if isinstance(e, Attempted) and e.work is dying]
    assert tried == [(1, -9, False), (2, -9, False), (3, 0, True)]
    assert starts(well) == ["fresh"] and dying.finished() and well.finished()


def test_what_dies_too_often_is_given_up_with_its_last_word_and_the_others_go_on(tmp_path):
    ill, well = work(tmp_path / "ill", "crash"), work(tmp_path / "well")
    events = done([ill, well], n=1, retries=2)
    last = [e for e in events if isinstance(e, Attempted) and e.work is ill][-1]
    assert (last.attempt, last.code, last.final, last.message) == (3, 1, True, "ValueError: a bug")
    assert well.finished() and len(starts(ill)) == 3


def test_bad_input_is_not_tried_again(tmp_path):
    refused = work(tmp_path / "refused", "refuse")
    (_, last) = done([refused])
    assert (last.code, last.final, last.message) == (2, True, "error: --pairs 5: too many") and len(
        starts(refused)
    ) == 1


def test_what_ends_well_without_its_last_file_has_not_ended_well(tmp_path):
    last = done([work(tmp_path / "forgetful", "forget")], retries=0)[-1]
    assert last.code == 1 and last.final


def test_children_of_what_was_killed_do_not_stay(tmp_path):
    """A parent that is killed leaves children that would write beside the next attempt."""
    parent = work(tmp_path / "parent", "child")
    began = time.monotonic()
    done([parent])
    assert parent.finished() and time.monotonic() - began < 50


def test_one_thread_and_one_core_each(tmp_path):
    core = min(os.sched_getaffinity(0))
    list(run_here([pinned := work(tmp_path / "pinned")], [(core,)], 0, threading.Event()))
    assert json.loads((pinned.folder / "summary.json").read_text()) == [1, "1"]


def test_asked_to_stop_it_leaves_off_and_begins_nothing_new(tmp_path):
    works, stop = [work(tmp_path / str(i), "slow") for i in range(3)], threading.Event()
    events = []
    for event in run_here(works, [(), ()], 3, stop):
        events.append(event)
        if isinstance(event, Advanced):
            stop.set()
    ended = [e for e in events if isinstance(e, Attempted)]
    assert {(e.code, e.final) for e in ended} <= {(143, True), (0, True)} and not works[2].folder.exists()
    assert sum(isinstance(e, Started) for e in events) == 2 == len(ended)
    assert all(0 < e.share < 1 for e in events if isinstance(e, Advanced))
    done(works)
    assert starts(works[0]) == ["fresh", "resumed"] and all(log(w) == list(range(1, 11)) for w in works)


def test_a_folder_that_is_held_is_waited_for(tmp_path):
    waiting = work(tmp_path / "held")
    lock = lock_run(waiting.folder)
    threading.Timer(0.5, lock.close).start()
    done([waiting])
    assert waiting.finished()


def test_processes_end_with_the_one_that_started_them(tmp_path):
    """The bench itself is killed: its cells hear of it, write their state, and leave."""
    slow = work(tmp_path / "slow", "slow")
    text = "import subprocess, sys, time; from aihf_control.bench import child as leash\n"
    text += f"subprocess.Popen(leash.command((), {[sys.executable, *slow.fresh]!r}))\ntime.sleep(60)"
    parent = subprocess.Popen([sys.executable, "-c", text], cwd=ROOT)
    while not (slow.folder / "log.jsonl").exists():
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    time.sleep(0.6)
    counted = log(slow)
    time.sleep(0.6)
    assert log(slow) == counted and len(counted) < 10


def test_a_leash_of_somebody_who_is_gone_starts_nothing():
    with pytest.raises(SystemExit, match="gone"):
        leash.main(["1", "any", "/bin/false"])


# ---------------------------------------------------------------------------------------------------------- the command

GRID = """
environments = ["Hopper-v4"]
methods = ["aihf", "bc"]
pairs = [20, 40]
seeds = 2
dataset = {pairs = 40, test_pairs = 20, episodes = 4, demos = 2}
method.aihf = {steps = 50}
"""


@pytest.fixture
def grid(tmp_path, monkeypatch) -> Path:
    """An experiment's file in an empty folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.toml"
    path.write_text(GRID)
    return path


@pytest.fixture
def runs_in_miniature(monkeypatch):
    """In place of the real ones: cells that only count, data that is there at once."""

    def works(jobs, out):
        return [work(job.folder, "well") for job in jobs]

    monkeypatch.setattr(bench, "works_of", works)
    monkeypatch.setattr(bench, "data_works_of", lambda jobs, out: [])
    monkeypatch.setattr(bench, "expected_seconds", lambda jobs, ledger: dict.fromkeys(j.key for j in jobs))
    monkeypatch.setattr(bench.report, "report", lambda folder: None)


def test_a_grid_is_run_once_and_what_it_was_is_left(grid, runs_in_miniature, capsys):
    assert bench.main([str(grid)]) == 0
    folder = Path("results/bench/small")
    described = json.loads((folder / "grid.json").read_text())
    assert [c["dials"] for c in described["cells"]] == [{"pairs": 20}] * 2 + [{"pairs": 40}] * 2
    assert described["file"] == GRID
    cells = sorted(p for p in (folder / "cells").iterdir() if p.is_dir())
    assert sorted(c["key"] for c in described["cells"]) == [p.name for p in cells]
    assert len(Ledger(folder / "attempts.jsonl").seconds()) == 4
    assert bench.main([str(grid)]) == 0
    assert all((p / "starts").read_text() == "fresh\n" for p in cells)
    assert "4 of 4 cells are finished already" in capsys.readouterr().out


def test_only_some_of_it_is_run(grid, runs_in_miniature):
    assert bench.main([str(grid), "--only", "method=bc", "pairs=20"]) == 0
    assert len(list(Path("results/bench/small/cells").glob("*/summary.json"))) == 1
    assert len(json.loads(Path("results/bench/small/grid.json").read_text())["cells"]) == 4


def test_a_dial_of_the_dataset_is_asked_for_by_its_own_name_as_well():
    jobs = jobs_of(read(ROOT / "experiments" / "quality.toml"), Path("x"))
    weak = chosen(jobs, ["demo_level=weak", "method=aihf"])
    assert [job.cell.dials for job in weak] == [{"dataset.demo_level": "weak"}] * 2
    assert chosen(jobs, ["dataset.demo_level=weak", "method=aihf"]) == weak
    with pytest.raises(BadInput, match="demo_level=good: it is none of expert, medium, weak"):
        chosen(jobs, ["demo_level=good"])


def test_cells_that_failed_make_the_exit_code(grid, runs_in_miniature, monkeypatch, capsys):
    ways = iter(["well", "refuse", "well", "well", "well", "refuse", "crash", "well"])
    monkeypatch.setattr(bench, "works_of", lambda jobs, out: made)
    folder = Path("cells")
    made = [work(folder / str(i), next(ways)) for i in range(4)]
    titles = {w.key: w.key for w in made}
    monkeypatch.setattr(bench, "title_of", lambda job: titles[job.key])
    monkeypatch.setattr(bench, "jobs_of", lambda *_: keyed(jobs_of(read(grid), folder), made))
    assert bench.main([str(grid), "--retries", "0"]) == 2
    assert "failed: 1: --pairs 5: too many" in capsys.readouterr().err


def keyed(jobs, works):
    """The jobs under the keys of other works."""
    import dataclasses

    return [dataclasses.replace(job, key=w.key) for job, w in zip(jobs, works, strict=True)]


def test_other_code_makes_other_cells_unless_one_does_not_mind(grid, runs_in_miniature, monkeypatch, capsys):
    cells = Path("results/bench/small/cells")
    assert bench.main([str(grid)]) == 0
    monkeypatch.setattr("aihf_control.bench.grid.code_of", lambda method: "0therc0d")
    assert bench.main([str(grid), "--any-code"]) == 0
    assert "4 of 4 cells are finished already" in capsys.readouterr().out
    assert len(list(cells.glob("*/summary.json"))) == 4
    assert bench.main([str(grid), "--only", "method=bc"]) == 0
    assert "2 cells were finished by other code and are run anew" in capsys.readouterr().out
    assert len(list(cells.glob("*-0therc0d/summary.json"))) == 2 and len(list(cells.glob("*/summary.json"))) == 6


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--only", "method"], "write it as NAME=VALUE"),
        (["--only", "metod=bc"], "'metod'; did you mean method?"),
        (["--only", "method=rlhf"], "method=rlhf: it is none of aihf, bc"),
        (["--only", "method=bc", "key=x"], "key=x"),
        (["--workers", "-1"], "--workers -1"),
        (["--retries", "-1"], "--retries -1"),
        (["--address", "h:1"], "are for --engine ray"),
        (["--engine", "ray", "--out", "/x"], "relative"),
        (["--engine", "ray", "--cores", "0"], "--cores 0"),
    ],
)
def test_bad_flags_are_one_line_and_leave_nothing(grid, capsys, words, told):
    assert bench.main([str(grid), *words]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and told in err
    assert list(Path().iterdir()) == [Path(grid.name)]


def test_a_file_that_is_absent_or_wrong_is_one_line_and_leaves_nothing(grid, capsys):
    assert bench.main(["absent.toml"]) == 2 and "cannot read absent.toml" in capsys.readouterr().err
    grid.write_text(GRID + "sead = 3")
    assert bench.main([str(grid)]) == 2 and "did you mean seeds?" in capsys.readouterr().err
    assert list(Path().iterdir()) == [Path(grid.name)]


def test_data_that_cannot_be_made_stops_before_any_cell(grid, runs_in_miniature, monkeypatch, capsys):
    monkeypatch.setattr(bench, "data_works_of", lambda jobs, out: [work(Path("data"), "refuse")])
    assert bench.main([str(grid)]) == 2
    assert capsys.readouterr().err == "error: cannot make the data data: --pairs 5: too many\n"
    assert not Path("results/bench").exists()


def test_the_plan_tells_what_is_done_and_guesses_by_what_was(grid, capsys):
    jobs = jobs_of(read(grid), Path("results/bench/small"))
    assert bench.main([str(grid), "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("python -m aihf_control.data make --env Hopper-v4") and len(lines) == 5
    one = jobs[0]
    one.folder.mkdir(parents=True, exist_ok=True)
    (one.folder / "summary.json").write_text("{}")
    ledger = Ledger(Path("results/bench/small/attempts.jsonl"))
    for seconds in (40.0, 60.0):
        ledger.add(Attempted(work(one.folder), 1, 0, seconds, "", True))
    expected = expected_seconds(jobs, ledger)
    assert expected[one.key] == expected[jobs[2].key] == 100.0  # the other one is of the same kind
    assert expected[jobs[1].key] is None  # nobody knows what bc takes
    assert bench.main([str(grid), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "4 cells, 1 finished; of the rest 1 take about 100 s" not in told and "2 min of one core" in told
    assert "finished" in told and "?" in told


def test_two_benches_do_not_share_a_folder(grid, runs_in_miniature, capsys):
    with bench._alone(Path("results/bench/small")):
        assert bench.main([str(grid)]) == 2
    assert "another bench is at work" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------- what needs no Ray of Ray


def test_without_ray_it_is_told_what_to_install(grid, runs_in_miniature, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert bench.main([str(grid), "--engine", "ray"]) == 2
    assert "pip install 'aihf_control[ray]'" in capsys.readouterr().err


def test_a_folder_travels_whole_and_without_its_locks(tmp_path):
    there = tmp_path / "there"
    (there / "checkpoint" / "0").mkdir(parents=True)
    for name in ("config.json", "checkpoint/0/7.state", "checkpoint/lock", ".log.jsonl.x.tmp"):
        (there / name).write_text(name)
    files = packed(there)
    assert set(files) == {"config.json", "checkpoint/0/7.state"}
    unpack(files, tmp_path / "deep" / "here")
    assert packed(tmp_path / "deep" / "here") == files
    unpack({"config.json": b"other"}, tmp_path / "deep" / "here", over=False)
    assert packed(tmp_path / "deep" / "here") == files
    unpack({"config.json": b"other"}, tmp_path / "deep" / "here")
    assert packed(tmp_path / "deep" / "here") == {"config.json": b"other"}
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["here"]


def test_a_file_outside_of_its_folder_is_refused(tmp_path):
    with pytest.raises(BadInput, match="outside"):
        unpack({"../evil": b""}, tmp_path / "deep" / "here")
    assert not list(tmp_path.rglob("evil")) and not list((tmp_path / "deep").iterdir())


# ------------------------------------------------------------------------------------------------------------ for real


@pytest.mark.slow
def test_the_smoke_experiment_interrupted_and_gone_on_with_gives_its_page(tmp_path):
    """The file of the package as it is, in an empty folder; Ctrl-C while cells run; then the same command again."""
    words = [sys.executable, "-m", "aihf_control.bench", str(ROOT / "experiments" / "smoke.toml")]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    folder = tmp_path / "results" / "bench" / "smoke"
    first = subprocess.Popen(words, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while first.poll() is None and not list(folder.glob("cells/*/config.json")):
        time.sleep(0.1)
    first.send_signal(signal.SIGINT)
    told, _ = first.communicate(timeout=200)
    assert first.returncode == 130 and "go on with the same command" in told, told
    begun = {path.parent.name for path in folder.glob("cells/*/config.json")}
    left_off = {name for name in begun if not (folder / "cells" / name / "summary.json").exists()}
    assert left_off and not any(is_running(folder / "cells" / name) for name in begun)
    again = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=550)
    assert again.returncode == 0, again.stdout + again.stderr
    attempts = [json.loads(line) for line in (folder / "attempts.jsonl").read_text().splitlines()]
    assert {a["key"] for a in attempts if a["code"] == 143} >= left_off
    finished = [a["key"] for a in attempts if a["code"] == 0]
    assert len(finished) == len(set(finished)) == 6 == len(list(folder.glob("cells/*/summary.json")))
    page = (folder / "report" / "page.html").read_text()
    assert "6 of 6 cells have finished, with 12 runs" in page and page.count("data:image/png;base64,") == 6
