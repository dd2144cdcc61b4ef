"""What every model reached: a row of scores and costs, of the report's summary and the terminal."""

from __future__ import annotations

from kdlora.evidence.gains import Facts
from kdlora.evidence.outcomes import SUMMARY_COSTS, Outcome, outcomes
from kdlora.records.tidy import metric_of, names
from kdlora.report import words as w
from kdlora.report.content.cells import (
    POINTS_NOTE,
    Lead,
    cost_cell,
    dagger_notes,
    percent,
    score_cell,
)
from kdlora.report.document import Cell, Column, Table
from kdlora.vocabulary.quantity import quantity

OUTCOME_COLUMNS = (
    Column("runs", "Runs"),
    Column("retained", "Of teacher's score", "%"),
    Column("above_floor", "Of its gain over majority", "%"),
    *map(w.head, map(quantity, SUMMARY_COSTS)),
)


def outcome_cells(outcome: Outcome, metric: str) -> tuple[Cell, ...]:
    """The score and then the cells of OUTCOME_COLUMNS."""
    return (
        score_cell(outcome.score, metric, with_n=False),
        w.count(outcome.score.n),
        percent(outcome.retained),
        percent(outcome.above_floor),
        *(cost_cell(quantity(column), outcome) for column in SUMMARY_COSTS),
    )


def results(facts: Facts) -> Table:
    """Every task and model with all its runs, done or not: what the terminal shows."""
    frame = facts.frame
    lead = Lead(frame)
    rows = []
    for pair in names(frame, "pair"):
        for task in names(frame, "task"):
            metric, _ = metric_of(frame, task)
            cells = frame[(frame["pair"] == pair) & (frame["task"] == task)]
            blocks = [(task, int(seed)) for seed in names(cells, "seed")]
            found = {o.arm: o for o in outcomes(frame, facts.cells, pair, blocks)}
            for arm in names(cells, "arm"):
                if arm in found:
                    values = outcome_cells(found[arm], metric)
                else:
                    values = tuple(Cell(w.NONE) for _ in range(len(OUTCOME_COLUMNS) + 1))
                rows.append((*lead.cells(pair, task, arm), *values))
    return Table(
        "results",
        "Results",
        (*lead.columns, Column("score", "Score"), *OUTCOME_COLUMNS),
        tuple(rows),
        notes=dagger_notes(rows, POINTS_NOTE),
        heads=len(lead.columns),
    )
