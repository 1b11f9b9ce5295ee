"""Functions for scripts: make datasets and train methods, with settings by name."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

from aihf_control import methods
from aihf_control.core.config import check_known, override
from aihf_control.core.errors import BadInput, in_python
from aihf_control.core.live import show_progress
from aihf_control.core.types import Trajectory
from aihf_control.data import generate
from aihf_control.data.dataset import Dataset
from aihf_control.data.generate import DataConfig
from aihf_control.environments.factories import id_of, is_local
from aihf_control.environments.modules import allow_module
from aihf_control.learning.annotators import Annotator, as_annotator
from aihf_control.training.display import Display
from aihf_control.training.events import Evaluated, Event
from aihf_control.training.options import Options, dataset_of
from aihf_control.training.result import Collector, Result, train_run
from aihf_control.training.run import RunSpec
from aihf_control.training.start import check_asks

Env = str | gym.Env | Callable[[], gym.Env]
Preference = Callable[[Trajectory, Trajectory], float | None]
OF_RUN = ("demos", "pairs", "evaluations", "eval_episodes", "final_episodes", "device", "products")
"""Settings that are not the method's: fields of `RunSpec`."""


def make_config(method: str, **settings: Any) -> Any:
    """Return a method's settings, with some replaced: `make_config("aihf", steps=5000, sac={"lr": 1e-4})`.

    Settings of a group are given as a dictionary, or as its config class. Raises BadInput for an unknown one.
    """
    with in_python():
        return override(methods.load(method).Config(), settings, method)


def make_dataset(
    env: Env,
    cfg: DataConfig | None = None,
    policies: dict[str, Path] | None = None,
    out: str | Path | None = None,
    options: dict[str, Any] | None = None,
    force: bool = True,
    progress: bool = False,
    **settings: Any,
) -> Dataset:
    """Generate a dataset of `env` from graded policies {level: SB3 zip}, by default the bundled ones.

    `env` is an id, an environment that was made by its id, or a function that makes one. `settings` are fields of
    `DataConfig`. The dataset is written to the folder `out`, if given. `options` are passed to the environment.
    Policies of your own replace the default `levels`. Without `force`, an expert that is no better than random actions
    is refused. Raises BadInput.
    """
    with in_python(), show_progress("dataset") if progress else contextlib.nullcontext():
        env_id, own = id_of(env)
        cfg = override(cfg or DataConfig(), settings, "make_dataset")
        own |= options or {}
        return generate.make_dataset(env_id, cfg, policies, Path(out) if out else None, own, force)


def train(
    method: str,
    dataset: Dataset | Env | Path = "Hopper-v4",
    seeds: int | Sequence[int] = 5,
    steps: int | None = None,
    cfg: Any = None,
    workers: int = 1,
    on_event: Callable[[Event, Collector], Any] | None = None,
    annotator: Annotator | Preference | None = None,
    progress: bool = False,
    on_evaluation: Callable[[int, list[dict[str, Any]]], Any] | None = None,
    **settings: Any,
) -> Result:
    """Train `method` for some seeds and return the result.

    `dataset` is a dataset, its folder, or an environment, whose default dataset is then made once, in the folder that
    the command `run` uses, too. `settings` are the method's by name, those of a group as a dictionary or config:
    `train("aihf", data, reward_every=5, sac={"lr": 1e-4})`; or demos, pairs, evaluations, eval_episodes,
    final_episodes, device and products. `cfg` is a whole `Config` of the method, whose fields they replace.

    With `progress` the terminal shows what the command shows. `on_evaluation` is called after every evaluation with
    the step and a row per seed; if it returns True, the training ends early. `on_event` is called at every event.

    With `workers` above 1 the seeds are split across that many processes; a script that does so needs the usual
    `if __name__ == "__main__":`. With 1 everything runs in this process, on one thread. `annotator` compares the
    segments of methods that ask while they train, in place of the dataset's teacher: a function of two segments
    (`Trajectory`) that returns 1 if the first is better, 0 if the second is, 0.5 for a tie, or None to skip the pair.
    Raises BadInput.
    """
    with in_python():
        run_spec = _spec_of(method, seeds, steps, cfg, settings)
        data = _data_of(dataset)
        _check_workers(data, workers)
        asked = None if annotator is None else as_annotator(annotator)
        if asked:
            check_asks(run_spec, data)
        stop = threading.Event()
        with _one_thread(), Display(run_spec) if progress else contextlib.nullcontext() as display:
            listeners = [listener for listener in (on_event, display and display.show) if listener]
            if on_evaluation:
                listeners.append(_EvaluationListener(on_evaluation, stop))

            def tell(event: Event, collector: Collector) -> None:
                for listener in listeners:
                    listener(event, collector)

            result = train_run(run_spec, data, workers if workers > 1 else 0, tell, stop, annotator=asked)
    assert result is not None, "nothing pauses this run"
    return result


class _EvaluationListener:
    """Calls a function after every evaluation, and ends the training if it returns True."""

    def __init__(self, function: Callable[[int, list[dict[str, Any]]], Any], stop: threading.Event):
        self.function, self.stop = function, stop

    def __call__(self, event: Event, collector: Collector) -> None:
        if isinstance(event, Evaluated) and self.function(event.step, event.rows) is True:
            self.stop.set()


@contextlib.contextmanager
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _spec_of(method: str, seeds: int | Sequence[int], steps: int | None, cfg: Any, settings: dict[str, Any]) -> RunSpec:
    cfg = cfg or methods.load(method).Config()
    check_known(settings, [*(f.name for f in dataclasses.fields(cfg)), *OF_RUN], method)
    own = {name: value for name, value in settings.items() if name not in OF_RUN}
    own |= {} if steps is None else {"steps": steps}  # phases are spread over the steps
    cfg = override(cfg, own, method)
    seeds = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    return RunSpec(method, cfg, seeds, steps=cfg.steps, **{k: v for k, v in settings.items() if k in OF_RUN})


def _data_of(data: Dataset | Env | Path) -> Dataset:
    if isinstance(data, Dataset):
        return data
    if isinstance(data, Path) or (isinstance(data, str) and Path(data).is_dir()):
        return Dataset.load(data)
    env, options = id_of(data)
    if options or is_local(env):
        raise BadInput("only environments given by an id have a default dataset; give one of make_dataset(env)")
    allow_module(env)
    return dataset_of(Options(env=env))[0]


def _check_workers(data: Dataset, workers: int) -> None:
    if workers > 1 and is_local(data.meta["env"]):
        raise BadInput(
            f"workers {workers}: an environment from a function exists in this process only; give workers=1, or put it "
            "into a module that registers it and give its id as MODULE:ID"
        )
