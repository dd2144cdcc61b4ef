"""Scores that cannot be, that say nothing, or that are copies of others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from kdlora.evidence.diagnosis.finding import (
    DiagnosisFinding,
    Severity,
    counts,
    has,
    is_done,
    listed,
    runs,
    strategy,
)
from kdlora.evidence.diagnosis.public_facts import CLASS_COUNTS
from kdlora.evidence.teacher import named_teachers
from kdlora.records.plausible import impossible_values
from kdlora.records.tidy import numeric
from kdlora.vocabulary.metric import metric as facts_of

NEAR_ZERO = 0.3  # a correlation below explains less than a tenth of the variance
EXACT = 1e-6
UNINFORMATIVE = 0.5  # share of degenerate runs from which a task tells methods apart by luck


def impossible(frame: pd.DataFrame) -> Iterator[DiagnosisFinding]:
    """Values beyond what their metric or quantity can be."""
    done = frame[is_done(frame)]
    for problem in impossible_values(done):
        rows = np.zeros(len(done), dtype=bool)
        rows[list(problem.rows)] = True
        yield DiagnosisFinding(
            "impossible_value",
            "error",
            f"{problem.column}: {problem.sentence}, in {len(problem.rows)} of {len(done)} runs.",
            runs(done, rows),
            {"column": problem.column},
        )


def health_flags(frame: pd.DataFrame) -> Iterator[DiagnosisFinding]:
    """The flags that the runs carry themselves, gathered by name."""
    if "flags" not in frame:
        return
    found: dict[str, list[int]] = {}
    severity: dict[str, str] = {}
    details: dict[str, str] = {}
    severities = frame.get("flag_severities", pd.Series([()] * len(frame)))
    sentences = frame.get("flag_details", pd.Series([()] * len(frame)))
    for row, (names, levels, texts) in enumerate(
        zip(frame["flags"], severities, sentences, strict=True)
    ):
        for k, name in enumerate(names if isinstance(names, tuple | list) else ()):
            if str(name).startswith("impossible:"):
                continue  # reported as impossible values
            found.setdefault(name, []).append(row)
            if isinstance(levels, tuple | list) and k < len(levels):
                severity.setdefault(name, levels[k])
            if isinstance(texts, tuple | list) and k < len(texts):
                details.setdefault(name, texts[k])
    for name, rows in found.items():
        mask = np.zeros(len(frame), dtype=bool)
        mask[rows] = True
        example = f" First: {details[name]}." if name in details else ""
        carry = f"{len(rows)} runs carry" if len(rows) > 1 else "1 run carries"
        yield DiagnosisFinding(
            f"flag:{name}",
            severity.get(name, "warning"),  # type: ignore[arg-type]
            f"{carry} the flag {name}.{example}",
            runs(frame, mask),
            {"by_arm": counts(frame.loc[mask, "arm"]) if "arm" in frame else {}},
        )


def degenerate_kinds(frame: pd.DataFrame) -> pd.Series:
    """Why a run's score is that of a model which ignores its input; None where it is not.

    - "zero matthews": a Matthews correlation of 0 (constant predictions)
    - "one class": an accuracy equal to a class's share (known split, or the study's own majority
      baseline), or an F1 of 0 (the positive class never found)
    - "near-zero correlation": |r| < 0.3, or no r at all because the predictions are constant
    """
    kinds = pd.Series(None, index=frame.index, dtype=object)
    if not has(frame, "metric", "task"):
        return kinds
    score, metric = numeric(frame, "score"), frame["metric"].astype(str)
    baseline = frame["role"].eq("baseline") if "role" in frame else pd.Series(False, frame.index)
    candidate = is_done(frame) & ~baseline

    matthews = score.where(metric == "matthews", numeric(frame, "report.matthews"))
    kinds[candidate & (matthews.abs() < EXACT)] = "zero matthews"
    accuracy = score.where(metric == "accuracy", numeric(frame, "report.accuracy"))
    kinds[candidate & _one_class(frame, accuracy, baseline)] = "one class"
    regression = metric.map(lambda name: facts_of(name).is_correlation).astype(bool)
    stated = score.notna() if "score" in frame else pd.Series(False, frame.index)
    kinds[candidate & regression & stated & (score.abs() < NEAR_ZERO)] = "near-zero correlation"
    return kinds


def _one_class(frame: pd.DataFrame, accuracy: pd.Series, baseline: pd.Series) -> pd.Series:
    tolerance = _resolution(accuracy)
    found = pd.Series(False, index=frame.index)
    rows_scored = _rows_scored(frame)
    task: Any
    for task, rows in frame.groupby(frame["task"].astype(str)).groups.items():
        mine = accuracy.loc[rows]
        hit = pd.Series(False, index=rows)
        classes = CLASS_COUNTS.get(str(task))
        if classes:
            n = sum(classes)
            # the shares hold for the official split only
            official = ~(rows_scored.loc[rows] - n).abs().gt(max(1.0, 0.005 * n))
            for count in classes:
                hit |= official & ((mine - count / n).abs() <= tolerance)
        floor = accuracy[baseline & frame["task"].eq(task) & frame["adaptation"].eq("majority")]
        if len(floor) and np.isfinite(floor.iloc[0]):
            hit |= (mine - floor.iloc[0]).abs() <= EXACT
        found.loc[rows] = hit
    f1 = numeric(frame, "report.f1")
    return found | ((f1.abs() < EXACT) & (accuracy > 0))


def _resolution(scores: pd.Series) -> float:
    """Half the last digit of printed tables, next to nothing for measured values."""
    thousandths = scores.dropna() * 1000
    printed = len(thousandths) > 0 and (thousandths - thousandths.round()).abs().max() < EXACT
    return 5.01e-4 if printed else EXACT


def _rows_scored(frame: pd.DataFrame) -> pd.Series:
    """Rows of the report split: recorded, or evaluation time times evaluation speed."""
    timed = numeric(frame, "eval_s") * numeric(frame, "eval_examples_per_s")
    return numeric(frame, "n_report").where(lambda n: n.notna(), timed)


def degenerate(frame: pd.DataFrame) -> Iterator[DiagnosisFinding]:
    """Runs whose score is a constant model's, their consequences, and tasks that only give such."""
    kinds = degenerate_kinds(frame)
    mask = kinds.notna()
    if not mask.any():
        return
    done = is_done(frame)
    bad = frame[mask].assign(strategy=strategy(frame[mask]))
    by_task = bad["task"].astype(str).value_counts()
    yield DiagnosisFinding(
        "degenerate_runs",
        "error",
        f"{int(mask.sum())} of {int(done.sum())} runs score what a model that ignores the text "
        f"scores ({listed((f'{t} {n}' for t, n in by_task.items()), 9)}). They stay in the "
        "tables; means that include them are means of failures and successes.",
        runs(frame, mask),
        {
            "by_kind": counts(kinds.dropna()),
            "by_task": counts(bad["task"]),
            "by_strategy": counts(bad["strategy"]),
            "by_adaptation": counts(bad["adaptation"]),
        },
    )
    totals = frame.loc[done, "task"].astype(str).value_counts()
    scored = _rows_scored(frame)
    task: Any
    for task, n_bad in by_task.items():
        total = int(totals[task])
        if total < 6 or n_bad < UNINFORMATIVE * total:
            continue
        n = scored[frame["task"].eq(task)].median()
        p = numeric(frame, "score")[frame["task"].eq(task) & done].median()
        error = 100 * float(np.sqrt(max(p * (1 - p), 0) / n)) if n > 0 and p <= 1 else None
        size = f" It has {n:.0f} rows: one score is ±{error:.1f} points." if error else ""
        yield DiagnosisFinding(
            "uninformative_task",
            "warning",
            f"{task}: {n_bad} of {total} runs are degenerate.{size} It tells methods apart by "
            "luck; state results without it.",
            runs(frame, mask & frame["task"].eq(task)),
            {"task": str(task), "rows": None if np.isnan(n) else round(float(n)), "se_pp": error},
        )
    if has(frame, "teacher_run_id", "run_id"):
        poor: set[Any] = set(frame.loc[mask, "run_id"])
        taught = done & np.array([not poor.isdisjoint(ids) for ids in named_teachers(frame)], bool)
        if taught.any():
            yield DiagnosisFinding(
                "degenerate_teacher",
                "error",
                f"{int(taught.sum())} students learnt from a teacher whose own score is "
                "degenerate.",
                runs(frame, taught),
                {"by_task": counts(frame.loc[taught, "task"])},
            )


