"""Equivalence by two one-sided tests, and the verdict in words.

"Not significant" is not "equal": equality within a margin is a claim that needs its own test
(Schuirmann 1987). A verdict is one of four words; "undecided" is what the data say when they say
neither, and "cannot be said" is for data that allow no test at all.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy import stats

Verdict = Literal["superior", "inferior", "equivalent", "undecided", "cannot be said"]


def difference_p(mean: np.ndarray, se: np.ndarray, df: np.ndarray) -> np.ndarray:
    """Two-sided p of "the mean is 0"."""
    with np.errstate(all="ignore"):
        return 2 * stats.t.sf(np.abs(mean / se), df)


def equivalence_p(mean: np.ndarray, se: np.ndarray, df: np.ndarray, margin: float) -> np.ndarray:
    """p of "the mean lies outside ±margin" (TOST: the larger of the two one-sided p-values)."""
    with np.errstate(all="ignore"):
        above = stats.t.sf((mean + margin) / se, df)  # of "mean <= -margin"
        below = stats.t.cdf((mean - margin) / se, df)  # of "mean >= margin"
    return np.maximum(above, below)


def decide(
    mean: np.ndarray, p_difference: np.ndarray, p_equivalence: np.ndarray, alpha: float
) -> np.ndarray:
    """Verdicts [...] from corrected p-values; NaN in the first means that nothing can be said.

    A difference that is real and yet surely within the margin is "equivalent": the margin says
    what matters, and the p-value of the difference stands beside it.
    """
    mean, p, q = (np.asarray(x, dtype=float) for x in (mean, p_difference, p_equivalence))
    return np.select(
        [np.isnan(p), q <= alpha, (p <= alpha) & (mean > 0), (p <= alpha) & (mean < 0)],
        ["cannot be said", "equivalent", "superior", "inferior"],
        "undecided",
    )
