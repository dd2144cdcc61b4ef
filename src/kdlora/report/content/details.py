"""The tables for a second look: every metric, every class, agreement, every run."""

from __future__ import annotations

import math

import pandas as pd

from kdlora.records.tidy import groups, metric_of, names, rows_of
from kdlora.report import words as w
from kdlora.report.content.tables import MODEL, PAIR, TASK, Lead, arrow
from kdlora.report.document import Cell, Column, Table
from kdlora.vocabulary.metric import metric
from kdlora.vocabulary.quantity import quantity


def _done(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["status"] == "done"]


def agreement(frame: pd.DataFrame) -> Table | None:
    """How often distilled students say what their teacher says, and what was possible."""
    cells = _done(frame)
    cells = cells[cells["agreement"].notna()].drop_duplicates(["pair", "run_id"])
    if cells.empty:
        return None
    lead = Lead(frame)
    keys = ("agreement", "agreement_lower", "agreement_upper", "agreement_chance")
    rows = []
    for row in rows_of(cells):
        scale = w.scale_of(row["metric"] or "")
        shares = [
            Cell(w.fixed(100 * row[key], 1), row[key]) if math.isfinite(row[key]) else Cell(w.NONE)
            for key in keys
        ]
        rows.append((
            *lead.cells(row["pair"], row["task"], row["arm"]),
            Cell(str(row["seed"]), row["seed"]),
            Cell(scale.write(row["teacher_score"]), row["teacher_score"]),
            Cell(scale.write(row["score"]), row["score"]),
            *shares,
            Cell(w.fixed(row["kappa"], 3), row["kappa"]),
        ))  # fmt: skip
    columns = (
        Column("seed", "Seed"),
        Column("teacher_score", "Teacher's score"),
        Column("score", "Student's score"),
        Column("agreement", "Agreement", "%"),
        Column("lower", "Least possible", "%"),
        Column("upper", "Most possible", "%"),
        Column("chance", "By chance", "%"),
        Column("kappa", "Cohen's kappa"),
    )
    return Table(
        "agreement",
        "Agreement with the teacher",
        (*lead.columns, *columns),
        tuple(rows),
        "Share of report rows on which a distilled student and its teacher say the same. The two "
        "accuracies bound what is possible; chance is the agreement of independent guesses with "
        "the same class shares.",
        heads=len(lead.columns),
    )


def metrics(frame: pd.DataFrame) -> Table | None:
    """Every metric of the report split, mean over seeds."""
    known = [c for c in map(str, frame) if c.startswith("report.") and frame[c].notna().any()]
    if not known:
        return None
    lead, rows = Lead(frame), []
    for (pair, task, arm), cells in groups(_done(frame), "pair", "task", "arm"):
        runs = cells.drop_duplicates("run_id")
        row = []
        for column in known:
            found = pd.to_numeric(runs[column], errors="coerce").dropna()
            scale = w.scale_of(column.removeprefix("report."))
            mean = float(found.mean()) if len(found) else None
            row.append(Cell(scale.write(mean), mean))
        rows.append((*lead.cells(pair, task, arm), *row))
    columns = []
    for column in known:
        one = metric(column.removeprefix("report."))
        columns.append(Column(one.name, w.sentence_case(one.title), arrow(one.direction)))
    return Table(
        "metrics",
        "Every metric on the report split",
        (*lead.columns, *columns),
        tuple(rows),
        "Mean over the done runs.",
        heads=len(lead.columns),
        folded=True,
    )


def per_class(frame: pd.DataFrame) -> Table | None:
    """F1 of every class, classes by models, mean over seeds."""
    done = _done(frame).drop_duplicates(["pair", "run_id"])
    done = done[[bool(found) for found in done["per_class_f1"]]]
    if done.empty:
        return None
    lead, arms, rows = Lead(frame, model=False), names(done, "arm"), []
    for (pair, task), cells in groups(done, "pair", "task"):
        for label in next(filter(None, cells["label_names"]), ()):
            row = []
            for arm in arms:
                runs = cells.loc[cells["arm"] == arm, "per_class_f1"]
                found = [r[label] for r in runs if w.is_number(r.get(label))]
                mean = sum(found) / len(found) if found else None
                row.append(Cell(w.scale_of("f1").write(mean), mean))
            rows.append((*lead.cells(pair, task, ""), Cell(label), *row))
    columns = [Column(arm, w.arm_name(arm)) for arm in arms]
    return Table(
        "per_class",
        "F1 of each class",
        (*lead.columns, Column("class", "Class", numeric=False), *columns),
        tuple(rows),
        "Report split, points, mean over the done runs.",
        heads=len(lead.columns) + 1,
        folded=True,
    )


def runs(frame: pd.DataFrame) -> Table:
    """Every run once, so that each number above can be traced to its records."""
    rows = []
    for row in rows_of(frame.drop_duplicates(["pair", "run_id"])):
        scale = w.scale_of(row["metric"] or metric_of(frame, row["task"])[0])
        mark = w.DAGGER if row["flagged"] and math.isfinite(row["score"]) else ""
        rows.append((
            Cell(row["run_id"]), Cell(row["pair"]), Cell(row["task"]),
            Cell(w.arm_name(row["arm"]), row["arm"]), Cell(str(row["seed"]), row["seed"]),
            Cell(row["status"]),
            Cell(scale.write(row["score"]), _finite(row["score"]), mark=mark),
            Cell(scale.write(row["selection_score"]), _finite(row["selection_score"])),
            w.number(row["size_mb"]), w.number(row["latency_p50_ms"]), w.number(row["train_s"]),
            Cell(", ".join(row["flags"]) or w.NONE, " ".join(row["flags"])),
        ))  # fmt: skip
    columns = (
        Column("run_id", "Run", numeric=False),
        PAIR,
        TASK,
        MODEL,
        Column("seed", "Seed"),
        Column("status", "Status", numeric=False),
        Column("score", "Score"),
        Column("selection_score", "On selection split"),
        w.head(quantity("size_mb")),
        w.head(quantity("latency_p50_ms")),
        w.head(quantity("train_s")),
        Column("flags", "Flags", numeric=False),
    )
    return Table("runs", "Every run", columns, tuple(rows), folded=True)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
