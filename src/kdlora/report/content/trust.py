"""The tables by which a reader judges a study: what is done, what is doubtful, what differs."""

from __future__ import annotations

import math
from collections import Counter

import pandas as pd

from kdlora.evidence.gains import Facts
from kdlora.evidence.outcomes import averaged_tasks, shared_blocks
from kdlora.records.tidy import groups, metric_of, names, rows_of, severities
from kdlora.report import words as w
from kdlora.report.content.tables import MODEL, TASK, Lead
from kdlora.report.document import Cell, Column, Table

RUN = Column("run_id", "Run", numeric=False)


def coverage(frame: pd.DataFrame) -> Table:
    """Done of planned cells, model by task, with what is failed, missing, flagged or unscored."""
    lead, tasks = Lead(frame, task=False), names(frame, "task")
    counted = {key: _counts(cells) for key, cells in groups(frame, "pair", "arm", "task")}
    nothing = Counter[str]()
    rows = []
    for pair in names(frame, "pair"):
        for arm in names(frame, "arm", pair=pair):
            found = [counted.get((pair, arm, task), nothing) for task in tasks]
            if len(tasks) > 1:
                found.append(sum(found, nothing))
            rows.append((*lead.cells(pair, "", arm), *map(_covered, found)))
    total = (*(Cell("") for _ in lead.columns[1:]),)
    if len(rows) > 1:
        sums = [
            sum((n for (_, _, name), n in counted.items() if name == task), nothing)
            for task in tasks
        ]
        if len(tasks) > 1:
            sums.append(sum(sums, nothing))
        rows.append((Cell("All"), *total, *map(_covered, sums)))
        if (grid := full_grid(frame)) > len(frame):
            each = [w.count(grid // len(tasks)) for _ in tasks]
            whole = [w.count(grid)] if len(tasks) > 1 else []
            rows.append((Cell("A full grid would have"), *total, *each, *whole))
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


def full_grid(frame: pd.DataFrame) -> int:
    """Runs that every seeded model on every pair, task and seed of the frame would make, and the
    seedless ones as they are."""
    free = frame["any_seed"]
    if free.any():
        return len(frame)  # a plan has all its cells
    sizes = [frame.loc[~free, column].nunique() for column in ("arm", "pair", "task", "seed")]
    return math.prod(sizes)


def _counts(cells: pd.DataFrame) -> Counter[str]:
    done = cells["status"] == "done"
    failed = cells["status"] == "failed"
    stopped = cells["status"] == "stopped"
    return Counter(
        {
            "planned": len(cells),
            "done": int(done.sum()),
            "failed": int(failed.sum()),
            "missing": int((~done & ~failed & ~stopped).sum()),
            "stopped": int(stopped.sum()),
            "flagged": int(cells.loc[done, "flagged"].sum()),
            "unscored": int(cells.loc[done, "score"].isna().sum()),
        }
    )


def _covered(counts: Counter[str]) -> Cell:
    planned, done = counts["planned"], counts["done"]
    if not planned:
        return Cell(w.NONE)
    kinds = ("failed", "missing", "stopped", "flagged", "unscored")
    rest = {name: counts[name] for name in kinds}
    sub = ", ".join(f"{n} {what}" for what, n in rest.items() if n)
    return Cell(f"{done} of {planned}", done / planned, sub,
                extra={"done": done, "planned": planned, **rest})  # fmt: skip


def shared(facts: Facts) -> Table | None:
    """Which blocks the averages and shares are over; None where that is simply all of them."""
    frame = facts.frame
    tasks, averaged = names(frame, "task"), averaged_tasks(frame)
    lead, rows, whole = Lead(frame, task=False, model=False), [], len(tasks) == 1
    for pair in names(frame, "pair"):
        blocks = shared_blocks(facts.cells, pair, averaged)
        for task in tasks:
            here = frame[(frame["pair"] == pair) & (frame["task"] == task)]
            seeds = sorted({int(s) for s in here.loc[~here["any_seed"], "seed"]})
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
    """Cells that are planned and have no result: the error of those that failed, and which early
    decision ended those that were stopped."""
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
        Column("error", "Why", numeric=False),
    )
    return Table("unfinished", "Runs without a result", columns, rows)
