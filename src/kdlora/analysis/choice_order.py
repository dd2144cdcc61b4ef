"""Which candidate is the best of those that fit, in one draw or in many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kdlora.analysis.candidates import Candidate
from kdlora.analysis.constraints import Constraints
from kdlora.analysis.costs_of_forms import MEASURED

ALIKE = 1.02  # costs within this factor of the least of their group are taken as equal


def bands(values: Sequence[float | None]) -> np.ndarray:
    """Dense ranks, 0 the least; values within `ALIKE` share one, unknown ones come last."""
    known = np.array([np.inf if v is None else v for v in values], float)
    ranks = np.zeros(len(known), int)
    rank, start = -1, -np.inf
    for i in np.argsort(known, kind="stable"):
        if rank < 0 or known[i] > start * ALIKE:
            rank, start = rank + 1, known[i]
        ranks[i] = rank
    return ranks


def _costs(candidates: Sequence[Candidate], constraints: Constraints) -> dict[str, np.ndarray]:
    latency = [getattr(c, f"latency_{constraints.latency}_ms").value for c in candidates]
    return {"latency": bands(latency), "size": bands([c.size_mb.value for c in candidates])}


def cost_levels(candidates: Sequence[Candidate], constraints: Constraints) -> np.ndarray:
    """What comes before the score [candidates]: the rank of the preferred cost; 0 for the score."""
    if constraints.prefer == "score":
        return np.zeros(len(candidates), int)
    return _costs(candidates, constraints)[constraints.prefer]


def tie_order(candidates: Sequence[Candidate], constraints: Constraints) -> np.ndarray:
    """What decides between equal scores [candidates]: latency, size, and what was measured."""
    costs = _costs(candidates, constraints)
    keys = [
        (costs["latency"][i], costs["size"][i], c.latency_p95_ms.basis != MEASURED, i)
        for i, c in enumerate(candidates)
    ]
    order = np.empty(len(keys), int)
    order[sorted(range(len(keys)), key=keys.__getitem__)] = np.arange(len(keys))
    return order


def pick(scores: np.ndarray, fits: np.ndarray, levels: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """The best candidate of each draw [draws], -1 where none fits.

    scores [draws, candidates], more being better; fits of the same shape; `levels` before scores,
    `ties` after them (both [candidates], less is better).
    """
    size = 1.0 + 2 * np.abs(scores).max()
    smallest = 1e-9 * size / (len(ties) + 1)
    keys = scores - size * levels[None] - smallest * ties[None]
    keys = np.where(fits, keys, -np.inf)
    return np.where(fits.any(1), keys.argmax(1), -1)
