"""The bench: jobs that die are retried and resume, finished cells never run again, Ctrl-C loses nothing."""

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
from aihf_control.bench import child, session
from aihf_control.bench.display import Ledger, expected_seconds
from aihf_control.bench.experiment import read
from aihf_control.bench.grid import jobs_of, select
from aihf_control.bench.local import Advanced, Attempted, Job, Started, run_here
from aihf_control.bench.ray import pack, private_folder, unpack
from aihf_control.core.errors import BadInput
from aihf_control.training.run_folder import is_running, lock_run

ROOT = Path(__file__).parents[2]

# A small job: counts to ten with a line in its log each, stores its state in config.json, ends as its argument says.
CELL = """
import json, os, pathlib, signal, sys, time
folder, how, resumed = pathlib.Path(sys.argv[1]), sys.argv[2], len(sys.argv) > 3
folder.mkdir(parents=True, exist_ok=True)
with (folder / "starts").open("a") as f: f.write("resumed\\n" if resumed else "fresh\\n")
if how == "refuse": print("error: --pairs 5: too many"); sys.exit(2)
state = folder / "config.json"
step = json.loads(state.read_text()) if resumed else 0
stopped = []  # between two steps only, as in a run: otherwise state could be half written
signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
while step < 10:
    if stopped: sys.exit(143)
    step += 1
    with (folder / "log.jsonl").open("a") as f: f.write(json.dumps({"step": step}) + "\\n")
    state.write_text(str(step))
    if how == "die" and step in (3, 6): os.kill(os.getpid(), signal.SIGKILL)
    if how == "crash": print("ValueError: a bug"); sys.exit(1)
    if how == "slow": time.sleep(0.2)
    if how == "child" and not resumed: os.fork() or time.sleep(60); os.kill(os.getpid(), signal.SIGKILL)
reported = json.dumps([len(os.sched_getaffinity(0)), os.environ["OMP_NUM_THREADS"]])
if how != "forget": (folder / "summary.json").write_text(reported)
"""


def make_job(folder: Path, how: str = "well") -> Job:
    words = ("-c", CELL, str(folder), how)
    return Job(folder.name, folder, words, (*words, "again"), output=folder.with_suffix(".txt"), steps=10)


def done(works: list[Job], n: int = 2, retries: int = 3, stop=None) -> list:
    return list(run_here(works, [()] * n, retries, stop or threading.Event(), wait=0.01))


def starts(w: Job) -> list[str]:
    return (w.folder / "starts").read_text().split()


def log(w: Job) -> list[int]:
    return [json.loads(line)["step"] for line in (w.folder / "log.jsonl").read_text().splitlines()]


# ---------------------------------------------------------------------------------------------------------- the engine


def test_a_killed_job_is_retried_and_resumes(tmp_path):
    dying, well = make_job(tmp_path / "dying", "die"), make_job(tmp_path / "well")
    events = done([dying, well])
    assert starts(dying) == ["fresh", "resumed", "resumed"] and log(dying) == list(range(1, 11))
    tried = [(e.attempt, e.code, e.final) for e in events if isinstance(e, Attempted) and e.job is dying]
    assert tried == [(1, -9, False), (2, -9, False), (3, 0, True)]
    assert starts(well) == ["fresh"] and dying.finished() and well.finished()


def test_a_job_that_dies_too_often_fails_with_its_last_line_and_the_others_run(tmp_path):
    ill, well = make_job(tmp_path / "ill", "crash"), make_job(tmp_path / "well")
    events = done([ill, well], n=1, retries=2)
    last = [e for e in events if isinstance(e, Attempted) and e.job is ill][-1]
    assert (last.attempt, last.code, last.final, last.message) == (3, 1, True, "ValueError: a bug")
    assert well.finished() and len(starts(ill)) == 3


def test_bad_input_is_not_retried(tmp_path):
    refused = make_job(tmp_path / "refused", "refuse")
    (_, last) = done([refused])
    assert (last.code, last.final, last.message) == (2, True, "error: --pairs 5: too many") and len(
        starts(refused)
    ) == 1


def test_exit_code_0_without_the_last_file_is_a_failure(tmp_path):
    last = done([make_job(tmp_path / "forgetful", "forget")], retries=0)[-1]
    assert last.code == 1 and last.final


