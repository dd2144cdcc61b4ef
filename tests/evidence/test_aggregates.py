from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from kdlora.evidence.aggregates import aggregate, iqm, probability_of_improvement, shared_cells
from kdlora.evidence.result import Rules
from tests.harness.evidence_frames import grid, noisy

FFT, KD = "teacher/fft", "student/kd-lora"
TASKS = [f"t{i}" for i in range(8)]
QUICK = Rules(draws=2_000)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_iqm_drops_a_quarter_at_each_end() -> None:
    assert iqm(np.array([0.0, 7, 11, 12, 13, 14, 50, 100])) == pytest.approx(12.5)
    assert iqm(np.arange(5.0)) == pytest.approx(stats.trim_mean(np.arange(5.0), 0.25))


def test_means_and_retention_by_hand() -> None:
    frame = grid(lambda arm, pair, task, seed: 0.8 if arm == FFT else 0.6)
    best, worst = aggregate(shared_cells(frame), rng=rng(), reference=FFT, rules=QUICK)
    assert (best.arm, best.mean, best.iqm, best.retention) == (FFT, 80, 80, 100)
    assert worst.retention == pytest.approx(75)
    assert worst.retention_low == worst.retention_high == pytest.approx(75)


def test_intervals_are_those_of_a_stratified_mean() -> None:
    shared = shared_cells(grid(noisy(0.03, spread=0.02), tasks=TASKS, seeds=range(6)))
    for found in aggregate(shared, rng=rng(), rules=Rules(draws=20_000)):
        by_task = shared.table[found.arm].groupby(level="task", sort=False)
        se = np.sqrt((by_task.var() / 6).sum()) / 8
        half = stats.t.ppf(0.975, 40) * se
        assert found.mean_high - found.mean == pytest.approx(half, rel=0.06)
        assert found.mean - found.mean_low == pytest.approx(half, rel=0.06)


def test_task_mean_weighs_tasks_alike() -> None:
    frame = grid(lambda arm, pair, task, seed: 0.9 if task == "t0" else 0.5)
    frame = frame[~((frame["task"] == "t1") & (frame["seed"] > 1))]
    found = aggregate(shared_cells(frame), rng=rng(), rules=QUICK)[0]
    assert found.task_mean == pytest.approx(70)
    assert found.mean == pytest.approx((3 * 90 + 50) / 4)


def test_what_cannot_be_said() -> None:
    single = aggregate(shared_cells(grid(noisy(0.1), seeds=[1])), rng=rng(), rules=QUICK)[0]
    assert single.mean_low is None
    assert "one cell per task" in single.cannot
    negative = grid(lambda *_: -0.1, metric="matthews")
    bad = aggregate(shared_cells(negative), rng=rng(), reference=FFT, rules=QUICK)[0]
    assert bad.retention is None
    assert "no retention" in bad.cannot
    unknown = aggregate(
        shared_cells(grid(noisy(0.1))), rng=rng(), reference="teacher/x", rules=QUICK
    )
    assert "not among" in unknown[0].cannot
    assert aggregate(shared_cells(grid(noisy(0.1)).head(0)), rng=rng()) == ()


def test_probability_of_improvement_is_mann_whitney() -> None:
    frame = grid(noisy(0.01), tasks=["t"], seeds=range(12))
    found = probability_of_improvement(frame, FFT, KD, rng=rng(), rules=QUICK)
    x, y = (frame.loc[frame["arm"] == arm, "score"] for arm in (FFT, KD))
    assert found.probability == pytest.approx(stats.mannwhitneyu(x, y).statistic / 144, rel=1e-9)
    assert "one task" in found.cannot


def test_probability_of_improvement_counts_ties_half_and_needs_no_pairing() -> None:
    frame = grid(lambda arm, pair, task, seed: 0.5 + (arm == FFT) * (task == "t0") / 10)
    frame = frame[~((frame["arm"] == KD) & (frame["seed"] > 1))]
    found = probability_of_improvement(frame, FFT, KD, rng=rng(), rules=QUICK)
    assert found.probability == pytest.approx((1 + 0.5) / 2)
    assert 0 <= found.low <= found.probability <= found.high <= 1
    turned = probability_of_improvement(frame, KD, FFT, rng=rng(), rules=QUICK)
    assert turned.probability == pytest.approx(1 - found.probability)
    missing = probability_of_improvement(frame, FFT, "student/x", rng=rng(), rules=QUICK)
    assert missing.probability is None
    assert "share no block" in missing.cannot
