"""Films of policies: sources, best, middle and worst seed, side by side, and what is refused."""

import json

import numpy as np
import pytest
from PIL import Image

from aihf_control import play
from aihf_control.data import films
from aihf_control.data.films import FilmConfig, find_player, run_players, write_film
from aihf_control.environments.camera import HEIGHT, WIDTH
from aihf_control.environments.gym import spec_of
from aihf_control.models.lanes import Dims
from aihf_control.models.networks import Policy
from aihf_control.models.saved import TrainedPolicy
from aihf_control.report.films import RANKS, film_path

SHORT = ["--length", "6"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run of three seeds, whose last returns are 5, 20 and 10."""
    folder, spec = tmp_path_factory.mktemp("runs") / "one", spec_of("Hopper-v4")
    folder.mkdir()
    TrainedPolicy(spec, (0, 1, 2), Policy(Dims((0, 1, 2), spec.n_obs, spec.n_act), (8, 8))).save(
        folder / "policy.safetensors"
    )
    cell = {"method": "ours", "seeds": [0, 1, 2], "products": "float32", "device": "cpu"}
    config = {"options": {}, "cell": cell, "dataset": {"digest": "d", "sha256": {}}, "versions": {}}
    (folder / "config.json").write_text(json.dumps(config))
    rows = [
        {"seed": seed, "step": step, "env_steps": step, "labels": 0, "return": last if step else 99.0}
        for seed, last in enumerate((5.0, 20.0, 10.0))
        for step in (0, 10)
    ]
    (folder / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_the_best_middle_and_worst_seed_are_those_of_the_last_returns(run):
    names = {rank: player.name for rank, player in run_players(run).items()}
    assert names == {
        "best": "ours, best of 3, seed 1",
        "middle": "ours, middle of 3, seed 2",
        "worst": "ours, worst of 3, seed 0",
    }
    assert find_player(str(run)).name == names["middle"]


def test_a_player_acts_as_its_lane(run):
    policy = films.load_policy(run / "policy.safetensors")
    obs = np.random.default_rng(0).normal(size=(2, policy.spec.n_obs)).astype(np.float32)
    for seed in policy.seeds:
        player = find_player(f"{run}:{seed}")
        expected = policy.spec.from_env(policy.predict(obs, lane=seed)[0])
        assert player.act(obs) == pytest.approx(expected, abs=1e-5)
    assert find_player(f"{run / 'policy.safetensors'}:2").name.endswith("policy.safetensors, seed 2")


def test_a_run_gets_three_films(run, capsys):
    pytest.importorskip("av")
    assert play.main([str(run), *SHORT]) == 0
    assert all(film_path(run, rank).read_bytes()[4:8] == b"ftyp" for rank in RANKS)
    assert capsys.readouterr().out.count("KiB") == 3


def test_several_sources_are_side_by_side(run, tmp_path, capsys):
    out = tmp_path / "x.gif"
    line = [f"{run}:0", "Hopper-v4:expert", "--out", str(out), "--captions", "before", "after", *SHORT]
    assert play.main(line) == 0
    with Image.open(out) as film:
        assert film.size == (2 * WIDTH, HEIGHT + 20) and film.n_frames > 1
        left, right = np.split(np.asarray(film.convert("RGB")), 2, axis=1)
        assert not np.array_equal(left, right)
    assert "pictures" in capsys.readouterr().out


REFUSED = [
    ([], "nothing to play"),
    (["none"], "not the folder of a finished run; give --out"),
    (["none", "--out", "x.gif"], "there is no such file; give a run's folder"),
    (["Hopper-v4:best", "--out", "x.gif"], "has the levels expert, medium, weak"),
    (["Hopper-v4:expert", "--out", "x.avi"], "ends in .mp4 or .gif"),
    (["Hopper-v4:expert", "HalfCheetah-v4:expert", "--out", "x.gif"], "give policies of one environment"),
    (["Hopper-v4:expert", "--out", "x.gif", "--captions", "a", "b"], "2 --captions for 1 policies"),
    (["Hopper-v4:expert", "--out", "x.gif", "--length", "0"], "--length at least 1"),
    (["Hopper-v4:weak", "--out", "x.gif", "--start", "5000"], "give a smaller number"),
]


@pytest.mark.parametrize(("line", "reason"), REFUSED)
def test_bad_input_is_one_line_and_nothing_is_written(line, reason, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert play.main(line) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and reason in err
    assert not list(tmp_path.iterdir())


def test_a_seed_that_the_run_lacks_and_a_zip_without_environment_are_refused(run, tmp_path, capsys):
    assert play.main([f"{run}:7", "--out", str(tmp_path / "x.gif")]) == 2
    assert "it has the seeds 0 1 2" in capsys.readouterr().err
    (tmp_path / "a.zip").write_bytes(b"")
    assert play.main([str(tmp_path / "a.zip"), "--out", str(tmp_path / "x.gif")]) == 2
    assert "give --env" in capsys.readouterr().err


def test_a_film_shows_the_same_episode_every_time(tmp_path):
    player = find_player("Hopper-v4:weak")
    paths = [tmp_path / name for name in ("a.gif", "b.gif")]
    for path in paths:
        write_film([player], path, FilmConfig(length=4))
    assert paths[0].read_bytes() == paths[1].read_bytes()
