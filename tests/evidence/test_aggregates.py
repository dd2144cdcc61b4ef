from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kdlora.evidence.aggregates import (
    SharedCells,
    aggregate,
    iqm,
    probability_of_improvement,
    shared_cells,
)
from kdlora.evidence.result import Rules
from tests.harness.evidence_frames import grid, noisy

FFT, LORA, KD = "teacher/fft", "student/lora", "student/kd-lora"
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
    assert worst.retention_low is None  # nothing varies, which is no proof that nothing can


def test_the_unit_of_an_average_over_a_grid_is_the_seed() -> None:
    shared = shared_cells(grid(noisy(0.03, spread=0.02), pairs=["p", "q"], tasks=TASKS))
    averages = aggregate(shared, rng=rng(), reference=FFT, rules=QUICK)
    assert KD in {found.arm for found in averages}
    for found in averages:
        by_seed = shared.table.groupby(level="seed").mean()
        known = stats.t.interval(0.95, 2, by_seed[found.arm].mean(), stats.sem(by_seed[found.arm]))
        assert (found.mean_low, found.mean_high) == pytest.approx(known)
        assert found.over_seeds == 3
        if found.arm == KD:  # to first order, logs of the shares by seed
            shares = np.log(by_seed[KD] / by_seed[FFT])
            ends = stats.t.interval(0.95, 2, shares.mean(), stats.sem(shares))
            kept = (found.retention_low, found.retention_high)
            assert kept == pytest.approx(100 * np.exp(ends), rel=1e-3)


def studies(
    shape: tuple[int, int, int], n: int, *, common: float, holes: float = 0.0, seed: int = 0
) -> tuple[SharedCells, np.ndarray]:
    """A table whose columns are n studies of one arm, and the mean that each would have with
    endless seeds. Tasks differ in level and noise; a seed has an effect common to all tasks."""
    draw = np.random.default_rng(seed)
    tasks, pairs, seeds = shape
    index = pd.MultiIndex.from_product(
        [range(pairs), range(tasks), range(seeds)], names=["pair", "task", "seed"]
    )
    at_seed, of_task = (index.get_level_values(k).to_numpy() for k in ("seed", "task"))
    block = index.get_level_values("pair").to_numpy() * tasks + of_task
    level = draw.normal(75, 10, (tasks * pairs, n))[block]
    noise = (0.5 + draw.random(tasks))[of_task][:, None] * draw.standard_normal((len(index), n))
    scores = level + common * draw.standard_normal((seeds, n))[at_seed] + noise
    kept = np.ones(len(index), bool)
    for cell in draw.permutation(len(index))[: int(holes * len(index))]:
        if kept[block == block[cell]].sum() > 2:
            kept[cell] = False
    table = pd.DataFrame(scores[kept], index[kept], [f"study {i}" for i in range(n)])
    counts = table.groupby(level="task").size()
    by_task = {str(task): int(count) for task, count in counts.items()}
    columns = tuple(map(str, table))
    shared = SharedCells(
        ("pair", "task", "seed"), columns, "points", len(table), by_task, {}, (), "", table
    )
    truth = pd.DataFrame(level[kept], table.index).groupby(level=["task", "pair"]).mean()
    return shared, truth.groupby(level="task").mean().mean().to_numpy()


@pytest.mark.parametrize(
    ("shape", "common", "holes"),
    [((9, 1, 3), 0.4, 0), ((3, 3, 3), 0.0, 0), ((1, 1, 3), 0.0, 0), ((1, 4, 5), 1.0, 0),
     ((6, 2, 8), 0.4, 0), ((9, 2, 4), 0.4, 0.2)],
)  # fmt: skip
def test_intervals_of_averages_cover_what_they_say(shape, common: float, holes: float) -> None:
    n = 4_000
    shared, truth = studies(shape, n, common=common, holes=holes)
    by_arm = {one.arm: one for one in aggregate(shared, rng=rng())}
    found = [by_arm[arm] for arm in shared.arms]
    inside = [one.mean_low <= mean <= one.mean_high for one, mean in zip(found, truth, strict=True)]
    error = 3 * np.sqrt(0.05 * 0.95 / n)
    assert np.mean(inside) >= 0.95 - error
    assert np.mean(inside) <= (0.95 if holes == 0 else 0.96) + error


def test_shares_of_the_reference_cover_what_they_say() -> None:
    inside = []
    for seed in range(60):
        shared, truth = studies((4, 1, 4), 40, common=0.5, seed=seed)
        reference = shared.arms[0]
        for one in aggregate(shared, rng=rng(), reference=reference):
            if one.arm != reference:
                share = 100 * truth[shared.arms.index(one.arm)] / truth[0]
                inside.append(one.retention_low <= share <= one.retention_high)
    assert np.mean(inside) == pytest.approx(0.95, abs=0.03)


def test_a_block_of_one_seed_is_unknown_and_not_noiseless() -> None:
    frame = grid(noisy(0.03), tasks=TASKS)
    single = frame[~((frame["task"] == "t0") & (frame["seed"] > 1))]
    found = aggregate(shared_cells(single), rng=rng(), rules=QUICK)[0]
    assert found.mean_low is None
    assert "1 of 8 blocks have one seed" in found.cannot
    two = frame[~((frame["task"] == "t0") & (frame["seed"] > 2))]
    assert aggregate(shared_cells(two), rng=rng(), rules=QUICK)[0].mean_low is not None


def test_what_cannot_vary_has_no_interval() -> None:
    frame = grid(lambda arm, pair, task, seed: 0.7 if arm == FFT else 0.6 + seed / 100)
    one, other = aggregate(shared_cells(frame), rng=rng(), rules=QUICK)
    assert (one.arm, one.mean_low) == (FFT, None)
    assert other.mean_low < other.mean < other.mean_high