def test_children_of_a_killed_process_are_killed(tmp_path):
    """Children of a killed process would write beside the next attempt."""
    parent = make_job(tmp_path / "parent", "child")
    began = time.monotonic()
    done([parent])
    assert parent.finished() and time.monotonic() - began < 50


def test_one_thread_and_one_core_each(tmp_path):
    core = min(os.sched_getaffinity(0))
    list(run_here([pinned := make_job(tmp_path / "pinned")], [(core,)], 0, threading.Event()))
    assert json.loads((pinned.folder / "summary.json").read_text()) == [1, "1"]


def test_stopping_ends_running_jobs_and_starts_no_other(tmp_path):
    works, stop = [make_job(tmp_path / str(i), "slow") for i in range(3)], threading.Event()
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


def test_a_locked_folder_is_waited_for(tmp_path):
    waiting = make_job(tmp_path / "locked")
    lock = lock_run(waiting.folder)
    threading.Timer(0.5, lock.close).start()
    done([waiting])
    assert waiting.finished()


def test_processes_end_with_the_one_that_started_them(tmp_path):
    """If the bench itself is killed, its cells write their state and end."""
    slow = make_job(tmp_path / "slow", "slow")
    text = "import subprocess, sys, time; from aihf_control.bench.child import child_command\n"
    text += f"subprocess.Popen(child_command((), {[sys.executable, *slow.fresh]!r}))\ntime.sleep(60)"
    parent = subprocess.Popen([sys.executable, "-c", text], cwd=ROOT)
    while not (slow.folder / "log.jsonl").exists():
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    time.sleep(0.6)
    counted = log(slow)
    time.sleep(0.6)
    assert log(slow) == counted and len(counted) < 10


def test_a_child_whose_parent_has_ended_starts_nothing():
    with pytest.raises(SystemExit, match="parent process has ended"):
        child.main(["1", "any", "/bin/false"])


@pytest.mark.parametrize(
    ("log", "share"),
    [
        (b"", 0.0),
        (b'{"step": 4}\n', 0.4),
        (b'{"step": 4}\n{"step": 5', 0.4),  # half written
        (b'{"step": 4}\n' + b"\0" * 30 + b"\n", 0.4),
        (b'{"step": 4}\n[]\n3\n"x"\n{"step": "9"}\n{"step": true}\n{"step": -1}\n', 0.4),
        (b"\xff\n", 0.0),
        (b'{"step": 99}\n', 1.0),
        (b"[" * 60_000 + b"\n", 0.0),
    ],
)
def test_a_damaged_log_does_not_block_the_bench(tmp_path, log, share):
    job = make_job(tmp_path / "run")
    job.folder.mkdir()
    (job.folder / "log.jsonl").write_bytes(log)
    assert job.share() == share


def test_a_log_that_is_no_file_counts_as_none(tmp_path):
    job = make_job(tmp_path / "run")
    job.folder.mkdir()
    os.mkfifo(job.folder / "log.jsonl")
    assert job.share() == 0.0


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
def small_jobs(monkeypatch):
    """Replace cells by jobs that only count, and data by none."""

    def works(jobs, out):
        return [make_job(job.folder, "well") for job in jobs]

    monkeypatch.setattr(session, "jobs_from", works)
    monkeypatch.setattr(session, "data_jobs_from", lambda jobs, out: [])
    monkeypatch.setattr(session, "expected_seconds", lambda jobs, *_: dict.fromkeys(j.key for j in jobs))
    monkeypatch.setattr(session, "report_folder", lambda folder: None)


def test_a_grid_is_run_once_and_described_in_its_folder(grid, small_jobs, capsys):
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


def test_only_some_of_it_is_run(grid, small_jobs):
    assert bench.main([str(grid), "--only", "method=bc", "pairs=20"]) == 0
    assert len(list(Path("results/bench/small/cells").glob("*/summary.json"))) == 1
    assert len(json.loads(Path("results/bench/small/grid.json").read_text())["cells"]) == 4


def test_only_takes_a_swept_factor_of_the_dataset_by_its_short_name():
    jobs = jobs_of(read(ROOT / "experiments" / "quality.toml"), Path("x"))
    weak = select(jobs, ["demo_level=weak", "method=aihf"])
    assert [job.cell.swept for job in weak] == [{"dataset.demo_level": "weak"}] * 2
    assert select(jobs, ["dataset.demo_level=weak", "method=aihf"]) == weak
    with pytest.raises(BadInput, match="demo_level=good: it is none of expert, medium, weak"):
        select(jobs, ["demo_level=good"])


