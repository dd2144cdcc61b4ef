"""One estimate, two scopes: the mean difference over tasks, and how surely it is known.

Runs lie in blocks (an encoder pair on a task) and blocks in tasks. The estimate is always the mean
over tasks of the mean over blocks of the mean over runs; what differs is what counts as a sample.

*These tasks.* Seeds are the sample; tasks and encoder pairs are not. Runs of one seed are no
independent values: a seed can shift all tasks alike (the 742 runs of report 001 show a correlation
of about 0.15), and one teacher serves many students. So the seed is the *cluster*, and seeds that
share a trained run are one cluster. The error is cluster-robust (CR2, Bell & McCaffrey 2002) with
the degrees of freedom of Pustejovsky & Tipton 2018, which hang on the design alone; every block has
its own mean. Where all tasks have S seeds this is Student's t of the S means over tasks, exact
however unlike the tasks' noise is and however much their seeds have in common.

Two seeds give one degree of freedom, which says nothing. The noise of single tasks can still be
learnt from several tasks together; what it cannot tell is the common effect of a seed. That is then
allowed for by a design effect (Kish 1965) of correlation `SEED_CORRELATION`, and the error is never
smaller than the cluster-robust one.

*Tasks like these.* Tasks are the sample: Student's t with one value a task, plus the common effect
of the seeds, which the spread of tasks cannot show. It is measured where seeds are repeated, and
never taken to be smaller than that same correlation makes it.

Texts that were drawn as a sample add a part of known variance; the sum of a Student's t and a
normal has the quantiles of Behrens & Fisher (`evidence.two_parts`).

Whether there is an estimate is decided by the design, never by the scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy import special

from kdlora.evidence.two_parts import joint_df

# With five tasks the exact sign-flip test cannot reach 5 % (2/32): too few for a claim on others.
MIN_TASKS = 6
MIN_DF = 2  # one degree of freedom is an interval that says nothing
SEED_CORRELATION = 0.15  # of one seed's runs on unlike tasks, as the 742 runs show it
_COMMON = SEED_CORRELATION / (1 - SEED_CORRELATION)  # the same against what seeds do not share


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

    def block_of_run(self) -> np.ndarray:
        """Block codes [runs]."""
        return np.repeat(np.arange(self.n_blocks), self.runs_per_block)

    def task_of_run(self) -> np.ndarray:
        """Task codes [runs]."""
        per_task = np.add.reduceat(self.runs_per_block, self.task_starts)
        return np.repeat(np.arange(self.n_tasks), per_task)

    def weights(self) -> np.ndarray:
        """The weight [runs] of each run in its task's mean."""
        size = self.runs_per_block * np.repeat(self.blocks_per_task, self.blocks_per_task)
        return np.repeat(1 / size, self.runs_per_block)


@dataclass(frozen=True)
class Design:
    """Matched runs, and which of them are independent.

    clusters: codes [runs]; runs of unlike codes share neither a seed nor a trained run.
    blocks_share: whether blocks of one task share trained runs.
    """

    nesting: Nesting
    clusters: np.ndarray
    blocks_share: bool = False

    @cached_property
    def replicated(self) -> np.ndarray:
        """Runs [n] of blocks with two clusters or more: others have no error of their own."""
        block = self.nesting.block_of_run()
        pairs = np.unique(np.stack([block, self.clusters], 1), axis=0)
        counts = np.bincount(pairs[:, 0], minlength=self.nesting.n_blocks)
        return (counts > 1)[block]

    def at(self, rows: np.ndarray) -> Design:
        """The design of some of the runs (a mask [n])."""
        task, block = self.nesting.task_of_run()[rows], self.nesting.block_of_run()[rows]
        return Design(Nesting.of(task, block), self.clusters[rows], self.blocks_share)

    @cached_property
    def shares(self) -> np.ndarray:
        """How much of each task's mean is of each cluster: [tasks, clusters]."""
        _, code = np.unique(self.clusters, return_inverse=True)
        found = np.zeros((self.nesting.n_tasks, code.max(initial=-1) + 1))
        np.add.at(found, (self.nesting.task_of_run(), code), self.nesting.weights())
        return found

    @cached_property
    def joined(self) -> Design:
        """The same with the clusters of unconnected tasks joined, the first with the first.

        Tasks that share no cluster are independent, and so are the joined ones. Their variances
        could be added, but of two or three values each they are too unsure for that where one
        task is far noisier than the others.
        """
        _, code = np.unique(self.clusters, return_inverse=True)
        task = self.nesting.task_of_run()
        joined = (self.shares @ self.shares.T) > 0
        left, codes = set(range(len(joined))), np.zeros(len(task), int)
        while left:
            group = {min(left)}
            while (more := set(map(int, np.flatnonzero(joined[sorted(group)].any(0))))) - group:
                group |= more
            rows = np.isin(task, sorted(group))
            codes[rows] = np.unique(code[rows], return_inverse=True)[1]
            left -= group
        return Design(self.nesting, codes, self.blocks_share)


