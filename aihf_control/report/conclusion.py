"""Conclusion of a grid in words: which methods are above which, as far as the intervals allow to say it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np

from aihf_control.core.statistics import FEW, Estimate, aggregate, improvement_estimate, iqm_of_all
from aihf_control.report.claims import judge, sentence_of, side_of_half
from aihf_control.report.grid_results import GridResults, Setting, rng
from aihf_control.report.plotting import setting_text
from aihf_control.report.tables import keys_of

Array = np.ndarray
MOST = 10  # methods that are all compared with each other; of more, only the best is compared with the others
RULE = (
    "X is above Y if the probability that a run of X scores above a run of Y in the same environment has a 95 % "
    "interval above 0.5; it stands in brackets. Methods whose interval contains 0.5 cannot be told apart with so few "
    "runs, which does not mean that they are equal. An interval of zero width means that all pairs of runs had the "
    "same order, not that the other order is impossible. The intervals are not widened for the number of comparisons."
)


@dataclasses.dataclass(frozen=True)
class Sentence:
    """A sentence of the conclusion, and the runs that it is about."""

    text: str
    runs: tuple[str, ...]


def conclude(grid: GridResults) -> list[Sentence]:
    """Return the sentences of the conclusion: the claims, then the settings in turn if two methods have finished."""
    whole = grid.whole or grid
    judged = [judge(whole, claim) for claim in grid.claims]
    claims = [Sentence(f"Claim: {sentence_of(found)}", keys_of(found.runs)) for found in judged]
    return [*claims, *(sentence for setting in grid.settings for sentence in _conclude_setting(grid, setting))]


def _conclude_setting(grid: GridResults, setting: Setting) -> Iterator[Sentence]:
    found = {m: x for m in grid.methods if (x := grid.scores(m, setting)) is not None}
    ranked = sorted(found, key=lambda m: -float(iqm_of_all(found[m])))
    if len(ranked) < 2:
        return
    where = setting_text(setting).removeprefix(", ")
    start = f"{where[:1].upper()}{where[1:]}: " if where else ""
    runs = [run for method in ranked for run in grid.select(method, setting)]
    n = min(len(x) for x in found.values())
    if n < 2:
        yield Sentence(f"{start}one run each, so nothing can be said about which method is better.", keys_of(runs))
        return
    few = f" There are fewer than {FEW} runs each, so the intervals say little." if n < FEW else ""
    best = aggregate(found[ranked[0]], iqm_of_all, rng())
    yield Sentence(f"{start}{ranked[0]} has the highest score, {best}.{few}", keys_of(runs))
    compared = ranked if len(ranked) <= MOST else ranked[:1]
    chances = {
        (x, y): improvement_estimate(found[x], found[y], rng())
        for x, y in itertools.combinations(ranked, 2)
        if x in compared and found[x].shape == found[y].shape
    }
    for method in compared:
        text = describe_method(method, {y: e for (x, y), e in chances.items() if x == method})
        if text:
            yield Sentence(f"{start}{text}", keys_of(runs))


def describe_method(method: str, chances: dict[str, Estimate]) -> str:
    """Return a sentence on a method and those that score lower, from the probabilities that it is above each."""
    above = {y: e for y, e in chances.items() if side_of_half(e) > 0}
    below = {y: e for y, e in chances.items() if side_of_half(e) < 0}
    open_ = {y: e for y, e in chances.items() if side_of_half(e) == 0}
    parts = [
        f"is above {_listed(above)}" if above else "",
        f"cannot be told apart from {_listed(open_)}" if open_ else "",
        f"is below {_listed(below)}, although its score is higher" if below else "",
    ]
    said = "; it ".join(part for part in parts if part)
    return f"{method} {said}." if said else ""


def _listed(chances: dict[str, Estimate]) -> str:
    """List methods with their probabilities."""
    words = [f"{method} ({chance})" for method, chance in chances.items()]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
