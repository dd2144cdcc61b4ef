"""Figures of scores and coverage: averages, tasks by models, trends, what is done."""

from __future__ import annotations

import altair as alt
import pandas as pd

from kdlora.evidence.gains import Facts
from kdlora.evidence.study import COSTS, Evidence
from kdlora.records.tidy import metric_of, names
from kdlora.report import words as w
from kdlora.report.content.statistics import model
from kdlora.report.content.tables import MODEL, PAIR, task_column
from kdlora.report.document import Cell, Column, Figure, Panel, Table
from kdlora.report.render.panels import dots, heat_map, shade, shades, trends
from kdlora.vocabulary.arm import Arm
from kdlora.vocabulary.quantity import quantity


def averages(stats: Evidence) -> Figure | None:
    """Average score of every pair and model, with intervals."""
    panels = []
    for pair, found in stats.by_pair.items():
        if len(found) < 2:
            continue
        rows = pd.DataFrame(
            [
                {
                    "arm": x.arm, "label": w.short_arm_name(x.arm), "x": x.mean,
                    "low": x.mean_low, "high": x.mean_high, "Model": w.arm_name(x.arm),
                    "Mean": w.fixed(x.mean, 1),
                    "Interval": f"{w.fixed(x.mean_low, 1)} to {w.fixed(x.mean_high, 1)}",
                }
                for x in found
            ]
        )  # fmt: skip
        alt_text = f"Dot plot of mean scores on {pair}, best first: {w.join(list(rows['label']))}."
        panels.append(dots(f"averages_{pair}", pair, alt_text, rows, x="Mean score, points"))
    if not panels:
        return None
    some = next(iter(stats.by_pair.values()))[0]
    cells = sorted({found[0].n_cells for found in stats.by_pair.values()})
    counts = w.join([str(n) for n in cells], "or")
    caption = (
        f"Means over the cells that all models of a pair share (n = {counts} cells a model)"
        + ("; lines are 95 % bootstrap intervals over cells within tasks."
           if some.mean_low is not None else "; too few cells for intervals.")
    )  # fmt: skip
    return Figure("averages", "Average score of each pair and model", caption, tuple(panels),
                  ("averages",))  # fmt: skip


def by_task(facts: Facts) -> Figure | None:
    """Tasks by models, pair by pair: shades run from the worst to the best of a task."""
    frame = facts.frame
    tasks = [t for t in names(frame, "task") if metric_of(frame, t)[0]]
    if len(tasks) < 2:
        return None
    panels = []
    for pair in names(frame, "pair"):
        rows = []
        for task in tasks:
            metric, direction = metric_of(frame, task)
            own = {arm: s for (p, t, arm), s in facts.spreads.items() if (p, t) == (pair, task)}
            if not own:
                continue
            dark = dict(zip(own, shades([s.mean for s in own.values()], direction), strict=True))
            for arm in (a for a in names(frame, "arm", pair=pair) if a in own):
                score = w.scale_of(metric).write(own[arm].mean)
                rows.append({
                    "column": task, "row": w.short_arm_name(arm), "shade": dark[arm],
                    "label": score, "Model": w.arm_name(arm), "Task": task,
                    "Metric": w.metric_name(metric), "Score": score, "Runs": own[arm].n,
                })  # fmt: skip
        if rows:
            table = pd.DataFrame(rows)
            order = [w.short_arm_name(a) for a in names(frame, "arm", pair=pair)]
            table = table.sort_values("row", key=lambda c: c.map(order.index), kind="stable")
            table = _columns_in_order(table, tasks)
            alt_text = f"Heat map of scores on {pair}: {len(order)} models by {len(tasks)} tasks."
            panels.append(heat_map(f"by_task_{pair}", pair, alt_text, table))
    if not panels:
        return None
    caption = (
        "Mean over runs on the report split (n in the table); within each task the strongest "
        "shade is the best of the panel. " + _metrics(facts)
    )
    return Figure("by_task", "Scores by task and model", caption, tuple(panels), ("quality",))


