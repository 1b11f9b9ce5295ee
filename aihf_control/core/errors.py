"""The error for bad input, and the checks that raise it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence


class BadInput(Exception):
    """Unusable user input. The message is one line: what is wrong, where, and what to do."""


class InputWarning(UserWarning):
    """Input that is used, but perhaps not as its author meant. The message is one line."""


class BadLines(BadInput):
    """Bad input with several faulty lines or rows. `faults` lists them all; a command prints the first ones."""

    SHOWN = 20

    def __init__(self, source: str, faults: Sequence[str]):
        super().__init__(f"{source}: {len(faults)} fault{'s' * (len(faults) > 1)}; correct them, nothing was written")
        self.faults = faults

    def summary(self) -> list[str]:
        """Return the first `SHOWN` faults, and how many more there are."""
        more = len(self.faults) - self.SHOWN
        return [*self.faults[: self.SHOWN], *([f"... and {more} more"] if more > 0 else [])]


@contextlib.contextmanager
def refuse_misfit(what: str) -> Iterator[None]:
    """Convert the errors of a state that does not fit, for example by its shapes, to BadInput beginning with `what`."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        raise BadInput(f"{what} ({type(e).__name__}: {' '.join(str(e).split())[:200]})") from e


def above_zero(flag: str, value: float, unit: str = "") -> None:
    """Raise BadInput for a flag whose value is not above 0."""
    if not value > 0:
        raise BadInput(f"{flag} must be above 0{unit and f' {unit}'}, got {value}")


def check_widths(flag: str, widths: Sequence[int]) -> None:
    """Check the widths of hidden layers. Raises BadInput if there is none, or one below 1."""
    if not widths or min(widths) < 1:
        raise BadInput(f"{flag} must be one or more widths of at least 1, got {' '.join(map(str, widths)) or 'none'}")


def at_least_one(flags: dict[str, int]) -> None:
    """Check flags that count something. Raises BadInput for one that is below 1."""
    for flag, n in flags.items():
        if n < 1:
            raise BadInput(f"{flag} must be at least 1, got {n}")


def check_shares(flags: dict[str, float]) -> None:
    """Check flags that are shares. Raises BadInput for one that is not between 0 and 1."""
    for flag, share in flags.items():
        if not 0 <= share <= 1:
            raise BadInput(f"{flag} must be between 0 and 1, got {share}")


@contextlib.contextmanager
def in_python() -> Iterator[None]:
    """Name arguments of Python where messages of BadInput name flags: `--eval-episodes` is `eval_episodes`."""
    try:
        yield
    except BadInput as e:
        e.args = tuple(FLAG.sub(lambda flag: flag[1].replace("-", "_"), str(text)) for text in e.args)
        raise


FLAG = re.compile(r"(?<![\w-])--([a-z][a-z-]*(?:\.[a-z-]+)*)")
