from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kdlora.evidence.estimator import (
    SEED_CORRELATION,
    ClusterRobust,
    Design,
    Nesting,
    design_df,
    on_tasks_like_these,
    on_these_tasks,
)

# Two tasks; task a has blocks x (2 runs) and y (1 run), task b has block x (3 runs).
TASKS = ["a", "a", "a", "b", "b", "b"]
BLOCKS = ["x", "x", "y", "x", "x", "x"]
VALUES = np.array([1.0, 3.0, 10.0, 0.0, 3.0, 6.0])


def design_of(tasks: int, blocks: int, seeds: int, *, own_seeds: bool = False) -> Design:
    """A complete grid; `own_seeds`: no two tasks have a seed in common."""
    task, block, seed = np.indices((tasks, blocks, seeds)).reshape(3, -1)
    return Design(Nesting.of(task, block), seed + (seeds * task if own_seeds else 0))


def values_of(tasks: int, blocks: int, seeds: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(1, 2, tasks * blocks * seeds)


def test_means_by_hand() -> None:
    nesting = Nesting.of(TASKS, BLOCKS)
    assert (nesting.n_runs, nesting.n_blocks, nesting.n_tasks) == (6, 3, 2)
    np.testing.assert_array_equal(nesting.block_means(VALUES), [2, 10, 3])
    np.testing.assert_array_equal(nesting.task_means(VALUES), [6, 3])
    np.testing.assert_array_equal(nesting.task_of_run(), [0, 0, 0, 1, 1, 1])
    np.testing.assert_allclose(nesting.weights(), [0.25, 0.25, 0.5, 1 / 3, 1 / 3, 1 / 3])


@pytest.mark.parametrize("own_seeds", [False, True])
@pytest.mark.parametrize("shape", [(9, 3, 3), (4, 1, 5), (1, 2, 4)])
def test_these_tasks_are_judged_by_students_t_of_the_seeds(
    shape: tuple[int, int, int], own_seeds: bool
) -> None:
    values = values_of(*shape)
    found = on_these_tasks(values, design_of(*shape, own_seeds=own_seeds))
    known = stats.ttest_1samp(values.reshape(shape).mean((0, 1)), 0)
    assert found.mean / found.se == pytest.approx(known.statistic, rel=1e-9)
    assert found.df == pytest.approx(shape[2] - 1, rel=1e-9)


def test_many_studies_are_estimated_at_once() -> None:
    design, values = design_of(3, 2, 3), values_of(3, 2, 3)
    both = on_these_tasks(np.stack([values, -values]), design)
    one = on_these_tasks(values, design)
    assert both.se[1] == pytest.approx(one.se)
    assert both.mean[1] == -one.mean


def test_the_variance_is_that_of_clustered_least_squares() -> None:
    """CR2 of an uneven design, against its definition with matrices (Bell & McCaffrey 2002)."""
    block = np.array([0, 0, 0, 1, 1, 1, 1])
    cluster = np.array([0, 1, 2, 0, 0, 1, 2])
    weights = np.array([1 / 3] * 3 + [1 / 4] * 4) / 2
    values = values_of(1, 1, 7)
    dummies = np.eye(2)[block]
    hat = dummies @ np.linalg.inv(dummies.T @ dummies) @ dummies.T
    residuals, total = values - hat @ values, 0.0
    for g in range(3):
        own = np.flatnonzero(cluster == g)
        at = np.ix_(own, own)
        size, basis = np.linalg.eigh(np.eye(len(own)) - hat[at])
        adjust = basis @ np.diag(size**-0.5) @ basis.T
        total += float(weights[own] @ adjust @ residuals[own]) ** 2
    found = ClusterRobust.of(weights, block, cluster)
    assert found.variance(values) == pytest.approx(total, rel=1e-9)


def test_its_degrees_of_freedom_are_those_of_the_moments_of_the_variance() -> None:
    block, cluster = np.repeat([0, 1, 2], [3, 3, 5]), np.array([0, 1, 2, 0, 1, 1, 0, 1, 2, 3, 3])
    weights = np.repeat([1 / 9, 1 / 9, 1 / 15], [3, 3, 5])
    found = ClusterRobust.of(weights, block, cluster)
    drawn = found.variance(np.random.default_rng(0).normal(0, 1, (200_000, 11)))
    assert found.df == pytest.approx(2 * drawn.mean() ** 2 / drawn.var(), rel=0.03)


def test_blocks_with_one_run_have_no_error_of_their_own() -> None:
    design = Design(Nesting.of(TASKS, BLOCKS), np.array([0, 1, 0, 0, 1, 2]))
    np.testing.assert_array_equal(design.replicated, [True, True, False, True, True, True])
    assert design.at(design.replicated).nesting.n_blocks == 2


def test_degrees_of_freedom_hang_on_the_design() -> None:
    assert design_df(design_of(1, 1, 1)) == 0
    assert design_df(design_of(1, 3, 2)) == pytest.approx(1)  # pairs of one seed are no sample
    assert design_df(design_of(3, 1, 2)) == pytest.approx(3)
    assert design_df(design_of(1, 1, 5)) == pytest.approx(4)


def test_two_seeds_allow_for_a_common_effect_and_never_less_than_they_show() -> None:
    design, shape = design_of(9, 1, 2), (9, 1, 2)
    values = values_of(*shape)
    cube = values.reshape(9, 2)
    alone = (cube.var(1, ddof=1) / 2).sum() / 81
    effect = 1 + 8 * SEED_CORRELATION
    assert on_these_tasks(values, design).se ** 2 == pytest.approx(effect * alone, rel=1e-9)
    shifted = cube + np.array([0, 100])  # a common effect that no allowance covers
    robust = shifted.mean(0).var(ddof=1) / 2
    assert on_these_tasks(shifted.ravel(), design).se ** 2 == pytest.approx(robust, rel=1e-9)


def test_tasks_with_seeds_of_their_own_are_compared_by_students_t() -> None:
    values = values_of(9, 3, 2)
    found = on_tasks_like_these(values, design_of(9, 3, 2, own_seeds=True))
    known = stats.ttest_1samp(values.reshape(9, 6).mean(1), 0)
    assert found.mean / found.se == pytest.approx(known.statistic, rel=1e-9)
    assert found.df == pytest.approx(8, rel=1e-9)


def test_one_seed_of_all_tasks_is_allowed_for() -> None:
    values = values_of(9, 1, 1)
    found = on_tasks_like_these(values, design_of(9, 1, 1))
    allowed = SEED_CORRELATION / (1 - SEED_CORRELATION)
    assert found.se**2 == pytest.approx(values.var(ddof=1) * (1 / 9 + allowed), rel=1e-9)


def test_a_measured_common_effect_counts_in_full() -> None:
    cube = values_of(9, 1, 4).reshape(9, 4) + 50 * np.arange(4)
    found = on_tasks_like_these(cube.ravel(), design_of(9, 1, 4))
    seeds = cube.mean(0).var(ddof=1) / 4
    assert found.se**2 == pytest.approx(seeds + cube.mean(1).var(ddof=1) / 9, rel=0.01)


@pytest.mark.parametrize("shape", [(1, 1, 3), (4, 1, 3), (7, 2, 3)])
def test_no_spread_gives_no_error(shape: tuple[int, int, int]) -> None:
    design = design_of(*shape)
    values = np.full(design.nesting.n_runs, 0.3)
    assert np.isnan(on_these_tasks(values, design).se)
    if shape[0] > 1:
        assert np.isnan(on_tasks_like_these(values, design).se)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(2, 4), min_size=1, max_size=3), min_size=2, max_size=6),
    st.floats(-5, 5),
    st.integers(0, 10_000),
)
def test_shifting_every_difference_shifts_only_the_mean(
    counts: list[list[int]], shift: float, seed: int
) -> None:
    rows = [(t, b, s) for t, bs in enumerate(counts) for b, n in enumerate(bs) for s in range(n)]
    task, block, seeds = np.array(rows).T
    design = Design(Nesting.of(task, block), seeds)
    values = np.random.default_rng(seed).normal(0, 1, len(rows))
    for estimate in (on_these_tasks, on_tasks_like_these):
        before, after = (estimate(v, design) for v in (values, values + shift))
        assert after.mean == pytest.approx(before.mean + shift, abs=1e-9)
        np.testing.assert_allclose(after.se, before.se, rtol=1e-6)
        np.testing.assert_allclose(after.df, before.df, rtol=1e-6)
