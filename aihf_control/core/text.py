"""Formatting of numbers in sentences."""

from __future__ import annotations


def count(n: int, noun: str) -> str:
    """Format a number with its noun, which gets an s unless the number is 1."""
    return f"{n:,} {noun}{'s' * (n != 1)}"
