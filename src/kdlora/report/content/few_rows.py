"""What a report split of a few rows can tell, and what cross-validation tells instead."""

from __future__ import annotations

import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from kdlora.records.tidy import groups
from kdlora.report import words as w
from kdlora.report.document import Finding

FEW = 100  # report rows; one answer is a point, and chance moves an accuracy by ten


def few_rows(frame: pd.DataFrame) -> list[Finding]:
    """For every task that is reported on few rows: how many, and what all its rows say."""
    told = told_few_rows(frame)
    return [Finding("Few rows", " ".join(told))] if told else []


def told_few_rows(frame: pd.DataFrame) -> list[str]:
    """A sentence for every task that is reported on few rows, and one for its cross-validation."""
    said = []
    done = frame[frame["status"] == "done"] if "n_report" in frame else frame.iloc[:0]
    several = done["task"].nunique() > 1
    for task, cells in groups(done, "task"):
        n = cells["n_report"].dropna()
        if n.empty or n.iloc[0] >= FEW:
            continue
        rows = int(n.iloc[0])
        where = f"{task}: " if several else ""
        said.append(
            f"{where}All scores are of {w.plural(rows, 'report row')}, where one answer is "
            f"{w.fixed(100 / rows, 0)} points: no two models are told apart by them."
        )
        said += [f"{where}{text}" for text in _cross_validated(cells)]
    return said


def _cross_validated(cells: pd.DataFrame) -> list[str]:
    if "cv_rows" not in cells:
        return []
    found = []
    for arm, own in groups(cells[cells["cv_rows"].notna()], "arm"):
        rows, right, folds = (int(own[f"cv_{name}"].iloc[0]) for name in ("rows", "right", "folds"))
        low, high = proportion_confint(right, rows, method="wilson")
        found.append(
            f"By {folds}-fold cross-validation of {rows} rows {w.phrase(arm)} is right on "
            f"{w.fixed(100 * right / rows, 1)} % (95 % interval {w.fixed(100 * float(low), 1)} to "
            f"{w.fixed(100 * float(high), 1)} %)."
        )
    return found
