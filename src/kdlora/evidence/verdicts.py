"""The claims that a verdict can rest on, tested for difference and equivalence.

"Not significant" is not "equal": equality within a margin is a claim that needs its own test
(Schuirmann 1987). A verdict is one of four words; "undecided" is what the data say when they say
neither, and "cannot be said" is for data that allow no test at all.

Claims share one estimate and differ in their error (see `nested`): *here*, on these tasks, and
*beyond*, on tasks like these. `benchmarks/evidence_simulation.py` prints their error rates.

The narrower claim is usually the surer one. It need not be: it has to learn the noise of every task
from its own few blocks, and where one task is far noisier than the others it may stay undecided
while the means over tasks agree well enough for the claim beyond.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from kdlora.evidence import paired_tests, power
from kdlora.evidence.estimator import MIN_DF, MIN_TASKS, Estimate, Scope, estimate
from kdlora.evidence.pairing import Matched
from kdlora.evidence.result import Result, Rules, finite

Verdict = Literal["superior", "inferior", "equivalent", "undecided", "cannot be said"]


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
class Claim(Result):
    """What is said of the mean difference for these tasks (here) or tasks like these (beyond).

    `low`, `high`: Student's interval of confidence 1 - alpha, not corrected. `p_corrected` is over
    the family of comparisons and carries the verdict. `detectable`: the smallest true difference
    that a single comparison of this design finds with the rules' power. `cannot`: why there is no
    claim, when there is none; then there are no numbers either.
    """

    scope: Scope
    replicates: str
    n_units: int
    difference: float | None = None
    se: float | None = None
    df: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_corrected: float | None = None
    p_equivalence: float | None = None
    p_equivalence_corrected: float | None = None
    detectable: float | None = None
    verdict: Verdict = "cannot be said"
    cannot: str = ""


def estimate_claim(matched: Matched, scope: Scope) -> Estimate | str:
    """The estimate, or the reason why this claim cannot be made."""
    if matched.reason:
        return matched.reason
    d, nesting = matched.differences, matched.nesting
    if scope == "beyond" and nesting.n_tasks < MIN_TASKS:
        return (
            f"{nesting.n_tasks} task{'s' * (nesting.n_tasks != 1)}: a claim beyond the tasks "
            f"measured needs at least {MIN_TASKS}"
        )
    result = estimate(d, nesting, scope)
    units = {"tasks": "task", "blocks": "block", "runs": "matched run"}[result.replicates]
    if np.isnan(result.se):
        if result.n_units < 2:
            return f"one {units} only: nothing tells its difference from chance"
        what = "identical scores" if np.allclose(d, 0, atol=1e-10) else "equal differences"
        return f"{what} throughout: no spread from which to tell the uncertainty"
    if result.df < MIN_DF - 1e-9:
        return f"{result.n_units} {units}s: too few to tell the uncertainty"
    return result


def judge(
    estimates: Sequence[Estimate | str], scope: Scope, units: Sequence[str], rules: Rules
) -> list[Claim]:
    """Claims of one family: tests, intervals and verdicts, corrected over those that can be made.

    Equivalence is tested only where the margin is in the unit of the difference.
    """
    made = [e for e in estimates if isinstance(e, Estimate)]
    mean, se, df = (np.array([float(getattr(e, k)) for e in made]) for k in ("mean", "se", "df"))
    has_margin = np.array(
        [u == rules.margin_unit for e, u in zip(estimates, units, strict=True)
         if isinstance(e, Estimate)]
    )  # fmt: skip
    p, q, p_corrected, q_corrected, verdicts = verdicts_of(mean, se, df, rules, has_margin)
    half = stats.t.ppf(1 - rules.alpha / 2, df) * se if len(made) else se
    claims, i = [], 0
    for item in estimates:
        if isinstance(item, str):
            claims.append(Claim(scope, "", 0, cannot=item))
            continue
        claims.append(
            Claim(
                scope,
                item.replicates,
                item.n_units,
                difference=float(mean[i]),
                se=float(se[i]),
                df=float(df[i]),
                low=float(mean[i] - half[i]),
                high=float(mean[i] + half[i]),
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


def verdicts_of(
    mean: np.ndarray,
    se: np.ndarray,
    df: np.ndarray,
    rules: Rules,
    has_margin: np.ndarray | bool = True,
) -> tuple[np.ndarray, ...]:
    """p, p of equivalence, both corrected over the last axis, and verdicts. All [..., family]."""
    p = difference_p(mean, se, df)
    q = np.where(has_margin, equivalence_p(mean, se, df, rules.margin), np.nan)
    p_corrected = paired_tests.adjust(p, rules.correction)
    q_corrected = paired_tests.adjust(q, rules.correction)
    verdicts = decide(mean, p_corrected, q_corrected, rules.alpha)
    return p, q, p_corrected, q_corrected, verdicts
