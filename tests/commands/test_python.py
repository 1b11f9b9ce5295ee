"""The package as scripts use it: names, settings, environments, results and exports."""

import gymnasium as gym
import numpy as np
import pytest
import torch

import aihf_control as aihf
from aihf_control.core.errors import in_python
from aihf_control.environments.factories import id_of
from aihf_control.environments.gym import spec_of
from tests.helpers import SMALL_DATA, tiny

FEW = {"pairs": 20, "evaluations": 2, "eval_episodes": 1, "final_episodes": 1}


@pytest.fixture(scope="module")
def result(dataset):
    return aihf.train("bc", dataset, seeds=[3, 5], steps=4, cfg=tiny("bc"), **FEW)


def test_the_package_lists_its_public_names_alone():
    assert dir(aihf) == sorted([*aihf.__all__, "__version__"])
    assert all(getattr(aihf, name) is not None for name in dir(aihf))


def test_reprs_are_one_short_line(result, dataset):
    assert repr(dataset) == "Dataset(Hopper-v4, 16 episodes, 4 demonstrations, 60 comparisons to learn from)"
    assert repr(result.policy) == "TrainedPolicy(Hopper-v4, seeds 3, 5, 11 observations, 3 actions)"
    assert repr(result).startswith("Result(bc on Hopper-v4, 2 seeds, 4 iterations, score ")


# ------------------------------------------------------------------------------------------------------------ settings


def test_settings_are_given_by_name():
    cfg = aihf.make_config("aihf", steps=7, sac={"lr": 1e-4}, tilt=aihf.TiltConfig(share=0.0))
    assert (cfg.steps, cfg.sac.lr, cfg.sac.hold, cfg.tilt.share) == (7, 1e-4, 4000, 0.0)


def test_train_takes_settings_of_the_method(dataset):
    seen = []
    settings = {"clone": {"lr": 0.01}, **FEW}
    trained = aihf.train(
        "bc", dataset, 1, steps=4, on_evaluation=lambda step, rows: seen.append((step, len(rows))), **settings
    )
    assert trained.run_spec.cfg.clone.lr == 0.01 and trained.run_spec.pairs == 20
    assert seen == [(0, 1), (2, 1), (4, 1)]


def test_an_evaluation_can_end_the_training(dataset):
    trained = aihf.train("bc", dataset, 1, steps=8, cfg=tiny("bc"), on_evaluation=lambda step, _: step == 4, **FEW)
    assert trained.last()["step"].tolist() == [4]


def test_progress_is_shown(dataset, capsys):
    aihf.train("dpo", dataset, 1, steps=2, cfg=tiny("dpo"), progress=True, **FEW)
    assert "cloning (" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"stpes": 5}, "aihf: unknown key 'stpes'; did you mean steps\\?"),
        ({"sac": {"rl": 5}}, "aihf.sac: unknown key 'rl'; did you mean lr\\?"),
        ({"sac": {"hold": -1}}, "aihf: aihf.sac: sac.hold must be at least 0|aihf.sac: sac.hold must be at least 0"),
        ({"eval_episodes": 0}, "^eval_episodes must be at least 1"),
        ({"pairs": 61}, "^pairs 61: the dataset has 60"),
    ],
)
def test_errors_name_arguments_and_not_flags(settings, said, dataset):
    with pytest.raises(aihf.BadInput, match=said):
        aihf.train("aihf", dataset, 1, **settings)


def test_flags_are_reworded_wherever_they_stand():
    with pytest.raises(aihf.BadInput, match=r"^sac\.kl_updates 3 and final_episodes; -- a - b$"), in_python():
        raise aihf.BadInput("--sac.kl-updates 3 and --final-episodes; -- a - b")


# -------------------------------------------------------------------------------------------------------- environments


def make_hopper() -> gym.Env:
    env = gym.make("Hopper-v4", terminate_when_unhealthy=False, max_episode_steps=30)
    return gym.wrappers.RescaleAction(env, -2, 2)