def copies(frame: pd.DataFrame) -> Iterator[DiagnosisFinding]:
    """The same score where different seeds or different methods should give different ones."""
    if not has(frame, "score", "arm", "task", "seed"):
        return
    fair = frame[is_done(frame) & degenerate_kinds(frame).isna() & numeric(frame, "score").notna()]
    if "role" in fair:
        fair = fair[fair["role"].ne("baseline") & fair["adaptation"].ne("given")]
    place = [c for c in ("pair", "task") if has(fair, c)]
    # an accuracy repeats by chance; together with its loss or another split's it does not
    same = ["score", *(c for c in ("final_loss", "selection_score") if has(fair, c))]
    # a shared teacher stands in several cells: it is one run
    unique = fair.drop_duplicates("run_id") if "run_id" in fair else fair
    seeds = unique.groupby(["arm", *place, *same], dropna=False)["seed"].transform("nunique")
    if (seeds > 1).any():
        repeated = unique[seeds > 1]
        # two of some seeds may agree by chance where the score alone is known, hardly three or more
        all_seeds = unique.groupby(["arm", *place])["seed"].transform("nunique")
        alone = same == ["score"] and not ((seeds > 2) & (seeds == all_seeds)).any()
        sure: Severity = "error" if has(repeated, "final_loss") else "warning"
        yield DiagnosisFinding(
            "identical_across_seeds",
            "info" if alone else sure,
            f"{len(repeated)} runs of different seeds have the same "
            f"{' and '.join(s.replace('_', ' ') for s in same)}: the seed changed nothing, "
            + ("scores of few texts are equal by chance, " if alone else "")
            + f"or one result was copied ({listed(repeated['arm'].unique())}).",
            runs(unique, seeds > 1),
            {"columns": same},
        )
    cells = unique.pivot_table(
        index=[*place, "seed"], columns="arm", values="score", aggfunc="first"
    )
    arms, values = list(cells.columns), cells.to_numpy(float)
    for i, a in enumerate(arms):
        for j, b in enumerate(arms[i + 1 :], i + 1):
            both = values[~np.isnan(values[:, [i, j]]).any(axis=1)]
            equal = int((both[:, i] == both[:, j]).sum())
            if len(both) >= 3 and equal >= 0.9 * len(both):
                yield DiagnosisFinding(
                    "identical_arms",
                    "error",
                    f"{a} and {b} have the same score in {equal} of {len(both)} shared cells: "
                    "what tells them apart was not in effect.",
                    runs(unique, unique["arm"].isin((a, b))),
                    {"equal": equal, "cells": len(both)},
                )
