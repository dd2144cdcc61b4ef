"""Columns and cells that many tables share, and the notes that their marks need."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from kdlora.evidence.outcomes import Outcome, Spread, resumed_runs
from kdlora.evidence.result import Mark
from kdlora.records.tidy import groups, metric_of, names
from kdlora.report import words as w
from kdlora.report.document import TIE, Cell, Column
from kdlora.vocabulary.metric import POINTS
from kdlora.vocabulary.p_value import p_text
from kdlora.vocabulary.quantity import Quantity

POINTS_NOTE = (
    "Accuracy, F1, Matthews and other correlations are shown times 100, in points; any other "
    "metric in its own unit."
)

ARROW_NOTE = "An arrow says which way is better."

DAGGER_NOTE = (
    f"{w.DAGGER} A run behind this number carries a health flag; it is counted like any other and "
    "listed under Health flags."
)

RESUMED_NOTE = (
    f"{w.RESUMED} A run behind this number was interrupted and went on from a checkpoint: its "
    "training time is no whole one, and may be of a machine at other work."
)

# When a share of somebody's score is told (`evidence.teacher.gives_shares`).
ABOVE = "clearly above the majority baseline (above 0 where that is not known)"

PAIR = Column("pair", "Pair", numeric=False)
TASK = Column("task", "Task", numeric=False)
MODEL = Column("model", "Model", numeric=False)
RUN = Column("run_id", "Run", numeric=False)


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
    """A share between 0 and 1, in hundredths."""
    return Cell(w.NONE) if share is None else Cell(w.fixed(100 * share, 1), share)


def dagger_notes(rows: Sequence[tuple[Cell, ...]], *notes: str) -> tuple[str, ...]:
    marks = "".join(cell.mark for row in rows for cell in row)
    known = ((w.DAGGER, DAGGER_NOTE), (w.RESUMED, RESUMED_NOTE))
    return (*notes, *(note for mark, note in known if mark in marks))


def cost_cell(one: Quantity, outcome: Outcome) -> Cell:
    """A cost of an arm; a training time is marked where a run behind it is no whole one."""
    cell = w.measured(one, outcome.costs[one.column])
    return time_cell(cell, outcome.resumed) if one.column == "train_s" else cell


def time_cell(cell: Cell, resumed: Sequence[str]) -> Cell:
    """A training time, marked where `resumed` runs behind it were interrupted."""
    if not resumed or cell.value is None:
        return cell
    return replace(cell, mark=w.RESUMED, extra={**cell.extra, "resumed_runs": " ".join(resumed)})


def resumed_by_model(frame: pd.DataFrame, *keys: str) -> dict[tuple[str, ...], tuple[str, ...]]:
    """The done runs that were interrupted and went on, by these columns."""
    done = frame[frame["status"] == "done"]
    broken = done[done["run_id"].isin(resumed_runs(done))]
    return {key: tuple(dict.fromkeys(own["run_id"])) for key, own in groups(broken, *keys)}


def resumed_note(frame: pd.DataFrame) -> str:
    """What a chart's caption says of training times, after a blank; empty if all are whole."""
    arms = dict.fromkeys(arm for arm, _ in resumed_by_model(frame, "arm", "pair"))
    if not arms:
        return ""
    listed = w.join([w.arm_name(arm) for arm in arms])
    return (
        f" Training times of {listed} {w.RESUMED} are no whole ones: a run behind them was "
        "interrupted and went on from a checkpoint."
    )


def model_cell(arm: str) -> Cell:
    return Cell(w.arm_name(arm), arm)


def points_cell(value: float | None, unit: str = POINTS, *, signed: bool = False) -> Cell:
    """A cell of a number that is in points already, or in the unit of a comparison."""
    return Cell(w.in_unit(value, unit, signed=signed), value)


def p_cell(p: float | None) -> Cell:
    return Cell(w.NONE) if p is None else Cell(p_text(p, below="<"), p)


def interval_cell(low: float | None, high: float | None, unit: str = POINTS) -> Cell:
    if low is None or high is None:
        return Cell(w.NONE)
    text = f"{w.in_unit(low, unit)} to {w.in_unit(high, unit)}"
    return Cell(text, text, extra={"low": low, "high": high})


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
