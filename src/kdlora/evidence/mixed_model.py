"""A linear mixed model for incomplete grids: every run counts, also where another arm has none.

    score = arm + task + block + arm x task + arm x block + noise

with arms fixed and the rest random, fitted by REML (Patterson and Thompson 1971). It borrows
strength from all arms, and in return assumes that all of them vary alike: one unstable variant
widens every interval. So it describes; the verdict stays with matched comparisons.

Tasks share nothing but the arms, and runs of one cell (arm, task, pair) differ by noise alone. So
the mean of a cell, its number of runs and the spread within cells hold all that the likelihood asks
for: a few small matrices a task, exactly, however many seeds there are. statsmodels takes a matrix
a run instead, and stopped at other variances than the likeliest where 9,477 runs had several seeds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import linalg, optimize, stats
from threadpoolctl import threadpool_limits

from kdlora.evidence.paired_tests import adjust
from kdlora.evidence.result import Result, Rules
from kdlora.evidence.scores import usable_runs
from kdlora.records.tidy import StudyFrame

MIN_TASKS = 3
TASK, BLOCK, ARM_TASK, ARM_BLOCK = "task", "block", "arm x task", "arm x block"
_CELL = ["task", "pair", "arm"]
_LEAST, _MOST = -16.0, 16.0  # logarithms of a variance divided by that of the noise


@dataclass(frozen=True)
class ArmMean(Result):
    """Estimated mean of an arm over all tasks and pairs, and its difference from the reference.

    Intervals of differences use Student's t with (tasks - 1) degrees of freedom: differences vary
    from task to task, and the normal distribution would be too narrow.
    """

    arm: str
    n_runs: int
    mean: float
    se: float
    difference: float | None = None
    difference_se: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_corrected: float | None = None


@dataclass(frozen=True)
class MixedModel(Result):
    """Arm means, best first, and the variances (squared points) of the random effects."""

    reference: str
    unit: str
    n_runs: int
    n_tasks: int
    arms: tuple[ArmMean, ...]
    variances: dict[str, float]
    log_likelihood: float | None
    notes: tuple[str, ...]
    cannot: str = ""


def mixed_model(
    frame: StudyFrame | pd.DataFrame,
    *,
    reference: str | None = None,
    score: str = "score",
    rules: Rules | None = None,
) -> MixedModel:
    """Fit the model to all finished runs (reference: by default the first arm)."""
    rules = rules or Rules()
    usable, noted = usable_runs(frame, score)
    notes = list(noted)
    units = list(usable["unit"].unique())
    unit = "points" if "points" in units or not units else units[0]
    usable = usable[usable["unit"] == unit]
    names = [str(a) for a in usable["arm"].unique()]
    reference = reference or (names[0] if names else "")
    n_tasks = usable["task"].nunique()

    def none(reason: str) -> MixedModel:
        return MixedModel(reference, unit, len(usable), n_tasks, (), {}, None, tuple(notes), reason)

    if len(names) < 2:
        return none(f"{len(names)} arm: nothing to compare it with")
    if reference not in names:
        return none(f"no finished run of the reference {reference}")
    if n_tasks < MIN_TASKS:
        return none(f"{n_tasks} tasks: how arms vary between tasks needs at least {MIN_TASKS}")
    if np.ptp(usable["value"].to_numpy(float)) < 1e-9:
        return none("all scores are equal")
    data = pd.DataFrame(
        {c: usable[c].fillna("").astype(str).to_numpy() for c in ("arm", "task", "pair")}
    ).assign(y=usable["value"].to_numpy(float))
    runs = data["arm"].value_counts()
    fitted = _fit(data, notes)
    if isinstance(fitted, str):
        return none(fitted)
    means, covariance, variances, likelihood = fitted
    return MixedModel(
        reference, unit, len(usable), n_tasks,
        _arm_means(means, covariance, reference, runs, n_tasks, rules),
        variances, likelihood, tuple(notes),
    )  # fmt: skip


def _fit(
    data: pd.DataFrame, notes: list[str]
) -> tuple[pd.Series, pd.DataFrame, dict[str, float], float] | str:
    """Arm means, their covariance, variances and log likelihood; a text if it cannot be fitted."""
    spread = data["y"] - data.groupby("arm")["y"].transform("mean")
    if float((spread**2).sum()) < 1e-9 * len(data):
        return "all scores of an arm are equal"
    likelihood = _Likelihood.of(data)
    if likelihood.within < 1e-9 and data.duplicated(_CELL).any():
        notes.append("the runs of each cell are equal: a cell counts once")
        likelihood = _Likelihood.of(data.drop_duplicates(_CELL))
    with threadpool_limits(limits=1, user_api="blas"):  # threads would wait more than they work
        fits = [
            optimize.minimize(
                likelihood.deviance, np.full(len(likelihood.effects), start), jac=True,
                method="L-BFGS-B", bounds=[(_LEAST, _MOST)] * len(likelihood.effects),
                options={"maxiter": 1000, "ftol": 1e-14, "gtol": 1e-6},
            )
            for start in (0.0, 4.0)  # the deviance may have more than one valley
        ]  # fmt: skip
    best = min(fits, key=lambda fit: float(fit.fun))
    at = likelihood.at(best.x)
    ratios = dict(zip(likelihood.effects, best.x, strict=True))
    none = [name for name, ratio in ratios.items() if ratio < _LEAST + 2]
    if none:
        notes.append(f"a variance that is estimated as 0, the least it can be: {', '.join(none)}")
    slope = np.where((best.x <= _LEAST) & (best.jac > 0), 0.0, best.jac)
    if np.abs(np.where((best.x >= _MOST) & (slope < 0), 0.0, slope)).max() > 1e-2:
        notes.append("the fit did not converge: read with care")
    variances = {
        name: 0.0 if name in none else float(np.exp(ratio)) * at.noise
        for name, ratio in ratios.items()
    }
    arms = list(likelihood.arms)
    return (
        pd.Series(at.means, arms), pd.DataFrame(at.covariance, arms, arms),
        {**variances, "noise": at.noise}, -at.deviance / 2,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Cells:
    """What one task has: its cells (c of them), and which levels (q) of the effects they share.

    means and runs have the shape (c,), arms (c, arms of all tasks) and levels (c, q) are
    indicators, and effect (q,) says which effect a level is of.
    """

    means: np.ndarray
    runs: np.ndarray
    arms: np.ndarray
    levels: np.ndarray
    effect: np.ndarray


@dataclass(frozen=True, eq=False)
class _Inverse:
    """V^-1 of a task at given variances, and log|V|: a diagonal and few levels (Woodbury 1950)."""

    own: np.ndarray  # the diagonal, (c,)
    scaled: np.ndarray  # the levels, over the diagonal, (c, q)
    inner: np.ndarray  # the lower Cholesky factor of what is inverted instead, (q, q)

    @classmethod
    def of(cls, cells: _Cells, shares: np.ndarray, of_cell: float) -> _Inverse:
        own = 1 / cells.runs + of_cell
        levels = cells.levels * np.sqrt(shares[cells.effect])
        scaled = levels / own[:, None]
        inner = np.linalg.cholesky(np.eye(levels.shape[1]) + levels.T @ scaled)
        return cls(own, scaled, inner)

    def __matmul__(self, values: np.ndarray) -> np.ndarray:
        low = linalg.cho_solve((self.inner, True), self.scaled.T @ values)
        return (values.T / self.own).T - self.scaled @ low

    @property
    def trace(self) -> float:
        half = linalg.solve_triangular(self.inner, self.scaled.T, lower=True)
        return float((1 / self.own).sum() - (half**2).sum())

    @property
    def log_determinant(self) -> float:
        """Of V."""
        return float(np.log(self.own).sum() + 2 * np.log(np.diag(self.inner)).sum())


@dataclass(frozen=True, eq=False)
class _Point:
    """The fit at given variances: arm means, their covariance, the noise's variance, -2 log L."""

    means: np.ndarray
    covariance: np.ndarray
    noise: float
    deviance: float


