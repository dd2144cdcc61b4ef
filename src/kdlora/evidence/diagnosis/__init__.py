"""What only a whole study shows: every check over one tidy frame, each finding with its numbers.

    for finding in diagnose(frame):
        print(finding.severity, finding.sentence)

A check needs columns and says nothing where they are missing; it never changes or drops a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pandas as pd

from kdlora.evidence.diagnosis import costs as cost
from kdlora.evidence.diagnosis import fidelity, scores, selection, setup
from kdlora.evidence.diagnosis.finding import ORDER, DiagnosisFinding, Severity, strategy
from kdlora.evidence.diagnosis.scores import degenerate_kinds
from kdlora.evidence.diagnosis.selection import epochs_table
from kdlora.records.tidy import StudyFrame

Check = Callable[[pd.DataFrame], Iterator[DiagnosisFinding]]

# Of runs: a run that several cells share (a teacher of two pairs) counts once.
CHECKS: tuple[Check, ...] = (
    scores.impossible,
    scores.degenerate,
    selection.choice,
    selection.reload,
    selection.on_report_split,
    setup.batches,
    setup.lengths,
    setup.settings,
    setup.controls,
    cost.throughput,
    fidelity.agreement,
    scores.health_flags,
)
# Of cells: arms are held against each other within every pair.
CELL_CHECKS: tuple[Check, ...] = (scores.copies, cost.parameters)


def diagnose(frame: StudyFrame | pd.DataFrame) -> tuple[DiagnosisFinding, ...]:
    """All findings, errors first, in the order of the checks. An empty frame has none."""
    if not isinstance(frame, StudyFrame) and frame.empty:
        return ()
    study = StudyFrame.of(frame)
    told = ("run_id", "role", "adaptation", "distillation", "status")  # by the rest of a row
    cells = study.table.drop(columns=[c for c in study.assumed if c not in told])
    single = cells.drop_duplicates("run_id")
    found = [finding for check in CHECKS for finding in check(single)]
    found += [finding for check in CELL_CHECKS for finding in check(cells)]
    return tuple(sorted(found, key=lambda f: ORDER[f.severity]))


__all__ = [
    "CELL_CHECKS",
    "CHECKS",
    "DiagnosisFinding",
    "Severity",
    "degenerate_kinds",
    "diagnose",
    "epochs_table",
    "strategy",
]
