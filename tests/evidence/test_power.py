from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from kdlora.evidence.estimator import SEED_CORRELATION, Nesting
from kdlora.evidence.power import (
    Components,
    detectable_difference,
    detection_power,
    seeds_needed,
    variance_components,
)


@pytest.mark.parametrize("n", [3, 5, 9, 27, 200])
@pytest.mark.parametrize("effect", [0.0, 0.3, 1.0, 2.5])
def test_power_equals_statsmodels(n: int, effect: float) -> None:
    known = TTestPower().power(effect, n, 0.05)
    if np.isfinite(known):
        assert detection_power(effect, 1 / np.sqrt(n), n - 1) == pytest.approx(known, abs=1e-9)


def test_power_where_scipy_has_holes() -> None:
    assert np.isnan(stats.nct.cdf(-stats.t.ppf(0.975, 20), 20, 12))
    assert detection_power(12, 1, 20) == pytest.approx(1.0)


def test_detectable_difference_is_found_with_the_wished_power() -> None:
    least = detectable_difference(1.2, 8, power=0.8)
    assert least is not None
    assert detection_power(least, 1.2, 8) == pytest.approx(0.8, abs=1e-9)
    # The normal approximation of report 001's test: 2.802 standard errors.
    assert detectable_difference(1.0, 1e6) == pytest.approx(1.959964 + 0.841621, abs=1e-4)
    assert detectable_difference(float("nan"), 8) is None
    assert detectable_difference(0.0, 8) is None


def test_components_are_anova_estimates_on_a_balanced_grid() -> None:
    rng = np.random.default_rng(0)
    tasks, blocks, runs = 60, 4, 3
    cube = (
        rng.normal(0, 3, (tasks, 1, 1))
        + rng.normal(0, 2, (tasks, blocks, 1))
        + rng.normal(0, 1, (tasks, blocks, runs))
    )
    t, b, _ = np.indices(cube.shape).reshape(3, -1)
    found = variance_components(cube.ravel(), Nesting.of(t, b))
    within = cube.var(2, ddof=1).mean()
    between = cube.mean(2).var(1, ddof=1).mean()
    assert found.run == pytest.approx(within, rel=1e-9)
    assert found.block == pytest.approx(between - within / runs, rel=1e-9)
    assert found.task == pytest.approx(cube.mean((1, 2)).var(ddof=1) - between / blocks, rel=1e-9)
    assert found.task == pytest.approx(9, rel=0.5)
    # The present design again: the t test of task means, and what one seed does to all tasks.
    known = cube.mean((1, 2)).var(ddof=1) / tasks
    common = SEED_CORRELATION * within / runs * (1 - 1 / (tasks * blocks))
    assert found.se(runs) == pytest.approx(np.sqrt(known + common))


def test_one_seed_per_block_cannot_tell_what_seeds_would_do() -> None:
    found = variance_components(np.array([1.0, 2, 4, 3]), Nesting.of([0, 0, 1, 1], [0, 1, 0, 1]))
    assert found.run is None
    needed = seeds_needed(found, 1.0, scope="tasks like these")
    assert needed.seeds is None
    assert "one seed per block" in needed.reason


def test_seeds_needed_is_the_smallest_number_that_does() -> None:
    parts = Components(0.0, 0.0, 4.0, n_tasks=9, blocks_per_task=1.0, runs_per_block=1.0)
    needed = seeds_needed(parts, 1.0, scope="tasks like these")
    assert needed.seeds is not None

    def power(seeds: int) -> float:
        one = SEED_CORRELATION + (1 - SEED_CORRELATION) / 9
        return detection_power(1.0, np.sqrt(4 * one / seeds), 8)

    assert power(needed.seeds) >= 0.8 > power(needed.seeds - 1)


def test_no_number_of_seeds_beats_the_spread_between_tasks() -> None:
    parts = Components(9.0, 1.0, 1.0, n_tasks=9, blocks_per_task=3.0, runs_per_block=3.0)
    needed = seeds_needed(parts, 1.0, scope="tasks like these")
    assert needed.seeds is None
    assert needed.tasks is not None
    assert "no number of seeds" in needed.reason
    blocks = 3 * needed.tasks
    run = (SEED_CORRELATION + (1 - SEED_CORRELATION) / blocks) / 3
    se = np.sqrt(9 / needed.tasks + 1 / blocks + run)
    assert detection_power(1.0, se, needed.tasks - 1) >= 0.8
    own = seeds_needed(parts, 1.0, scope="these tasks").seeds
    assert own is not None
    power = [detection_power(1.0, parts.se(n, scope="these tasks"), n - 1) for n in (own - 1, own)]
    assert power[0] < 0.8 <= power[1]


@pytest.mark.parametrize("wished", [0.0, -1.0, float("nan"), float("inf")])
def test_a_wish_must_be_a_difference(wished: float) -> None:
    parts = Components(1.0, 1.0, 1.0, 9, 3.0, 3.0)
    assert "above 0" in seeds_needed(parts, wished, scope="tasks like these").reason