def test_cells_that_failed_make_the_exit_code(grid, small_jobs, monkeypatch, capsys):
    ways = iter(["well", "refuse", "well", "well", "well", "refuse", "crash", "well"])
    monkeypatch.setattr(session, "jobs_from", lambda jobs, out: made)
    folder = Path("cells")
    made = [make_job(folder / str(i), next(ways)) for i in range(4)]
    titles = {w.key: w.key for w in made}
    monkeypatch.setattr(session, "title_of", lambda job: titles[job.key])
    monkeypatch.setattr(session, "jobs_of", lambda *_: keyed(jobs_of(read(grid), folder), made))
    assert bench.main([str(grid), "--retries", "0"]) == 2
    assert "failed: 1: --pairs 5: too many" in capsys.readouterr().err


def keyed(jobs, works):
    """The jobs under the keys of other works."""
    import dataclasses

    return [dataclasses.replace(job, key=w.key) for job, w in zip(jobs, works, strict=True)]


def test_cells_of_other_code_run_again_unless_any_code_is_given(grid, small_jobs, monkeypatch, capsys):
    cells = Path("results/bench/small/cells")
    assert bench.main([str(grid)]) == 0
    monkeypatch.setattr("aihf_control.bench.grid.code_of", lambda method: "0therc0d")
    assert bench.main([str(grid), "--any-code"]) == 0
    assert "4 of 4 cells are finished already" in capsys.readouterr().out
    assert len(list(cells.glob("*/summary.json"))) == 4
    assert bench.main([str(grid), "--only", "method=bc"]) == 0
    assert "2 cells were finished by other code and are run again" in capsys.readouterr().out
    assert len(list(cells.glob("*-0therc0d/summary.json"))) == 2 and len(list(cells.glob("*/summary.json"))) == 6


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        (["--only", "method"], "write it as NAME=VALUE"),
        (["--only", "metod=bc"], "'metod'; did you mean method?"),
        (["--only", "method=rlhf"], "method=rlhf: it is none of aihf, bc"),
        (["--only", "method=bc", "key=x"], "key=x"),
        (["--workers", "-1"], "--workers must be at least 0, got -1"),
        (["--retries", "-1"], "--retries must be at least 0, got -1"),
        (["--address", "h:1"], "need --engine ray"),
        (["--engine", "ray", "--out", "/x"], "relative"),
        (["--engine", "ray", "--cores", "0"], "--cores must be above 0, got 0"),
    ],
)
def test_bad_flags_are_one_line_and_leave_nothing(grid, capsys, words, reported):
    assert bench.main([str(grid), *words]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and reported in err
    assert list(Path().iterdir()) == [Path(grid.name)]


def test_a_file_that_is_absent_or_wrong_is_one_line_and_leaves_nothing(grid, capsys):
    assert bench.main(["absent.toml"]) == 2 and "cannot read absent.toml" in capsys.readouterr().err
    grid.write_text(GRID + "sead = 3")
    assert bench.main([str(grid)]) == 2 and "did you mean seeds?" in capsys.readouterr().err
    assert list(Path().iterdir()) == [Path(grid.name)]


def test_data_that_cannot_be_made_stops_before_any_cell(grid, small_jobs, monkeypatch, capsys):
    monkeypatch.setattr(session, "data_jobs_from", lambda jobs, out: [make_job(Path("data"), "refuse")])
    assert bench.main([str(grid)]) == 2
    assert capsys.readouterr().err == "error: cannot make the data data: --pairs 5: too many\n"
    assert not Path("results/bench").exists()


def test_the_plan_shows_what_is_finished_and_estimates_the_rest(grid, capsys, monkeypatch):
    monkeypatch.setattr("aihf_control.bench.display.estimate", lambda *_, **__: None)  # there is none
    jobs = jobs_of(read(grid), Path("results/bench/small"))
    assert bench.main([str(grid), "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("python -m aihf_control.data make --env Hopper-v4") and len(lines) == 5
    one = jobs[0]
    one.folder.mkdir(parents=True, exist_ok=True)
    (one.folder / "summary.json").write_text("{}")
    ledger = Ledger(Path("results/bench/small/attempts.jsonl"))
    for seconds in (40.0, 60.0):
        ledger.add(Attempted(make_job(one.folder), 1, 0, seconds, "", True))
    expected = expected_seconds(jobs, ledger, timing=False)
    assert expected[one.key] == expected[jobs[2].key] == 100.0  # the other one is of the same kind
    assert expected[jobs[1].key] is None  # nothing like bc has been measured
    assert bench.main([str(grid), "--dry-run"]) == 0
    reported = capsys.readouterr().out
    assert "4 cells, 1 finished; of the rest 1 take about 100 s" not in reported and "2 min of one core" in reported
    assert "finished" in reported and "?" in reported


def test_damaged_lines_of_the_ledger_are_skipped_with_a_note(tmp_path, capsys):
    ledger = Ledger(tmp_path / "attempts.jsonl")
    bad = ["{", "\0\0", "[]", "3", '{"key": "a"}', '{"key": [], "seconds": 1}', '{"key": "a", "seconds": "1"}']
    bad += [
        '{"key": "a", "seconds": NaN}',
        '{"key": "a", "seconds": -1}',
        '{"key": "a", "seconds": 1' + "0" * 400 + "}",
    ]
    ledger.path.write_text('{"key": "a", "seconds": 2}\n' + "\n".join(bad))
    ledger.add(Attempted(make_job(tmp_path / "a"), 1, 0, 3.0, "", True))  # begins a line of its own
    assert ledger.seconds() == {"a": 5.0}
    assert f"{len(bad)} damaged lines are skipped" in capsys.readouterr().out


def write_regimes(n: int = 2) -> list[str]:
    """Files of small grids in experiments/regimes."""
    paths = [Path(f"experiments/regimes/r{i}.toml") for i in range(n)]
    for i, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(GRID.replace("seeds = 2", f"seeds = {i + 2}"))
    return list(map(str, paths))


def test_several_files_are_run_one_after_the_other_each_in_its_folder(grid, small_jobs, monkeypatch, capsys):
    reported = []
    monkeypatch.setattr(session, "report_folder", lambda folder: reported.append(str(folder)))
    words = write_regimes()
    assert bench.main([*words, "--only", "method=bc", "pairs=20"]) == 0
    assert reported == ["results/bench/regimes/r0", "results/bench/regimes/r1"]
    for folder in map(Path, reported):
        assert json.loads((folder / "grid.json").read_text())["name"] == f"regimes/{folder.name}"
        assert len(list(folder.glob("cells/*/summary.json"))) == 1
    assert bench.main([*words, "--dry-run"]) == 0
    plan = capsys.readouterr().out
    assert "regimes/r1: 4 cells, 1 finished" in plan and "2 grids: 8 cells, 2 finished" in plan
    assert bench.main([*words, "--list"]) == 0
    assert sum(" aihf_control.run " in line for line in capsys.readouterr().out.splitlines()) == 8


def test_all_files_are_checked_before_the_first_is_run(grid, small_jobs, capsys):
    first, second = write_regimes()
    Path(second).write_text(GRID + "sead = 3")
    assert bench.main([first, second]) == 2 and "did you mean seeds?" in capsys.readouterr().err
    assert bench.main([first, first]) == 2 and "the same folder" in capsys.readouterr().err
    assert bench.main([]) == 2 and "nothing to run" in capsys.readouterr().err
    assert not Path("results/bench").exists()


def test_a_signal_ends_all_grids_and_the_same_command_resumes_them(grid, small_jobs, monkeypatch, capsys):
    words, only = write_regimes(), ("--only", "method=bc", "pairs=20")
    run_here = session.run_here

    def interrupt(jobs, slots, retries, stop):
        os.kill(os.getpid(), signal.SIGINT)
        yield from run_here(jobs, slots, retries, stop)

    with monkeypatch.context() as patch:
        patch.setattr(session, "_engine", lambda options, cells: lambda jobs, stop: interrupt(jobs, [()], 0, stop))
        assert bench.main([*words, *only]) == 130
    assert f"resume with the same command: python -m aihf_control.bench {' '.join(words)}" in capsys.readouterr().out
    assert not Path("results/bench/regimes/r1").exists()
    assert bench.main([*words, *only]) == 0
    assert len(list(Path("results/bench/regimes").glob("*/cells/*/summary.json"))) == 2


def test_two_benches_cannot_share_a_folder(grid, small_jobs, capsys):
    with session.lock_folder(Path("results/bench/small")):
        assert bench.main([str(grid)]) == 2
    assert "another bench is running" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------- the Ray engine without Ray


def test_without_ray_the_error_names_the_package_to_install(grid, small_jobs, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert bench.main([str(grid), "--engine", "ray"]) == 2
    assert "pip install 'aihf_control[ray]'" in capsys.readouterr().err


def test_a_folder_is_packed_and_unpacked_without_locks(tmp_path):
    there = tmp_path / "there"
    (there / "checkpoint" / "0").mkdir(parents=True)
    for name in ("config.json", "checkpoint/0/7.state", "checkpoint/lock", ".log.jsonl.x.tmp"):
        (there / name).write_text(name)
    files = pack(there)
    assert set(files) == {"config.json", "checkpoint/0/7.state"}
    unpack(files, tmp_path / "deep" / "here")
    assert pack(tmp_path / "deep" / "here") == files
    unpack({"config.json": b"other"}, tmp_path / "deep" / "here", overwrite=False)
    assert pack(tmp_path / "deep" / "here") == files
    unpack({"config.json": b"other"}, tmp_path / "deep" / "here")
    assert pack(tmp_path / "deep" / "here") == {"config.json": b"other"}
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["here"]


def test_the_folder_on_a_cluster_machine_is_private(tmp_path):
    made = private_folder(tmp_path / "new")
    assert made.stat().st_mode & 0o777 == 0o700 and private_folder(made) == made
    made.chmod(0o770)
    (tmp_path / "target").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "file").write_text("")
    for name in ("new", "link", "file"):
        with pytest.raises(BadInput, match="with mode 700"):
            private_folder(tmp_path / name)


def test_a_folder_of_another_user_is_refused(tmp_path, monkeypatch):
    made = private_folder(tmp_path / "new")
    monkeypatch.setattr(os, "getuid", lambda: made.stat().st_uid + 1)
    with pytest.raises(BadInput, match="must be a folder of this user"):
        private_folder(made)


def test_a_file_outside_of_its_folder_is_refused(tmp_path):
    with pytest.raises(BadInput, match="outside"):
        unpack({"../evil": b""}, tmp_path / "deep" / "here")
    assert not list(tmp_path.rglob("evil")) and not list((tmp_path / "deep").iterdir())


# ------------------------------------------------------------------------------------------------------------ for real


@pytest.mark.slow
def test_the_smoke_experiment_interrupted_and_resumed_gives_its_page(tmp_path):
    """The file of the package as it is, in an empty folder; Ctrl-C while cells run; then the same command again."""
    words = [sys.executable, "-m", "aihf_control.bench", str(ROOT / "experiments" / "smoke.toml")]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    folder = tmp_path / "results" / "bench" / "smoke"
    first = subprocess.Popen(words, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while first.poll() is None and not list(folder.glob("cells/*/config.json")):
        time.sleep(0.1)
    first.send_signal(signal.SIGINT)
    reported, _ = first.communicate(timeout=200)
    assert first.returncode == 130 and "resume with the same command" in reported, reported
    begun = {path.parent.name for path in folder.glob("cells/*/config.json")}
    paused = {name for name in begun if not (folder / "cells" / name / "summary.json").exists()}
    assert paused and not any(is_running(folder / "cells" / name) for name in begun)
    again = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=550)
    assert again.returncode == 0, again.stdout + again.stderr
    attempts = [json.loads(line) for line in (folder / "attempts.jsonl").read_text().splitlines()]
    assert {a["key"] for a in attempts if a["code"] == 143} >= paused
    finished = [a["key"] for a in attempts if a["code"] == 0]
    assert len(finished) == len(set(finished)) == 6 == len(list(folder.glob("cells/*/summary.json")))
    page = (folder / "report" / "page.html").read_text()
    assert "6 of 6 cells have finished, with 12 runs" in page
    assert page.count("data:image/svg+xml;base64,") == 2 * 6  # each figure for a wide and a narrow window