def _columns_in_order(table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Rows of the table so ordered that both axes come out in their order."""
    rows = list(dict.fromkeys(table["row"]))
    place = table.assign(
        _c=table["column"].map({c: i for i, c in enumerate(columns)}),
        _r=table["row"].map({r: i for i, r in enumerate(rows)}),
    )
    return place.sort_values(["_c", "_r"]).drop(columns=["_c", "_r"]).reset_index(drop=True)


def _metrics(facts: Facts) -> str:
    found: dict[str, list[str]] = {}
    for task in names(facts.frame, "task"):
        found.setdefault(metric_of(facts.frame, task)[0], []).append(task)
    parts = [f"{w.metric_name(m)} on {w.join(tasks)}" for m, tasks in found.items() if m]
    return f"{w.sentence_case('; '.join(parts))}." if parts else ""


MOST_LINES = 7  # more models are averaged into strategies


def strategy(arm: str) -> str:
    """What models are averaged into: ``student/kd-adapter`` for all distilled adapters."""
    one = Arm.read(arm).plain
    return str(one.with_adaptation("adapter") if one.has_adapter else one)


def task_trends(facts: Facts) -> tuple[Figure, Table] | None:
    """How models run across tasks: a line a model (or a strategy of many), a panel a pair."""
    frame = facts.frame
    tasks = [t for t in names(frame, "task") if w.scale_of(metric_of(frame, t)[0]).factor == 100]
    if len(tasks) < 3:
        return None
    arms = [a for a in names(frame, "arm") if not Arm.read(a).is_baseline]
    merged = len(arms) > MOST_LINES
    panels, lines = [], []
    for pair in names(frame, "pair"):
        found: dict[str, dict[str, list[float]]] = {}
        for arm in arms:
            for task in tasks:
                if s := facts.spreads.get((pair, task, arm)):
                    name = strategy(arm) if merged else arm
                    found.setdefault(name, {}).setdefault(task, []).append(100 * s.mean)
        drawn = []
        for name, by_task_ in found.items():
            means = {task: sum(v) / len(v) for task, v in by_task_.items()}
            label = w.short_arm_name(name)
            most = max(len(v) for v in by_task_.values())
            drawn += [
                {"arm": name, "x": task, "y": means[task], "label": label,
                 "Model": w.arm_name(name), "Task": task, "Score": w.fixed(means[task], 1),
                 "Models": len(by_task_[task])}
                for task in tasks if task in means
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
    return trends(f"task_trends_{pair}", pair, alt_text, rows, x=x, y=y, low=low, high=high)


def completion(coverage: Table, facts: Facts) -> Figure | None:
    """Runs done of runs planned, model by task, as a picture of the coverage table."""
    tasks = names(facts.frame, "task")
    rows = []
    for row in coverage.rows:
        *lead, name = [c for c, k in zip(row, coverage.columns, strict=True)
                       if k.key in ("pair", "model")]  # fmt: skip
        if not isinstance(name.value, str):
            continue  # the row of sums
        label = " · ".join([*(c.text for c in lead), w.short_arm_name(name.value)])
        for column, cell in zip(coverage.columns, row, strict=True):
            if column.key in tasks and cell.extra:
                done, planned = cell.extra["done"], cell.extra["planned"]
                share = float(cell.value or 0)
                rows.append({
                    "column": column.label, "row": label, "shade": shade(share),
                    "label": f"{done}/{planned}", "Model": w.arm_name(name.value),
                    "Task": column.label, "Done": cell.shown,
                })  # fmt: skip
    if len(rows) < 2 or not (facts.frame["status"] == "done").any():
        return None
    table = _columns_in_order(pd.DataFrame(rows), tasks)
    alt_text = "Heat map of the share of planned runs that are done, models by tasks."
    panel = heat_map("completion", "Runs done of runs planned", alt_text, table)
    caption = "Done of planned runs of each model and task; the stronger the shade, the more."
    return Figure("completion", "What is done", caption, (panel,), ("coverage",))


def normalised(facts: Facts) -> tuple[Figure, Table] | None:
    """Score and costs of every model on one scale from 0 (worst) to 1 (best of the pair)."""
    panels, rows = [], []
    used = [c for c in COSTS if any(o.costs.get(c, 0) > 0 for f in facts.outcomes.values()
                                    for o in f)]  # fmt: skip
    for pair, found in facts.outcomes.items():
        own = [o for o in found if not Arm.read(o.arm).is_baseline]
        if len(own) < 2 or not used:
            continue
        direction = metric_of(facts.frame, names(facts.frame, "task")[0])[1]
        columns = {"Score": _unit([o.score.mean for o in own], direction)}
        columns |= {quantity(c).label: _unit([o.costs[c] for o in own], -1) for c in used}
        drawn = [
            {"column": name, "row": w.short_arm_name(o.arm), "shade": shade(values[i]),
             "label": f"{values[i]:.2f}", "Model": w.arm_name(o.arm), "Measure": name}
            for name, values in columns.items() for i, o in enumerate(own)
            if values[i] == values[i]
        ]  # fmt: skip
        alt_text = f"Heat map of score and costs on {pair}, each from worst to best model."
        panels.append(heat_map(f"normalised_{pair}", pair, alt_text, pd.DataFrame(drawn)))
        for i, o in enumerate(own):
            cells = [Cell(f"{v[i]:.2f}" if v[i] == v[i] else w.NONE, v[i] if v[i] == v[i] else None)
                     for v in columns.values()]  # fmt: skip
            rows.append((Cell(pair), model(o.arm), *cells))
    if not panels:
        return None
    labels = ["Score", *(quantity(c).label for c in used)]
    table = Table(
        "normalised",
        "Score and costs from worst (0) to best (1)",
        (PAIR, MODEL, *(Column(name, name) for name in labels)),
        tuple(rows),
        "Within each pair and column, over the blocks of the summary; costs are turned round.",
        heads=2,
        folded=True,
    )  # fmt: skip
    caption = "Each column runs from the worst (0) to the best model (1) of the panel."
    figure = Figure("normalised", "Score and costs side by side", caption, tuple(panels),
                    ("normalised", "summary"))  # fmt: skip
    return figure, table


def _unit(values: list[float], direction: int) -> list[float]:
    """Values from 0 (worst) to 1 (best); 1 for all where they are alike, NaN where unknown."""
    known = [v for v in values if v == v]
    if not known:
        return [float("nan")] * len(values)
    low, high = min(known), max(known)
    if high - low < 1e-12 * max(abs(high), 1e-12):
        return [1.0 if v == v else v for v in values]
    return [(v - low) / (high - low) if direction > 0 else (high - v) / (high - low)
            for v in values]  # fmt: skip
