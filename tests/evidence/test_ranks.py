from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from kdlora.evidence.aggregates import shared_cells
from kdlora.evidence.ranks import rank_methods
from tests.harness.evidence_frames import grid

ARMS = ["teacher/a", "teacher/b", "teacher/c", "teacher/d"]
TASKS = [f"t{i}" for i in range(10)]


def table(values: np.ndarray):
    """values [tasks, arms]"""
    names = TASKS[: len(values)]

    def score(arm: str, pair: str, task: str, seed: int) -> float:
        return float(values[names.index(task), ARMS.index(arm)])

    return shared_cells(grid(score, arms=ARMS, tasks=names, seeds=[1]), ARMS)


VALUES = np.random.default_rng(2).random((10, 4)) * 0.5 + np.array([0.3, 0.2, 0.05, 0.0])


def test_friedman_and_its_f_equal_scipy() -> None:
    r = rank_methods(table(VALUES))
    known = stats.friedmanchisquare(*VALUES.T)
    assert r.friedman_chi2 == pytest.approx(known.statistic, rel=1e-9)
    assert r.p_friedman == pytest.approx(known.pvalue, rel=1e-9)
    # Iman & Davenport's F is the two-way ANOVA of the ranks.
    ranks = stats.rankdata(-VALUES, axis=1)
    between = 10 * ((ranks.mean(0) - 2.5) ** 2).sum()
    residual = ((ranks - ranks.mean(0)) ** 2).sum()
    f = (between / 3) / (residual / 27)
    assert r.iman_davenport_f == pytest.approx(f, rel=1e-9)
    assert r.p_iman_davenport == pytest.approx(stats.f.sf(f, 3, 27), rel=1e-9)


def test_ties_share_ranks_and_correct_the_statistic() -> None:
    values = np.round(VALUES, 1)
    r = rank_methods(table(values))
    assert r.friedman_chi2 == pytest.approx(stats.friedmanchisquare(*values.T).statistic, rel=1e-9)
    assert sum(r.average_rank.values()) == pytest.approx(10)


def test_critical_difference_is_demsars_table() -> None:
    # Demšar (2006), table 5: q of 0.05 for 4 classifiers is 2.569.
    r = rank_methods(table(VALUES))
    assert r.critical_difference == pytest.approx(2.569 * np.sqrt(4 * 5 / (6 * 10)), rel=1e-3)
    for pair in r.pairs:
        assert pair.significant == (abs(pair.rank_difference) > r.critical_difference)


def test_two_methods_nemenyi_is_the_normal_test() -> None:
    # Studentised range of two: sqrt(2) times a normal.
    r = rank_methods(table(VALUES))
    z = abs(r.pairs[0].rank_difference) / np.sqrt(4 * 5 / (6 * 10))
    known = stats.studentized_range.sf(z * np.sqrt(2), 4, np.inf)
    assert r.pairs[0].p == pytest.approx(known, rel=1e-9)


def test_groups_are_maximal_and_within_the_critical_difference() -> None:
    r = rank_methods(table(VALUES))
    for group in r.groups:
        ranks = [r.average_rank[name] for name in group]
        assert max(ranks) - min(ranks) < r.critical_difference
    assert not any(set(a) < set(b) for a in r.groups for b in r.groups)


def test_best_method_first() -> None:
    strict = np.tile([0.4, 0.3, 0.2, 0.1], (6, 1))
    r = rank_methods(table(strict))
    assert r.average_rank == dict(zip(ARMS, [1, 2, 3, 4], strict=True))
    assert r.friedman_chi2 == pytest.approx(18)  # N (k - 1): perfect agreement
    assert r.iman_davenport_f is None
    assert r.p_iman_davenport == 0


def test_what_cannot_be_ranked_is_said() -> None:
    tied = rank_methods(table(np.full((10, 4), 0.5)))
    assert "tied everywhere" in tied.cannot
    assert tied.p_friedman is None
    assert tied.tied_rows == 10
    assert "too few" in rank_methods(table(VALUES[:2])).cannot
    two = shared_cells(grid(lambda a, *_: 0.5 + (a == ARMS[0]) / 9, arms=ARMS[:2]))
    assert "needs 3" in rank_methods(two).cannot
    empty = shared_cells(grid(lambda *_: 0.5, arms=ARMS[:1]))
    assert rank_methods(empty).cannot


def test_blocks_of_a_task_carry_a_warning() -> None:
    frame = grid(
        lambda arm, pair, task, seed: 0.5 + ARMS.index(arm) / 10,
        arms=ARMS, pairs=["p", "q", "r"], tasks=TASKS[:3], seeds=[1],
    )  # fmt: skip
    assert rank_methods(shared_cells(frame), level="blocks").notes
    assert not rank_methods(shared_cells(frame), level="tasks").notes
