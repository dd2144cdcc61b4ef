"""The Python API; the command line is a thin layer above it."""

from __future__ import annotations

from kdlora.api.evidence import Diagnosis, compare, compare_arms, doctor, recommend, reproduce
from kdlora.api.studies import (
    as_study,
    check,
    distil,
    look,
    mistakes,
    plan,
    predict,
    run,
    watch_report,
    write_report,
)
from kdlora.ship.study_result import StudyResult

__all__ = [
    "Diagnosis",
    "StudyResult",
    "as_study",
    "check",
    "compare",
    "compare_arms",
    "distil",
    "doctor",
    "look",
    "mistakes",
    "plan",
    "predict",
    "recommend",
    "reproduce",
    "run",
    "watch_report",
    "write_report",
]
