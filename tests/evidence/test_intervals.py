from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from kdlora.evidence.intervals import (
    affordable,
    bootstrap_clusters,
    bootstrap_strata,
    interval,
    jackknife,
    of_clusters,
    of_mean,
    of_share,
    resample,
    student,
)
from kdlora.evidence.result import Rules


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def bootstrap_runs(values: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Means of resampled runs: each is a cluster of its own."""
    return bootstrap_clusters(values, np.arange(len(values)), draws, rng)


def test_bootstrap_of_the_mean_has_its_known_moments() -> None:
    values = rng(1).normal(3, 2, 25)
    drawn = bootstrap_runs(values, 40_000, rng())
    error = values.std(ddof=0) / 5
    assert len(drawn) == 40_000
    assert drawn.mean() == pytest.approx(values.mean(), abs=4 * error / 200)
    assert drawn.std() == pytest.approx(error, rel=0.02)


def test_percentiles_agree_with_scipy() -> None:
    values = rng(2).gamma(2, 1, 30)
    known = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20_000, rng=rng(3)
    ).confidence_interval
    low, high = interval(bootstrap_runs(values, 20_000, rng()))
    width = known.high - known.low
    assert low == pytest.approx(known.low, abs=0.04 * width)
    assert high == pytest.approx(known.high, abs=0.04 * width)


def test_clusters_are_kept_whole() -> None:
    values, clusters = np.array([1.0, 1, 1, 5]), np.array([0, 0, 0, 1])
    drawn = bootstrap_clusters(values, clusters, 20_000, rng())
    found, counts = np.unique(drawn, return_counts=True)
    # Draws of two clusters: both small (1), one each (8 / 4), both big (5).
    np.testing.assert_allclose(found, [1, 2, 5])
    np.testing.assert_allclose(counts / 20_000, [0.25, 0.5, 0.25], atol=0.015)


def test_a_ratio_of_totals_keeps_rows_together() -> None:
    base = np.array([10.0, 20, 40])
    drawn = bootstrap_clusters(0.9 * base, np.arange(3), 500, rng(), denominator=base)
    np.testing.assert_allclose(drawn, 0.9)


def test_strata_are_resampled_within() -> None:
    rows = np.array([[0.0], [1.0], [100.0], [102.0]])
    drawn = bootstrap_strata(rows, np.array([0, 0, 1, 1]), lambda r: r.mean((1, 2)), 8_000, rng())
    # Each stratum keeps two rows: means are (0 | .5 | 1 + 100 | 101 | 102) / 2.
    assert drawn.min() == 50.0
    assert drawn.max() == 51.5
    assert drawn.var() == pytest.approx((0.125 + 0.5) / 4, rel=0.06)


def test_strata_need_not_be_sorted_and_columns_stay_paired() -> None:
    rows = np.column_stack([np.arange(6.0), np.arange(6.0) + 10])
    drawn = bootstrap_strata(rows, np.array([1, 0, 1, 0, 1, 0]), lambda r: r.mean(1), 300, rng())
    np.testing.assert_allclose(drawn[:, 1] - drawn[:, 0], 10)


def test_expanded_interval_of_normal_draws_is_students() -> None:
    # Bootstrap means of n normal values spread by sd sqrt((n-1)/n)/sqrt(n); expanding must give t.
    n = 9
    spread = np.sqrt((n - 1) / n) / np.sqrt(n)
    drawn = spread * stats.norm.ppf((np.arange(400_000) + 0.5) / 400_000)
    low, high = interval(drawn, sizes=[n])
    assert high == pytest.approx(stats.t.ppf(0.975, n - 1) / np.sqrt(n), rel=2e-3)
    assert low == pytest.approx(-high, rel=1e-6)
    plain = interval(drawn)[1]
    assert plain == pytest.approx(1.959964 * spread, rel=1e-3)


def test_nothing_to_resample_gives_no_interval() -> None:
    low, high = interval(np.zeros((100, 2)), sizes=[1, 1, 1])
    assert np.isnan(low).all()
    assert np.isnan(high).all()


def test_a_stratum_of_one_unit_is_unknown_and_not_noiseless() -> None:
    drawn = bootstrap_runs(rng(1).normal(size=30), 2_000, rng())
    assert np.isnan(interval(drawn, sizes=[9, 9, 1])[0])
    assert np.isfinite(interval(drawn, sizes=[9, 9, 2])[0])
    assert np.isnan(interval(drawn, sizes=[5])[0])
    assert np.isfinite(interval(drawn, sizes=[6])[0])


def test_students_interval_is_scipys() -> None:
    values = rng(5).normal(3, 2, (4, 2))
    low, high = student(values, alpha=0.1)
    for i in range(2):
        known = stats.t.interval(0.9, 3, values[:, i].mean(), stats.sem(values[:, i]))
        assert (low[i], high[i]) == pytest.approx(known)
    assert np.isnan(student(values[:2])[0]).all()
    assert np.isnan(student(np.full(5, 0.3))[0])


def test_the_jackknife_of_a_mean_is_students_interval() -> None:
    values = rng(6).gamma(2, 1, 7)
    without = np.array([np.delete(values, i).mean() for i in range(7)])
    assert jackknife(np.asarray(values.mean()), without) == pytest.approx(student(values))


@pytest.mark.parametrize("n", [3, 4, 5, 8, 20])
def test_intervals_of_few_units_cover_what_they_say(n: int) -> None:
    draw, studies = rng(n), 1_500
    inside = 0
    for _ in range(studies):
        low, high = of_mean(draw.normal(1, 2, n), Rules(draws=400), draw)
        inside += low <= 1 <= high
    assert inside / studies == pytest.approx(0.95, abs=0.02)


def test_clusters_are_the_units_however_few() -> None:
    draw = rng(7)
    clusters = np.repeat([0, 1, 2, 3], [1, 5, 2, 8])
    values = draw.normal(0, 3, 4)[clusters] + draw.normal(0, 0.01, 16)
    low, high = of_clusters(values, clusters, Rules(), draw)
    alone = of_mean(values, Rules(), draw)
    assert high - low > 2 * (alone[1] - alone[0])
    assert of_clusters(values[:6], clusters[:6], Rules(), draw) == (None, None)


def test_memory_and_time_are_bounded() -> None:
    assert affordable(10_000, 38) == 10_000
    assert affordable(10_000, 10**7) == 1_000
    chunks = list(resample(100_000, 120, rng()))
    assert sum(len(c) for c in chunks) == 120
    assert max(c.size for c in chunks) <= 4_000_000


def test_the_same_seed_gives_the_same_draws() -> None:
    values = np.arange(7.0)
    assert np.array_equal(bootstrap_runs(values, 50, rng(4)), bootstrap_runs(values, 50, rng(4)))


@pytest.mark.parametrize(("right", "n"), [(0, 5), (5, 5), (3, 9), (900, 1000), (1, 100_000)])
@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_a_share_has_the_interval_of_wilson(right: int, n: int, alpha: float) -> None:
    known = stats.binomtest(right, n).proportion_ci(1 - alpha, method="wilson")
    assert of_share(right, n, alpha) == pytest.approx((known.low, known.high))
