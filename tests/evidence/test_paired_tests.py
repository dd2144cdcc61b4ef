from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from kdlora.evidence.paired_tests import (
    RANKS_EXACT_UP_TO,
    adjust,
    cohens_dz,
    no_spread,
    rank_biserial,
    sign_flip_p,
    t_test,
    wilcoxon_p,
)

RNG = np.random.default_rng(7)
SAMPLE = RNG.normal(0.4, 1, 23)


def test_t_equals_scipy_row_by_row() -> None:
    values = RNG.normal(0.2, 1, (5, 12))
    t, p = t_test(values)
    for row, one_t, one_p in zip(values, t, p, strict=True):
        known = stats.ttest_1samp(row, 0)
        assert one_t == pytest.approx(known.statistic, rel=1e-9)
        assert one_p == pytest.approx(known.pvalue, rel=1e-9)


def test_wilcoxon_equals_scipy_with_ties_and_zeros() -> None:
    for values in (SAMPLE, np.round(SAMPLE, 0), np.array([0.0, 1, 1, -2, 3, 4, 4])):
        assert wilcoxon_p(values) == pytest.approx(stats.wilcoxon(values).pvalue, rel=1e-9)


@pytest.mark.parametrize("n", [2, 5, 8, 13, 14])
def test_wilcoxon_equals_scipy_row_by_row(n: int) -> None:
    """Where patterns are listed and where they are not: rows with ties and zeros, and without."""
    own = np.random.default_rng(n)
    values = np.concatenate([own.normal(0.4, 1, (3, n)), np.round(own.normal(1, 1, (3, n)))])
    for row, p in zip(values, wilcoxon_p(values), strict=True):
        alone = wilcoxon_p(row)
        if not row.any():
            assert np.isnan([p, alone]).all()
            continue
        assert alone == pytest.approx(stats.wilcoxon(row).pvalue, rel=1e-9)
        if n <= RANKS_EXACT_UP_TO:  # above, scipy approximates all rows where one has ties
            assert p == pytest.approx(alone, rel=1e-12)


def test_wilcoxon_by_hand() -> None:
    # All five differences positive: both tails hold one of 2**5 sign patterns each.
    assert wilcoxon_p(np.array([1.0, 2, 3, 4, 5])) == pytest.approx(2 / 32, abs=1e-12)


def test_sign_flip_lists_all_patterns_like_scipy() -> None:
    values = RNG.normal(0.5, 1, 9)
    known = stats.permutation_test(
        (values, np.zeros(9)), lambda x, y: np.mean(x - y), permutation_type="samples"
    )
    p, drawn = sign_flip_p(values, np.random.default_rng(0))
    assert drawn == 0
    assert p == pytest.approx(known.pvalue, rel=1e-9)


def test_sign_flip_by_hand() -> None:
    # |sum| >= 4 is reached by +-(1+3) alone: 2 of 4 patterns of (1, 3).
    assert sign_flip_p(np.array([1.0, 3.0]), RNG)[0] == pytest.approx(0.5)
    assert sign_flip_p(np.array([1.0, 1.0, 1.0]), RNG)[0] == pytest.approx(0.25)


def test_drawn_sign_flips_agree_with_listing_and_are_never_zero() -> None:
    values = RNG.normal(0.6, 1, 17)  # one more than what is listed
    signs = 1 - 2 * ((np.arange(2**17)[:, None] >> np.arange(17)) & 1)
    exact = np.mean(np.abs(signs @ values) >= abs(values.sum()) - 1e-12)
    p, drawn = sign_flip_p(values, np.random.default_rng(1), 9_999)
    assert drawn == 9_999
    assert p == pytest.approx(exact, abs=4 * np.sqrt(exact / 9_999))
    sure, drawn = sign_flip_p(np.full(40, 1.0) + SAMPLE.mean(), np.random.default_rng(1), 999)
    assert sure == pytest.approx(1 / (drawn + 1))


def test_huge_samples_get_fewer_permutations() -> None:
    _, drawn = sign_flip_p(RNG.normal(0, 1, 30_000), np.random.default_rng(0))
    assert drawn == 40_000_000 // 30_000


def test_effect_sizes_by_hand() -> None:
    values = np.array([1.0, 2.0, 3.0, -4.0, 0.0])
    assert cohens_dz(values) == pytest.approx(0.4 / np.std(values, ddof=1), rel=1e-12)
    # Ranks 1, 2, 3 for a and 4 for b, of 10.
    assert rank_biserial(values) == pytest.approx((6 - 4) / 10)
    assert rank_biserial(-values) == -rank_biserial(values)
    assert rank_biserial(np.array([0.5, 0.1])) == 1


@pytest.mark.parametrize("method", ["holm", "bh"])
@pytest.mark.parametrize("p", [[0.03], [0.01, 0.04, 0.03, 0.005], [0.2, 0.2, 0.0, 1.0, 0.2]])
def test_corrections_equal_statsmodels(method: str, p: list[float]) -> None:
    known = multipletests(p, method={"holm": "holm", "bh": "fdr_bh"}[method])[1]
    np.testing.assert_allclose(adjust(np.array(p), method), known, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", ["holm", "bh"])
@settings(max_examples=30, deadline=None)
@given(p=st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_corrections_only_raise_p_and_keep_its_order(method: str, p: list[float]) -> None:
    raw = np.array(p)
    corrected = adjust(raw, method)
    assert np.all(corrected >= raw - 1e-15)
    assert np.all(corrected <= 1)
    assert np.all(np.diff(corrected[np.argsort(raw)]) >= 0)


def test_tests_not_made_do_not_count_in_a_correction() -> None:
    p = np.array([0.01, np.nan, 0.03])
    np.testing.assert_allclose(adjust(p, "holm"), [0.02, np.nan, 0.03])
    np.testing.assert_allclose(adjust(p, "bh"), [0.02, np.nan, 0.03])
    np.testing.assert_allclose(adjust(np.stack([p, p[::-1]]), "holm")[1], [0.03, np.nan, 0.02])


def test_what_allows_no_test_gives_nan_not_a_p() -> None:
    for values in (np.zeros(6), np.full(6, 0.3), np.array([0.2])):
        assert np.isnan(t_test(values)[1])
    assert np.isnan(wilcoxon_p(np.zeros(6)))
    assert np.isnan(wilcoxon_p(np.array([1.0, np.nan, 2.0])))
    assert np.isnan(sign_flip_p(np.zeros(6), RNG)[0])
    assert np.isnan(sign_flip_p(np.zeros(30), RNG)[0])
    assert np.isnan(cohens_dz(np.full(4, 2.0)))
    assert np.isnan(rank_biserial(np.zeros(3)))


def test_rounding_is_no_spread() -> None:
    base = np.array([0.123, 0.456, 0.789])
    values = (base + 0.1) - base
    assert np.ptp(values) > 0
    assert no_spread(values)
    assert not no_spread(np.array([1e-6, 2e-6]))
