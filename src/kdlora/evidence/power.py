"""What a design could have seen: minimum detectable differences, and the seeds a wish needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import optimize, special, stats

from kdlora.evidence.estimator import MIN_TASKS, SEED_CORRELATION, Nesting
from kdlora.evidence.paired_tests import no_spread
from kdlora.evidence.result import TASKS_LIKE_THESE, Result, Scope

MOST_SEEDS = 1_000


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(200)


def detection_power(difference: float, se: float, df: float, alpha: float = 0.05) -> float:
    """Probability that a two-sided t test finds a true difference.

    The noncentral t as the normal averaged over the estimated spread (scipy's own has holes of
    NaN at large differences); agrees with scipy to 1e-9.
    """
    critical, spread, weights = _spreads(df, alpha)
    shift = abs(difference) / se
    found = special.ndtr(shift - critical * spread) + special.ndtr(-shift - critical * spread)
    return float(min(1.0, weights @ found))


@lru_cache(maxsize=64)
def _spreads(df: float, alpha: float) -> tuple[float, np.ndarray, np.ndarray]:
    """The critical t, and how likely each ratio of estimated to true spread is (a chi)."""
    low, high = np.sqrt(stats.chi2.ppf([1e-15, 1 - 1e-15], df) / df)
    spread = low + (high - low) * (_NODES + 1) / 2
    weights = _WEIGHTS * (high - low) / 2 * 2 * df * spread * stats.chi2.pdf(df * spread**2, df)
    return float(stats.t.ppf(1 - alpha / 2, df)), spread, weights


def detectable_difference(
    se: float, df: float, *, alpha: float = 0.05, power: float = 0.8
) -> float | None:
    """Smallest true difference found with this power; in the unit of `se`. None if unknowable."""
    if not (math.isfinite(se) and math.isfinite(df) and se > 0 and df >= 1):
        return None
    return float(_detectable_se(float(df), alpha, power) * se)


@lru_cache(maxsize=4096)
def _detectable_se(df: float, alpha: float, power: float) -> float:
    """The same in standard errors."""
    # Start from the central t, a close upper neighbour of the answer.
    guess = stats.t.ppf(1 - alpha / 2, df) + stats.t.ppf(power, df)
    high = 2 * guess
    while detection_power(high, 1.0, df, alpha) < power:
        high *= 2
    root = optimize.brentq(lambda d: detection_power(d, 1.0, df, alpha) - power, 1e-9, high)
    return float(root)


@dataclass(frozen=True)
class Components(Result):
    """Variances of a paired difference, in squared points: where its uncertainty comes from.

    task: tasks treat the arms differently; block: encoder pairs do, on the same task; run: seeds
    do, in the same block. None where the design cannot tell (one seed per block: `run` is None and
    its part is inside `block`). `runs_per_block` is the harmonic mean.
    """

    task: float | None
    block: float | None
    run: float | None
    n_tasks: int
    blocks_per_task: float
    runs_per_block: float

    def se(
        self, seeds: float, *, tasks: int | None = None, scope: Scope = TASKS_LIKE_THESE
    ) -> float:
        """Standard error that a balanced design with these numbers would have.

        Seeds are the same on all tasks, with an effect in common as `SEED_CORRELATION` has it.
        """
        tasks = tasks or self.n_tasks
        blocks = tasks * self.blocks_per_task
        run = self.run or 0.0
        variance = (SEED_CORRELATION + (1 - SEED_CORRELATION) / blocks) * run / seeds
        if scope == TASKS_LIKE_THESE:
            variance += (self.block or 0.0) / blocks + (self.task or 0.0) / tasks
        return math.sqrt(variance)


def variance_components(differences: np.ndarray, nesting: Nesting) -> Components:
    """Moment estimates (unweighted means, Searle, Casella & McCulloch 1992), cut off at 0."""
    d = np.asarray(differences, dtype=float)
    runs, blocks = nesting.runs_per_block, nesting.blocks_per_task
    means, tasks = nesting.block_means(d), nesting.task_means(d)
    run = block = task = None
    df_runs, df_blocks = nesting.n_runs - nesting.n_blocks, nesting.n_blocks - nesting.n_tasks
    share = float(np.mean(1 / runs))
    if df_runs > 0:
        run = float(np.sum((d - np.repeat(means, runs)) ** 2) / df_runs)
    if df_blocks > 0:
        spread = float(np.sum((means - np.repeat(tasks, blocks)) ** 2) / df_blocks)
        block = max(0.0, spread - (run or 0.0) * share)
    if nesting.n_tasks > 1:
        below = ((block or 0.0) + (run or 0.0) * share) * float(np.mean(1 / blocks))
        task = max(0.0, float(np.var(tasks, ddof=1)) - below)
    return Components(task, block, run, nesting.n_tasks, float(1 / np.mean(1 / blocks)), 1 / share)


@dataclass(frozen=True)
class SeedsNeeded(Result):
    """Seeds per block to find a wished difference, or why no number of seeds would do."""

    wished: float
    seeds: int | None
    tasks: int | None
    reason: str


def seeds_needed(
    components: Components,
    wished: float,
    *,
    scope: Scope,
    alpha: float = 0.05,
    power: float = 0.8,
) -> SeedsNeeded:
    """Seeds that each block needs so that a true difference of `wished` is found.

    More seeds shrink only the run part of the error. Where the spread between tasks and pairs alone
    hides the difference, `seeds` is None and `tasks` says how many tasks like these, with
    the present seeds, would do.
    """
    if not (math.isfinite(wished) and wished > 0):
        return SeedsNeeded(wished, None, None, "the wished difference must be above 0")
    if components.run is None:
        why = "one seed per block: what seeds would change cannot be told from these runs"
        return SeedsNeeded(wished, None, None, why)
    if no_spread(
        np.array([0.0, components.run + (components.block or 0) + (components.task or 0)])
    ):
        return SeedsNeeded(wished, None, None, "the differences do not vary at all")

    def reached(seeds: float, tasks: int) -> bool:
        df = _df(seeds, tasks, scope)
        se = components.se(seeds, tasks=tasks, scope=scope)
        return df >= 1 and (se == 0 or detection_power(wished, se, df, alpha) >= power)

    enough = _first(lambda s: reached(s, components.n_tasks), MOST_SEEDS)
    if enough is not None:
        return SeedsNeeded(wished, enough, None, "")
    now = components.runs_per_block
    tasks = _first(lambda t: t >= MIN_TASKS and reached(now, t), MOST_SEEDS)
    wide = scope == TASKS_LIKE_THESE
    reason = f"{MOST_SEEDS} seeds would not show {wished:g}"
    if wide:
        reason = f"no number of seeds would do: the spread between tasks and pairs hides {wished:g}"
        reason += f"; {tasks} tasks like these would show it" * (tasks is not None)
    return SeedsNeeded(wished, None, tasks if wide else None, reason)


def _df(seeds: float, tasks: int, scope: Scope) -> float:
    return tasks - 1 if scope == TASKS_LIKE_THESE else seeds - 1


def _first(holds: Callable[[int], bool], most: int) -> int | None:
    """Smallest n from 1 to `most` for which the monotone `holds(n)` is true, by bisection."""
    if not holds(most):
        return None
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
