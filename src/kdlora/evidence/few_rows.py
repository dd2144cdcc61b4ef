"""What a report split of a few rows can tell, and what cross-validation tells instead."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from kdlora.evidence.intervals import of_share
from kdlora.evidence.result import Result
from kdlora.records.tidy import groups

FEW = 100  # report rows; one answer is a point, and chance moves an accuracy by ten


@dataclass(frozen=True)
class CrossValidated(Result):
    """A model's answers out of fold to all labelled rows: the share that is right, its interval."""

    arm: str
    folds: int
    rows: int
    right: float
    low: float
    high: float


@dataclass(frozen=True)
class FewRows(Result):
    """A task that is reported on few rows; `answer` is what one of them is worth, in points."""

    task: str
    rows: int
    answer: float
    folded: tuple[CrossValidated, ...]


def few_rows(frame: pd.DataFrame) -> list[FewRows]:
    """The tasks that are reported on fewer than `FEW` rows, with what all their rows say."""
    done = frame[frame["status"] == "done"] if "n_report" in frame else frame.iloc[:0]
    found = []
    for task, cells in groups(done, "task"):
        n = cells["n_report"].dropna()
        if len(n) and n.iloc[0] < FEW:
            rows = int(n.iloc[0])
            found.append(FewRows(str(task), rows, 100 / rows, tuple(_folded(cells))))
    return found


def _folded(cells: pd.DataFrame) -> list[CrossValidated]:
    known = cells[cells["cv_rows"].notna()] if "cv_rows" in cells else cells.iloc[:0]
    found = []
    for arm, own in groups(known, "arm"):
        rows, right, folds = (int(own[f"cv_{name}"].iloc[0]) for name in ("rows", "right", "folds"))
        low, high = of_share(right, rows)
        found.append(CrossValidated(str(arm), folds, rows, right / rows, low, high))
    return found
