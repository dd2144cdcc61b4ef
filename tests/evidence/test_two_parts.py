from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from kdlora.evidence.two_parts import LEVEL, joint_df


@pytest.mark.parametrize("df", [2.0, 4.0])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_the_equivalent_t_has_the_quantile_of_the_sum(df: float, share: float) -> None:
    rng = np.random.default_rng(0)
    n = 400_000
    drawn = np.sqrt(share) * rng.standard_t(df, n) + np.sqrt(1 - share) * rng.standard_normal(n)
    found = joint_df(np.array(share), np.array(df), np.array(1 - share))
    assert stats.t.ppf(LEVEL, found) == pytest.approx(np.quantile(drawn, LEVEL), rel=0.01)


def test_one_part_alone_keeps_its_own() -> None:
    found = joint_df(np.array([1.0, 0.0]), np.array([3.0, 3.0]), np.array([0.0, 1.0]))
    assert found[0] == 3
    assert stats.t.ppf(LEVEL, found[1]) == pytest.approx(stats.norm.ppf(LEVEL), rel=1e-5)


def test_more_of_the_sure_part_makes_the_sum_surer() -> None:
    many = np.linspace(0.01, 5, 12)
    found = joint_df(np.ones(12), np.full(12, 2.0), many)
    assert (np.diff(found) > 0).all()


def test_what_is_not_known_stays_so() -> None:
    assert np.isnan(joint_df(np.array(1.0), np.array(np.nan), np.array(1.0)))
