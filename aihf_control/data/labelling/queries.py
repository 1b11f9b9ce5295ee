"""Active query selection: choose the pairs to label next from the answers so far (B-Pref, arXiv 2111.03026, 4.2).

Each round chooses among ten times as many candidates. No function reads a true reward: only states, actions, answers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aihf_control.data.labelling.segments import Clip, Row, SegmentPool

Array = np.ndarray
CANDIDATES = 10
ROUNDS = 5


def choose_pairs(
    query: str,
    segment_pool: SegmentPool,
    candidates: Sequence[tuple[Clip, Clip]],
    rows: Sequence[Row],
    n: int,
    rng: np.random.Generator,
) -> list[int]:
    """Choose `n` candidates, or all if there are fewer; return their indices, best first.

    "disagreement": largest spread of the members' probabilities. "entropy": largest mean entropy of the members.
    "coverage": greatest distance from all pairs asked before, one after the other (k-center).
    """
    if query == "coverage":
        asked = [((row[0], row[1]), (row[2], row[3])) for row in rows]
        return select_farthest(embed_pairs(segment_pool, candidates), embed_pairs(segment_pool, asked), n)
    from aihf_control.data.labelling.ensemble import fit_ensemble, segment_logits  # torch: seconds that others save

    net = fit_ensemble(segment_pool, rows, rng)
    value = segment_logits(net, segment_pool, sorted({clip for pair in candidates for clip in pair}))
    logits = np.stack([value[a] - value[b] for a, b in candidates], 1)
    score = disagreement(logits) if query == "disagreement" else entropy(logits)
    return np.argsort(-score, kind="stable")[:n].tolist()


def disagreement(logits: Array) -> Array:
    """Compute the standard deviation (N,) over members of the probabilities with logits (M, N)."""
    return _sigmoid(logits).std(0)


def entropy(logits: Array) -> Array:
    """Compute the mean entropy (N,) over members, in nats, from logits (M, N)."""
    p = _sigmoid(logits)
    softplus = np.logaddexp(0, logits)
    return (softplus - p * logits).mean(0)


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1 + np.tanh(0.5 * x))


def embed_pairs(segment_pool: SegmentPool, pairs: Sequence[tuple[Clip, Clip]]) -> Array:
    """Embed pairs as points (N, D) that do not depend on the order inside a pair: sum and absolute difference."""
    steps = [np.hstack([t.obs[:-1], t.act]) for t in segment_pool.pool]
    all_steps = np.concatenate(steps)
    mean, std = all_steps.mean(0), all_steps.std(0).clip(1e-3)

    def point(clip: Clip) -> Array:
        inside = (steps[clip[0]][clip[1] : clip[1] + segment_pool.length] - mean) / std
        return np.concatenate([inside.mean(0), inside.std(0), [len(inside) / segment_pool.length]])

    points = {clip: point(clip) for clip in {clip for pair in pairs for clip in pair}}
    return np.stack([np.concatenate([points[a] + points[b], abs(points[a] - points[b])]) for a, b in pairs])


def select_farthest(points: Array, taken: Array, n: int) -> list[int]:
    """Select `n` of the points (N, D), each the farthest from `taken` (T, D) and from those selected before it."""
    from scipy.spatial.distance import cdist

    distance = cdist(points, taken).min(1)
    chosen = []
    for _ in range(min(n, len(points))):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=1))
        distance[chosen] = -1
    return chosen
