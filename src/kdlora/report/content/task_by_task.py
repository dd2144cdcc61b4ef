"""Task by task: trends over tasks, every metric, every class."""

from __future__ import annotations

import math

import altair as alt
import pandas as pd

from kdlora.evidence.gains import Facts
from kdlora.evidence.outcomes import class_f1_means, means_by_group, metric_means
from kdlora.evidence.predictions import confusions
from kdlora.records.tidy import metrics_of, names
from kdlora.report import words as w
from kdlora.report.content.cells import MODEL, PAIR, Lead, arrow, task_column
from kdlora.report.document import Cell, Column, Figure, Panel, Table
from kdlora.report.render.panels import YAxis, trends
from kdlora.vocabulary.arm import Arm
from kdlora.vocabulary.metric import metric

MOST_LINES = 7  # more models are averaged into strategies


def strategy(arm: str) -> str:
    """What models are averaged into: ``student/kd-adapter`` for all distilled adapters."""
    one = Arm.read(arm).plain
    return str(one.with_adaptation("adapter") if one.has_adapter else one)


def task_trends(facts: Facts) -> tuple[Figure, Table] | None:
    """How models run across tasks: a line a model (or a strategy of many), a panel a pair."""
    frame = facts.frame
    metrics = metrics_of(frame)
    tasks = [task for task, (name, _) in metrics.items() if metric(name).in_points]
    if len(tasks) < 3:
        return None
    arms = [a for a in names(frame, "arm") if not Arm.read(a).is_baseline]
    merged = len(arms) > MOST_LINES
    panels, lines = [], []
    for pair in names(frame, "pair"):
        few = {one.own.arm for one in facts.apart.get(pair, ())}  # they have some of the tasks only
        groups = {arm: strategy(arm) if merged else arm for arm in arms if arm not in few}
        drawn = []
        for name, by_task_ in means_by_group(facts.spreads, pair, groups).items():
            means = {
                task: metric(metrics[task][0]).factor * by_task_[task][0]
                for task in tasks
                if task in by_task_
            }
            if not means:
                continue
            label = w.short_arm_name(name)
            most = max(by_task_[task][1] for task in means)
            drawn += [
                {"arm": name, "x": task, "y": mean, "label": label,
                 "Model": w.arm_name(name), "Task": task, "Score": w.fixed(mean, 1),
                 "Models": by_task_[task][1]}
                for task, mean in means.items()
            ]  # fmt: skip
            cells = [Cell(w.fixed(means.get(t), 1), means.get(t)) for t in tasks]
            lines.append((Cell(pair), Cell(w.arm_name(name), name), w.count(most), *cells))
        if drawn:
            panels.append(_trend_panel(pair, pd.DataFrame(drawn), tasks))
    if not panels:
        return None
    table = Table(
        "task_trends",
        "Strategies across tasks" if merged else "Models across tasks",
        (PAIR, MODEL, Column("models", "Models averaged"), *(task_column(frame, t) for t in tasks)),
        tuple(lines),
        "Mean over models of their means over runs, in points.",
        heads=2,
        folded=True,
    )
    caption = (
        "Each task's metric in points, mean over runs"
        + (" and over the adapters of a strategy" if merged else "")
        + " (n in the tables). Tasks have no order: a line only helps the eye to follow a model."
    )
    figure = Figure("task_trends", table.title, caption, tuple(panels), ("task_trends", "quality"))
    return figure, table


def _trend_panel(pair: str, rows: pd.DataFrame, tasks: list[str]) -> Panel:
    low, high = float(rows["y"].min()), float(rows["y"].max())
    room = max(0.05 * (high - low), 0.5)
    low, high = low - room, high + room
    x = alt.X("x:N", sort=tasks, axis=alt.Axis(title="Task", labelAngle=-35, grid=False))
    scale = alt.Scale(domain=[low, high], nice=False, zero=False)
    y = alt.Y("y:Q", scale=scale, axis=alt.Axis(title="Score, points", tickCount=6))
    alt_text = (
        f"Line chart of scores over {w.join(tasks)} on {pair}, a line for each of "
        f"{w.join(list(dict.fromkeys(rows['label'])))}."
    )
    return trends(f"task_trends_{pair}", pair, alt_text, rows, x=x, y=YAxis(y, low, high))


def metrics(frame: pd.DataFrame) -> Table | None:
    """Every metric of the report split, mean over seeds."""
    known, found = metric_means(frame)
    if not known:
        return None
    lead, rows = Lead(frame), []
    for (pair, task, arm), means in found.items():
        cells = [Cell(w.scale_of(name).write(means.get(name)), means.get(name)) for name in known]
        rows.append((*lead.cells(pair, task, arm), *cells))
    columns = []
    for name in known:
        one = metric(name)
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
    found = class_f1_means(frame)
    if not found:
        return None
    known = {arm for classes in found.values() for own in classes.values() for arm in own}
    arms = [arm for arm in names(frame, "arm") if arm in known]
    lead, scale, rows = Lead(frame, model=False), w.scale_of("f1"), []
    for (pair, task), classes in found.items():
        for label, means in classes.items():
            cells = [Cell(scale.write(means.get(arm)), means.get(arm)) for arm in arms]
            rows.append((*lead.cells(pair, task, ""), Cell(label), *cells))
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


def precision_and_recall(frame: pd.DataFrame) -> Table | None:
    """How much of each class every model finds, and how much of what it says is right."""
    lead, scale, rows = Lead(frame), w.scale_of("f1"), []
    for (pair, task, arm), found in confusions(frame).items():
        for i, label in enumerate(found.labels):
            shares = (found.share(i, i), found.precision(i))
            cells = [Cell(scale.write(s), None if math.isnan(s) else s) for s in shares]
            total = w.count(found.rows(i))
            rows.append((*lead.cells(pair, task, arm), Cell(label), total, *cells))
    if not rows:
        return None
    return Table(
        "precision_and_recall",
        "Precision and recall of each class",
        (*lead.columns, Column("class", "Class", numeric=False), Column("rows", "Rows"),
         Column("recall", "Recall"), Column("precision", "Precision")),
        tuple(rows),
        "Report split, points, by each model's own answers, all seeds together.",
        heads=len(lead.columns) + 1,
        folded=True,
    )  # fmt: skip
