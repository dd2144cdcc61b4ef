"""What a report split of a few rows can tell, and what cross-validation tells instead, in words."""

from __future__ import annotations

import pandas as pd

from kdlora.evidence.few_rows import CrossValidated
from kdlora.evidence.few_rows import few_rows as find
from kdlora.report import words as w
from kdlora.report.document import Finding


def few_rows(frame: pd.DataFrame) -> list[Finding]:
    """For every task that is reported on few rows: how many, and what all its rows say."""
    told = told_few_rows(frame)
    return [Finding("Few rows", " ".join(told))] if told else []


def told_few_rows(frame: pd.DataFrame) -> list[str]:
    """A sentence for every task that is reported on few rows, and one for its cross-validation."""
    said = []
    several = len(dict.fromkeys(frame["task"])) > 1 if "task" in frame else False
    for one in find(frame):
        where = f"{one.task}: " if several else ""
        said.append(
            f"{where}All scores are of {w.plural(one.rows, 'report row')}, where one answer is "
            f"{w.fixed(one.answer, 0)} points: no two models are told apart by them."
        )
        said += [f"{where}{_told(folded)}" for folded in one.folded]
    return said


def _told(one: CrossValidated) -> str:
    low, high = (w.fixed(100 * value, 1) for value in (one.low, one.high))
    return (
        f"By {one.folds}-fold cross-validation of {one.rows} rows {w.phrase(one.arm)} is right on "
        f"{w.fixed(100 * one.right, 1)} % (95 % interval {low} to {high} %)."
    )
