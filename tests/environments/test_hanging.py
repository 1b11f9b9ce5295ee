"""Every command that steps an environment ends in one line if a call of the environment hangs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aihf_control.bench.experiment import read
from aihf_control.bench.grid import data_words, jobs_of
from aihf_control.environments.watchdog import EnvTimeout, timeout_message
from aihf_control.speed import __main__ as speed
from aihf_control.speed import processes
from tests.helpers import ROOT

STUCK = """
import os, time
import gymnasium
from gymnasium.envs.mujoco.hopper_v4 import HopperEnv
class Stuck(HopperEnv):
    resets = 0
    def reset(self, **kwargs):
        Stuck.resets += 1
        if Stuck.resets == int(os.environ["HANGS_IN_RESET"]):
            time.sleep(100)
        return super().reset(**kwargs)
gymnasium.register("Stuck-v0", Stuck, max_episode_steps=100)
"""
FORKS = """
import importlib, json, os, sys
import gymnasium, stuck_env
gymnasium.register("Hopper-v4", stuck_env.Stuck, max_episode_steps=100)
lines, ends = json.loads(sys.argv[1]), {}
for module in sorted({line[0] for _, line in lines.values()}):
    importlib.import_module(module)
for name, (reset, line) in lines.items():
    child = os.fork()
    if child == 0:
        os.environ["HANGS_IN_RESET"] = str(reset)
        for number in (1, 2):
            os.dup2(os.open(f"{name}.{number}", os.O_WRONLY | os.O_CREAT), number)
        os._exit(sys.modules[line[0]].main(line[1:]))
    ends[name] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps(ends))
"""
GRID = """
environments = ["Hopper-v4"]
methods = ["bc"]
run.step_timeout = 0.5
"""


def lines(data: Path, policy: Path) -> dict[str, tuple[int, list[str]]]:
    """Return command lines by name, each with the number of the reset that hangs."""

    def line(module: str, *words: object) -> list[str]:
        limit = [] if module == "bench" else ["--step-timeout", "0.5"]
        return [f"aihf_control.{module}" + ".__main__" * (module != "run"), *map(str, words), *limit]

    env = ("--env", "Hopper-v4")
    return {
        "show_policies": (2, line("experts", "show", policy, *env)),
        "import_policy": (2, line("experts", "import", policy, *env, "--out", "x.zip")),
        "import_policy_random": (22, line("experts", "import", policy, *env, "--out", "x.zip")),
        "search": (2, line("experts", "search", *env)),
        "train": (2, line("experts", "train", *env)),
        "card": (2, line("experts", "card", "Hopper-v4")),
        "render": (2, line("data", "show", data, "--render", "0", "--out", "x.gif")),
        "export": (1, line("data", "export", data, "--minari", "stuck/any-v0")),
        "yardstick": (2, line("yardstick", *env, "--out", ".")),
        "yardstick_sb3": (2, line("yardstick", *env, "--out", ".", "--learner", "sb3")),
        "speed": (1, line("speed", "--envs", "Hopper-v4", "--out", ".")),
        "run_makes_data": (2, line("run", *env, "--method", "bc")),
        "run_plans": (1, line("run", *env, "--method", "bc", "--dataset", data, "--demos", 1, "--pairs", 5)),
        "bench_plans": (1, line("bench", "grid.toml", "--dry-run")),
        "bench_checks_options": (1, line("bench", "options.toml", "--list")),
    }


@pytest.mark.slow
def test_commands_end_in_one_line_if_the_environment_hangs(tmp_path, dataset_folder, policy_zips):
    pytest.importorskip("minari")
    (tmp_path / "stuck_env.py").write_text(STUCK)
    (tmp_path / "grid.toml").write_text(GRID)
    (tmp_path / "options.toml").write_text(f'{GRID}[environment."Hopper-v4".options]\nreset_noise_scale = 0.1\n')
    commands = lines(dataset_folder, policy_zips["expert"])
    path = os.pathsep.join([str(ROOT), str(tmp_path)])
    env = {**os.environ, "PYTHONPATH": path, "MINARI_DATASETS_PATH": str(tmp_path / "minari")}
    words = [sys.executable, "-c", FORKS, json.dumps(commands)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, env=env, timeout=300)
    errors = {name: (tmp_path / f"{name}.2").read_text() for name in commands}
    assert json.loads(done.stdout) == dict.fromkeys(commands, 124), (errors, done.stderr[-2000:])
    line = f"error: {timeout_message('Hopper-v4', 0.5)}\n"
    wrong = {name: text for name, text in errors.items() if not text.endswith(line) or "Traceback" in text}
    assert not wrong  # before the line Gymnasium may warn that an environment is old
    assert not (tmp_path / "x.zip").exists() and not list(tmp_path.rglob("meta.json"))


@pytest.mark.slow
@pytest.mark.parametrize("case", [{"learner": speed.OURS, "precision": "float32"}, {"learner": "rollout"}])
def test_a_learner_of_the_speed_command_whose_environment_hangs_is_named(case, tmp_path, monkeypatch):
    (tmp_path / "stuck_env.py").write_text(STUCK)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(tmp_path)]))
    monkeypatch.setenv("HANGS_IN_RESET", "2")
    env = "stuck_env:Stuck-v0"
    case |= {"part": "rest", "env": env, "width": 8, "lanes": 1, "device": "cpu", "seconds": 0.1}
    with pytest.raises(EnvTimeout) as error:
        if case["learner"] == "rollout":
            processes.measure_once(case, step_timeout=1.0)
        else:
            next(processes.measure_in_turns([case], ("updates",), 1, 0.1, None, 1.0))
    assert str(error.value) == timeout_message(env, 1.0)


@pytest.mark.parametrize("learner", ["sb3", "evaluate_policy"])
def test_a_baseline_that_does_not_answer_is_named(learner, monkeypatch):
    monkeypatch.setattr(processes, "DEFAULT_TIMEOUT", 0.2)
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(processes, "command_of", lambda *_: (sleep, dict(os.environ)))
    case = {"learner": learner, "env": "Hopper-v4"}
    with pytest.raises(EnvTimeout, match=rf"measuring {learner} on Hopper-v4 gave no answer within 0\.3 s"):
        if learner == "sb3":
            next(processes.measure_in_turns([case], (), 1, 0.1, None, 0.3))
        else:
            processes.measure_once(case, step_timeout=0.3)


LIMITS = [("sb3", 1, 300), ("sbx", 900, 900), ("sb3", float("inf"), 1e6), ("plain", 0, 0), ("ours", 1, 0)]


@pytest.mark.parametrize(("learner", "given", "limit"), LIMITS)
def test_only_baselines_have_a_time_for_an_answer(learner, given, limit):
    assert processes.answer_limit({"learner": learner}, given) == limit


def test_the_limit_of_an_experiment_is_that_of_its_data(tmp_path):
    (tmp_path / "grid.toml").write_text(GRID)
    (job,) = jobs_of(read(tmp_path / "grid.toml"), tmp_path)
    assert data_words(job)[-2:] == ["--step-timeout", "0.5"]
    (tmp_path / "grid.toml").write_text(GRID.replace("run.step_timeout = 0.5", ""))
    (job,) = jobs_of(read(tmp_path / "grid.toml"), tmp_path)
    assert "--step-timeout" not in data_words(job)
