"""Where a text may have several labels: how well each of them is found, by itself."""

from __future__ import annotations

import pandas as pd

from kdlora.evidence.predictions import label_results
from kdlora.report import words as w
from kdlora.report.content.cells import Lead, percent
from kdlora.report.document import Cell, Column, Table


def per_label(frame: pd.DataFrame) -> Table | None:
    """Every label of every model: how it ranks the texts, and what was answered and what is true.

    None where every row has exactly one class, or a number.
    """
    found = label_results(frame)
    if not found:
        return None
    lead, rows = Lead(frame), []
    for place, labels in found.items():
        for label, one in labels.items():
            shares = (one.average_precision, one.precision, one.recall, one.f1)
            counts = (
                one.true_positive, one.false_positive, one.false_negative, one.true_negative
            )  # fmt: skip
            rows.append((
                *lead.cells(*place), Cell(label), *map(percent, shares), *map(w.count, counts),
                percent(one.agreement), _kappa(one.kappa),
            ))  # fmt: skip
    columns = (
        Column("label", "Label", numeric=False),
        Column("average_precision", "Average precision"),
        Column("precision", "Precision"),
        Column("recall", "Recall"),
        Column("f1", "F1"),
        Column("true_positive", "Found"),
        Column("false_positive", "Said wrongly"),
        Column("false_negative", "Missed"),
        Column("true_negative", "Rightly not said"),
        Column("agreement", "Agreement with the teacher"),
        Column("kappa", "Cohen's kappa"),
    )
    return Table(
        "per_label",
        "Each label by itself",
        (*lead.columns, *columns),
        tuple(rows),
        "Report rows, all seeds together, in points but for the counts and kappa. Average "
        "precision needs no threshold; it, agreement and kappa are means over seeds. A label is "
        "answered where its probability is above one half.",
        heads=len(lead.columns) + 1,
    )


def _kappa(value: float | None) -> Cell:
    return Cell(w.NONE) if value is None else Cell(w.fixed(value, 3), value)
