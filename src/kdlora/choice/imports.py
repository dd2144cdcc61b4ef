"""Imported results as candidates: what was trained elsewhere is chosen by what is known of it.

There is no selection split where none was imported, nothing can be exported here, and sizes and
latencies are known only where the source states them.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from kdlora.evidence.scores import numbers
from kdlora.records.tidy import StudyFrame

REPORTED = (
    "these results know no selection split: the reported scores choose, which flatters what comes "
    "out first"
)
ELSEWHERE = (
    "trained elsewhere: nothing is exported here, and what the source does not state is unknown"
)


def imported_candidates(frame: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The frame with a score that chooses and an encoder for every run; and what to say of it."""
    table = StudyFrame.of(frame).table.copy()
    notes = [ELSEWHERE]
    if not np.isfinite(numbers(table["selection_score"])).any():
        table["selection_score"] = table["score"]
        notes.insert(0, REPORTED)
    unnamed = [f"{role}'s encoder of {pair}" for role, pair in
               zip(table["role"], table["pair"], strict=True)]  # fmt: skip
    table["encoder"] = table["encoder"].where(table["encoder"].notna(), pd.Series(unnamed))
    return table, tuple(notes)