@dataclass(frozen=True, eq=False)
class _Likelihood:
    """The restricted likelihood of the variances, each as the logarithm of its share of the noise.

    With V the covariance of a task's cell means, divided by the noise's variance, which is
    profiled out:  -2 log L = (n - p) log(noise) + sum log|V| + log|sum X' V^-1 X| + constants.
    """

    arms: tuple[str, ...]
    effects: tuple[str, ...]
    tasks: tuple[_Cells, ...]
    runs: int
    within: float  # the squared differences of runs from the mean of their cell, summed

    @classmethod
    def of(cls, data: pd.DataFrame) -> _Likelihood:
        """Of runs with the columns arm, task, pair and y; effects that nothing can tell are out."""
        effects = [TASK]
        several = data.groupby("task")["pair"].nunique().max() > 1
        effects += [BLOCK] if several else []
        # one value each: what the arm does in this task, or in this block of it, is the noise
        effects += [ARM_TASK] if data.duplicated(["task", "arm"]).any() else []
        effects += [ARM_BLOCK] if several and data.duplicated(_CELL).any() else []
        scores = data.groupby(_CELL)["y"]
        cells = scores.agg(["mean", "size"]).reset_index()
        within = float(((data["y"] - scores.transform("mean")) ** 2).sum())
        arms = sorted(data["arm"].unique())
        tasks = []
        for _, rows in cells.groupby("task"):
            of_arm = rows["arm"].to_numpy()[:, None] == np.array(arms)
            pairs = rows["pair"].to_numpy()
            columns = {
                TASK: np.ones((len(rows), 1)),
                BLOCK: pairs[:, None] == np.unique(pairs),
                ARM_TASK: of_arm[:, of_arm.any(0)],
            }
            columns = {name: columns[name] for name in effects if name != ARM_BLOCK}
            tasks.append(_Cells(
                rows["mean"].to_numpy(float), rows["size"].to_numpy(float), of_arm.astype(float),
                np.hstack([*columns.values()]).astype(float),
                np.repeat(np.arange(len(columns)), [c.shape[1] for c in columns.values()]),
            ))  # fmt: skip
        return cls(tuple(arms), tuple(effects), tuple(tasks), len(data), within)

    def at(self, ratios: np.ndarray) -> _Point:
        """The arm means, their covariance and the noise where the variances have these ratios."""
        return self._solved(np.exp(ratios))[0]

    def deviance(self, ratios: np.ndarray) -> tuple[float, np.ndarray]:
        """-2 log L and its derivatives by the logarithms of the ratios."""
        shares = np.exp(ratios)
        point, inverses = self._solved(shares)
        spread = point.covariance / point.noise
        slopes = np.zeros(len(shares))
        for cells, inverse in zip(self.tasks, inverses, strict=True):
            residual = inverse @ (cells.means - cells.arms @ point.means)
            of_levels = inverse @ cells.levels
            by_arm = cells.arms.T @ of_levels
            each = (
                (cells.levels * of_levels).sum(0)
                - (by_arm * (spread @ by_arm)).sum(0)
                - (cells.levels.T @ residual) ** 2 / point.noise
            )
            slopes += np.bincount(cells.effect, each, len(shares))
            if ARM_BLOCK in self.effects:
                of_arms = inverse @ cells.arms
                slopes[-1] += (
                    inverse.trace
                    - (of_arms.T * (spread @ of_arms.T)).sum()
                    - residual @ residual / point.noise
                )
        return point.deviance, slopes * shares

    def _solved(self, shares: np.ndarray) -> tuple[_Point, list[_Inverse]]:
        """The fit at these variances, and each task's V^-1."""
        of_cell = float(shares[-1]) if ARM_BLOCK in self.effects else 0.0
        inverses = [_Inverse.of(cells, shares, of_cell) for cells in self.tasks]
        products, sums, determinant = np.zeros((len(self.arms),) * 2), np.zeros(len(self.arms)), 0.0
        for cells, inverse in zip(self.tasks, inverses, strict=True):
            determinant += inverse.log_determinant + float(np.log(cells.runs).sum())
            of_arms = inverse @ cells.arms
            products += cells.arms.T @ of_arms
            sums += of_arms.T @ cells.means
        factor = linalg.cho_factor(products, lower=True)
        means = linalg.cho_solve(factor, sums)
        left = self.within
        for cells, inverse in zip(self.tasks, inverses, strict=True):
            residual = cells.means - cells.arms @ means
            left += float(residual @ (inverse @ residual))
        free = self.runs - len(self.arms)
        noise = left / free
        determinant += 2 * float(np.log(np.diag(factor[0])).sum())
        deviance = free * (np.log(2 * np.pi * noise) + 1) + determinant
        covariance = noise * linalg.cho_solve(factor, np.eye(len(self.arms)))
        return _Point(means, covariance, noise, deviance), inverses


