"""Experiment files: the grid that they give, and every refusal with its place and the nearest known word."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from aihf_control import methods, run
from aihf_control.bench import fingerprint
from aihf_control.bench.experiment import name_of, read
from aihf_control.bench.fingerprint import code_of, file_of
from aihf_control.bench.grid import command_lines, copy_data, data_jobs_from, data_words, jobs_of
from aihf_control.bench.sheet import Sheet
from aihf_control.core.errors import BadInput
from aihf_control.data import __main__ as data_command
from aihf_control.data.dataset import Dataset
from aihf_control.data.generate import DataConfig
from aihf_control.methods.aihf import Config

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "experiments").glob("*.toml"))
REGIMES = sorted((ROOT / "experiments/regimes").glob("*.toml"))
BASE = 'environments = ["Hopper-v4"]\nmethods = ["aihf", "bc"]\n'


@pytest.fixture
def written(tmp_path):
    """Writes an experiment's file and reads it."""

    def experiment(text: str):
        path = tmp_path / "x.toml"
        path.write_text(text)
        return read(path)

    return experiment


# --------------------------------------------------------------------------------------------------- the grid of a file


def test_a_grid_is_every_combination(written):
    grid = written(BASE + "demos = [1, 4]\npairs = 50\nseeds = 3\n[dataset]\nerror = [0.0, 0.1, 0.2]")
    assert len(grid.cells) == 2 * 2 * 3
    assert {(c.name, c.options.demos, c.data.error) for c in grid.cells} == {
        (m, d, e) for m in ("aihf", "bc") for d in (1, 4) for e in (0.0, 0.1, 0.2)
    }
    assert all(c.swept == {"demos": c.options.demos, "dataset.error": c.data.error} for c in grid.cells)
    assert all(c.options.pairs == 50 and c.options.seeds == 3 and c.options.workers == 1 for c in grid.cells)


def test_an_array_of_tables_is_swept_one_by_one(written):
    grid = written(BASE + "[[dataset]]\nerror = 0.1\n[[dataset]]\ntemperature = [0.5, 1.0]\n[[dataset]]\nerror = 0.1")
    data = [c.data for c in grid.cells if c.name == "bc"]
    error, temperature = DataConfig().error, DataConfig().temperature
    assert [(d.error, d.temperature) for d in data] == [(0.1, temperature), (error, 0.5), (error, 1.0)]
    assert set(grid.cells[0].swept) == {"dataset.error", "dataset.temperature"}


def test_a_factor_of_lists_takes_a_list_and_sweeps_over_several(written):
    one = written(BASE + '[dataset]\nlevels = ["expert", "weak"]')
    assert one.cells[0].data.levels == ("expert", "weak") and one.cells[0].swept == {}
    two = written(BASE + '[dataset]\nlevels = [["expert"], ["weak", "medium"]]')
    assert [c.data.levels for c in two.cells if c.name == "bc"] == [("expert",), ("weak", "medium")]


def test_settings_of_a_method_of_an_environment_and_of_a_variant(written):
    grid = written(
        'environments = ["Hopper-v4", "Walker2d-v4"]\nmethods = ["aihf", "plain"]\n'
        "[run]\nevaluations = 3\n[method.aihf]\nsteps = 7\nsac.hidden = [9, 9]\n"
        '[method.plain]\nof = "aihf"\nkl_to_clone = false\n'
        "[environment.Walker2d-v4]\nmethod.aihf.sac.gamma = 0.5\ndataset.clip = 20\nrun.evaluations = 4\n"
    )
    by = {(c.options.env, c.name): c for c in grid.cells}
    hopper, walker = by["Hopper-v4", "aihf"], by["Walker2d-v4", "aihf"]
    usual = Config()
    assert hopper.cfg == dataclasses.replace(usual, steps=7, sac=dataclasses.replace(usual.sac, hidden=(9, 9)))
    assert walker.cfg == dataclasses.replace(hopper.cfg, sac=dataclasses.replace(hopper.cfg.sac, gamma=0.5))
    assert by["Hopper-v4", "plain"].cfg == dataclasses.replace(usual, kl_to_clone=False)
    assert by["Hopper-v4", "plain"].options.method == "aihf"
    assert (hopper.data.clip, walker.data.clip) == (DataConfig.clip, 20)
    assert (hopper.options.evaluations, walker.options.evaluations) == (3, 4)


