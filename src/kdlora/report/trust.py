"""The tables by which a reader judges a study: what is done, what is doubtful, what differs."""

from __future__ import annotations

from collections import Counter

import pandas as pd

from kdlora.report import words as w
from kdlora.report.aggregate import averaged_tasks, shared_blocks
from kdlora.report.gains import Facts
from kdlora.report.parts import Cell, Column, Table
from kdlora.report.tables import MODEL, TASK, Lead
from kdlora.report.tidy import SEEDLESS, metric_of, names, rows_of, severities

RUN = Column("run_id", "Run", numeric=False)


def coverage(frame: pd.DataFrame) -> Table:
    """Done of planned cells, model by task, with what is failed, missing, flagged or unscored."""
    lead, tasks = Lead(frame, task=False), names(frame, "task")
    rows = []
    for pair in names(frame, "pair"):
        here = frame[frame["pair"] == pair]
        for arm in names(here, "arm"):
            cells = here[here["arm"] == arm]
            parts = [_covered(cells[cells["task"] == task]) for task in tasks]
            if len(tasks) > 1:
                parts.append(_covered(cells))
            rows.append((*lead.cells(pair, "", arm), *parts))
    total = (*(Cell("") for _ in lead.columns[1:]),)
    if len(rows) > 1:
        sums = [_covered(frame[frame["task"] == task]) for task in tasks]
        if len(tasks) > 1:
            sums.append(_covered(frame))
        rows.append((Cell("All"), *total, *sums))
    columns = [Column(task, task) for task in tasks]
    if len(tasks) > 1:
        columns.append(Column("all", "All tasks"))
    return Table(
        "coverage",
        "Runs done of runs planned",
        (*lead.columns, *columns),
        tuple(rows),
        heads=len(lead.columns),
        folded=bool((frame["status"] == "done").all() and not frame["flagged"].any()),
    )


def _covered(cells: pd.DataFrame) -> Cell:
    if cells.empty:
        return Cell(w.NONE)
    done = cells[cells["status"] == "done"]
    counts = {
        "failed": int((cells["status"] == "failed").sum()),
        "missing": int((~cells["status"].isin(["done", "failed"])).sum()),
        "flagged": int(done["flagged"].sum()),
        "unscored": int(done["score"].isna().sum()),
    }
    sub = ", ".join(f"{n} {what}" for what, n in counts.items() if n)
    return Cell(f"{len(done)} of {len(cells)}", len(done) / len(cells), sub,
                extra={"done": len(done), "planned": len(cells), **counts})  # fmt: skip


def shared(facts: Facts) -> Table | None:
    """Which blocks the averages and shares are over; None where that is simply all of them."""
    frame = facts.frame
    tasks, averaged = names(frame, "task"), averaged_tasks(frame)
    lead, rows, whole = Lead(frame, task=False, model=False), [], len(tasks) == 1
    for pair in names(frame, "pair"):
        blocks = shared_blocks(facts.cells, pair, averaged)
        for task in tasks:
            here = frame[(frame["pair"] == pair) & (frame["task"] == task)]
            seeds = sorted({int(s) for s in here.loc[~here["adaptation"].isin(SEEDLESS), "seed"]})
            within = sorted(seed for name, seed in blocks if name == task)
            left = [seed for seed in seeds if seed not in within]
            whole = whole and not left
            metric, _ = metric_of(frame, task)
            why = (
                ""
                if task in averaged or not metric
                else f"{w.metric_name(metric)} is not averaged with points"
            )
            rows.append((
                *lead.cells(pair, "", ""), Cell(task), w.count(len(within)),
                Cell(", ".join(map(str, within)) or w.NONE),
                Cell(", ".join(map(str, left)) or w.NONE, sub=why),
            ))  # fmt: skip
    if whole:
        return None
    return Table(
        "shared",
        "Blocks that all trained models share",
        (
            *lead.columns,
            TASK,
            Column("blocks", "Seeds used"),
            Column("seeds", "Which", numeric=False),
            Column("left_out", "Left out", numeric=False),
        ),
        tuple(rows),
        "Averages and shares of the teacher's score use these tasks and seeds and no others.",
        heads=len(lead.columns) + 1,
    )


def flags(frame: pd.DataFrame) -> Table | None:
    """Every flag of every run, in full."""
    rows = []
    for row in rows_of(frame.drop_duplicates("run_id")):
        details = tuple(row["flag_details"]) + ("",) * len(row["flags"])
        for name, detail, level in zip(row["flags"], details, severities(row), strict=False):
            rows.append((
                Cell(row["run_id"]), Cell(row["task"]), Cell(w.arm_name(row["arm"]), row["arm"]),
                Cell(str(row["seed"]), row["seed"]), Cell(level), Cell(name), w.word(detail),
            ))  # fmt: skip
    if not rows:
        return None
    order = ("error", "warning", "info")
    rows.sort(key=lambda r: order.index(r[4].text) if r[4].text in order else len(order))
    columns = (
        RUN,
        TASK,
        MODEL,
        Column("seed", "Seed"),
        Column("severity", "Severity", numeric=False),
        Column("flag", "Flag", numeric=False),
        Column("detail", "What was found", numeric=False),
    )
    return Table("flags", "Health flags", columns, tuple(rows))


def flag_counts(frame: pd.DataFrame) -> Table | None:
    """How many runs carry each flag, and how many carry one that is more than information."""
    runs = frame.drop_duplicates("run_id")
    pairs = [
        pair
        for row in rows_of(runs)
        for pair in dict.fromkeys(zip(row["flags"], severities(row), strict=False))
    ]
    if not pairs:
        return None
    rows = [
        (Cell(name), Cell(level), w.count(n)) for (name, level), n in Counter(pairs).most_common()
    ]
    rows.append((Cell("any warning or error"), Cell(w.NONE), w.count(int(runs["flagged"].sum()))))
    columns = (
        Column("flag", "Flag", numeric=False),
        Column("severity", "Severity", numeric=False),
        Column("runs", "Runs"),
    )
    return Table("flag_counts", "Health flags by name", columns, tuple(rows))


def unfinished(frame: pd.DataFrame) -> Table | None:
    """Cells that are planned and have no result, with the error of those that failed."""
    rest = frame[frame["status"] != "done"].drop_duplicates("run_id")
    if rest.empty:
        return None
    rows = tuple(
        (Cell(row["run_id"]), Cell(row["task"]), Cell(w.arm_name(row["arm"]), row["arm"]),
         Cell(str(row["seed"]), row["seed"]), Cell(row["status"]), w.word(row["error"]))
        for row in rows_of(rest)
    )  # fmt: skip
    columns = (
        RUN,
        TASK,
        MODEL,
        Column("seed", "Seed"),
        Column("status", "Status", numeric=False),
        Column("error", "Error", numeric=False),
    )
    return Table("unfinished", "Runs without a result", columns, rows)
