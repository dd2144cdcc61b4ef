"""What a look at the data found before anything was trained."""

from __future__ import annotations

from collections.abc import Sequence

from kdlora.records.data_look import DataFinding, DataLook
from kdlora.report import words as w
from kdlora.report.content.cells import TASK
from kdlora.report.document import Cell, Column, Finding, Table


def doubts_about_data(looks: Sequence[DataLook]) -> Finding | None:
    """What is doubtful, in full; where nothing is, that the data were looked at."""
    if not looks:
        return None
    doubtful = [(look, found) for look in looks for found in look.of("error", "warning")]
    if not doubtful:
        text = "A look at the rows before the training found nothing to doubt."
        return Finding("The data", text, ("data_findings",))
    several = len(looks) > 1
    said = " ".join(_told(found, f"{look.task}: " * several) for look, found in doubtful)
    return Finding("The data", said, ("data_findings",))


def first_doubt(looks: Sequence[DataLook]) -> Finding | None:
    """The first thing that is doubtful in the data, and how many more there are."""
    doubtful = [(look, found) for look in looks for found in look.of("error", "warning")]
    if not doubtful:
        return None
    (look, found), more = doubtful[0], len(doubtful) - 1
    text = f"In the data: {_told(found, f'{look.task}: ' * (len(looks) > 1))}"
    text += f" And {w.plural(more, 'more finding')} there." if more else ""
    return Finding("The data", text, ("data_findings",))


def _told(found: DataFinding, prefix: str) -> str:
    return prefix + found.told if prefix else w.sentence_case(found.told)


def data_findings(looks: Sequence[DataLook]) -> Table | None:
    """Everything that was found in the data of every task."""
    rows = tuple(
        (Cell(look.task), Cell(found.severity), Cell(found.name.replace("_", " ")),
         Cell(found.told))
        for look in looks
        for found in look.findings
    )  # fmt: skip
    if not rows:
        return None
    columns = (
        TASK,
        Column("severity", "Severity", numeric=False),
        Column("check", "Check", numeric=False),
        Column("found", "What was found", numeric=False),
    )
    return Table(
        "data_findings",
        "What is in the data",
        columns,
        rows,
        "Found before anything was trained, in the rows as they are split; `kdlora look` says the "
        "same of a file.",
        folded=not any(look.of("error", "warning") for look in looks),
    )
