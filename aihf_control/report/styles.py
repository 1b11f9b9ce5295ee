"""Colour, marker and dashes of every method: the same in every figure, whichever other methods are shown.

The colours of the five main methods differ by at least 30 (CIE 1976) for readers with normal, deuteranopic and
protanopic sight, which tests/report/test_styles.py computes. The other methods share more colours, so each has a pair
of marker and dashes of its own.
"""

from __future__ import annotations

import dataclasses
import zlib

Dashes = tuple[float, ...]
SOLID: Dashes = ()
DASHES: tuple[Dashes, ...] = (SOLID, (5, 1.5), (2.5, 1.2), (1, 1), (6, 1.5, 1, 1.5), (6, 1.5, 1, 1.5, 1, 1.5))
MARKERS = "oDPX<>ph*"
OTHER_COLOURS = ("#117733", "#4477AA", "#B8860B", "#AA3377", "#7F7F7F", "#8C510A", "#6A3D9A", "#2A8F82")


@dataclasses.dataclass(frozen=True)
class Style:
    """How a method is drawn; `dashes` are lengths of strokes and gaps in line widths, () is solid."""

    color: str
    marker: str
    dashes: Dashes


MAIN = {
    "aihf": Style("#D55E00", "o", SOLID),
    "rlhf": Style("#332288", "s", (5, 1.5)),
    "irl": Style("#0096C7", "D", (2.5, 1.2)),
    "bc": Style("#EE6677", "^", (1, 1)),
    "dpo": Style("#882255", "v", (6, 1.5, 1, 1.5)),
}
OTHERS = (
    *("aihf_dpo", "bpo", "mpo", "cpl", "parl", "nash_md", "ipo", "oaif"),
    *("aihf_paper", "rlhf_paper", "aihf_spin", "slic", "rpo", "expo", "var", "lire"),
    *("sail", "sapo", "mtpo", "linvit", "salmon", "zpg", "dr_rlhf", "dr_dpo"),
    *("metric_rl", "offline_pre", "offline_joint", "ask", "density"),
)


def style_of(method: str) -> Style:
    """Return the style of a method, chosen by its name alone; names that are not listed get one by their hash."""
    if method in MAIN:
        return MAIN[method]
    known = method in OTHERS
    i = OTHERS.index(method) if known else zlib.crc32(method.encode())
    turn = i // len(OTHER_COLOURS)  # so that two methods of one colour never have the same dashes
    return Style(OTHER_COLOURS[i % len(OTHER_COLOURS)], MARKERS[i % len(MARKERS)], DASHES[turn % len(DASHES)])
