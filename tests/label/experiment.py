"""Pairs labelled in a real browser by a scripted annotator who knows the returns, and the policy trained from them.

    python -m tests.label.experiment                   # 100 pairs of Hopper-v4; prints the figures
    python -m tests.label.experiment --starts 5        # and from the command to the first pair, five times

The same answers are given directly, as a teacher gives them: both policies have to be equal in every bit.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from aihf_control.data.dataset import Dataset
from aihf_control.data.generate import DataConfig, make_dataset
from aihf_control.data.labelling.comparisons import collect_comparisons
from aihf_control.data.labelling.teachers import make_teacher
from aihf_control.label.__main__ import main as label
from aihf_control.label.questions import segment_pool
from aihf_control.label.store import Store
from aihf_control.training.api import train
from tests.helpers import tiny
from tests.label.browser import browser, press, wait_for_question
from tests.label.page import running_page

WATCH = """() => {
  const stage = document.getElementById("stage");
  window.shownAfter = [];
  addEventListener("keydown", (event) => {
    const changed = new MutationObserver(() => {
      if (!stage.dataset.question) return;
      changed.disconnect();
      const painted = () => window.shownAfter.push(performance.now() - event.timeStamp);
      requestAnimationFrame(() => requestAnimationFrame(painted));
    });
    changed.observe(stage, { attributes: true });
  }, true);
}"""
"""Measures in the page from a key to the frame after the one in which the next pair is painted, in milliseconds."""


LOADED = "() => document.querySelectorAll('#stage .pair').length > 1 || state.total - state.done < 2"
"""Whether the next pair is drawn and loaded: this annotator answers faster than a person."""


class Labelled(NamedTuple):
    """Counts and times of the scripted annotator."""

    answers: int
    minutes: float
    shown_after: list[float]
    """Milliseconds from a key to the next pair on the screen."""


def better_key(store: Store, dataset: Dataset, question: int) -> str:
    """Return the key for the clip of higher true return."""
    asked = next(q for q in store.questions() if q.id == question)
    gains = [clip_return(store, dataset, clip) for clip in (asked.first, asked.second)]
    better = "first" if gains[0] > gains[1] else "second"
    return "ArrowLeft" if asked.left == better else "ArrowRight"


def clip_return(store: Store, dataset: Dataset, clip: str) -> float:
    """Return the true return of a stored clip."""
    source = store.source(clip)
    return dataset.pool[source["episode"]].return_of(source["start"], source["length"])


def label_in_browser(link: str, dataset: Dataset, store: Store) -> Labelled:
    """Answer every question of the page by keys, by the true return."""
    began, n = time.monotonic(), 0
    with browser() as chromium:
        page = chromium.new_page()
        page.goto(link)
        shown = wait_for_question(page)
        page.evaluate(WATCH)
        while shown:
            page.wait_for_function(LOADED, timeout=600_000)
            press(page, better_key(store, dataset, int(shown)))
            n, shown = n + 1, next_question(page, shown)
        return Labelled(n, (time.monotonic() - began) / 60, page.evaluate("window.shownAfter"))


def next_question(page: Any, shown: str) -> str | None:
    """Return the id of the question that follows, None when the page says that there is none."""
    finished = page.get_by_text("answers are stored. Thank you")
    while True:
        found = page.evaluate("document.getElementById('stage').dataset.question")
        if found and found != shown:
            return found
        if finished.is_visible():
            return None
        page.wait_for_timeout(20)


def answers_given_directly(dataset: Dataset, pairs: int) -> Dataset:
    """Return the dataset with the same questions answered by a teacher without doubt."""
    pool, rng = segment_pool(dataset, 0), np.random.default_rng([0, 4, 0, 0])
    direct = collect_comparisons(pool, pairs, make_teacher("oracle"), "train", rng)
    held_out = dataset.pairs.loc[dataset.pairs["split"] == "test"]
    return dataclasses.replace(dataset, pairs=pd.concat([direct, held_out]))


def equal_bits(method: str, datasets: Sequence[Dataset], pairs: int) -> tuple[int, int]:
    """Train on each of two datasets; return how many of their policies' numbers have the same bits, and of how many."""
    few = {"evaluations": 1, "eval_episodes": 1, "final_episodes": 1, "pairs": pairs}
    one, other = (
        train(method, d, seeds=2, steps=20, cfg=tiny(method), **few).policy.net.state_dict() for d in datasets
    )
    equal = sum(int((one[name].view(torch.int32) == other[name].view(torch.int32)).sum()) for name in one)
    return equal, sum(x.numel() for x in one.values())


def run_experiment(folder: Path, pairs: int) -> tuple[Labelled, Dataset, Dataset]:
    """Label a dataset in a browser and export it; return also the dataset with the answers given directly."""
    dataset, out = Dataset.load(folder), folder.parent / "labelled"
    with running_page(folder, "--pairs", str(pairs), seconds=1800) as (_, links):
        labelled = label_in_browser(links["person1"], dataset, Store(folder / "labels"))
    assert label([str(folder), "--export", str(out)]) == 0
    return labelled, Dataset.load(out), answers_given_directly(dataset, pairs)


def measure_start(folder: Path) -> tuple[float, float]:
    """Return the seconds from the command to the links, and to the first pair in an open browser."""
    with browser() as chromium:
        page, began = chromium.new_page(), time.monotonic()
        with running_page(folder) as (_, links):
            linked = time.monotonic() - began
            page.goto(links["person1"])
            wait_for_question(page)
            return linked, time.monotonic() - began


def describe(name: str, values: Sequence[float], unit: str) -> str:
    """Return the median and the maximum of measured values."""
    return f"{name}: median {statistics.median(values):.3g} {unit}, max {max(values):.3g} {unit} of {len(values)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--clip", type=int, default=50, help="steps of a clip")
    parser.add_argument("--dataset", type=Path, help="label a copy of this dataset; default: make one")
    parser.add_argument("--starts", type=int, default=0, help="times that the start is measured")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "data"
        if given.dataset:
            Dataset.load(given.dataset).save(folder)
        else:
            make_dataset("Hopper-v4", DataConfig(clip=given.clip), out=folder)
        labelled, *datasets = run_experiment(folder, given.pairs)
        print(f"{labelled.answers} answers to {given.pairs} pairs and checks in {labelled.minutes:.1f} minutes")
        print(describe("from a key to the next pair", labelled.shown_after, "ms"), flush=True)
        for method in ("dpo", "rlhf"):
            equal, n = equal_bits(method, datasets, given.pairs)
            print(f"{method}: {equal} of {n} numbers of the policies are equal in every bit")
        starts = [measure_start(folder_without_labels(folder, i)) for i in range(given.starts)]
        for name, values in zip(("the links", "the first pair"), zip(*starts, strict=True), strict=False):
            print(describe(f"from the command to {name}", values, "s"))
    print(f"load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def folder_without_labels(folder: Path, number: int) -> Path:
    """Copy a dataset without its labels."""
    copy = folder.parent / f"start{number}"
    Dataset.load(folder).save(copy)
    return copy


if __name__ == "__main__":
    main()
