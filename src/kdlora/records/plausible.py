"""Values that cannot be: scores beyond their metric's range, negative times, counts in millions.

Used at import (rows are flagged, never dropped) and by the diagnosis of any study.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from kdlora.errors import DataError
from kdlora.records.record import Efficiency
from kdlora.records.tidy import IMPOSSIBLE, as_given
from kdlora.vocabulary.metric import metric, metric_of_column

_MEASURED = tuple(
    name
    for name, field in Efficiency.model_fields.items()
    if field.annotation in (int | None, float | None)
)
NON_NEGATIVE = (*_MEASURED, "eval_examples_per_s", "reserved_memory_mb", "epochs")
# What no encoder has none of, and what none is trained with none of: a 0 stands for "not measured".
NEVER_ZERO = ("total_params", "size_mb", "peak_memory_mb", "forward_flops", "latency_p50_ms",
              "latency_p95_ms", "throughput_per_s", "speedup_latency", "inference_s")  # fmt: skip
NEVER_ZERO_TRAINED = ("trainable_params", "train_s", "train_flops", "saved_mb",
                      "train_examples_per_s", "train_tokens_per_s")  # fmt: skip
LARGEST = 1e30  # above all FLOPs of a study; larger ones are infinite in all but name
LONGEST = 1e9  # seconds and milliseconds: thirty years of training, eleven days for one text
POSITIVE = ("rank", "alpha", "lr", "batch_size", "max_length")


def agreement_bounds(a_s: float, a_t: float, n_classes: int) -> tuple[float, float]:
    """Least and greatest agreement of two classifiers with accuracies `a_s` and `a_t`.

    Where exactly one of the two is right they disagree, so agreement <= 1 - |a_s - a_t|. Both are
    right, and so agree, on at least a_s + a_t - 1 of the rows. With two classes they also agree
    wherever both are wrong, on at least 1 - a_s - a_t of the rows: together |a_s + a_t - 1|. With
    more classes two wrong answers may differ. Each bound is reached by some pair of classifiers.
    """
    if not (0 <= a_s <= 1 and 0 <= a_t <= 1) or n_classes < 2:
        raise DataError(
            f"accuracies {a_s:g} and {a_t:g} of {n_classes} classes: "
            "expected two shares between 0 and 1 (not per cent) and at least 2 classes"
        )
    surplus = a_s + a_t - 1
    lower = abs(surplus) if n_classes == 2 else max(0.0, surplus)
    return lower, 1 - abs(a_s - a_t)


@dataclass(frozen=True)
class ImpossibleValue:
    """One kind of impossible value in one column; `rows` are positions in the frame."""

    column: str
    rows: tuple[int, ...]
    sentence: str


def impossible_values(frame: pd.DataFrame) -> list[ImpossibleValue]:
    """Every kind of impossible value in a tidy frame, with the rows it stands in.

    A missing score of a run that is done counts as impossible, provided that the frame has
    scores at all (a table of costs has none); other missing values are only missing.
    """
    problems = [*_scores(frame), *_costs(frame), *_settings(frame)]
    found = [problem for problem in problems if problem.rows]
    return [*found, *_flagged_at_import(frame, found)]


def _flagged_at_import(frame: pd.DataFrame, found: list[ImpossibleValue]) -> list[ImpossibleValue]:
    """What only the import could see: a 0.87 among per cents is a possible score."""
    if "flags" not in frame:
        return []
    seen = {(problem.column, row) for problem in found for row in problem.rows}
    rows: dict[str, list[int]] = {}
    for row, flags in enumerate(frame["flags"]):
        for flag in flags if isinstance(flags, tuple | list) else ():
            column = str(flag).removeprefix(IMPOSSIBLE)
            copied = column.startswith("report.") and f"{IMPOSSIBLE}score" in flags
            if str(flag).startswith(IMPOSSIBLE) and (column, row) not in seen and not copied:
                rows.setdefault(column, []).append(row)
    sentence = "was flagged when it was imported, see its notes in imported.json"
    return [ImpossibleValue(column, tuple(own), sentence) for column, own in rows.items()]


def flag_impossible(frame: pd.DataFrame, problems: list[ImpossibleValue]) -> pd.Series:
    """The `flags` column with "impossible:<column>" added to the rows concerned.

    `records.tidy.normalise` leaves these cells out, so no mean includes them.
    """
    flags = [tuple(f) for f in frame["flags"]] if "flags" in frame else [()] * len(frame)
    for problem in problems:
        name = f"{IMPOSSIBLE}{problem.column}"
        for row in problem.rows:
            if name not in flags[row]:
                flags[row] = (*flags[row], name)
    return pd.Series(flags, index=frame.index, dtype=object)


def as_fractions(frame: pd.DataFrame, units: Mapping[str, str]) -> tuple[pd.DataFrame, list[str]]:
    """Scores that are per cents as the fractions that everything downstream reads; and notes.

    `units` are those that a mapping states for its columns, "" where it states none. A stated unit
    holds. Else the metric's range tells, metric by metric and column by column: accuracy lies in
    [0, 1], so a column of which most are above 1 and none above 100 is per cent. A single 1.2
    among fractions stays as it is and is impossible; a single 0.87 among per cents may be 87 or
    0.87 of them: its row is flagged, as impossible values are.
    """
    frame, notes = frame.copy(), []
    for column in map(str, frame.columns):
        for name, rows in _unstated(frame, column, units).items():
            largest = _largest_per_cent(frame.loc[rows, column], name)
            if largest is None:
                continue
            doubtful = rows & _as_it_is(frame[column], name)
            frame.loc[rows, column] = frame.loc[rows, column].map(_hundredth)
            # of the same numbers one note is enough
            same = column == f"report.{name}" and column not in units and "score" in units
            known = int(frame.loc[rows, column].notna().sum())
            if not same:
                notes.append(
                    f"{column}: {name} lies in {_reach(name)}, and most of {known} values are "
                    f"above, up to {largest:g}: read as per cent and divided by 100; state "
                    "`unit: percent` or `unit: fraction` in the mapping to be sure"
                )
            if doubtful.any():
                found = [ImpossibleValue(column, tuple(map(int, np.flatnonzero(doubtful))), "")]
                frame["flags"] = flag_impossible(frame, found)
                if not same:
                    notes.append(
                        f"{column}: {int(doubtful.sum())} of these values are not above "
                        f"{metric(name).high:g}, perhaps fractions among per cents: flagged, in "
                        "no mean"
                    )
    return frame, notes


def _as_it_is(cells: pd.Series, name: str) -> np.ndarray:
    """Which cells hold a number, not 0, that is a score of a metric as it is."""
    values = pd.to_numeric(cells, errors="coerce").astype(float).abs()
    return ((values > 0) & metric(name).possible(values)).to_numpy(bool)


# Columns whose metric is the one that the row names.
_OF_PRIMARY = ("score", "selection_score", "teacher_score", "epoch_scores")


def _unstated(frame: pd.DataFrame, column: str, units: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The metrics of a column whose unit nobody stated, each with the rows [n] that it scores."""
    one = metric_of_column(column)
    if units.get(column) or (one is None and column not in _OF_PRIMARY) or "metric" not in frame:
        return {}
    if one is not None:  # the importer fills report.accuracy from the score, and the reverse
        copied = column == f"report.{one.name}" and column not in units
        return {} if copied and units.get("score") else {one.name: np.ones(len(frame), bool)}
    named = frame["metric"].astype(object)
    filled = column == "score" and column not in units
    return {
        str(name): (named == name).to_numpy(bool, na_value=False)
        for name in named.dropna().unique()
        if not (filled and units.get(f"report.{name}"))
    }


