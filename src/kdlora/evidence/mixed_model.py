"""A linear mixed model for incomplete grids: every run counts, also where another arm has none.

    score = arm + task + block + arm x task + arm x block + noise

with arms fixed and the rest random, fitted by REML with statsmodels (0.4 s for 742 runs). It
borrows strength from all arms, and in return assumes that all of them vary alike: one unstable
variant widens every interval. So it describes; the verdict stays with matched comparisons.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from kdlora.evidence.paired_tests import adjust
from kdlora.evidence.result import Result, Rules
from kdlora.evidence.scores import Selection, usable_runs
from kdlora.records.tidy import StudyFrame

MOST_ROWS = 20_000  # above it the seeds of a cell are averaged first: minutes become seconds
MIN_TASKS = 3


@dataclass(frozen=True)
class ArmMean(Result):
    """Estimated mean of an arm over all tasks and pairs, and its difference from the reference.

    Intervals of differences use Student's t with (tasks - 1) degrees of freedom: differences vary
    from task to task, and statsmodels' normal would be too narrow.
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
    arms: Sequence[str] | None = None,
    *,
    reference: str | None = None,
    score: str = "score",
    rules: Rules | None = None,
) -> MixedModel:
    """Fit the model to all finished runs of `arms` (default all; reference: the first of them)."""
    rules = rules or Rules()
    usable, noted = usable_runs(frame, score)
    notes = list(noted)
    units = list(usable["unit"].unique())
    unit = "points" if "points" in units or not units else units[0]
    usable = usable[usable["unit"] == unit]
    if arms:
        usable = pd.concat([Selection.parse(a).rows(usable) for a in arms])
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
        {c: usable[c].astype(str).to_numpy() for c in ("arm", "task", "pair")}
    ).assign(y=usable["value"].to_numpy(float))
    runs = data["arm"].value_counts()
    if len(data) > MOST_ROWS:
        data = data.groupby(["arm", "task", "pair"])["y"].mean().reset_index()
        notes.append("seeds averaged within cells before the fit")
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
    import statsmodels.formula.api as smf
    from statsmodels.tools.sm_exceptions import ConvergenceWarning

    effects = {}
    if data.groupby("task")["pair"].nunique().max() > 1:
        effects["block"] = "0 + C(pair)"
    effects["arm x task"] = "0 + C(arm)"
    data = data.assign(cell=data["arm"] + "/" + data["pair"])
    if "block" in effects and data.duplicated(["task", "cell"]).any():
        effects["arm x block"] = "0 + C(cell)"
    if not data.duplicated(["task", "arm"]).any():
        del effects["arm x task"]  # one value each: it is the noise
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = smf.mixedlm(
                "y ~ 0 + C(arm)", data, groups="task", re_formula="1", vc_formula=effects or None
            )
            fit = model.fit(reml=True)
    except (np.linalg.LinAlgError, ValueError, ArithmeticError) as error:
        return f"the model cannot be fitted to these runs ({error})"
    if not fit.converged or any(issubclass(w.category, ConvergenceWarning) for w in caught):
        notes.append("a variance is at its limit or the fit did not converge: read with care")
    names = [n[len("C(arm)[") : -1] for n in fit.fe_params.index]
    covariance = fit.cov_params().loc[fit.fe_params.index, fit.fe_params.index]
    covariance = pd.DataFrame(covariance.to_numpy(), names, names)
    if not np.isfinite(covariance).all(axis=None) or np.linalg.eigvalsh(covariance).min() <= 0:
        return "the model cannot be fitted to these runs (no standard errors)"
    means = pd.Series(fit.fe_params.to_numpy(), names)
    variances = {"task": float(fit.cov_re.iloc[0, 0])}
    variances |= dict(zip(model.exog_vc.names, map(float, fit.vcomp), strict=True))
    return means, covariance, {**variances, "noise": float(fit.scale)}, float(fit.llf)


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
