"""Formatting of numbers in sentences."""

from __future__ import annotations


def count(n: int, noun: str) -> str:
    """Format a number with its noun, which gets an s unless the number is 1."""
    return f"{n:,} {noun}{'s' * (n != 1)}"


def duration(seconds: float) -> str:
    """Format seconds as seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
