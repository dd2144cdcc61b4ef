"""The tables of quality, efficiency and what each step costs; `trust` has those of evidence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from kdlora.evidence.best import Mark
from kdlora.evidence.gains import Facts
from kdlora.evidence.outcomes import (
    Outcome,
    Spread,
    averaged_tasks,
    outcome_metric,
    outcomes,
)
from kdlora.evidence.study import SUMMARY_COSTS
from kdlora.records.tidy import metric_of, names, scored, seeds_of
from kdlora.report import words as w
from kdlora.report.document import TIE, Cell, Column, Table
from kdlora.vocabulary.quantity import quantity

POINTS_NOTE = (
    "Accuracy, F1, Matthews and other correlations are shown times 100, in points; any other "
    "metric in its own unit."
)
ARROW_NOTE = "An arrow says which way is better."
DAGGER_NOTE = (
    f"{w.DAGGER} A run behind this number carries a health flag; it is counted like any other and "
    "listed under Health flags."
)

PAIR = Column("pair", "Pair", numeric=False)
TASK = Column("task", "Task", numeric=False)
MODEL = Column("model", "Model", numeric=False)


class Lead:
    """The columns that name a row; pair and task only where there are several."""

    def __init__(self, frame: pd.DataFrame, *, task: bool = True, model: bool = True) -> None:
        self.pair = len(names(frame, "pair")) > 1
        self.task = task and len(names(frame, "task")) > 1
        self.model = model
        pick = ((PAIR, self.pair), (TASK, self.task), (MODEL, model))
        self.columns = tuple(column for column, used in pick if used)

    def cells(self, pair: str, task: str, arm: str) -> tuple[Cell, ...]:
        model = Cell(w.arm_name(arm), arm)
        pick = ((Cell(pair, pair), self.pair), (Cell(task, task), self.task), (model, self.model))
        return tuple(cell for cell, used in pick if used)


def arrow(direction: int) -> str:
    return "\N{UPWARDS ARROW}" if direction > 0 else "\N{DOWNWARDS ARROW}"


def task_column(frame: pd.DataFrame, task: str) -> Column:
    metric, direction = metric_of(frame, task)
    return Column(task, task, f"{w.metric_name(metric)} {arrow(direction)}" if metric else "")


def score_cell(found: Spread | None, metric: str, *, with_n: bool = True) -> Cell:
    """Mean over runs; the range and the count below it, a dagger where a run is flagged."""
    if found is None:
        return Cell(w.NONE)
    scale = w.scale_of(metric)
    below = []
    if found.n > 1 and math.isfinite(found.low) and found.low != found.high:
        below.append(f"{scale.write(found.low)} to {scale.write(found.high)}")
    if with_n:
        below.append(f"n = {found.n}")
    return Cell(
        scale.write(found.mean),
        found.mean,
        ", ".join(below),
        w.DAGGER if found.flagged else "",
        {
            "low": found.low,
            "high": found.high,
            "n": found.n,
            "flagged_runs": " ".join(found.flagged),
        },
    )


def percent(share: float | None) -> Cell:
    return Cell(w.NONE) if share is None else Cell(w.fixed(100 * share, 1), share)


def dagger_notes(rows: Sequence[tuple[Cell, ...]], *notes: str) -> tuple[str, ...]:
    marked = any(cell.mark for row in rows for cell in row)
    return (*notes, *((DAGGER_NOTE,) if marked else ()))


OUTCOME_COLUMNS = (
    Column("runs", "Runs"),
    Column("retained", "Of teacher's score", "%"),
    Column("above_floor", "Of its gain over majority", "%"),
    *map(w.head, map(quantity, SUMMARY_COSTS)),
)


def outcome_cells(outcome: Outcome, metric: str) -> tuple[Cell, ...]:
    """The score and then the cells of OUTCOME_COLUMNS."""
    costs = outcome.costs
    return (
        score_cell(outcome.score, metric, with_n=False),
        w.count(outcome.score.n),
        percent(outcome.retained),
        percent(outcome.above_floor),
        *(w.measured(quantity(column), costs[column]) for column in SUMMARY_COSTS),
    )


BEST_NOTE = (
    "Bold is the best of its column; whether it is so by more than chance is said by the paired "
    "comparisons alone."
)
TIE_NOTE = (
    f"Bold is the best of its column; {TIE} marks what the paired comparisons over the same cells "
    "do not tell apart from it. That is no proof of equality."
)


def marked(cell: Cell, mark: Mark | None) -> Cell:
    return replace(cell, standing={"best": "best", "not told apart": "tie"}[mark]) if mark else cell


def mark_notes(rows: Sequence[tuple[Cell, ...]]) -> tuple[str, ...]:
    """The note that the marks of a table need."""
    found = {cell.standing for row in rows for cell in row}
    if "tie" in found:
        return (TIE_NOTE,)
    return (BEST_NOTE,) if "best" in found else ()


MARKED = ("score", *SUMMARY_COSTS)


def summary(facts: Facts) -> Table | None:
    """Each model at a glance, over what all models have in common."""
    frame = facts.frame
    if not facts.outcomes:
        return None
    lead, (metric, _) = Lead(frame, task=False), outcome_metric(frame)
    several = len(names(frame, "task")) > 1
    scale = w.scale_of(metric)
    selection = Column("selection", "On selection split", scale.unit)
    rows = []
    for pair, found in facts.outcomes.items():
        best = {column: facts.marks.get(("summary", pair, column), {}) for column in MARKED}
        for outcome in found:
            score, *rest = outcome_cells(outcome, metric)
            score = marked(score, best["score"].get(outcome.arm))
            rest = [
                marked(cell, best.get(column.key, {}).get(outcome.arm))
                for column, cell in zip(OUTCOME_COLUMNS, rest, strict=True)
            ]
            chosen = Cell(scale.write(outcome.selection), outcome.selection)
            rows.append((*lead.cells(pair, "", outcome.arm), score, chosen, *rest))
    what = (
        "Average over tasks, only over the blocks that all trained models share (listed below)"
        if several
        else "Mean over the seeds that all trained models share"
    )
    return Table(
        "summary",
        "The models at a glance",
        (*lead.columns, Column("score", "Score", scale.unit), selection, *OUTCOME_COLUMNS),
        tuple(rows),
        f"{what}; below the score its range over seeds. Size is that of the merged model on disk, "
        "latency that of one text; the speed-up is against the teacher's encoder, timed side by "
        "side. Shares of the teacher's score are of the same blocks.",
        (*mark_notes(rows), *dagger_notes(rows)),
        heads=len(lead.columns),
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


LISTED_SEEDS = 6


def quality(facts: Facts) -> Table:
    """Models by tasks: mean over seeds, range, count; the average over shared blocks last.

    With one task and few seeds, every seed's score stands beside the mean.
    """
    frame = facts.frame
    lead, tasks = Lead(frame, task=False), names(frame, "task")
    average = facts.outcomes if len(averaged_tasks(frame)) > 1 else {}
    seeds = seeds_of(frame) if len(tasks) == 1 else []
    seeds = seeds if 1 < len(seeds) <= LISTED_SEEDS else []
    rows = []
    for pair in names(frame, "pair"):
        means = {o.arm: o.score for o in average.get(pair, [])}
        best = {task: facts.marks.get(("quality", pair, task), {}) for task in tasks}
        for arm in names(frame, "arm", pair=pair):
            row = [
                marked(
                    score_cell(facts.spreads.get((pair, task, arm)), metric_of(frame, task)[0]),
                    best[task].get(arm),
                )
                for task in tasks
            ]
            row += [_seed_cell(facts, pair, tasks[0], arm, seed) for seed in seeds]
            if average:
                row.append(score_cell(means.get(arm), "accuracy"))
            rows.append((*lead.cells(pair, "", arm), *row))
    columns = [task_column(frame, task) for task in tasks]
    columns += [Column(f"seed_{seed}", f"Seed {seed}") for seed in seeds]
    if average:
        columns.append(Column("average", "Average", "points, shared blocks"))
    return Table(
        "quality",
        "Score on the report split",
        (*lead.columns, *columns),
        tuple(rows),
        "Mean over seeds, below it the lowest and highest seed and the number of runs.",
        (*mark_notes(rows), *dagger_notes(rows, f"{POINTS_NOTE} {ARROW_NOTE}")),
        heads=len(lead.columns),
    )


def _seed_cell(facts: Facts, pair: str, task: str, arm: str, seed: int) -> Cell:
    """The score of one run; a dash where it has none or does not depend on a seed."""
    frame = facts.frame
    match = (frame["pair"] == pair) & (frame["arm"] == arm) & (frame["seed"] == seed)
    found = scored(frame[match & (frame["task"] == task)])
    if len(found) != 1:
        return Cell(w.NONE)
    score, flagged = float(found["score"].iloc[0]), bool(found["flagged"].iloc[0])
    written = w.scale_of(metric_of(frame, task)[0]).write(score)
    return Cell(written, score, mark=w.DAGGER if flagged else "")