def test_an_environment_from_a_function_can_be_learned_in_this_process(policy_zips):
    settings = {"demos": 1, "pairs": 30, "test_pairs": 5, "clip": 10, "levels": ("expert", "weak"), "noise": (0.0,)}
    data = aihf.make_dataset(make_hopper, policies=policy_zips, episodes=4, **settings)
    assert data.pool[0].obs.shape == (31, 11) and data.meta["env"].startswith("python/make-hopper")
    trained = aihf.train("bc", data, 1, steps=2, cfg=tiny("bc"), **FEW)
    assert trained.policy.predict(np.zeros(11))[0].shape == (3,) and trained.spec.high.tolist() == [2, 2, 2]
    with pytest.raises(aihf.BadInput, match="exists in this process only"):
        aihf.train("bc", data, 2, workers=2, cfg=tiny("bc"), **FEW)
    with pytest.raises(aihf.BadInput, match="have a default dataset"):
        aihf.train("bc", make_hopper)


def test_an_environment_that_was_made_by_its_id_stands_for_it():
    assert id_of(gym.make("Hopper-v4", terminate_when_unhealthy=False)) == (
        "Hopper-v4",
        {"terminate_when_unhealthy": False},
    )
    assert spec_of(id_of(make_hopper)[0]).horizon == 30 and id_of(make_hopper) == id_of(make_hopper)


@pytest.mark.parametrize(
    ("env", "said"),
    [
        (lambda: make_hopper(), "lambda: MyWrapper"),
        (lambda: 7, "got int"),
        (lambda: lambda: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_other_environments_are_refused(env, said):
    with pytest.raises(aihf.BadInput, match=said):
        id_of(env())


def test_a_dataset_can_be_given_as_its_folder(dataset_folder):
    assert aihf.train("bc", dataset_folder, 1, steps=2, cfg=tiny("bc"), **FEW).dataset.digest()


def test_settings_of_a_dataset_are_given_by_name(policy_zips):
    with pytest.raises(aihf.BadInput, match="unknown key 'demoes'; did you mean demos"):
        aihf.make_dataset("Hopper-v4", SMALL_DATA, policies=policy_zips, demoes=3)


# ------------------------------------------------------------------------------------------------- results and exports


def test_the_best_seed_and_its_policy(result):
    best = result.best()
    assert result.last()["return"].idxmax() == best
    obs = np.random.default_rng(0).normal(size=(4, 11))
    lane = result.run_spec.seeds.index(best)
    np.testing.assert_array_equal(result.policy.predict(obs, seed=best)[0], result.policy.predict(obs, lane=lane)[0])
    with pytest.raises(aihf.BadInput, match="no policy of seed 4; known are 3, 5"):
        result.policy.predict(obs, seed=4)


def test_a_result_can_be_plotted(result, tmp_path):
    figure = result.plot(tmp_path / "curves.png")
    assert len(figure.axes[0].lines) == 3 and (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("seed", [3, 5])
@pytest.mark.parametrize("suffix", [".onnx", ".pt"])
def test_an_exported_policy_acts_as_predict(suffix, seed, result, tmp_path):
    path, obs = tmp_path / f"policy{suffix}", np.random.default_rng(0).normal(size=(50, 11)).astype(np.float32)
    if suffix == ".onnx":
        onnx = pytest.importorskip("onnx")
        reference = pytest.importorskip("onnx.reference")
        result.policy.export(path, seed=seed)
        (act,) = reference.ReferenceEvaluator(onnx.load(path)).run(None, {"obs": obs})
    else:
        result.policy.export(path, seed=seed)
        act = torch.jit.load(path)(torch.as_tensor(obs)).numpy()
    np.testing.assert_allclose(act, result.policy.predict(obs, seed=seed)[0], atol=1e-5)


def test_an_unknown_format_is_refused(result, tmp_path):
    with pytest.raises(aihf.BadInput, match=r"must end with one of \.zip, \.onnx, \.pt"):
        result.policy.export(tmp_path / "policy.h5")
