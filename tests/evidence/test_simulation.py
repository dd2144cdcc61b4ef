"""Truth by simulation, the short version of `benchmarks/evidence_simulation.py`.

2,000 studies with the tasks, pairs, seeds and holes of the 742 runs, six comparisons each, judged
by the functions that `compare` uses.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.evidence_simulation import CONTRASTS, REAL, grid_742
from benchmarks.simulated_studies import (
    Design,
    Effects,
    claim_rates,
    descriptive_rates,
    design,
    simulate,
)
from kdlora.evidence.compare import compare_many
from kdlora.evidence.result import Rules
from tests.harness.evidence_frames import runs_742

STUDIES = 2_000
ERROR = 3 * np.sqrt(0.05 * 0.95 / STUDIES)  # three Monte-Carlo errors


@pytest.fixture(scope="module")
def plan() -> Design:
    return design(grid_742(), CONTRASTS)


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_the_grid_is_that_of_the_742_runs(shared: Path) -> None:
    keys = ["arm", "pair", "task", "seed"]
    real = runs_742(shared)[keys].sort_values(keys).reset_index(drop=True)
    drawn = grid_742()[keys].sort_values(keys).reset_index(drop=True)
    pd.testing.assert_frame_equal(real, drawn, check_dtype=False)


@pytest.mark.parametrize("effects", [REAL, Effects(task=6, block=2), Effects(collapse=0.05)])
def test_null_studies_rarely_get_a_verdict(plan: Design, effects: Effects) -> None:
    drawn = simulate(plan, STUDIES, rng(1), effects=effects)
    for rates in claim_rates(plan, drawn, Rules(), centred=True):
        assert rates.significant <= 0.05 + ERROR
        assert rates.any_significant <= 0.05 + ERROR
        assert 0.93 <= rates.coverage <= 0.97
        assert rates.any_equivalent <= 0.05 + ERROR  # arms differ by far more than a point


def test_tests_of_runs_and_blocks_and_the_pooled_welch_would_not_do(plan: Design) -> None:
    rates = descriptive_rates(plan, simulate(plan, STUDIES, rng(2), effects=REAL), rng(3))
    for level in ("runs: paired t", "runs: Wilcoxon", "blocks: paired t", "blocks: Wilcoxon"):
        assert rates[level][0] > 0.05 + ERROR
        assert rates[level][1] > 0.10
    # Unpaired and pooled over unlike task mixes: false positives here, no power in the next test.
    assert rates["pooled unpaired Welch (report 001)"][0] > 0.05 + ERROR
    for level in ("tasks: paired t", "tasks: Wilcoxon", "tasks: sign-flip permutation"):
        assert rates[level][0] <= 0.05 + ERROR
        assert rates[level][1] <= 0.05 + ERROR


def test_power_grows_and_intervals_cover_at_every_difference(plan: Design) -> None:
    power = {"beyond": [], "here": []}
    for difference in (0.5, 1.0, 2.0, 5.0):
        drawn = simulate(plan, STUDIES, rng(4), difference=difference)
        for rates in claim_rates(plan, drawn, Rules()):
            power[rates.scope].append(rates.superior)
            assert 0.93 <= rates.coverage <= 0.97
            assert rates.inferior <= 0.05
    for found in power.values():
        assert found == sorted(found)
    assert power["beyond"][-1] > 0.8
    assert all(h >= b for h, b in zip(power["here"], power["beyond"], strict=True))


def test_the_pooled_welch_misses_what_pairing_finds(plan: Design) -> None:
    drawn = simulate(plan, 500, rng(5), difference=5.0)
    welch = descriptive_rates(plan, drawn, rng(6))["pooled unpaired Welch (report 001)"][0]
    assert welch < claim_rates(plan, drawn, Rules())[0].superior - 0.2


@pytest.mark.parametrize("difference", [1.0, -1.0])
def test_arms_a_margin_apart_are_rarely_called_equivalent(plan: Design, difference: float) -> None:
    calm = Effects(task=0.3, block=0.5, run=0.4, collapse=0)
    drawn = simulate(plan, STUDIES, rng(7), difference=difference, effects=calm)
    for rates in claim_rates(plan, drawn, Rules(), centred=True):
        assert 0.02 < rates.equivalent <= 0.05 + ERROR
        assert rates.any_equivalent <= 0.05 + ERROR


def test_equal_arms_are_called_equivalent_when_noise_is_small(plan: Design) -> None:
    calm = Effects(task=0.3, block=0.5, run=0.4, collapse=0)
    for rates in claim_rates(plan, simulate(plan, 300, rng(8), effects=calm), Rules()):
        assert rates.equivalent > 0.95


def test_the_simulation_judges_as_compare_does(plan: Design) -> None:
    """One study through the public function gives the p-values of the fast path."""
    drawn = simulate(plan, 1, rng(9), difference=2.0)
    # a metric that kdlora does not know keeps the unit of its scores, which are drawn in points
    frame = plan.frame.assign(score=drawn.scores[0], metric="made up")
    made = compare_many(frame, CONTRASTS, rng=rng(0), rules=Rules(draws=0, permutations=0))
    rates = claim_rates(plan, drawn, Rules())
    for scope, expected in zip(("beyond", "here"), rates, strict=True):
        claims = [getattr(c, scope) for c in made]
        assert np.mean([c.p <= 0.05 for c in claims]) == expected.significant
        assert any(c.p_corrected <= 0.05 for c in claims) == bool(expected.any_significant)
    for c, d in zip(made, drawn.differences, strict=True):
        np.testing.assert_allclose(np.sort(c.matched.differences), np.sort(d[0]), atol=1e-9)


def test_drawn_effects_have_the_spread_asked_for(plan: Design) -> None:
    effects = Effects(task=3, block=2, run=1, shared=0.5, uneven=0, collapse=0)
    drawn = simulate(plan, 3_000, rng(10), effects=effects)
    nesting = plan.nestings[0]
    tasks = nesting.task_means(drawn.differences[0])
    noise = (4 + 1 * np.add.reduceat(1 / nesting.runs_per_block, nesting.task_starts) / 3) / 3
    np.testing.assert_allclose(tasks.var(0), 9 + noise, rtol=0.12)
