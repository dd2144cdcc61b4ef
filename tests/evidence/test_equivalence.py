from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.weightstats import DescrStatsW

from kdlora.evidence.verdicts import decide, difference_p, equivalence_p

VALUES = np.random.default_rng(3).normal(0.2, 1, 20)
MEAN, SE = VALUES.mean(), VALUES.std(ddof=1) / np.sqrt(20)


def test_both_p_values_equal_statsmodels() -> None:
    known = DescrStatsW(VALUES)
    assert difference_p(MEAN, SE, 19) == pytest.approx(known.ttest_mean(0)[1], rel=1e-9)
    assert equivalence_p(MEAN, SE, 19, 0.7) == pytest.approx(
        known.ttost_mean(-0.7, 0.7)[0], rel=1e-9
    )


def test_equivalence_is_the_90_percent_interval_inside_the_margin() -> None:
    from scipy import stats

    reach = abs(MEAN) + stats.t.ppf(0.95, 19) * SE
    assert equivalence_p(MEAN, SE, 19, reach) == pytest.approx(0.05, rel=1e-9)


@pytest.mark.parametrize(
    ("mean", "p", "q", "word"),
    [
        (2.0, 0.01, 0.9, "superior"),
        (-2.0, 0.01, 0.9, "inferior"),
        (0.1, 0.60, 0.01, "equivalent"),
        (0.5, 0.01, 0.01, "equivalent"),  # real, but within what matters
        (0.5, 0.20, 0.30, "undecided"),
        (0.5, 0.051, 0.06, "undecided"),
        (0.0, np.nan, np.nan, "cannot be said"),
        (3.0, 0.001, np.nan, "superior"),  # no margin in this unit
    ],
)
def test_verdicts(mean: float, p: float, q: float, word: str) -> None:
    assert decide(np.array([mean]), np.array([p]), np.array([q]), 0.05)[0] == word
