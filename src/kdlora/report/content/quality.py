"""Scores: the average of each pair and model, and every task."""

from __future__ import annotations

import pandas as pd

from kdlora.evidence.gains import Facts
from kdlora.evidence.outcomes import averaged_tasks
from kdlora.evidence.sentences import POOLED
from kdlora.evidence.study import Evidence
from kdlora.records.tidy import metric_of, metrics_of, names, scored, seeds_of
from kdlora.report import words as w
from kdlora.report.content.cells import (
    ABOVE,
    ARROW_NOTE,
    MODEL,
    PAIR,
    POINTS_NOTE,
    Lead,
    dagger_notes,
    interval_cell,
    mark_notes,
    marked,
    model_cell,
    points_cell,
    score_cell,
    task_column,
)
from kdlora.report.document import Cell, Column, Figure, Table
from kdlora.report.render.panels import dots, heat_map, shades


def averages_figure(stats: Evidence) -> Figure | None:
    """Average score of every pair and model, with intervals."""
    panels = []
    drawn = {pair: found.common for pair, found in stats.by_pair.items() if len(found.common) > 1}
    for pair, found in drawn.items():
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
    some = next(iter(drawn.values()))[0]
    cells = sorted({found[0].n_cells for found in drawn.values()})
    counts = w.join([str(n) for n in cells], "or")
    caption = (
        f"Means over the cells that all models of a pair share (n = {counts} cells a model)"
        + (f"; lines are 95 % intervals over {some.over_seeds} seeds."
           if some.over_seeds else f"; no intervals: {some.cannot}.")
    )  # fmt: skip
    return Figure("averages", "Average score of each pair and model", caption, tuple(panels),
                  ("averages",))  # fmt: skip


def by_task(facts: Facts) -> Figure | None:
    """Tasks by models, pair by pair: shades run from the worst to the best of a task."""
    frame = facts.frame
    metrics = metrics_of(frame)
    tasks = [task for task, (metric, _) in metrics.items() if metric]
    if len(tasks) < 2:
        return None
    panels = []
    for pair in names(frame, "pair"):
        rows = []
        for task in tasks:
            metric, direction = metrics[task]
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
    for task, (metric, _) in metrics_of(facts.frame).items():
        found.setdefault(metric, []).append(task)
    parts = [f"{w.metric_name(m)} on {w.join(tasks)}" for m, tasks in found.items() if m]
    return f"{w.sentence_case('; '.join(parts))}." if parts else ""


def averages_table(stats: Evidence) -> Table | None:
    """Mean score of every model with its interval, pair by pair and over all."""
    parts = [(pair, (*found.common, *found.apart)) for pair, found in stats.by_pair.items()]
    if len(parts) > 1 and (stats.aggregates or stats.apart):
        parts.append(("all pairs", (*stats.aggregates, *stats.apart)))
    apart = bool(stats.apart) or any(found.apart for found in stats.by_pair.values())
    shown = [x for _, found in parts for x in found]
    if not shown:
        return None
    over_seeds = any(x.mean_low is not None for x in shown)
    shares = w.join(sorted({over for x in shown if (over := x.share_interval[0])}), "or")
    rows = tuple(
        (Cell(pair), model_cell(x.arm), points_cell(x.mean),
         *([interval_cell(x.mean_low, x.mean_high)] if over_seeds else []),
         points_cell(x.iqm), *([points_cell(x.reference_mean)] if apart else []),
         points_cell(x.retention),
         *([interval_cell(*x.share_interval[1:])] if shares else []),
         w.count(x.n_cells), w.count(x.n_tasks))
        for pair, found in parts for x in found
    )  # fmt: skip
    columns = (
        PAIR, MODEL, Column("mean", "Mean", "points"),
        *([Column("interval", "95 % interval, over seeds")] if over_seeds else []),
        Column("iqm", "Interquartile mean", "points"),
        *([Column("reference", "The reference on these cells", "points")] if apart else []),
        Column("retention", "Of the reference", "%"),
        *([Column("retention_interval", f"95 % interval, over {shares}")] if shares else []),
        Column("cells", "Shared cells"), Column("tasks", "Tasks"),
    )  # fmt: skip
    why = [f"{w.sentence_case(group)}: {found[0].cannot}." for group, found in parts
           if found[0].cannot]  # fmt: skip
    why += [
        f"{w.sentence_case(group)}: shares are{scope}, those on which the reference is {ABOVE}."
        for group, found in parts
        for scope in dict.fromkeys(
            w.share_scope(x.share_tasks, x.n_tasks) for x in found if x.retention is not None
        )
        if scope
    ]
    tables = {
        "all pairs": stats.shared,
        **{pair: own.shared for pair, own in stats.by_pair.items()},
    }
    if any(tables[group].uneven for group, _ in parts):
        why.append(f"{w.sentence_case(POOLED)}.")
    missing = [f"No average over all pairs: {stats.shared.reason}."] * bool(stats.shared.reason)
    if apart:
        missing.append(
            "Models with too few cells to be among the others stand below them: each over the "
            "cells that it shares with the reference, so their means are no order."
        )
    return Table(
        "averages",
        "Average scores with intervals",
        columns,
        rows,
        f"Over the cells (pair, task, seed) that all models of the row's group share; best first. "
        f"The reference is {w.arm_name(stats.reference)}. Intervals are Student's: over seeds, "
        "what other seeds would give on these tasks and pairs with the same texts; over tasks, "
        "what tasks like these would give.",
        (*missing, *why),
        heads=2,
        folded=True,
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
    rows, metrics = [], metrics_of(frame)
    for pair in names(frame, "pair"):
        means = {o.arm: o.score for o in average.get(pair, [])}
        best = {task: facts.marks.get(("quality", pair, task), {}) for task in tasks}
        for arm in names(frame, "arm", pair=pair):
            row = [
                marked(
                    score_cell(facts.spreads.get((pair, task, arm)), metrics[task][0]),
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
