"""What is done of what was planned: the table of models by tasks, of report and terminal."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from operator import add

import pandas as pd

from kdlora.evidence.coverage import CellCounts, counts_by_cell, size_of_full_grid
from kdlora.records.tidy import names
from kdlora.report import words as w
from kdlora.report.content.cells import Lead
from kdlora.report.document import Cell, Column, Table

PLANNED = "Runs done of runs planned"


def is_own(frame: pd.DataFrame) -> bool:
    """Whether runs were planned here, not imported: kdlora's records tell of their machine."""
    done = frame[frame["status"] == "done"]
    return done.empty or any(bool(found) for found in done["environment"])


def coverage(frame: pd.DataFrame) -> Table:
    """Done of planned cells, model by task, with what is failed, missing, flagged or unscored; of
    an import, which knows no plan, how many runs there are."""
    own = is_own(frame)
    lead, tasks = Lead(frame, task=False), names(frame, "task")
    counted, nothing = counts_by_cell(frame), CellCounts()
    rows = []
    for pair in names(frame, "pair"):
        for arm in names(frame, "arm", pair=pair):
            found = [counted.get((pair, arm, task), nothing) for task in tasks]
            if len(tasks) > 1:
                found.append(_together(found))
            rows.append((*lead.cells(pair, "", arm), *(_covered(n, own) for n in found)))
    total = (*(Cell("") for _ in lead.columns[1:]),)
    if len(rows) > 1:
        sums = [_together(n for (*_, name), n in counted.items() if name == task) for task in tasks]
        if len(tasks) > 1:
            sums.append(_together(sums))
        rows.append((Cell("All"), *total, *(_covered(n, own) for n in sums)))
        if (grid := size_of_full_grid(frame)) > len(frame):
            each = [w.count(grid // len(tasks)) for _ in tasks]
            whole = [w.count(grid)] if len(tasks) > 1 else []
            rows.append((Cell("A full grid would have"), *total, *each, *whole))
    columns = [Column(task, task) for task in tasks]
    if len(tasks) > 1:
        columns.append(Column("all", "All tasks"))
    return Table(
        "coverage",
        PLANNED if own else "Runs by model and task",
        (*lead.columns, *columns),
        tuple(rows),
        heads=len(lead.columns),
        folded=bool((frame["status"] == "done").all() and not frame["flagged"].any()),
    )


def _together(counts: Iterable[CellCounts]) -> CellCounts:
    return reduce(add, counts, CellCounts())


def _covered(counts: CellCounts, own: bool) -> Cell:
    planned, done = counts.planned, counts.done
    if not planned:
        return Cell(w.NONE)
    kinds = ("failed", "missing", "stopped", "flagged", "unscored")
    rest = {name: getattr(counts, name) for name in kinds}
    sub = ", ".join(f"{n} {what}" for what, n in rest.items() if n)
    text = f"{done} of {planned}" if own or done < planned else str(done)
    return Cell(text, done / planned, sub,
                extra={"done": done, "planned": planned, **rest})  # fmt: skip