@dataclass(frozen=True)
class Estimate:
    """Mean, standard error and degrees of freedom, each of shape [...]; NaN where not estimable.

    centre: of the interval and of the tests, where it is not the mean. exact_p: of an exact test
    of "the mean is 0", which then stands for Student's t.
    """

    mean: np.ndarray
    se: np.ndarray
    df: np.ndarray
    centre: np.ndarray | None = None
    exact_p: float | None = None


@dataclass(frozen=True)
class ClusterRobust:
    """The CR2 variance of a weighted sum of block means: `sum((values @ matrix.T) ** 2)`.

    matrix [clusters, runs]; df: of a t test, by the design alone.
    """

    matrix: np.ndarray
    df: float

    @classmethod
    def of(cls, weights: np.ndarray, block: np.ndarray, clusters: np.ndarray) -> ClusterRobust:
        """For the sum of `weights` [runs] times values; blocks [runs] have means of their own.

        A cluster's residuals are those of a model with a mean a block. They are too small, by
        (1 - h)^(1/2) where the cluster holds the share h of a block, and are divided by it. The
        degrees of freedom match the first two moments of the variance for independent even noise.
        """
        _, code = np.unique(clusters, return_inverse=True)
        _, place = np.unique(block, return_inverse=True)
        one = np.zeros((code.max() + 1, len(code)))
        one[code, np.arange(len(code))] = 1
        of_block = np.zeros((place.max() + 1, len(place)))
        of_block[place, np.arange(len(place))] = 1
        share = (one @ of_block.T) / of_block.sum(1)  # [clusters, blocks]
        scale = np.where(share < 1, 1 / np.sqrt(np.where(share < 1, 1 - share, 1)), 0.0)
        # weight x scale x (own values minus the cluster's share of the block's sum)
        matrix = (scale @ of_block) * weights * (one - share @ of_block)
        square = matrix @ matrix.T
        trace = float(np.trace(square))
        return cls(matrix, trace**2 / float((square**2).sum()) if trace > 0 else 0.0)

    def variance(self, values: np.ndarray) -> np.ndarray:
        """[..., runs] -> [...]."""
        return ((values @ self.matrix.T) ** 2).sum(-1)


def seed_error(values: np.ndarray, design: Design) -> tuple[np.ndarray, np.ndarray]:
    """Variance [...] of the mean over these tasks that comes from seeds, and its df [...].

    For `values` [..., runs] of a design whose blocks are all replicated.
    """
    design = design.joined
    robust = clustered(design)
    variance = robust.variance(values)
    df = np.full(variance.shape, robust.df)
    if robust.df < MIN_DF - 1e-9 and design.nesting.n_tasks > 1:
        own, own_df = _task_errors(values, design)
        allowed = own.sum(-1) * _design_effect(design)
        variance, df = np.maximum(variance, allowed), satterthwaite(own, own_df)
    return variance, df


def clustered(design: Design) -> ClusterRobust:
    """The cluster-robust variance of the mean over tasks."""
    weights = design.nesting.weights() / design.nesting.n_tasks
    return ClusterRobust.of(weights, design.nesting.block_of_run(), design.clusters)


def _task_errors(values: np.ndarray, design: Design) -> tuple[np.ndarray, np.ndarray]:
    """What each task adds to the variance of the mean if seeds have nothing in common.

    Variances [..., tasks] and their degrees of freedom [tasks].
    """
    nesting = design.nesting
    block, task = nesting.block_of_run(), nesting.task_of_run()
    weights = nesting.weights() / nesting.n_tasks
    made = [
        (own, ClusterRobust.of(weights[own], block[own], design.clusters[own]))
        for own in (task == t for t in range(nesting.n_tasks))
    ]
    variances = np.stack([c.variance(values[..., own]) for own, c in made], -1)
    return variances, np.array([c.df for _, c in made])


def satterthwaite(variances: np.ndarray, df: np.ndarray) -> np.ndarray:
    """Degrees of freedom [...] of a sum of variances [..., k] (Satterthwaite 1946)."""
    with np.errstate(all="ignore"):
        return variances.sum(-1) ** 2 / (variances**2 / df).sum(-1)


def design_df(design: Design) -> float:
    """Degrees of freedom that this design gives to the error from seeds, whatever the scores."""
    if not design.replicated.any():
        return 0.0
    kept = design.at(design.replicated)
    _, own = _task_errors(np.zeros(kept.nesting.n_runs), kept)
    return float(own.sum())


def _design_effect(design: Design) -> float:
    """How much a common effect of seeds inflates the variance of the mean over these tasks.

    The mean over P blocks of one seed correlates more across tasks than single runs do, for it
    averages what is not common.
    """
    blocks = design.nesting.blocks_per_task
    correlation = SEED_CORRELATION / (SEED_CORRELATION + (1 - SEED_CORRELATION) / blocks)
    shares = design.shares
    size = np.sqrt((shares**2).sum(1))
    alike = (shares @ shares.T) / np.outer(size, size)
    matrix = np.sqrt(np.outer(correlation, correlation)) * alike
    np.fill_diagonal(matrix, 1.0)
    return float(matrix.sum() / len(blocks))


