"""The error for bad input, and the checks that raise it."""

from __future__ import annotations

from collections.abc import Sequence


class BadInput(Exception):
    """What a user gave cannot be used. The message is one line: what is wrong, where, and what to do."""


class BadLines(BadInput):
    """Bad input with a fault for each of many lines or rows: `faults` says them all, of which a command tells some."""

    SHOWN = 20

    def __init__(self, what: str, faults: Sequence[str]):
        super().__init__(f"{what}: {len(faults)} fault{'s' * (len(faults) > 1)}; mend them, nothing was written")
        self.faults = faults

    def summary(self) -> list[str]:
        more = len(self.faults) - self.SHOWN
        return [*self.faults[: self.SHOWN], *([f"... and {more} more"] if more > 0 else [])]


def at_least_one(flags: dict[str, int]) -> None:
    """Raises BadInput for a flag that counts something and says less than 1."""
    for flag, n in flags.items():
        if n < 1:
            raise BadInput(f"{flag} {n}: give at least 1")
