"""Which claims a design allows, tested for difference and equivalence.

"Not significant" is not "equal": equality within a margin is a claim that needs its own test
(Schuirmann 1987). Which claims are made (`evidence.claim`) hangs on the design alone.
`python -m benchmarks evidence` prints their error rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from kdlora.evidence import paired_tests, power
from kdlora.evidence.claim import Basis, Claim, Sample
from kdlora.evidence.estimator import (
    MIN_DF,
    MIN_TASKS,
    Estimate,
    TextVariance,
    clustered,
    design_df,
    on_tasks_like_these,
    on_these_tasks,
)
from kdlora.evidence.pairing import Matched
from kdlora.evidence.prediction_tests import discordant_p
from kdlora.evidence.result import (
    SCOPES,
    TASKS_LIKE_THESE,
    THESE_TASKS,
    TRAINED_MODELS,
    Rules,
    Scope,
    finite,
)
from kdlora.evidence.texts import TextDifferences, on_trained_models, text_variance


def difference_p(mean: np.ndarray, se: np.ndarray, df: np.ndarray) -> np.ndarray:
    """Two-sided p of "the mean is 0"."""
    with np.errstate(all="ignore"):
        return 2 * stats.t.sf(np.abs(mean / se), df)


def equivalence_p(mean: np.ndarray, se: np.ndarray, df: np.ndarray, margin: float) -> np.ndarray:
    """p of "the mean lies outside ±margin" (TOST: the larger of the two one-sided p-values)."""
    with np.errstate(all="ignore"):
        above = stats.t.sf((mean + margin) / se, df)  # of "mean <= -margin"
        below = stats.t.cdf((mean - margin) / se, df)  # of "mean >= margin"
    return np.maximum(above, below)


def decide(
    mean: np.ndarray, p_difference: np.ndarray, p_equivalence: np.ndarray, alpha: float
) -> np.ndarray:
    """Verdicts [...] from corrected p-values; NaN in the first means that nothing can be said.

    A difference that is real and yet surely within the margin is "equivalent": the margin says
    what matters, and the p-value of the difference stands beside it.
    """
    mean, p, q = (np.asarray(x, dtype=float) for x in (mean, p_difference, p_equivalence))
    return np.select(
        [np.isnan(p), q <= alpha, (p <= alpha) & (mean > 0), (p <= alpha) & (mean < 0)],
        ["cannot be said", "equivalent", "superior", "inferior"],
        "undecided",
    )


@dataclass(frozen=True)
class Estimated:
    """An estimate and what it rests on, before the correction of its family."""

    estimate: Estimate
    basis: Basis


def estimate_claim(matched: Matched, scope: Scope, texts: TextDifferences | str) -> Estimated | str:
    """The estimate, or the one sentence that says what this claim would need."""
    if matched.reason:
        return matched.reason
    make = {
        TASKS_LIKE_THESE: _of_tasks_like_these,
        THESE_TASKS: _of_these_tasks,
        TRAINED_MODELS: _of_trained_models,
    }[scope]
    made = make(matched, texts)
    if isinstance(made, str) or not np.isnan(made.estimate.se):
        return made
    if scope == TRAINED_MODELS:
        return "both answer alike on every text: no spread from which to tell the uncertainty"
    what = "identical scores" if np.allclose(matched.differences, 0, atol=1e-10) else (
        "equal differences"
    )  # fmt: skip
    return f"{what} throughout: no spread from which to tell the uncertainty"


def _of_tasks_like_these(matched: Matched, texts: TextDifferences | str) -> Estimated | str:
    design, n = matched.design, matched.nesting.n_tasks
    if n < MIN_TASKS:
        return f"{_tasks(n)}: a claim on tasks like these needs at least {MIN_TASKS}"
    repeated = design.replicated
    rows = np.ones(len(repeated), bool)
    measured = bool(repeated.any()) and design.at(repeated).nesting.n_tasks > 1
    basis = _basis(matched, rows, ("tasks", "seeds"), seeds_measured=measured)
    return Estimated(on_tasks_like_these(matched.differences, design), basis)


def _of_these_tasks(matched: Matched, texts: TextDifferences | str) -> Estimated | str:
    design = matched.design
    if design_df(design) < MIN_DF - 1e-9:
        return _needs_seeds(matched)
    rows = design.replicated
    kept = design.at(rows)
    drawn: TextVariance | None = None
    sampled: tuple[Sample, ...] = ("seeds",)
    n_texts = 0
    if isinstance(texts, TextDifferences) and texts.rows[rows].all():
        by_task = _rows_of(texts, rows, matched.nesting.task_of_run())
        drawn, sampled = text_variance(kept, by_task), ("seeds", "texts")
        n_texts = sum(values.shape[1] for values in by_task)
    made = on_these_tasks(matched.differences[rows], kept, drawn)
    measured = kept.nesting.n_tasks == 1 or clustered(kept.joined).df >= MIN_DF - 1e-9
    basis = _basis(matched, rows, sampled, n_texts=n_texts, seeds_measured=measured)
    return Estimated(made, basis)


def _of_trained_models(matched: Matched, texts: TextDifferences | str) -> Estimated | str:
    if isinstance(texts, str):
        return texts
    rows, differences = texts.rows, matched.differences[texts.rows]
    made = on_trained_models(differences, matched.design.at(rows), texts)
    if len(differences) == 1 and texts.unit and texts.single and not np.isnan(made.se):
        won = np.sign(texts.by_task[0][0].round(6))
        made = Estimate(
            made.mean, made.se, made.df, made.centre,
            exact_p=discordant_p(int((won > 0).sum()), int((won < 0).sum())),
        )  # fmt: skip
    return Estimated(made, _basis(matched, rows, ("texts",), n_texts=texts.n_texts))


def _rows_of(texts: TextDifferences, rows: np.ndarray, task: np.ndarray) -> tuple[np.ndarray, ...]:
    """The texts of some of the matched runs, task by task; tasks without any are dropped."""
    tasks = [t for t in np.unique(task) if texts.rows[task == t].any()]
    found = []
    for t, values in zip(tasks, texts.by_task, strict=True):
        own = (task == t) & texts.rows
        if rows[own].any():
            found.append(values[rows[own]])
    return tuple(found)


def _basis(
    matched: Matched,
    rows: np.ndarray,
    sampled: tuple[Sample, ...],
    *,
    n_texts: int = 0,
    seeds_measured: bool = True,
) -> Basis:
    cells = matched.cells
    every = tuple(dict.fromkeys(cells["task"].astype(str)))
    tasks = tuple(dict.fromkeys(cells.loc[rows, "task"].astype(str)))
    pairs = cells.loc[rows, "pair"].nunique() if "pair" in matched.block else 1
    return Basis(
        sampled=sampled,
        tasks=tasks,
        left_out=tuple(t for t in every if t not in tasks),
        n_pairs=int(pairs),
        n_runs=int(rows.sum()),
        n_seeds=len(np.unique(matched.design.clusters[rows])),
        n_texts=n_texts,
        seeds_measured=seeds_measured,
    )


def _needs_seeds(matched: Matched) -> str:
    """Why nothing is said of other seeds, and what it would take."""
    design, cells = matched.design, matched.cells
    if all(cells[f"seedless_{side}"].all() for side in "ab"):
        return "neither side has anything random but the texts: other seeds would change nothing"
    n = len(np.unique(design.clusters))
    seeds = cells["seed"].astype(str).nunique() if "seed" in cells else 1
    shared = " that share no trained run" if seeds > n else ""
    several = len(np.unique(matched.nesting.task_of_run())) > 1
    need = "two seeds on several tasks" if several else "three seeds"
    return (
        f"what other seeds would give cannot be told from {n} seed{'s' * (n != 1)}{shared}; it "
        f"needs {need}{shared}"
    )


def _tasks(n: int) -> str:
    return f"{n} task{'s' * (n != 1)}"


def judge(
    estimates: Sequence[Estimated | str],
    scope: Scope,
    units: Sequence[str],
    rules: Rules,
    *,
    family: int | None = None,
) -> list[Claim]:
    """Claims of one family: tests, intervals and verdicts, corrected over `family` comparisons.

    `family` counts those that allow a claim in any scope (default: those of this scope), so that a
    family that is answered in several scopes is corrected once, as a whole. Equivalence is tested
    only where the margin is in the unit of the difference.
    """
    made = [e for e in estimates if isinstance(e, Estimated)]
    of = [e.estimate for e in made]
    mean, se, df = (np.array([float(getattr(e, k)) for e in of]) for k in ("mean", "se", "df"))
    centre = np.array([float(e.mean if e.centre is None else e.centre) for e in of])
    exact = np.array([np.nan if e.exact_p is None else e.exact_p for e in of])
    has_margin = np.array(
        [u == rules.margin_unit for e, u in zip(estimates, units, strict=True)
         if isinstance(e, Estimated)]
    )  # fmt: skip
    p = np.where(np.isfinite(exact), exact, difference_p(centre, se, df))
    q = np.where(has_margin, equivalence_p(centre, se, df, rules.margin), np.nan)
    others = np.ones(max(0, (family or 0) - len(made)))  # tested in another scope
    p_corrected, q_corrected = (
        paired_tests.adjust(np.r_[x, others], rules.correction)[: len(made)] for x in (p, q)
    )
    verdicts = decide(mean, p_corrected, q_corrected, rules.alpha)
    if len(made):
        half = stats.t.ppf(1 - rules.alpha / 2, df) * se
        half_equivalence = stats.t.ppf(1 - rules.alpha, df) * se
    claims, i = [], 0
    for item in estimates:
        if isinstance(item, str):
            claims.append(Claim(scope, cannot=item))
            continue
        claims.append(
            Claim(
                scope,
                item.basis,
                difference=float(mean[i]),
                se=float(se[i]),
                df=float(df[i]),
                low=float(centre[i] - half[i]),
                high=float(centre[i] + half[i]),
                low_equivalence=float(centre[i] - half_equivalence[i]),
                high_equivalence=float(centre[i] + half_equivalence[i]),
                p=float(p[i]),
                p_corrected=float(p_corrected[i]),
                p_equivalence=finite(q[i]),
                p_equivalence_corrected=finite(q_corrected[i]),
                detectable=power.detectable_difference(
                    se[i], df[i], alpha=rules.alpha, power=rules.power
                ),
                verdict=str(verdicts[i]),  # type: ignore[arg-type]
            )
        )
        i += 1
    return claims


def judge_all(
    matched: Sequence[Matched], texts: Sequence[TextDifferences | str], rules: Rules
) -> list[dict[Scope, Claim]]:
    """The claims of a family of comparisons, in every scope, the widest first."""
    estimates = {
        scope: [estimate_claim(m, scope, t) for m, t in zip(matched, texts, strict=True)]
        for scope in SCOPES
    }
    family = sum(
        any(isinstance(estimates[scope][i], Estimated) for scope in SCOPES)
        for i in range(len(matched))
    )
    units = [m.unit for m in matched]
    judged = {
        scope: judge(found, scope, units, rules, family=family)
        for scope, found in estimates.items()
    }
    return [{scope: judged[scope][i] for scope in SCOPES} for i in range(len(matched))]