class TextVariance(NamedTuple):
    """Variances of a mean over runs from the texts that they were scored on.

    What a seed does to single texts is in the spread of seeds, too: it counts there, once.
    """

    alone: float  # of drawing texts, beyond what the spread of seeds holds
    in_seeds: float  # what seeds do to single texts, measured text by text


def on_these_tasks(
    values: np.ndarray, design: Design, texts: TextVariance | None = None
) -> Estimate:
    """The mean over the tasks of a design whose blocks are all replicated.

    Without `texts` they are taken as they are. With them, seeds whose differences are equal by
    chance still have an error: what they do to single texts.
    """
    values = np.asarray(values, dtype=float)
    mean = design.nesting.task_means(values).mean(-1)
    variance, df = seed_error(values, design)
    if texts is None:
        return _estimate(mean, variance, df, variance > _nothing(values))
    variance = np.where(variance > _nothing(values), variance, texts.in_seeds)
    total = variance + texts.alone
    df = joint_df(variance, df, np.broadcast_to(texts.alone, total.shape))
    return _estimate(mean, total, df, total > _nothing(values))


def on_tasks_like_these(values: np.ndarray, design: Design) -> Estimate:
    """The mean over tasks as a sample of tasks, for seeds as a sample of seeds."""
    values = np.asarray(values, dtype=float)
    nesting, shares = design.nesting, design.shares
    means, n = nesting.task_means(values), nesting.n_tasks
    spread = means.var(-1, ddof=1)
    overlap = _between_tasks(shares) / (n * (n - 1))
    common, common_df = _common_variance(values, design, spread)
    parts = np.stack([spread / n, overlap * common], -1)
    df = satterthwaite(parts, np.stack([np.full_like(spread, n - 1.0), common_df], -1))
    return _estimate(
        means.mean(-1), parts.sum(-1), np.minimum(df, n - 1.0), spread > _nothing(values)
    )


def _between_tasks(shares: np.ndarray) -> float:
    """The products of the shares that two tasks have in one cluster, summed over ordered pairs."""
    together = shares @ shares.T
    return float(together.sum() - np.trace(together))


def _common_variance(
    values: np.ndarray, design: Design, spread: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Variance [...] of a seed's effect common to all tasks, and its degrees of freedom.

    Measured where seeds are repeated; not below what `SEED_CORRELATION` makes it of the runs'
    noise. Where no seed is repeated that noise is not known, and the spread of runs stands for it,
    which is more.
    """
    nesting = design.nesting
    most = nesting.n_tasks - 1.0
    rows = design.replicated
    if not rows.any():
        blocks = nesting.block_means(values)
        inside = nesting.n_blocks - nesting.n_tasks
        if inside and not design.blocks_share:
            centre = np.repeat(nesting.task_means(values), nesting.blocks_per_task, axis=-1)
            noise = ((blocks - centre) ** 2).sum(-1) / inside
        else:
            noise = blocks.var(-1, ddof=1) if inside else spread
        return _COMMON * noise, np.full(spread.shape, most)
    kept, own = design.at(rows), values[..., rows]
    floor = _COMMON * _noise_of_two_tasks(own, kept)
    shared = _between_tasks(kept.shares)
    if shared <= 0:
        return floor, np.full(spread.shape, most)
    robust, (single, _) = clustered(kept), _task_errors(own, kept)
    common = np.maximum(0.0, robust.variance(own) - single.sum(-1))
    measured = common / (shared / kept.nesting.n_tasks**2)
    df = np.where(measured > floor, robust.df, most)
    return np.maximum(measured, floor), df


def _noise_of_two_tasks(values: np.ndarray, design: Design) -> np.ndarray:
    """Mean over pairs of tasks of the product of their runs' standard deviations [...].

    So a task in which a run collapsed does not stand for the others; with one task its variance.
    """
    nesting, task = design.nesting, design.nesting.task_of_run()
    within = values - np.repeat(nesting.block_means(values), nesting.runs_per_block, axis=-1)
    starts = np.searchsorted(task, np.arange(nesting.n_tasks))
    df = np.diff(starts, append=nesting.n_runs) - nesting.blocks_per_task
    variances = np.add.reduceat(within**2, starts, axis=-1) / df
    n = nesting.n_tasks
    if n < 2:
        return variances[..., 0]
    bias = np.exp(special.gammaln((df + 1) / 2) - special.gammaln(df / 2)) * np.sqrt(2 / df)
    spreads = np.sqrt(variances) / bias
    return (spreads.sum(-1) ** 2 - (spreads**2).sum(-1)) / (n * (n - 1))


def _nothing(values: np.ndarray) -> np.ndarray:
    """A variance that is no more than rounding, for values of this size."""
    return (1e-11 * (1 + np.abs(values).max(-1))) ** 2


def _estimate(
    mean: np.ndarray, variance: np.ndarray, df: np.ndarray, known: np.ndarray
) -> Estimate:
    known = known & np.isfinite(df)
    return Estimate(
        mean,
        np.where(known, np.sqrt(np.maximum(variance, 0.0)), np.nan),
        np.where(known, df, np.nan),
    )