def uneven() -> pd.DataFrame:
    """Six seeds of an easy task and two of a hard one, whose order of the students is another."""
    level = {("easy", FFT): 0.95, ("easy", LORA): 0.93, ("easy", KD): 0.915,
             ("hard", FFT): 0.6, ("hard", LORA): 0.5, ("hard", KD): 0.535}  # fmt: skip
    frame = grid(
        lambda arm, pair, task, seed: level[task, arm] + seed % 3 / 1000,
        arms=[FFT, LORA, KD], tasks=["easy", "hard"], seeds=range(6),
    )  # fmt: skip
    return frame[(frame["task"] == "easy") | (frame["seed"] < 2)]


@pytest.mark.parametrize("rules", [QUICK, replace(QUICK, bootstrap="percentile")])
def test_means_shares_and_order_weigh_tasks_alike_whatever_seeds_they_have(rules: Rules) -> None:
    frame = uneven()
    known = 100 * frame.groupby(["arm", "task"])["score"].mean().groupby("arm").mean()
    found = aggregate(shared_cells(frame), rng=rng(), reference=FFT, rules=rules)
    assert [one.arm for one in found] == [FFT, KD, LORA]
    for one in found:
        assert one.mean == pytest.approx(known[one.arm])
        assert one.reference_mean == pytest.approx(known[FFT])
        assert one.retention == pytest.approx(100 * known[one.arm] / known[FFT])
        assert one.mean_low < one.mean < one.mean_high
    iqms = {one.arm: one.iqm for one in found}
    assert iqms[KD] == pytest.approx(
        stats.trim_mean(100 * frame.loc[frame["arm"] == KD, "score"], 0.25)
    )  # over runs, as it is defined


def test_pairs_of_a_task_weigh_alike_too() -> None:
    frame = grid(
        lambda arm, pair, task, seed: 0.9 if (pair, task) == ("p", "t0") else 0.5,
        pairs=["p", "q"], tasks=["t0", "t1"],
    )  # fmt: skip
    frame = frame[~((frame["pair"] == "q") & (frame["seed"] > 1))]
    shared = shared_cells(frame)
    assert aggregate(shared, rng=rng(), rules=QUICK)[0].mean == pytest.approx((70 + 50) / 2)
    assert shared.uneven
    assert not shared_cells(grid(noisy(0.1))).uneven


def test_intervals_of_uneven_tasks_cover_what_they_say() -> None:
    draw, n = np.random.default_rng(1), 2_000
    index = [("p", "easy", s) for s in range(6)] + [("p", "hard", s) for s in range(2)]
    table = pd.DataFrame(
        70 + draw.standard_normal((8, n)),
        pd.MultiIndex.from_tuples(index, names=["pair", "task", "seed"]),
        [f"study {i}" for i in range(n)],
    )
    shared = SharedCells(("pair", "task", "seed"), tuple(table), "points", 8,
                         {"easy": 6, "hard": 2}, {}, (), "", table)  # fmt: skip
    inside = [a.mean_low <= 70 <= a.mean_high for a in aggregate(shared, rng=rng())]
    assert np.mean(inside) >= 0.945


def test_what_cannot_be_said() -> None:
    single = aggregate(shared_cells(grid(noisy(0.1), seeds=[1])), rng=rng(), rules=QUICK)[0]
    assert single.mean_low is None
    assert single.cannot == "1 seed: an interval over seeds needs at least 3"
    negative = grid(lambda *_: -0.1, metric="matthews")
    bad = aggregate(shared_cells(negative), rng=rng(), reference=FFT, rules=QUICK)[0]
    assert bad.retention is None
    assert bad.cannot.startswith("no retention: the fully fine-tuned teacher is on no task clearly")
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
    assert found.cannot == "1 task: an interval over tasks needs at least 3"


def test_probability_of_improvement_counts_ties_half_and_needs_no_pairing() -> None:
    frame = grid(lambda arm, pair, task, seed: 0.5 + (arm == FFT) * (task == "t0") / 10)
    frame = frame[~((frame["arm"] == KD) & (frame["seed"] > 1))]
    found = probability_of_improvement(frame, FFT, KD, rng=rng(), rules=QUICK)
    assert found.probability == pytest.approx((1 + 0.5) / 2)
    assert found.low is None  # two tasks
    turned = probability_of_improvement(frame, KD, FFT, rng=rng(), rules=QUICK)
    assert turned.probability == pytest.approx(1 - found.probability)
    missing = probability_of_improvement(frame, FFT, "student/x", rng=rng(), rules=QUICK)
    assert missing.probability is None
    assert "share no block" in missing.cannot


@pytest.mark.parametrize("n", [3, 4, 9])
def test_the_interval_of_an_improvement_is_over_tasks_and_stays_a_probability(n: int) -> None:
    frame = grid(noisy(0.004, seed=n), tasks=[f"t{i}" for i in range(n)])
    found = probability_of_improvement(frame, FFT, KD, rng=rng(), rules=QUICK)
    assert 0 <= found.low < found.probability < found.high <= 1
    if n < 6:
        sides = [
            [own.loc[own["arm"] == arm, "score"] for arm in (FFT, KD)]
            for _, own in frame.groupby("task")
        ]
        one = [stats.mannwhitneyu(x, y).statistic / 9 for x, y in sides]
        known = np.clip(stats.t.interval(0.95, n - 1, np.mean(one), stats.sem(one)), 0, 1)
        assert (found.low, found.high) == pytest.approx(tuple(known))
    always = grid(lambda arm, *_: 0.9 if arm == FFT else 0.1, tasks=TASKS)
    assert probability_of_improvement(always, FFT, KD, rng=rng(), rules=QUICK).low is None
