"""Agreement of student and teacher that the two accuracies do not allow, or that nobody checked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from kdlora.evidence.diagnosis.finding import DiagnosisFinding, has, is_done, listed, runs
from kdlora.records.plausible import agreement_bounds
from kdlora.records.tidy import numeric
from kdlora.vocabulary.task import MULTILABEL, TASKS

ROUNDING = 1e-6


def teacher_accuracy_range(a_s: float, agreement: float, n_classes: int = 2) -> tuple[float, float]:
    """Least and greatest accuracy that a teacher can have, given the student's and the agreement.

    The inverse of `records.plausible.agreement_bounds`: agreement <= 1 - |a_s - a_t| keeps a_t
    within 1 - agreement of a_s; agreement >= a_s + a_t - 1 keeps a_t below
    agreement + 1 - a_s; with two classes agreement >= 1 - a_s - a_t too.
    """
    slack = 1 - agreement
    low, high = a_s - slack, min(a_s + slack, agreement + 1 - a_s)
    if n_classes == 2:
        low = max(low, 1 - a_s - agreement)
    return max(0.0, low), min(1.0, high)


def expected_agreement(a_s: float, a_t: float) -> float:
    """Agreement of two binary classifiers whose errors are independent."""
    return a_s * a_t + (1 - a_s) * (1 - a_t)


def agreement(frame: pd.DataFrame) -> Iterator[DiagnosisFinding]:
    """Outside the bounds; or, with the teacher's accuracy unknown, only possible for a bad one."""
    if not has(frame, "agreement"):
        return
    table = agreement_table(frame[is_done(frame)])
    if table.empty:
        return
    rows = frame.loc[table.index]
    outside = table["outside"].fillna(False).astype(bool)
    if outside.any():
        first = table[outside].iloc[0]
        yield DiagnosisFinding(
            "agreement_impossible",
            "error",
            f"{int(outside.sum())} agreements lie outside what the two accuracies allow, such as "
            f"{first['agreement']:.1%} where {first['lower']:.1%} to {first['upper']:.1%} is "
            "possible: labels, rows or thresholds of the two do not match.",
            runs(rows, outside),
            {"agreement": table.loc[outside, "agreement"].tolist()},
        )
    unknown = table["a_t"].isna()
    bad = unknown & (table["teacher_max"] < table["a_s"]) & table["below_chance"]
    if bad.any():
        worst = table[bad].sort_values("teacher_max")
        told = listed(
            (
                f"{r.agreement:.1%} with a student at {r.a_s:.1%} forces the teacher below "
                f"{r.teacher_max:.1%}"
                for r in worst.itertuples()
            ),
            4,
        )
        near = int((worst["teacher_max"] < 1 / worst["n_classes"]).sum())
        yield DiagnosisFinding(
            "agreement_forces_bad_teacher",
            "error",
            f"No teacher accuracy is given, and the agreement leaves room only for a teacher far "
            f"below its student ({told}); {near} of {len(worst)} below guessing. The teacher was "
            "never checked: an untrained head, flipped labels or another threshold.",
            runs(rows, bad),
            {
                "teacher_max": {str(i): float(v) for i, v in zip(
                    runs(rows, bad), table.loc[bad, "teacher_max"], strict=False)},
                "teacher_min": table.loc[bad, "teacher_min"].tolist(),
                "agreement": table.loc[bad, "agreement"].tolist(),
            },
        )  # fmt: skip
    elif unknown.any():
        yield DiagnosisFinding(
            "teacher_unchecked",
            "warning",
            f"{int(unknown.sum())} agreements come without the teacher's accuracy: neither their "
            "level nor their possibility can be judged.",
            runs(rows, unknown),
        )


def agreement_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows with an agreement and the student's accuracy, with bounds and the teacher's range.

    Columns: agreement, a_s, a_t (NaN where unknown), n_classes, lower, upper, outside (None where
    a_t is unknown), teacher_min, teacher_max, below_chance (less agreement than guessing gives).
    """
    metric = frame["metric"].astype(str) if "metric" in frame else pd.Series("", frame.index)
    a_s = numeric(frame, "report.accuracy").where(
        lambda v: v.notna(), numeric(frame, "score").where(metric == "accuracy")
    )
    # of several labels a text, each set of labels is an answer
    a_s = a_s.where(a_s.notna(), numeric(frame, "report.subset_accuracy"))
    a_t = numeric(frame, "teacher_accuracy").where(
        lambda v: v.notna(), numeric(frame, "teacher_score").where(metric == "accuracy")
    )
    if has(frame, "teacher_run_id", "run_id"):  # the teacher's own row, whatever its metric
        own = frame["teacher_run_id"].map(dict(zip(frame["run_id"], a_s, strict=True)))
        alone = ~(numeric(frame, "n_teachers") > 1)  # an ensemble's accuracy is no member's
        a_t = a_t.where(a_t.notna(), own.astype(float).where(alone))
    stated = numeric(frame, "agreement")
    classes = numeric(frame, "n_classes")
    rows: dict[Any, dict[str, Any]] = {}
    for index in frame.index[stated.between(0, 1) & a_s.between(0, 1)]:
        k = int(classes[index]) if np.isfinite(classes[index]) else _classes(frame, index)
        if k is None or k < 2:
            continue
        g, student, teacher = float(stated[index]), float(a_s[index]), float(a_t[index])
        low, high = teacher_accuracy_range(student, g, k)
        row: dict[str, Any] = {
            "agreement": g, "a_s": student, "a_t": teacher, "n_classes": k,
            "lower": np.nan, "upper": np.nan, "outside": None,
            "teacher_min": low, "teacher_max": high, "below_chance": g < 1 / k,
        }  # fmt: skip
        if 0 <= teacher <= 1:
            lower, upper = agreement_bounds(student, teacher, k)
            row |= {
                "lower": lower,
                "upper": upper,
                "outside": not lower - ROUNDING <= g <= upper + ROUNDING,
            }
        rows[index] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def _classes(frame: pd.DataFrame, index: Any) -> int | None:
    """Classes of a row's task: as its record says, else those of the known task."""
    names = frame.at[index, "label_names"] if "label_names" in frame else None
    if isinstance(names, tuple) and names:
        several = "task_kind" in frame and frame.at[index, "task_kind"] == MULTILABEL.name
        return 2 ** min(len(names), 30) if several else len(names)
    task = TASKS.get(str(frame.at[index, "task"])) if "task" in frame else None  # imported results
    return len(task.label_names) or None if task is not None else None
