"""Verdicts on the claims of a grid: whether a comparison that a paper predicts holds in its runs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from aihf_control.core.config import as_word, check_known
from aihf_control.core.errors import BadInput
from aihf_control.core.statistics import Estimate, aggregate, improvement_estimate, iqm_of_all, normalised
from aihf_control.report.config import Claim
from aihf_control.report.grid_results import FINISHED, GridResults, Run, Setting, numbers, rng

Array = np.ndarray
HOLDS, FAILS, OPEN, NOT_RUN, NOT_MEASURED = "holds", "does not hold", "cannot be told", "not run", "not measured"
RETURNS = ("worst_return",)  # measures that are brought to the scale of the score


@dataclasses.dataclass(frozen=True)
class Judgement:
    """A claim, the verdict on it, and the numbers that the verdict follows from; they are None without results."""

    claim: Claim
    verdict: str
    runs: list[Run]
    """Runs of both methods and of the control."""
    chance: Estimate | None = None
    """Probability that a run of the better method is above one of the other."""
    better: Estimate | None = None
    than: Estimate | None = None
    gain: Estimate | None = None
    """IQM over seeds of the difference between the two runs with the same seed."""
    control: Estimate | None = None
    """The gain in the control."""


def judge(grid: GridResults, claim: Claim) -> Judgement:
    """Judge a claim by the runs of a grid.

    It *holds* if the probability of improvement has a 95 % interval above 0.5, *does not hold* if below, and *cannot be
    told* if the interval contains 0.5 or if there is one seed. A claim with a control holds only if its gain is larger
    than the gain in the control; otherwise it does not hold, for what was claimed is not where the gain comes from. A
    claim of the kind `as good` holds if the interval of the IQM overlaps that of the other method or lies above it, and
    otherwise does not. One of the kind `not worse` holds if the interval of the gain lies above -`margin`, does not if
    below, and otherwise cannot be told. A claim of which a run is missing is *not run*, and one whose measure is in no
    log of a run is *not measured*.
    """
    places = [(claim.better, claim.where), (claim.than, _other(claim))]
    if claim.control is not None:
        places += [(claim.better, claim.control), (claim.than, claim.control)]
    settings = [find_settings(grid.settings, where, claim.pooled) for _, where in places]
    chosen = zip(places, settings, strict=True)
    found = [[run for one in many for run in grid.select(place[0], one, claim.env)] for place, many in chosen]
    runs = list({run.key: run for part in found for run in part}.values())
    if any(run.state != FINISHED for run in runs) or not all(found):
        return Judgement(claim, NOT_RUN, runs)
    values = [_values(grid, part, claim.measure) for part in found]
    measured = [x for x in values if x is not None]
    if len(measured) < len(values):
        return Judgement(claim, NOT_MEASURED, runs)
    return _compare(claim, runs, *measured)


def _other(claim: Claim) -> Setting:
    return claim.where if claim.than_where is None else claim.than_where


def _compare(claim: Claim, runs: list[Run], x: Array, y: Array, *control: Array) -> Judgement:
    """Judge a claim by the values of its two methods, and of the same in the control, each (seeds, environments)."""
    chance = improvement_estimate(x, y, rng())
    better, than, gain = (aggregate(z, iqm_of_all, rng()) for z in (x, y, x - y))
    without = aggregate(control[0] - control[1], iqm_of_all, rng()) if control else None
    if len(x) < 2:
        found = OPEN
    elif claim.kind == "as good":
        found = HOLDS if better.high >= than.low else FAILS
    elif claim.kind == "not worse":
        found = HOLDS if gain.low > -claim.margin else FAILS if gain.high < -claim.margin else OPEN
    else:
        found = {1: HOLDS, 0: OPEN, -1: FAILS}[side_of_half(chance)]
        if found == HOLDS and without is not None and without.value >= gain.value:
            found = FAILS
    return Judgement(claim, found, runs, chance, better, than, gain, without)


def side_of_half(chance: Estimate) -> int:
    """Return 1 if the interval of a probability of improvement lies above 0.5, -1 if below, 0 if it contains 0.5."""
    return int(chance.low > 0.5) - int(chance.high < 0.5)


def _values(grid: GridResults, runs: Sequence[Run], measure: str) -> Array | None:
    """Return a measure as (seeds, environments), 0 for a seed that diverged; None if a run does not log it."""
    if measure not in grid.lanes:
        return None
    columns = [_column(grid, run, measure) for run in runs]
    found = [x for x in columns if x is not None]
    return np.stack(found, 1) if len(found) == len(columns) else None


def _column(grid: GridResults, run: Run, measure: str) -> Array | None:
    lanes = grid.lanes_of([run]).sort_values("seed")
    x, diverged = numbers(lanes, measure), np.asarray(lanes["diverged"], bool)
    if not np.isfinite(x[~diverged]).all():
        return None
    if measure in RETURNS:
        assert run.summary
        x = normalised(x, run.summary["random_return"], run.summary["expert_return"])
    return np.where(diverged, 0.0, x)


def sentence_of(judgement: Judgement) -> str:
    """Return a claim and the verdict on it in one line."""
    claim = judgement.claim
    start = f"{claim.text} ({claim.paper})" if claim.paper else claim.text
    return f"{start.replace('. (', ' (').removesuffix('.')}: {judgement.verdict}{_reason(judgement)}."


def _reason(judgement: Judgement) -> str:
    claim, missing = judgement.claim, count_missing(judgement.runs)
    if judgement.chance is None or judgement.better is None:
        return f" ({missing})" if missing else ""
    where = where_text(claim)
    measure = claim.measure.replace("_", " ")
    text = f"; {claim.better} is above {claim.than}{f' ({where})' if where else ''} with probability {judgement.chance}"
    text += f", {measure} {judgement.better} against {judgement.than}, n = {judgement.better.n}"
    if judgement.control is not None:
        return f"{text}; gain {judgement.gain}, in the control {judgement.control}"
    return f"{text}; difference {judgement.gain}" if claim.kind == "not worse" else text


def count_missing(runs: Sequence[Run]) -> str:
    """Return how many of some cells have not finished; an empty text if all have."""
    missing = sum(run.state != FINISHED for run in runs)
    return f"{missing} of {len(runs)} cells" if missing or not runs else ""


def where_text(claim: Claim) -> str:
    """Return the setting of a claim in words; both settings if the other method is compared in another one."""
    words = _words(claim.where) or ("all settings" if claim.pooled else "")
    return words if claim.than_where is None else f"{words}, against {_words(claim.than_where)}"


def _words(where: Setting) -> str:
    return ", ".join(f"{_short(name).replace('_', ' ')} {as_word(_plain(x))}" for name, x in where.items())


# ------------------------------------------------------------------------------------------------------------- checks


def check_claim(
    claim: Claim, methods: Sequence[str], envs: Sequence[str], settings: Sequence[Setting], place: str
) -> None:
    """Check that a claim is about a grid with these methods, environments and settings. Raises BadInput."""
    for name in ("text", "better", "than"):
        if not getattr(claim, name):
            raise BadInput(f"{place} has no {name}; give text, better and than")
    for text in (claim.text, claim.paper):
        if not text.isprintable():
            raise BadInput(f"{place}: {text!r} must be one line without control characters")
    check_known([claim.better], methods, f"{place}.better")
    check_known([claim.than], methods, f"{place}.than")
    if claim.env is not None:
        check_known([claim.env], envs, f"{place}.env")
    for name in ("where", "than_where", "control"):
        if (where := getattr(claim, name)) is not None:
            find_settings(settings, where, claim.pooled, f"{place}.{name}")
    if claim.kind != "better" and claim.control is not None:
        raise BadInput(f"{place}.control: it is not compared in a claim of the kind {claim.kind!r}; remove one of them")
    if not 0 <= claim.margin < math.inf:
        raise BadInput(f"{place}.margin must be at least 0 and finite, got {claim.margin}")
    one, other = (find_settings(settings, where, claim.pooled) for where in (claim.where, _other(claim)))
    if len(one) != len(other):
        raise BadInput(f"{place}.than_where selects {len(other)} settings, where selects {len(one)}; make them equal")
    if claim.better == claim.than and one == other:
        raise BadInput(f"{place}: {claim.better} is compared with itself; give another `than`, or than_where")


def find_settings(
    settings: Sequence[Setting], where: Setting, pooled: bool = False, place: str = "where"
) -> list[Setting]:
    """Return the settings with the given values of swept factors.

    Raises BadInput if there is none, or, unless they are `pooled`, several.
    """
    known = {short: name for name in settings[0] for short in (name, _short(name))}
    if where and not known:
        raise BadInput(f"{place}: nothing is swept, so no setting can be selected; remove it")
    check_known(where, list(known), place)
    found = list(settings)
    for name, value in where.items():
        allowed = list(dict.fromkeys(setting[known[name]] for setting in found))
        found = [setting for setting in found if setting[known[name]] == _plain(value)]
        if not found:
            words = ", ".join(str(as_word(x)) for x in allowed)
            raise BadInput(f"{place}.{name} = {value!r} selects no cell; its values are {words}")
    open_ = [name for name in settings[0] if len({setting[name] for setting in found}) > 1]
    if open_ and not pooled:
        names = " and ".join(map(_short, open_))
        raise BadInput(f"{place} selects {len(found)} settings; give a value of {names}, or pooled = true")
    return found


def _short(name: str) -> str:
    return name.removeprefix("dataset.")


def _plain(value: Any) -> Any:
    """Return a value of TOML or JSON as cells have it, lists as tuples."""
    return tuple(map(_plain, value)) if isinstance(value, list) else value
