"""The tables of what each model costs."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from kdlora.report import words as w
from kdlora.report.gains import Facts
from kdlora.report.parts import Cell, Column, Table
from kdlora.report.tables import Lead
from kdlora.report.tidy import groups

Show = Callable[[float], Cell]

EFFICIENCY: tuple[tuple[Column, Show], ...] = (
    (Column("trainable_params", "Trained parameters"), w.amount),
    (Column("total_params", "All parameters"), w.amount),
    (Column("size_mb", "Size", "MB"), w.number),
    (Column("train_s", "Training", "s"), w.number),
    (Column("peak_memory_mb", "Peak memory", "MB"), w.number),
    (Column("train_flops", "Training", "TFLOP"), lambda v: w.number(v, per=1e12)),
    (Column("forward_flops", "One text", "GFLOP"), lambda v: w.number(v, per=1e9)),
    (Column("latency_p50_ms", "Latency, median", "ms"), w.number),
    (Column("latency_p95_ms", "Latency, p95", "ms"), w.number),
    (Column("throughput_per_s", "Throughput", "texts/s"), w.number),
    (Column("speedup_latency", "Speed-up", w.TIMES), w.number),
    (Column("energy_j", "Energy, training", "J"), w.number),
)


COST_CAPTION = (
    "Size, FLOPs, latency and throughput are those of the merged model, MB is a million bytes; how "
    "they were measured stands in the next table. A dash: not measured."
)


def _measured(frame: pd.DataFrame) -> list[tuple[Column, Show]]:
    """The columns that anybody could measure."""
    return [(column, show) for column, show in EFFICIENCY if frame[column.key].notna().any()]


def efficiency(facts: Facts) -> Table | None:
    """What every model costs, over the shared blocks, as in the summary."""
    if not facts.outcomes:
        return None
    lead, measured = Lead(facts.frame, task=False), _measured(facts.frame)
    rows = [
        (
            *lead.cells(pair, "", o.arm),
            w.count(o.score.n),
            *(show(o.costs[column.key]) for column, show in measured),
        )
        for pair, found in facts.outcomes.items()
        for o in found
    ]
    return Table(
        "efficiency",
        "What each model costs",
        (*lead.columns, Column("runs", "Runs"), *(column for column, _ in measured)),
        tuple(rows),
        f"Means over the same runs as above. {COST_CAPTION}",
        heads=len(lead.columns),
    )


def efficiency_by_task(facts: Facts) -> Table | None:
    """The same for all done runs of every task, where that is not the same."""
    lead = Lead(facts.frame)
    if facts.outcomes and not lead.task:
        return None
    done = facts.frame[facts.frame["status"] == "done"]
    measured, rows = _measured(done), []
    for (pair, task, arm), cells in groups(done, "pair", "task", "arm"):
        runs = cells.drop_duplicates("run_id")
        values = [show(float(runs[column.key].mean())) for column, show in measured]
        rows.append((*lead.cells(pair, task, arm), w.count(len(runs)), *values))
    return Table(
        "efficiency_by_task",
        "What each model costs, task by task",
        (*lead.columns, Column("runs", "Runs"), *(column for column, _ in measured)),
        tuple(rows),
        f"Means over all done runs. {COST_CAPTION}",
        heads=len(lead.columns),
        folded=bool(facts.outcomes),
    )