def _arm_means(
    means: pd.Series,
    covariance: pd.DataFrame,
    reference: str,
    runs: pd.Series,
    n_tasks: int,
    rules: Rules,
) -> tuple[ArmMean, ...]:
    others = [name for name in means.index if name != reference]
    difference = np.array([means[n] - means[reference] for n in others])
    own_variance = pd.Series(np.diag(covariance), covariance.index)
    shared = covariance.loc[others, reference].to_numpy()
    se = np.sqrt(own_variance[others].to_numpy() + own_variance[reference] - 2 * shared)
    p = 2 * stats.t.sf(np.abs(difference / se), n_tasks - 1)
    corrected = adjust(p, rules.correction)
    half = stats.t.ppf(1 - rules.alpha / 2, n_tasks - 1) * se
    own = (own_variance**0.5).to_dict()
    rows = [ArmMean(reference, int(runs[reference]), float(means[reference]), own[reference])]
    for i, name in enumerate(others):
        rows.append(
            ArmMean(
                name, int(runs[name]), float(means[name]),
                own[name],
                float(difference[i]), float(se[i]),
                float(difference[i] - half[i]), float(difference[i] + half[i]),
                float(p[i]), float(corrected[i]),
            )
        )  # fmt: skip
    return tuple(sorted(rows, key=lambda r: -r.mean))