def _largest_per_cent(cells: pd.Series, name: str) -> float | None:
    """The largest value in size of cells (numbers or lists) that are per cent, else None."""
    one = metric(name)
    lists = [cell if isinstance(cell, tuple | list) else (cell,) for cell in cells]
    values = pd.to_numeric(pd.Series([v for cell in lists for v in cell], dtype=object), "coerce")
    size = values.astype(float).abs()
    size = size[np.isfinite(size)]
    if not np.isfinite(one.high) or size.empty:
        return None
    is_per_cent = (~one.possible(size)).mean() > 0.5 and size.max() <= 100 * one.high
    return float(size.max()) if is_per_cent else None


def _hundredth(cell: Any) -> Any:
    """71.5 as 0.715, without the noise of the division; every element of a list."""
    if isinstance(cell, tuple | list):
        return tuple(_hundredth(item) for item in cell)
    return cell if cell is None or pd.isna(cell) else round(float(cell) / 100, 12)


def _reach(name: str) -> str:
    one = metric(name)
    return f"[{one.low:g}, {one.high:g}]"


def _scores(frame: pd.DataFrame) -> list[ImpossibleValue]:
    found = []
    if "score" in frame and "metric" in frame and frame["score"].notna().any():
        score = as_given(frame, "score")
        done = frame["status"].eq("done") if "status" in frame else pd.Series(True, frame.index)
        unscored = done & score.isna() & ~_constant(frame)
        found.append(_problem("score", unscored, "has no score although it is done"))
        for name, rows in frame.groupby(frame["metric"].astype(str)).indices.items():
            mask = np.zeros(len(frame), dtype=bool)
            mask[rows] = True
            found += _out_of_range("score", score, str(name), pd.Series(mask, frame.index))
    for column in frame.columns:
        one = metric_of_column(str(column))
        if one is not None and str(column).startswith("report"):
            # where it is the primary metric, the score itself has been looked at
            primary = frame["metric"].eq(one.name) if "metric" in frame else False
            other = pd.Series(True, frame.index) & ~(primary & as_given(frame, "score").notna())
            found += _out_of_range(str(column), as_given(frame, column), one.name, other)
    return found