def test_all_methods_are_the_files_of_the_folder(written):
    grid = written('environments = ["Hopper-v4"]\nmethods = "all"')
    assert [c.name for c in grid.cells] == methods.names()


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_the_files_of_the_package_can_be_read(path, monkeypatch, tmp_path):
    grid = read(path)
    assert grid.cells and grid.title != path.stem and grid.about
    assert {c.options.env for c in grid.cells} <= {"Hopper-v4", "HalfCheetah-v4", "Walker2d-v4"}


@pytest.mark.parametrize("path", REGIMES, ids=lambda p: p.stem)
def test_a_regime_states_its_claim_and_compares_its_method_with_a_baseline(path):
    grid = read(path)
    assert path.stem in {c.name for c in grid.cells} and grid.report.baseline not in (None, path.stem)
    assert all(c.options.seeds >= 10 and c.options.first_seed == 0 for c in grid.cells)
    assert path.stem in {claim.better.partition("-")[0] for claim in grid.claims}
    assert all(claim.text.endswith(".") and claim.paper for claim in grid.claims)
    swept = {factor for cell in grid.cells for factor in cell.swept}
    assert ("dataset.error" in swept) == any(claim.control for claim in grid.claims)
    assert any(claim.control for claim in grid.claims) or "control" in grid.about or "With rho = 0" in grid.about


CLAIMED = (
    BASE
    + """
[dataset]
error = [0.0, 0.5]
[[claim]]
text = "A."
"""
)
"""A grid with a claim that is to be completed."""


def test_a_claim_is_read_with_its_place_in_the_grid(written):
    grid = written(CLAIMED + 'better = "aihf"\nthan = "bc"\nwhere.error = 0\ncontrol = { "dataset.error" = 0.5 }')
    (claim,) = grid.claims
    assert (claim.better, claim.than, claim.where, claim.control) == (
        "aihf",
        "bc",
        {"error": 0},
        {"dataset.error": 0.5},
    )


@pytest.mark.parametrize(
    ("claim", "reported"),
    [
        ("", "x.toml, claim 1 has no better; give text, better and than"),
        ('better = "aihf"', "claim 1 has no than"),
        ('better = "aif"\nthan = "bc"', "x.toml, claim 1.better: unknown key 'aif'; did you mean aihf?"),
        ('better = "aihf"\nthan = "bx"', "claim 1.than: unknown key 'bx'"),
        ('better = "aihf"\nthen = "bc"', "did you mean than?"),
        ('better = "aihf"\nthan = "bc"', "claim 1.where selects 2 settings; give a value of error"),
        ('better = "aihf"\nthan = "bc"\nwhere.eror = 0.0', "claim 1.where: unknown key 'eror'; did you mean error?"),
        (
            'better = "aihf"\nthan = "bc"\nwhere.error = 0.1',
            "0.1 selects no cell; its values are 0.0, 0.5",
        ),
        ('better = "aihf"\nthan = "bc"\nwhere.error = 0.0\ncontrol.error = 1', "control.error = 1 selects no cell"),
        ('better = "aihf"\nthan = "bc"\nwhere.error = 0.0\nenv = "Hoper-v4"', "did you mean Hopper-v4?"),
        ('better = "aihf"\nthan = "aihf"\nwhere.error = 0.0', "aihf is compared with itself"),
        ('better = "aihf"\nthan = "bc"\nmeasure = "speed"', "claim 1.measure = 'speed': give one of score,"),
        (
            'better = "aihf"\nthan = "bc"\nwhere.error = 0.0\nkind = "as good"\ncontrol.error = 0.5',
            "is not compared in a claim",
        ),
        ('better = "aihf"\nthan = "bc"\npaper = "a\\nb"\nwhere.error = 0.0', "must be one line"),
    ],
)
def test_a_claim_that_is_not_about_the_grid_is_refused(written, claim, reported):
    with pytest.raises(BadInput) as refused:
        written(CLAIMED + claim)
    assert reported in str(refused.value) and "\n" not in str(refused.value)


