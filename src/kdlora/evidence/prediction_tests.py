"""Two models on the same examples: McNemar's exact test and the paired bootstrap of any metric.

These speak of the two trained models, not of their methods: another seed is another model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from kdlora.errors import InputError
from kdlora.evidence import intervals
from kdlora.evidence.result import Result, Rules, finite
from kdlora.records.predictions import SplitOutputs
from kdlora.vocabulary.metric import metric

Score = Callable[[np.ndarray, np.ndarray], float]  # (outputs, labels) -> score


@dataclass(frozen=True)
class McNemar(Result):
    """Discordant examples of two classifiers and the exact binomial p (McNemar 1947).

    `difference` is that of the accuracies in points, with Agresti & Min's (2005) interval.
    """

    n: int
    only_a_right: int
    only_b_right: int
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    cannot: str = ""


def mcnemar(a_right: np.ndarray, b_right: np.ndarray, *, alpha: float = 0.05) -> McNemar:
    """Exact McNemar test of two boolean arrays [n] over the same examples in the same order."""
    a_right, b_right = np.asarray(a_right, bool), np.asarray(b_right, bool)
    if a_right.shape != b_right.shape or a_right.ndim != 1:
        raise InputError(
            f"two arrays over the same examples are needed; got {a_right.shape}, {b_right.shape}"
        )
    n = len(a_right)
    only_a = int((a_right & ~b_right).sum())
    only_b = int((~a_right & b_right).sum())
    if n == 0:
        return McNemar(0, 0, 0, cannot="no examples")
    # Agresti & Min: add half an example to each of the four cells.
    big, x, y = n + 2, only_a + 0.5, only_b + 0.5
    centre = (x - y) / big
    half = stats.norm.ppf(1 - alpha / 2) * np.sqrt((x + y) / big - centre**2) / np.sqrt(big)
    low, high = 100 * max(-1.0, centre - half), 100 * min(1.0, centre + half)
    difference = 100 * (only_a - only_b) / n
    if only_a + only_b == 0:
        why = "both are right and wrong on the same examples: nothing tells them apart"
        return McNemar(n, 0, 0, 0.0, low, high, cannot=why)
    return McNemar(n, only_a, only_b, difference, low, high, discordant_p(only_a, only_b))


def discordant_p(only_a: int, only_b: int) -> float:
    """McNemar's exact p from the numbers of examples that only one model has right."""
    n = only_a + only_b
    return float(stats.binomtest(only_a, n, 0.5).pvalue) if n else 1.0


@dataclass(frozen=True)
class PairedBootstrap(Result):
    """Difference of a metric on the same resampled examples (Efron & Tibshirani 1993, ch. 16).

    `difference` and its interval are in the metric's own unit times `scale`. `share_a_better`:
    share of draws in which a is better.
    """

    n: int
    score_a: float | None
    score_b: float | None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    share_a_better: float | None = None
    draws: int = 0
    cannot: str = ""


def paired_bootstrap(
    outputs_a: np.ndarray,
    outputs_b: np.ndarray,
    labels: np.ndarray,
    score: Score,
    *,
    rng: np.random.Generator,
    direction: int = 1,
    scale: float = 100.0,
    rules: Rules | None = None,
) -> PairedBootstrap:
    """Resample examples and score both models on each draw.

    `outputs_*` [n, ...] and `labels` [n] are in the same order; `score(outputs, labels)` gives a
    number. Draws in which it is undefined (one class only) are left out.
    """
    rules = rules or Rules()
    a, b, y = map(np.asarray, (outputs_a, outputs_b, labels))
    if not len(a) == len(b) == len(y):
        raise InputError(f"outputs and labels differ in length: {len(a)}, {len(b)}, {len(y)}")
    if len(y) < 2:
        return PairedBootstrap(len(y), None, None, cannot="fewer than two examples")
    score_a, score_b = float(score(a, y)), float(score(b, y))
    result = PairedBootstrap(len(y), finite(score_a), finite(score_b))
    if result.score_a is None or result.score_b is None:
        return replace(result, cannot="the metric is undefined on these examples")
    difference = scale * direction * (score_a - score_b)
    drawn = []
    for rows in intervals.resample(len(y), rules.draws, rng):
        for i in rows:
            one = float(score(a[i], y[i])) - float(score(b[i], y[i]))
            drawn.append(scale * direction * one)
    return _summary(replace(result, difference=difference), np.array(drawn), rules)


def _summary(result: PairedBootstrap, values: np.ndarray, rules: Rules) -> PairedBootstrap:
    """Add interval and share from the drawn differences."""
    values = values[np.isfinite(values)]
    if len(values) < 100:
        return replace(result, cannot="the metric is undefined on most draws")
    sizes = [result.n] if rules.bootstrap == "expanded" else None
    low, high = intervals.interval(values, alpha=rules.alpha, sizes=sizes)
    better = (values > 0).mean() + (values == 0).mean() / 2
    return replace(
        result,
        low=float(low),
        high=float(high),
        share_a_better=float(better),
        draws=len(values),
    )


def compare_predictions(
    a: SplitOutputs,
    b: SplitOutputs,
    *,
    rng: np.random.Generator,
    rules: Rules | None = None,
) -> McNemar | PairedBootstrap:
    """Test two runs on the examples that both predicted.

    Classes are tested by McNemar, as are sets of labels (right is a text with exactly its labels);
    regression by the bootstrap of Pearson's correlation. Raises InputError where the two disagree
    on a label.
    """
    rules = rules or Rules()
    at_a, at_b = align(a.ids, b.ids)
    a, b = a.at(at_a), b.at(at_b)
    if not np.array_equal(a.labels, b.labels):
        raise InputError("the two runs have different labels for the same example")
    if not len(a.labels):
        return McNemar(0, 0, 0, cannot="the two runs share no example")
    if not a.kind.numeric:
        return mcnemar(a.right, b.right, alpha=rules.alpha)
    first, second = (np.reshape(o.outputs, (len(a.labels), -1))[:, 0].astype(float) for o in (a, b))
    return paired_bootstrap(
        first,
        second,
        a.labels.astype(float),
        lambda outputs, truth: metric("pearson").terms(outputs, truth).score,
        rng=rng,
        rules=rules,
    )


def align(ids_a: np.ndarray, ids_b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the ids that both have, in a's order. Raises InputError on duplicates."""
    for name, ids in (("a", ids_a), ("b", ids_b)):
        if len(np.unique(ids)) != len(ids):
            raise InputError(f"predictions of {name} hold an example id twice")
    place = {value: i for i, value in enumerate(ids_b)}
    in_a = [i for i, value in enumerate(ids_a) if value in place]
    return np.array(in_a, int), np.array([place[ids_a[i]] for i in in_a], int)
