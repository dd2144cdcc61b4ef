"""One estimate, two scopes: the mean difference over tasks, and how surely it is known.

Runs lie in blocks (an encoder pair on a task) and blocks in tasks. They are no independent
replicates of tasks: the same task treats an arm alike in all its runs. The estimate is always the
mean over tasks of the mean over blocks of the mean over runs; what differs is the claim made.

- *beyond*: for tasks like these. Tasks are a sample, so the spread of task means carries the
  error (Student's t with one value a task). Random task x arm interaction is inside that spread.
- *here*: for these very tasks. Only what varies within a task is error (a stratified mean, strata
  are tasks, Satterthwaite 1946 degrees of freedom). Blocks are its replicates where there are
  enough; with one or two encoder pairs it is the runs within blocks (seeds), and the claim then
  holds for these pairs only.

A stratum with a single value has no spread. Such strata are collapsed into one (Cochran 1977,
section 5A.12): their differing means then count as error, which errs on the careful side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from kdlora.evidence.paired_tests import no_spread

Scope = Literal["beyond", "here"]
Replicates = Literal["tasks", "blocks", "runs"]

# With five tasks the exact sign-flip test cannot reach 5 % (2/32): too few for a claim on others.
MIN_TASKS = 6
MIN_BLOCK_DF = 6  # e.g. 3 pairs x 3 tasks; below it, seeds tell more than pairs
MIN_DF = 2  # two values give one degree of freedom, and an interval that says nothing


@dataclass(frozen=True)
class Nesting:
    """Where blocks begin among runs and tasks among blocks. Runs are sorted by task, then block."""

    block_starts: np.ndarray
    task_starts: np.ndarray
    n_runs: int

    @classmethod
    def of(cls, tasks: Sequence | np.ndarray, blocks: Sequence | np.ndarray) -> Nesting:
        """From the labels [n] of sorted runs; `blocks` need only be unique within a task."""
        task, block = np.asarray(tasks), np.asarray(blocks)
        new_task = np.r_[True, task[1:] != task[:-1]] if len(task) else np.zeros(0, bool)
        new_block = new_task | (
            np.r_[True, block[1:] != block[:-1]] if len(task) else np.zeros(0, bool)
        )
        starts = np.flatnonzero(new_block)
        return cls(starts, np.flatnonzero(new_task[starts]), len(task))

    @property
    def n_blocks(self) -> int:
        return len(self.block_starts)

    @property
    def n_tasks(self) -> int:
        return len(self.task_starts)

    @property
    def runs_per_block(self) -> np.ndarray:
        return np.diff(self.block_starts, append=self.n_runs)

    @property
    def blocks_per_task(self) -> np.ndarray:
        return np.diff(self.task_starts, append=self.n_blocks)

    def block_means(self, values: np.ndarray) -> np.ndarray:
        """[..., runs] -> [..., blocks]."""
        return np.add.reduceat(values, self.block_starts, axis=-1) / self.runs_per_block

    def task_means(self, values: np.ndarray) -> np.ndarray:
        """[..., runs] -> [..., tasks]: means of block means."""
        means = self.block_means(values)
        return np.add.reduceat(means, self.task_starts, axis=-1) / self.blocks_per_task

    def replicates(self, scope: Scope) -> Replicates:
        """What carries the error of a claim. Decided by the design alone, never by the scores."""
        if scope == "beyond":
            return "tasks"
        return "blocks" if self.n_blocks - self.n_tasks >= MIN_BLOCK_DF else "runs"

    def task_of_run(self) -> np.ndarray:
        """Task codes [runs]."""
        per_task = np.add.reduceat(self.runs_per_block, self.task_starts)
        return np.repeat(np.arange(self.n_tasks), per_task)


@dataclass(frozen=True)
class Estimate:
    """Mean, standard error and degrees of freedom, each of shape [...]; NaN where not estimable."""

    mean: np.ndarray
    se: np.ndarray
    df: np.ndarray
    replicates: Replicates
    n_units: int


def estimate(values: np.ndarray, nesting: Nesting, scope: Scope) -> Estimate:
    """The mean over tasks of `values` [..., runs] and its error for claims of this scope."""
    values = np.asarray(values, dtype=float)
    replicates = nesting.replicates(scope)
    tasks = nesting.task_means(values)
    n_tasks = nesting.n_tasks
    if replicates == "tasks":
        units, starts, weights = tasks, np.zeros(1, int), np.ones(1)
    elif replicates == "blocks":
        units, starts = nesting.block_means(values), nesting.task_starts
        weights = np.full(n_tasks, 1 / n_tasks)
    else:
        units, starts = values, nesting.block_starts
        weights = np.repeat(1 / (n_tasks * nesting.blocks_per_task), nesting.blocks_per_task)
    se, df = stratified_error(units, starts, weights)
    return Estimate(tasks.mean(-1), se, df, replicates, units.shape[-1])


def stratified_error(
    units: np.ndarray, starts: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Standard error and Satterthwaite's df of the weighted sum of stratum means.

    `units` [..., m] sorted by stratum, `starts` [h] where strata begin, `weights` [h].
    """
    sizes = np.diff(starts, append=units.shape[-1])
    means = np.add.reduceat(units, starts, axis=-1) / sizes
    squares = np.add.reduceat((units - np.repeat(means, sizes, axis=-1)) ** 2, starts, axis=-1)
    several = sizes > 1
    df = sizes[several] - 1
    variances = [weights[several] ** 2 * squares[..., several] / (df * sizes[several])]
    dfs = [df]
    single = np.flatnonzero(~several)
    if len(single):
        if len(single) > 1:  # collapsed into one stratum
            spread, left = np.var(means[..., single], axis=-1, ddof=1), len(single) - 1
        else:  # nothing to collapse with: as noisy as the others are on average
            left = df.sum()
            spread = squares.sum(-1) / left if left else np.full(units.shape[:-1], np.nan)
        variances.append((np.sum(weights[single] ** 2) * spread)[..., None])
        dfs.append(np.array([left]))
    v, d = np.concatenate(variances, axis=-1), np.concatenate(dfs)
    total = v.sum(-1)
    with np.errstate(all="ignore"):
        freedom = total**2 / np.sum(v**2 / (d + 2), axis=-1) - 2
    estimable = ~no_spread(units) & (total > 1e-24) & np.isfinite(freedom)
    return np.where(estimable, np.sqrt(total), np.nan), np.where(estimable, freedom, np.nan)
