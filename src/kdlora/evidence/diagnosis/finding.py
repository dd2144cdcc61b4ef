"""What a diagnosis finds, and how runs are grouped to find it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from kdlora.evidence.result import Result
from kdlora.records.record import NOT_DONE
from kdlora.records.tidy import numeric
from kdlora.vocabulary.arm import Arm

Severity = Literal["error", "warning", "info"]
ORDER: dict[str, int] = {"error": 0, "warning": 1, "info": 2}
# An arm has its label, which stands for settings; the last two say how many tokens a text has.
CONFIG = (
    "encoder", "task", "arm", "role", "distillation", "adaptation", "max_length", "windows",
)  # fmt: skip


@dataclass(frozen=True)
class DiagnosisFinding(Result):
    """Something that a reader must know before believing the study.

    error: these numbers do not measure what they are said to measure. warning: they do, and yet a
    comparison that uses them misleads. info: worth knowing. `rows` are run ids, `n` is their
    number; `evidence` holds the numbers behind the sentence.
    """

    name: str
    severity: Severity
    sentence: str
    rows: tuple[str, ...] = ()
    evidence: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def n(self) -> int:
        return len(self.rows)


def runs(frame: pd.DataFrame, mask: Any) -> tuple[str, ...]:
    """Run ids of the rows chosen by a boolean mask, in their order."""
    chosen = frame[np.asarray(mask, dtype=bool)]
    if "run_id" in chosen:
        return tuple(dict.fromkeys(chosen["run_id"].astype(str)))
    return tuple(f"row {i}" for i in chosen.index)


def strategy(frame: pd.DataFrame) -> pd.Series:
    """`teacher/fft`, `teacher/peft`, `student/kd-peft`, ...: arms with the PEFT variants joined."""
    axes = frame.reindex(columns=["role", "adaptation", "distillation"]).astype(object)
    found = []
    for row in axes.fillna("?").to_numpy():
        arm = Arm(*map(str, row))
        joined = arm.has_adapter and arm.adaptation != "?"
        found.append(str(arm.with_adaptation("peft") if joined else arm))
    return pd.Series(found, frame.index, dtype=object)


def is_done(frame: pd.DataFrame) -> pd.Series:
    if "status" not in frame:
        return pd.Series(True, index=frame.index)
    return ~frame["status"].isin(NOT_DONE)


def has(frame: pd.DataFrame, *columns: str) -> bool:
    """Whether every column exists and holds something."""
    return all(c in frame and frame[c].notna().any() for c in columns)


def config_columns(frame: pd.DataFrame) -> list[str]:
    """What makes runs repeats of one another, apart from the seed."""
    return [c for c in CONFIG if c in frame and frame[c].notna().any()]


def counts(values: pd.Series) -> dict[str, int]:
    """Value -> number, most frequent first, as plain types."""
    return {str(k): int(v) for k, v in values.value_counts().items()}


def listed(items: Iterable[Any], limit: int = 4) -> str:
    """The first few of some names, with the number of the others."""
    names = [str(item) for item in items]
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")


__all__ = [
    "ORDER",
    "DiagnosisFinding",
    "Severity",
    "config_columns",
    "counts",
    "has",
    "is_done",
    "listed",
    "numeric",
    "runs",
    "strategy",
]