def test_a_claim_alone_is_not_a_list_and_a_grid_without_sweeps_has_no_where(written):
    with pytest.raises(BadInput, match=r"write it as \[\[claim\]\]"):
        written(BASE + '[claim]\ntext = "A."')
    with pytest.raises(BadInput, match="nothing is swept"):
        written(BASE + '[[claim]]\ntext = "A."\nbetter = "aihf"\nthan = "bc"\nwhere.error = 0.0')


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("experiments/main.toml", "main"),
        ("/a/experiments/b/experiments/regimes/dpo.toml", "regimes/dpo"),
        ("/a/own.x.toml", "own.x"),
    ],
)
def test_results_of_files_in_a_folder_of_experiments_lie_in_a_folder_too(path, name):
    assert name_of(Path(path)) == name


# ------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("environments = [", "not valid TOML"),
        ("", "names no environments"),
        ('environments = ["Hopper-v4"]', "names no methods"),
        (BASE + "sedes = 3", "'sedes'; did you mean seeds?"),
        (BASE + 'seeds = "five"', "seeds = 'five': give a whole number"),
        (BASE + "seeds = 0", "seeds must be from 1 to 10000, got 0"),
        (BASE + "seeds = true", "give a whole number"),
        (BASE + "seeds = 1_000_000_000", "seeds must be from 1 to 10000, got 1000000000"),
        (BASE + f"demos = {list(range(1, 11)) * 400}\npairs = {list(range(100))}", "400000 settings; give at most"),
        (BASE + f"[dataset]\nerror = {[0.1] * 400}\nseed = {[1] * 400}", "160000 settings; give at most"),
        ('environments = ["Hopper-v4"]\nmethods = ["a\\u001b"]', "must not be empty or have control characters"),
        (BASE + 'demos = "one"', "demos = 'one': give a whole number"),
        (BASE + "demos = []", "demos = []: give at least one"),
        (BASE + "demos = 11", "demos = 11: the data has 10"),
        (BASE + "pairs = [10, 2000]", "pairs = 2000: the data has 1000"),
        (BASE + "pairs = -1", "pairs = -1"),
        (BASE + "run = 3", "run = 3: give a table"),
        (BASE + "[run]\nevaluation = 3", "'evaluation'; did you mean evaluations?"),
        (BASE + "[run]\nout = 'here'", "unknown key 'out'"),
        (BASE + "[run]\nprecision = 'float8'", "give one of auto, float32, bfloat16"),
        (BASE + "[run]\nevaluations = 0", "--evaluations must be at least 1, got 0"),
        (BASE + "[dataset]\neror = 0.1", "'eror'; did you mean error?"),
        (BASE + "[dataset]\nerror = 'much'", "dataset.error = 'much': give a number"),
        (BASE + "[dataset]\nerror = [0.1, 'much']", "'much': give a number"),
        (BASE + "[dataset]\nnoise = [['a']]", "noise"),
        (BASE + "dataset = [1]", "dataset = 1: give a table"),
        (BASE + "[method.ahif]\nsteps = 1", "'ahif'; did you mean aihf?"),
        (BASE + "[method.rlhf]\nsteps = 1", "unknown key 'rlhf'"),
        (BASE + "[method.aihf]\nstep = 1", "'step'; did you mean steps?"),
        (BASE + "[method.aihf]\nsac.gama = 1", "method.aihf.sac: unknown key 'gama'; did you mean gamma?"),
        (BASE + "[method.aihf]\nsac = 1", "method.aihf.sac = 1: give a table"),
        (BASE + "[method.aihf]\nsteps = 0.5", "give a whole number"),
        (BASE + "[method.aihf]\nsteps = 0", "aihf on Hopper-v4: --steps must be at least 1, got 0"),
        (BASE + "[method.aihf]\nsac.hidden = 64", "give a list, each of it a whole number"),
        (BASE + "[method.aihf]\nreward.tau = 0", "--reward.tau and --reward.decay must be above 0"),
        (BASE + "method = 3", "method = 3: give a table"),
        (BASE + "method.aihf = 3", "method.aihf = 3: give a table"),
        (BASE + "[method.bc]\nof = 3", "method.bc.of = 3: give a string"),
        (BASE + "[environment.Hoper-v4]\n", "'Hoper-v4'; did you mean Hopper-v4?"),
        (BASE + "[environment.Hopper-v4]\ndatset.clip = 1", "'datset'; did you mean dataset?"),
        (BASE + "[environment.Hopper-v4]\nmethod.rlhf.steps = 1", "unknown key 'rlhf'"),
        (BASE + "environment.Hopper-v4 = 1", "environment.Hopper-v4 = 1: give a table"),
        (BASE + "[environment.Hopper-v4]\ndataset.clip = 'long'", "give a whole number"),
        (BASE + "[dataset]\nclip=[1,2]\n[environment.Hopper-v4]\ndataset.clip = 3", "dataset.clip: it is swept"),
        (BASE + "[environment.Hopper-v4]\ndata = 3", "environment.Hopper-v4.data = 3: give a path"),
        (BASE + "[environment.Hopper-v4]\ndata = false", "environment.Hopper-v4.data = False: give a path"),
        (BASE + "[environment.Hopper-v4]\ndata = ''", "environment.Hopper-v4.data = '': give the folder of a dataset"),
        (
            BASE + "[environment.Hopper-v4]\ndata = 'x'\noptions.a = 1",
            "Hopper-v4.options: the dataset exists and has its own",
        ),
        (BASE + "[environment.Hopper-v4.options]\na = {b = 1}", "options.a = {'b': 1}: give a name and a number, text"),
        (BASE + "[environment.Hopper-v4.options]\n'a b' = 1", "options.a b = 1: give a name and a number"),
        (BASE + "[dataset]\nclip = 3\n[environment.Hopper-v4]\ndata = 'x'", "data: the dataset exists, and [dataset]"),
        (BASE + "[environment.Hopper-v4]\ndata = 'x'\ndataset.clip = 3", "data: the dataset exists, and [dataset]"),
        (BASE + "[report]\nbaseline = 'b'", "report.baseline: unknown key 'b'; did you mean bc?"),
        (BASE + "[report]\ntables = ['score']", "report.tables: unknown key 'score'; did you mean scores?"),
        (BASE + "[report]\nfigure = []", "'figure'; did you mean figures?"),
        ('environments = ["Hopper-v4"]\nmethods = ["rhlf"]', "unknown method 'rhlf'; did you mean rlhf?"),
        ('environments = ["Hopper-v4"]\nmethods = ["aihf", "aihf"]', "give at least one, each once"),
        ('environments = ["Hopper-v4"]\nmethods = []', "give at least one"),
        ('environments = ["Hopper-v4"]\nmethods = 3', "methods = 3: give a list"),
        ('environments = []\nmethods = ["bc"]', "give at least one"),
        ('environments = "Hopper-v4"\nmethods = ["bc"]', "give a list, each of it a string"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(written, text, message):
    with pytest.raises(BadInput) as refused:
        written(text)
    assert message in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("value", ["true", "-1", "1e999", "nan", '"x"', '""', "[]", "[[]]", "[{}]", "{}", "1979-05-27"])
def test_wrong_types_in_any_field_are_one_line(written, value):
    names = [f.name for f in dataclasses.fields(Sheet)]
    fields = [*names, "method.aihf", "method.aihf.of", "method.aihf.sac", "method.aihf.sac.hidden", "run.device"]
    fields += ["run.checkpoint", "environment.Hopper-v4", "environment.Hopper-v4.data", "environment.Hopper-v4.run"]
    fields += [f"dataset.{f.name}" for f in dataclasses.fields(DataConfig)]
    fields += ["report.baseline", "report.tables", "report.figures"]
    refused = 0
    for field in fields:
        base = "".join(line + "\n" for line in BASE.splitlines() if not line.startswith(f"{field} ="))
        try:
            jobs_of(written(f"{base}{field} = {value}\n"), Path("out"))
        except BadInput as e:
            assert "\n" not in str(e), (field, value)
            refused += 1
    assert refused > len(fields) / 2


def own(folder: Path, more: str = "") -> str:
    return BASE + more + f'demos = 2\npairs = 50\n[environment.Hopper-v4]\ndata = "{folder}"'


def test_existing_data_is_copied_and_named_by_its_digest(written, dataset_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (digest,) = {Dataset.load(dataset_folder).digest()}
    copied = Path("results/datasets/Hopper-v4") / digest
    jobs = jobs_of(written(own(dataset_folder)), Path("out"))
    assert [job.dataset for job in jobs] == [copied] * 2 and data_jobs_from(jobs, tmp_path) == []
    assert command_lines(jobs)[0] == f"mkdir -p {copied} && cp -rT {dataset_folder} {copied}"
    copy_data(jobs)
    assert Dataset.load(copied).digest() == digest
    # the same elsewhere is the same cell, another comparison another one; what was copied stays what it was
    shutil.copytree(dataset_folder, tmp_path / "mine")
    again = jobs_of(written(own(tmp_path / "mine")), Path("out"))
    assert [job.key for job in again] == [job.key for job in jobs]
    changed = Dataset.load(dataset_folder)
    wins, loses = (["win_episode", "win_start"], ["lose_episode", "lose_start"])
    changed.pairs.loc[0, [*wins, *loses]] = changed.pairs.loc[0, [*loses, *wins]].to_numpy()
    changed.save(tmp_path / "mine")
    assert not {job.key for job in jobs} & set(keys(written(own(tmp_path / "mine"))))
    copy_data(again)  # the copy exists
    shutil.rmtree(copied)
    with pytest.raises(BadInput, match="has changed since the bench started"):
        copy_data(again)
    assert not copied.exists()


def test_existing_data_that_is_too_small_or_of_another_environment_is_refused(written, dataset_folder, tmp_path):
    with pytest.raises(BadInput, match=f"x.toml, environment.Hopper-v4.data: cannot read {tmp_path / 'none'}"):
        jobs_of(written(own(tmp_path / "none")), Path("out"))
    with pytest.raises(BadInput, match="is a dataset of Hopper-v4"):
        jobs_of(written(own(dataset_folder).replace("Hopper", "Ant")), Path("out"))
    with pytest.raises(BadInput, match="--demos 9: the dataset has 4"):
        jobs_of(written(own(dataset_folder).replace("demos = 2", "demos = 9")), Path("out"))


def test_two_names_for_the_same_are_refused(written):
    grid = written(BASE.replace('"bc"', '"other"') + '[method.other]\nof = "aihf"')
    with pytest.raises(BadInput, match="aihf and other are the same"):
        jobs_of(grid, Path("out"))


# ------------------------------------------------------------------------------------------------ keys and commands


def keys(grid) -> list[str]:
    return [job.key for job in jobs_of(grid, Path("out"))]


@pytest.mark.parametrize(
    "change", ["seeds = 4", "first_seed = 1", "pairs = 3", "[run]\nevaluations = 3", "[run]\nprecision = 'float32'",
               "[dataset]\nseed = 1", "[method.aihf]\nsac.gamma = 0.5", "[method.aihf]\nsteps = 3"],
)  # fmt: skip
def test_whatever_changes_a_number_changes_the_key(written, change):
    usual, only_aihf = written(BASE + "run.precision = 'bfloat16'"), change.startswith("[method")
    changed = written(
        BASE
        + change
        + ("" if "precision" in change else "\n" + "[run]\n" * ("[run]" not in change) + "precision = 'bfloat16'")
    )
    same = [a == b for a, b in zip(keys(usual), keys(changed), strict=True)]
    assert same == [False, only_aihf]


def test_what_changes_no_number_leaves_the_key(written):
    usual = keys(written(BASE))
    assert keys(written("title = 'T'\nabout = 'A'\n" + BASE + "[run]\ncheckpoint = 9.0\ntensorboard = true")) == usual
    assert keys(written(BASE + "[report]\nbaseline = 'bc'")) == usual
    assert keys(written(BASE.replace('["aihf", ', '["dpo", "aihf", ')))[1:] == usual


def test_a_key_holds_the_code_that_the_method_runs_and_no_other(monkeypatch):
    before = {name: code_of(name) for name in ("aihf", "bc")}
    real = fingerprint.module_hash

    def changed(module):
        return lambda path: "other" if path == file_of(f"aihf_control.{module}") else real(path)

    runs = (
        "models.networks",
        "models.kernel",
        "models.kernel_library",
        "learning.task",
        "core.errors",
        "training.run",
        "data.ties",
    )
    for module, both in (*((name, True) for name in runs), ("methods.aihf", False)):
        monkeypatch.setattr(fingerprint, "module_hash", changed(module))
        assert code_of("aihf") != before["aihf"] and (code_of("bc") != before["bc"]) == both, module
    for module in ("report.tables", "bench.grid", "training.display", "methods.dpo", "experts.session"):
        monkeypatch.setattr(fingerprint, "module_hash", changed(module))
        assert {name: code_of(name) for name in before} == before, module


def test_comments_and_docstrings_are_no_code(tmp_path):
    def hashed(text: str) -> str:
        (tmp_path / "m.py").write_text(text)
        return fingerprint.module_hash.__wrapped__(tmp_path / "m.py")

    one = hashed('"""Doc."""\ndef f(x):\n    """Says."""\n    return x + 1\n')
    assert hashed('"""Other."""\n\n\ndef f(x):  # why\n    return x + 1\nif __name__ == "__main__":\n    f(1)\n') == one
    assert hashed("def f(x):\n    return x + 2\n") != one
    (tmp_path / "m.c").write_text("int f(int x) { return x + 1; }")  # what m.py compiles
    assert hashed("def f(x):\n    return x + 1\n") != one


def test_the_commands_give_back_the_cells(written, capsys):
    grid = written(
        BASE + "seeds = 3\ndemos = 2\n[run]\neval_episodes = 2\ntensorboard = true\n[dataset]\nlevels = ['weak']\n"
        "[method.aihf]\nkl_to_clone = false\nsac.alpha = []\nsac.hidden = [7]\nreward.weight_decay = 0.0\n"
    )
    for job in jobs_of(grid, Path("out")):
        assert run.parse(job.words()) == (job.cell.options, job.cell.cfg, False)
        assert job.folder == Path("out/cells") / job.key
        assert data_words(job) == ["make", "--env", "Hopper-v4", "--out", str(job.dataset), "--levels", "weak"]


# ------------------------------------------------------------------------------------------ options of the environment


def test_options_of_the_environment_reach_its_data_and_name_its_folder(written, tmp_path, monkeypatch):
    options = "[environment.Hopper-v4.options]\nhealthy_reward = 5\nhealthy_z_range = [1.2, 9.0]\n"
    small = "pairs = 0\n[dataset]\ndemos = 1\npairs = 0\ntest_pairs = 0\nepisodes = 4\nclip = 10\n"
    plain, changed = (jobs_of(written(BASE + small + more), tmp_path)[0] for more in ("", options))
    assert changed.cell.env_options == {"healthy_reward": 5, "healthy_z_range": [1.2, 9.0]}
    assert changed.dataset != plain.dataset and changed.key != plain.key
    monkeypatch.chdir(tmp_path)
    assert data_command.main(data_words(changed)) == 0
    assert Dataset.load(changed.dataset).meta["options"] == changed.cell.env_options


def test_an_option_that_the_environment_does_not_take_is_refused_before_anything_runs(written, tmp_path):
    with pytest.raises(BadInput, match="healthy_rewards"):
        jobs_of(written(BASE + "[environment.Hopper-v4.options]\nhealthy_rewards = 5"), tmp_path)
