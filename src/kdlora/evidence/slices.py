"""Scores of one trained model by slices of the report split, and which slices are truly worse.

A slice is held against all other rows: shares of right answers by Fisher's exact test, errors of a
regression by Welch's t. All slices of a study are one family, corrected together, so that a study
without a worse slice claims one with a probability of at most alpha. The claim is of this trained
model on texts like these; another seed is another model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from kdlora.evidence.paired_tests import adjust
from kdlora.evidence.result import Result, Rules, finite
from kdlora.evidence.texts import MIN_TEXTS

BINS = 4  # quarters of a column of numbers
EMPTY = "(empty)"
Verdict = Literal["worse", "better", "not told apart", "too few rows"]


@dataclass(frozen=True)
class SliceScore(Result):
    """A model on the rows of one slice.

    score: share of right answers, or the mean absolute error where answers are numbers. low, high:
    its interval. rest: the same of all other rows. p: of the difference, `p_adjusted` over all
    slices tested together.
    """

    column: str
    value: str
    is_error: bool
    n: int
    score: float
    low: float | None
    high: float | None
    rest: float | None
    p: float | None = None
    p_adjusted: float | None = None
    verdict: Verdict = "too few rows"


def slice_scores(
    columns: Mapping[str, Sequence[Any]], values: np.ndarray, *, is_error: bool, rules: Rules
) -> list[SliceScore]:
    """Every slice of every column, not corrected yet.

    `columns` hold a value a row, [n]; `values` [n] are absolute errors (`is_error`), or 1 for a
    right answer and 0 for a wrong one.
    """
    return [
        _score(SliceScore(column, value, is_error, 0, 0.0, None, None, None), mask, values, rules)
        for column, cells in columns.items()
        for value, mask in _masks(cells)
    ]


def judged(slices: Sequence[SliceScore], rules: Rules) -> list[SliceScore]:
    """The same slices with their verdicts, corrected over all of them."""
    p = np.array([np.nan if one.p is None else one.p for one in slices], float)
    return [
        one if one.p is None else _with_verdict(one, float(q), rules)
        for one, q in zip(slices, adjust(p, rules.correction), strict=True)
    ]


def _with_verdict(one: SliceScore, p: float, rules: Rules) -> SliceScore:
    verdict: Verdict = "not told apart"
    if p <= rules.alpha and one.rest is not None:
        verdict = "worse" if (one.score > one.rest) == one.is_error else "better"
    return replace(one, p_adjusted=p, verdict=verdict)


def _masks(cells: Sequence[Any]) -> Iterator[tuple[str, np.ndarray]]:
    """The slices of a column: its values, or quarters of its numbers. One slice is none."""
    series = pd.Series(cells)
    missing = series.isna().to_numpy()
    names = np.full(len(series), EMPTY, object)
    if pd.api.types.is_numeric_dtype(series) and not pd.api.types.is_bool_dtype(series):
        numbers = series.to_numpy(float)
        order, names[~missing] = _quarters(numbers[~missing])
    else:
        names[~missing] = series[~missing].astype(str)
        order = sorted(set(names[~missing]))
    order = [*order, *([EMPTY] if missing.any() else [])]
    if len(order) > 1:
        yield from ((name, names == name) for name in order)


def _quarters(numbers: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Names of the quarters in their order, and the name of every number's."""
    edges = np.unique(np.quantile(numbers, np.linspace(0, 1, BINS + 1)[1:-1]))
    place = np.searchsorted(edges, numbers, side="left")
    names = {k: _span(numbers[place == k]) for k in np.unique(place)}
    return list(names.values()), np.array([names[k] for k in place], object)


def _span(numbers: np.ndarray) -> str:
    low, high = f"{numbers.min():g}", f"{numbers.max():g}"
    return low if low == high else f"{low} to {high}"


def _score(one: SliceScore, mask: np.ndarray, values: np.ndarray, rules: Rules) -> SliceScore:
    own, rest = values[mask], values[~mask]
    low, high = _interval(own, one.is_error, rules.alpha)
    others = float(rest.mean()) if len(rest) else None
    one = replace(one, n=len(own), score=float(own.mean()), low=low, high=high, rest=others)
    if min(len(own), len(rest)) < MIN_TEXTS:
        return one
    if one.is_error:
        return replace(one, p=finite(stats.ttest_ind(own, rest, equal_var=False).pvalue))
    table = [[own.sum(), len(own) - own.sum()], [rest.sum(), len(rest) - rest.sum()]]
    return replace(one, p=float(stats.fisher_exact(table).pvalue))


def _interval(
    values: np.ndarray, is_error: bool, alpha: float
) -> tuple[float | None, float | None]:
    """Wilson's interval of a share, Student's of a mean error."""
    if not is_error:
        low, high = proportion_confint(int(values.sum()), len(values), alpha, method="wilson")
        return float(low), float(high)
    if len(values) < 2:
        return None, None
    half = stats.t.ppf(1 - alpha / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)
