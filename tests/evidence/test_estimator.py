from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kdlora.evidence.estimator import Nesting, estimate, stratified_error

# Two tasks; task a has blocks x (2 runs) and y (1 run), task b has block x (3 runs).
TASKS = ["a", "a", "a", "b", "b", "b"]
BLOCKS = ["x", "x", "y", "x", "x", "x"]
VALUES = np.array([1.0, 3.0, 10.0, 0.0, 3.0, 6.0])


def nesting_of(tasks: int, blocks: int, runs: int) -> Nesting:
    task, block = np.indices((tasks, blocks, runs)).reshape(3, -1)[:2]
    return Nesting.of(task, block)


def test_means_by_hand() -> None:
    nesting = Nesting.of(TASKS, BLOCKS)
    assert (nesting.n_runs, nesting.n_blocks, nesting.n_tasks) == (6, 3, 2)
    np.testing.assert_array_equal(nesting.block_means(VALUES), [2, 10, 3])
    np.testing.assert_array_equal(nesting.task_means(VALUES), [6, 3])
    np.testing.assert_array_equal(nesting.task_of_run(), [0, 0, 0, 1, 1, 1])
    assert estimate(VALUES, nesting, "here").mean == 4.5


def test_means_work_on_many_studies_at_once() -> None:
    nesting = Nesting.of(TASKS, BLOCKS)
    many = np.stack([VALUES, -VALUES])
    np.testing.assert_array_equal(nesting.task_means(many), [[6, 3], [-6, -3]])
    both = estimate(many, nesting, "here")
    one = estimate(VALUES, nesting, "here")
    assert both.se[1] == one.se
    assert both.df[0] == one.df


def test_beyond_is_the_t_test_of_task_means() -> None:
    values = np.random.default_rng(0).normal(1, 2, 9 * 3 * 2)
    nesting = nesting_of(9, 3, 2)
    e = estimate(values, nesting, "beyond")
    known = stats.ttest_1samp(values.reshape(9, 6).mean(1), 0)
    assert e.mean / e.se == pytest.approx(known.statistic, rel=1e-9)
    assert e.df == pytest.approx(8, rel=1e-9)
    assert e.replicates == "tasks"


def test_here_by_blocks_is_the_textbook_stratified_mean() -> None:
    values = np.random.default_rng(1).normal(0, 1, 4 * 3 * 2)
    e = estimate(values, nesting_of(4, 3, 2), "here")
    blocks = values.reshape(4, 3, 2).mean(2)
    assert e.replicates == "blocks"
    assert e.se == pytest.approx(np.sqrt(blocks.var(1, ddof=1).sum() / 3) / 4, rel=1e-9)


def test_one_block_of_seeds_is_a_plain_t_test() -> None:
    values = np.array([0.5, 1.5, 1.0, 2.0, 0.7])
    e = estimate(values, nesting_of(1, 1, 5), "here")
    assert e.replicates == "runs"
    assert e.df == pytest.approx(4, rel=1e-9)
    assert e.mean / e.se == pytest.approx(stats.ttest_1samp(values, 0).statistic, rel=1e-9)


def test_single_runs_are_collapsed_into_one_stratum() -> None:
    # One run in each of five tasks: the tasks' spread is all there is, and counts as error.
    values = np.array([1.0, 2.0, 4.0, 0.0, 3.0])
    e = estimate(values, nesting_of(5, 1, 1), "here")
    assert e.se == pytest.approx(values.std(ddof=1) / np.sqrt(5), rel=1e-9)
    assert e.df == pytest.approx(4, rel=1e-9)


def test_a_lone_single_run_is_taken_as_noisy_as_the_others() -> None:
    units, starts = np.array([1.0, 3.0, 10.0]), np.array([0, 2])
    se, _ = stratified_error(units, starts, np.array([0.5, 0.5]))
    assert se == pytest.approx(np.sqrt(0.25 * 2 / 2 + 0.25 * 2), rel=1e-12)


def test_welchs_df_of_two_strata() -> None:
    # Welch 1947: (v1+v2)^2 / (v1^2/(d1+2) + v2^2/(d2+2)) - 2.
    units, starts = np.array([0.0, 2.0, 4.0, 0.0, 1.0]), np.array([0, 3])
    se, df = stratified_error(units, starts, np.array([1.0, 1.0]))
    v1, v2 = 4 / 3, 0.5 / 2
    assert se**2 == pytest.approx(v1 + v2)
    assert df == pytest.approx((v1 + v2) ** 2 / (v1**2 / 4 + v2**2 / 3) - 2)


def test_replicates_depend_on_the_design_only() -> None:
    assert nesting_of(9, 3, 1).replicates("here") == "blocks"
    assert nesting_of(3, 3, 1).replicates("here") == "blocks"  # 6 degrees of freedom
    assert nesting_of(1, 3, 5).replicates("here") == "runs"
    assert nesting_of(9, 1, 3).replicates("here") == "runs"


@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 1, 1), (2, 2, 3)])
def test_no_spread_gives_no_error(shape: tuple[int, int, int]) -> None:
    nesting = nesting_of(*shape)
    for scope in ("beyond", "here"):
        assert np.isnan(estimate(np.full(nesting.n_runs, 0.3), nesting, scope).se)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=2, max_size=6),
    st.floats(-5, 5),
    st.integers(0, 10_000),
)
def test_shifting_every_difference_shifts_only_the_mean(
    counts: list[list[int]], shift: float, seed: int
) -> None:
    labels = [(t, b) for t, bs in enumerate(counts) for b, n in enumerate(bs) for _ in range(n)]
    nesting = Nesting.of([t for t, _ in labels], [b for _, b in labels])
    values = np.random.default_rng(seed).normal(0, 1, len(labels))
    for scope in ("beyond", "here"):
        before, after = (estimate(v, nesting, scope) for v in (values, values + shift))
        assert after.mean == pytest.approx(before.mean + shift, abs=1e-9)
        np.testing.assert_allclose(after.se, before.se, rtol=1e-6)
        np.testing.assert_allclose(after.df, before.df, rtol=1e-6)
