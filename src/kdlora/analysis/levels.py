"""Differences described at one level: classical paired statistics, each with what it assumes.

There are three levels, never mixed: runs, blocks (means over the seeds of an encoder pair on a
task) and tasks (means over blocks). Tests of runs or of blocks take those as independent, which
they are not: they describe, and carry no verdict (`claims` does).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kdlora.analysis import intervals, paired_tests
from kdlora.analysis.nested import Nesting
from kdlora.analysis.results import Result, Rules, finite


@dataclass(frozen=True)
class Level(Result):
    """Differences of one level (a minus b), each taken as an independent value.

    `low`, `high`: bootstrap interval of the mean over these values; `low_tasks`, `high_tasks`:
    the same when whole tasks are resampled (runs and blocks only).
    """

    level: str
    n: int
    mean: float | None = None
    median: float | None = None
    sd: float | None = None
    d_z: float | None = None
    rank_biserial: float | None = None
    wins: int = 0
    ties: int = 0
    losses: int = 0
    t: float | None = None
    p_t: float | None = None
    p_wilcoxon: float | None = None
    p_permutation: float | None = None
    permutations: int = 0  # drawn patterns; 0 when all were listed
    low: float | None = None
    high: float | None = None
    low_tasks: float | None = None
    high_tasks: float | None = None
    cannot: str = ""


def describe_levels(
    differences: np.ndarray, nesting: Nesting, rules: Rules, rng: np.random.Generator
) -> dict[str, Level]:
    """Classical paired statistics of runs, of block means and of task means."""
    blocks = nesting.block_means(differences)
    task_of_block = np.repeat(np.arange(nesting.n_tasks), nesting.blocks_per_task)
    return {
        "runs": _level("runs", differences, nesting.task_of_run(), rules, rng),
        "blocks": _level("blocks", blocks, task_of_block, rules, rng),
        "tasks": _level("tasks", nesting.task_means(differences), None, rules, rng),
    }


def _level(
    name: str,
    values: np.ndarray,
    clusters: np.ndarray | None,
    rules: Rules,
    rng: np.random.Generator,
) -> Level:
    n, sign = len(values), np.sign(np.round(values, 10))  # 0 up to rounding is a tie
    known: dict[str, Any] = {
        "mean": float(values.mean()),
        "median": float(np.median(values)),
        "wins": int((sign > 0).sum()),
        "ties": int((sign == 0).sum()),
        "losses": int((sign < 0).sum()),
    }
    if n < 2:
        return Level(name, n, **known, cannot=f"one value: no test of {name}")
    if paired_tests.no_spread(values):
        return Level(name, n, **known, sd=0.0, cannot="all differences are equal: no test of them")
    t, p_t = paired_tests.t_test(values)
    p_permutation, drawn = paired_tests.sign_flip_p(values, rng, rules.permutations)
    known |= {
        "sd": float(values.std(ddof=1)),
        "d_z": paired_tests.cohens_dz(values),
        "rank_biserial": finite(paired_tests.rank_biserial(values)),
        "t": float(t),
        "p_t": float(p_t),
        "p_wilcoxon": finite(paired_tests.wilcoxon_p(values)),
        "p_permutation": finite(p_permutation),
        "permutations": drawn,
    }
    if rules.draws:
        expanded = rules.bootstrap == "expanded"
        draws = intervals.bootstrap_mean(values, rules.draws, rng)
        low, high = intervals.interval(draws, alpha=rules.alpha, sizes=[n] if expanded else None)
        known |= {"low": finite(low), "high": finite(high)}
        if clusters is not None and clusters[-1] > 0:
            draws = intervals.bootstrap_clusters(values, clusters, rules.draws, rng)
            sizes = [int(clusters[-1]) + 1] if expanded else None
            low, high = intervals.interval(draws, alpha=rules.alpha, sizes=sizes)
            known |= {"low_tasks": finite(low), "high_tasks": finite(high)}
    smallest = 2.0 ** (1 - n)
    cannot = f"{n} values: no exact test can get below p = {smallest:.2g}" if n < 6 else ""
    return Level(name, n, **known, cannot=cannot)
