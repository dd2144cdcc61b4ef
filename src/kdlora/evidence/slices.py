"""Scores of one trained model by slices of the report split, and which slices are truly worse.

A slice is held against all other rows: shares of right answers by Fisher's exact test, errors of a
regression by Welch's t. All slices of a study are one family, corrected together, so that a study
without a worse slice claims one with a probability of at most alpha. Two slices that make up a
column are one test, which is counted once. The claim is of this trained model on texts like these;
another seed is another model.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from kdlora.evidence.intervals import of_share
from kdlora.evidence.paired_tests import adjust
from kdlora.evidence.power import detectable_difference
from kdlora.evidence.result import Result, Rules, finite
from kdlora.evidence.texts import MIN_TEXTS

BINS = 4  # quarters of a column of numbers
EMPTY = "(empty)"
Verdict = Literal["worse", "better", "not told apart", "too few rows"]


@dataclass(frozen=True)
class SliceScore(Result):
    """A model on the rows of one slice.

    score: share of right answers, or the mean absolute error where answers are numbers. low, high:
    its interval. rest: the same of all `others`, the other rows. p: of the difference, `p_adjusted`
    over all slices tested together. se: standard error of the difference where there is none.
    detectable: the smallest true difference that is found in 4 of 5 such studies.
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
    others: int = 0
    se: float | None = None
    detectable: float | None = None


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


def judged(tasks: Sequence[Sequence[SliceScore]], rules: Rules) -> list[list[SliceScore]]:
    """The slices of every task with their verdicts, corrected over all tasks."""
    tests: list[float] = []  # their p-values
    places = [list(_tests(slices, tests)) for slices in tasks]
    adjusted = adjust(np.array(tests, float), rules.correction)
    alpha = rules.alpha if rules.correction == "none" else rules.alpha / max(len(tests), 1)
    return [
        [
            one if place is None else _with_verdict(one, float(adjusted[place]), alpha, rules)
            for one, place in zip(slices, own, strict=True)
        ]
        for slices, own in zip(tasks, places, strict=True)
    ]


def _tests(slices: Sequence[SliceScore], tests: list[float]) -> Iterator[int | None]:
    """Which of the tests each slice of a task has; new ones are added."""
    sizes = Counter(one.column for one in slices)
    before: SliceScore | None = None
    for one in slices:
        if one.p is None:
            yield None
            continue
        other_half = sizes[one.column] == 2 and before is not None and before.column == one.column
        if not other_half:
            tests.append(one.p)
        before = one
        yield len(tests) - 1


def _with_verdict(one: SliceScore, p: float, alpha: float, rules: Rules) -> SliceScore:
    seen = detectable_difference(one.se or 0.0, one.n + one.others - 2, alpha=alpha)
    verdict: Verdict = "not told apart"
    if p <= rules.alpha and one.rest is not None:
        verdict = "worse" if (one.score > one.rest) == one.is_error else "better"
    return replace(one, p_adjusted=p, verdict=verdict, detectable=seen)


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
    one = replace(
        one, n=len(own), score=float(own.mean()), low=low, high=high, rest=others, others=len(rest)
    )
    if min(len(own), len(rest)) < MIN_TEXTS:
        return one
    if one.is_error:
        test = stats.ttest_ind(own, rest, equal_var=False)
        se = math.sqrt(own.var(ddof=1) / len(own) + rest.var(ddof=1) / len(rest))
        return replace(one, p=finite(test.pvalue), se=se)
    table = [[own.sum(), len(own) - own.sum()], [rest.sum(), len(rest) - rest.sum()]]
    se = math.sqrt(values.var() * (1 / len(own) + 1 / len(rest)))
    p = float(stats.fisher_exact(table).pvalue)
    return replace(one, p=p, se=se)


def _interval(
    values: np.ndarray, is_error: bool, alpha: float
) -> tuple[float | None, float | None]:
    """Wilson's interval of a share, Student's of a mean error."""
    if not is_error:
        return of_share(int(values.sum()), len(values), alpha)
    if len(values) < 2:
        return None, None
    half = stats.t.ppf(1 - alpha / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)