def _constant(frame: pd.DataFrame) -> pd.Series:
    """Baselines that answer the same everywhere: they have no correlation with anything."""
    if not {"role", "adaptation", "metric"} <= set(frame.columns):
        return pd.Series(False, frame.index)
    correlation = frame["metric"].map(lambda name: metric(str(name)).is_correlation).astype(bool)
    return correlation & frame["role"].eq("baseline") & frame["adaptation"].eq("majority")


def _out_of_range(
    column: str, values: pd.Series, name: str, where: pd.Series
) -> list[ImpossibleValue]:
    one = metric(name)
    beyond = where & values.notna() & (~one.possible(values) | np.isinf(values))
    if not beyond.any():
        return []
    worst = values[beyond].abs().max()
    advice = ""
    if one.high == 1.0 and 1.0 < worst <= 100.0:
        advice = "; if these scores are per cent, state `unit: percent` in the mapping"
    sentence = f"{name} lies in {_reach(name)}, found up to {worst:.6g} in size{advice}"
    return [_problem(column, beyond, sentence)]


def _costs(frame: pd.DataFrame) -> list[ImpossibleValue]:
    found = []
    for column in NON_NEGATIVE:
        if column not in frame:
            continue
        values = as_given(frame, column)
        found.append(_problem(column, values < 0, "cannot be negative"))
        infinite = pd.Series(np.isinf(values), frame.index)
        found.append(_problem(column, infinite, "is infinite"))
        most = LONGEST if column.endswith(("_s", "_ms")) and "per_s" not in column else LARGEST
        beyond = (values > most) & ~infinite
        found.append(_problem(column, beyond, f"is more than {most:g}, beyond all sense"))
    trainable, total = as_given(frame, "trainable_params"), as_given(frame, "total_params")
    encoders = frame["role"].ne("baseline") if "role" in frame else pd.Series(True, frame.index)
    trained = encoders.copy()
    if "adaptation" in frame:  # a last layer alone, or a linear model on embeddings, may be small
        trained &= ~frame["adaptation"].isin(["frozen", "given"])
    for column in (*NEVER_ZERO, *NEVER_ZERO_TRAINED):
        rows = (encoders if column in NEVER_ZERO else trained) & (as_given(frame, column) == 0)
        found.append(
            _problem(column, rows, "cannot be 0; leave the cell empty where nothing was measured")
        )
    found.append(
        _problem(
            "trainable_params",
            trained & (trainable > 0) & (trainable < 1000),
            "is less than 1,000 trainable parameters; if the column counts millions, "
            "state `unit: M` in the mapping",
        )
    )
    found.append(_problem("trainable_params", trainable > total, "is more than total_params"))
    for column in ("peak_memory_mb", "size_mb", "saved_mb", "reserved_memory_mb"):
        too_much = as_given(frame, column) > 1e6
        found.append(
            _problem(column, too_much, "is more than a terabyte; are these bytes? state the `unit`")
        )
    return found


def _settings(frame: pd.DataFrame) -> list[ImpossibleValue]:
    found = []
    for column in POSITIVE:
        values = as_given(frame, column)
        found.append(_problem(column, (values <= 0) | np.isinf(values), "must be more than 0"))
    lr = as_given(frame, "lr")
    found.append(_problem("lr", lr > 1, "is no learning rate (more than 1)"))
    return found


def _problem(column: str, mask: pd.Series, sentence: str) -> ImpossibleValue:
    return ImpossibleValue(column, tuple(int(i) for i in np.flatnonzero(mask.to_numpy())), sentence)
