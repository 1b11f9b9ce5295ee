"""Comparison of two runs, and the log for TensorBoard."""

import json
from pathlib import Path

import pandas as pd
import pytest

from aihf_control import compare, run
from aihf_control.report.differences import compare_returns, find_differences, flatten, list_results
from tests.helpers import in_this_process, words


@pytest.fixture(scope="module")
def runs(dataset_folder, tmp_path_factory) -> tuple[Path, Path]:
    """Two runs of bc that differ in their number of comparisons and their steps."""
    out = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aihf_control.training.result.run_workers", in_this_process)
        for name, steps, more in (("one", 2, ()), ("other", 3, ("--pairs", "10"))):
            assert run.main([*words("bc", dataset_folder, out, *more, steps=steps), "--folder", str(out / name)]) == 0
    return out / "one", out / "other"


def log(returns: list, seeds: list[int] | None = None) -> pd.DataFrame:
    rows = [
        {"seed": s, "step": k, "return": r} for s, r in zip(seeds or range(9), returns, strict=False) for k in (0, 5)
    ]
    return pd.DataFrame(rows)


def test_only_differences_are_printed(runs, capsys):
    assert compare.main([str(path) for path in runs]) == 0
    printed = capsys.readouterr().out
    settings = printed.partition("results")[0]
    assert all(word in settings for word in ("pairs", "steps", "cfg.steps")) and "cfg.clone" not in settings
    assert "with probability" in printed and "on the 2 seeds that both have" in printed


def test_a_run_does_not_differ_from_itself(runs, capsys):
    assert compare.main([str(runs[0])] * 2) == 0
    printed = capsys.readouterr().out
    assert "the settings are the same" in printed and "probability 0.50" in printed


def test_differences_by_hand():
    one, other = flatten({"a": 1, "b": {"c": [1, 2], "d": None}}), flatten({"a": 1, "b": {"c": [1, 3]}, "e": True})
    assert find_differences(one, other) == [("b.c", "1 2", "1 3"), ("e", "-", "True")]


def test_verdicts_by_hand():
    chance, by = compare_returns(log([4.0, 5.0, 6.0]), log([1.0, 2.0, 3.0]), True)
    assert (
        "probability 1.00 [1.00, 1.00] (n 3 and 3)" in chance and "on the 3 seeds that both have it returns 3.00" in by
    )
    (chance,) = compare_returns(log([4.0, 1.0], [0, 1]), log([2.0, 3.0], [5, 6]), True)
    assert "probability 0.50" in chance
    assert "different environments" in compare_returns(log([1.0]), log([1.0]), False)[0]
    assert compare_returns(log([None, None]), log([1.0]), True) == ["all seeds of one run diverged"]


def test_a_run_that_diverged_is_worse_than_all_others_and_in_no_mean():
    one, other = (log(r).assign(env_steps=0, labels=0) for r in ([4.0, None, 6.0], [1.0, 2.0, 3.0]))
    one.loc[(one["seed"] == 1) & (one["step"] == 0), "step"] = 4
    one.loc[(one["seed"] == 1) & (one["step"] == 4), "return"] = 9.0  # earlier evaluations do not count
    chance, by = compare_returns(one, other, True)
    assert "probability 0.67" in chance and "(n 3 and 3)" in chance
    assert "on the 2 seeds that both have it returns 3.00" in by
    printed = {row[0]: row[1] for row in list_results(one, other)}
    assert (
        printed["return"] == printed["mean of the last 5 evaluations"] == "5.00 [4.00, 6.00]"
        and printed["diverged"] == "1"
    )


@pytest.mark.parametrize(
    "damage", [lambda run: run.joinpath("summary.json").unlink(), lambda run: (run / "config.json").write_text("[]")]
)
def test_a_folder_without_a_finished_run_is_refused(runs, tmp_path, capsys, damage):
    import shutil

    copy = Path(shutil.copytree(runs[0], tmp_path / "copy"))
    damage(copy)
    assert compare.main([str(runs[0]), str(copy)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and str(copy) in err


# ------------------------------------------------------------------------------------------------- a run's own folder


def test_a_folder_with_a_run_is_not_written_to(runs, dataset_folder, capsys):
    before = {p: p.read_bytes() for p in runs[0].iterdir()}
    assert run.main([*words("bc", dataset_folder, Path("unused"), steps=2), "--folder", str(runs[0])]) == 2
    assert f"{runs[0]} holds a run already" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in runs[0].iterdir()} == before


def test_the_run_is_in_the_given_folder(runs):
    config = json.loads((runs[0] / "config.json").read_text())
    assert config["options"]["folder"] == str(runs[0]) and (runs[0] / "policy_seed1.zip").exists()
    assert not (runs[0] / "checkpoint").exists()


# --------------------------------------------------------------------------------------------------------- tensorboard


def test_tensorboard_has_the_values_of_the_log(dataset_folder, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr("aihf_control.training.result.run_workers", in_this_process)
    folder = tmp_path / "run"
    (folder / "tensorboard" / "seed0").mkdir(parents=True)
    (folder / "tensorboard" / "seed0" / "events.out.tfevents.0.stale").write_bytes(b"")
    assert run.main([*words("bc", dataset_folder, tmp_path, "--tensorboard", steps=4), "--folder", str(folder)]) == 0
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert not list(folder.glob("tensorboard/*/*.stale"))
    for seed in (0, 1):
        events = EventAccumulator(str(folder / "tensorboard" / f"seed{seed}"))
        events.Reload()
        printed = {(e.step, round(e.value, 3)) for e in events.Scalars("return")}
        assert printed == {(r["step"], round(r["return"], 3)) for r in rows if r["seed"] == seed} and len(printed) == 3
        assert "clone_loss" in events.Tags()["scalars"] and "seed" not in events.Tags()["scalars"]


def test_without_tensorboard_the_error_names_the_package_to_install(dataset_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("aihf_control.training.result.run_workers", in_this_process)
    assert run.main(words("bc", dataset_folder, tmp_path / "runs", "--tensorboard")) == 2
    assert "aihf_control[tensorboard]" in capsys.readouterr().err and not (tmp_path / "runs").exists()
