"""The trade-off of score and cost: charts of both, what a unit of cost buys, and the Pareto set."""

from __future__ import annotations

from dataclasses import replace

import altair as alt
import pandas as pd

from kdlora.evidence.gains import Facts
from kdlora.evidence.study import COSTS, Evidence
from kdlora.evidence.teacher import teacher_arm
from kdlora.evidence.trade_off import cost_means, from_worst_to_best, runs_of_models
from kdlora.records.tidy import groups, metric_of, names, scored
from kdlora.report import words as w
from kdlora.report.content.cells import MODEL, PAIR, model_cell, score_cell
from kdlora.report.content.trust import unsteady
from kdlora.report.document import Cell, Column, Figure, Panel, Table
from kdlora.report.render.colours import light
from kdlora.report.render.label_placement import place_labels
from kdlora.report.render.panels import dots, heat_map, shade, tips
from kdlora.report.render.theme import (
    HEIGHT,
    WIDTH,
    Logs,
    Scores,
    chart_of,
    colour,
    fill,
    name_layers,
    outline,
    panel_spec,
    shape,
)
from kdlora.vocabulary.arm import Arm
from kdlora.vocabulary.quantity import quantity

DRAWN_COSTS = ("size_mb", "latency_p50_ms")
MOST_PANELS = 12  # of a figure
MOST_TICKS = 400  # single runs of a panel; more hide one another


def trade_offs(facts: Facts) -> list[Figure]:
    """Quality against size and against latency: one figure for one task, else one for each cost."""
    done = scored(facts.frame)
    if len(set(zip(done["pair"], done["task"], strict=True))) > MOST_PANELS:
        return []  # too many to look at; the explorer has them all
    panels = {column: _panels(facts, done, column) for column in DRAWN_COSTS}
    filled = {column: found for column, found in panels.items() if found}
    if all(len(found) == 1 for found in filled.values()) and len(filled) == len(DRAWN_COSTS):
        both = tuple(
            replace(
                found[0],
                title=f"Against {quantity(column).noun}",
                spec=found[0].spec | {"title": f"Against {quantity(column).noun}"},
            )
            for column, found in filled.items()
        )
        caption = _caption(facts, done, list(DRAWN_COSTS))
        tables = ("quality", "efficiency")
        return [Figure("trade_off", "Quality against size and latency", caption, both, tables)]
    return [
        Figure(
            f"quality_{quantity(column).noun}",
            f"Quality against {quantity(column).noun}",
            _caption(facts, done, [column]),
            tuple(found),
            ("quality", "efficiency"),
        )
        for column, found in filled.items()
    ]


def _caption(facts: Facts, done: pd.DataFrame, columns: list[str]) -> str:
    n = runs_of_models(done)
    text = "Large marks are means, short lines single runs"
    if n:
        text += f" (n = {w.join([str(k) for k in n], 'or')} per trained model)"
    text += (
        "; the dashed line is the teacher's mean. Better is further up and further left. "
        "FFT is full fine-tuning."
    )
    undrawn = [
        w.arm_name(arm)
        for arm in names(done, "arm")
        if not (done.loc[done["arm"] == arm, columns] > 0).any(axis=None)
    ]
    if "latency_p50_ms" in columns and unsteady(facts):
        text += " Latencies of one encoder differ from run to run: the machine was not steady."
    if undrawn:
        what = w.join([quantity(column).noun for column in columns], "or")
        text += f" Not drawn, for want of a {what} to measure: {w.join(undrawn)}."
    return text


def _panels(facts: Facts, done: pd.DataFrame, column: str) -> list[Panel]:
    drawn = done[done[column] > 0]
    several = len(names(facts.frame, "pair")) > 1
    return [
        _trade_off_panel(facts, cells, column, f"{task} · {pair}" if several else str(task))
        for (pair, task), cells in groups(drawn, "pair", "task")
    ]


def _trade_off_panel(facts: Facts, cells: pd.DataFrame, column: str, where: str) -> Panel:
    """`cells` are those of one pair and task that know the cost."""
    pair, task = names(cells, "pair")[0], names(cells, "task")[0]
    metric, direction = metric_of(facts.frame, task)
    cost = quantity(column)
    axis_title, short, unit = f"{cost.axis_title} (log scale)", cost.noun, cost.unit
    scale, tip = w.scale_of(metric), w.sentence_case(short)
    single = pd.DataFrame(
        {
            "x": cells[column],
            "y": cells["score"] * scale.factor,
            "arm": cells["arm"],
            "Model": [w.arm_name(arm) for arm in cells["arm"]],
            "Score": [scale.write(v) for v in cells["score"]],
            tip: [f"{w.significant(v)} {unit}" for v in cells[column]],
            "Seed": [str(seed) for seed in cells["seed"]],
            "Run": cells["run_id"],
        }
    )
    rows = []
    for (*_, arm), x in cost_means(cells, column).items():
        found = facts.spreads[pair, task, arm]
        cell = score_cell(found, metric)
        rows.append(
            {
                "x": x,
                "y": found.mean * scale.factor,
                "low": found.low * scale.factor,
                "high": found.high * scale.factor,
                "arm": arm,
                "label": w.short_arm_name(arm) + cell.mark,
                "Model": w.arm_name(arm),
                "Score": cell.shown,
                tip: f"{w.significant(x)} {unit}",
            }
        )
    means = pd.DataFrame(rows)
    if len(single) > MOST_TICKS:
        single = single.head(0)
    xs = Logs.over([*single["x"], *means["x"]])
    ys = Scores.over(metric, direction, [*single["y"], *means["y"]])
    layers = _layers(single, means, xs, ys, axis_title, teacher_arm(facts.frame, pair))
    listed = "; ".join(f"{r['Model']} {r['Score']} at {r[tip]}" for r in rows)
    alt_text = f"Scatter plot of {w.metric_name(metric)} against {short} on {where}: {listed}."
    return Panel(f"quality_{short}_{where}", where, alt_text, panel_spec(layers, where))


def _layers(
    single: pd.DataFrame,
    means: pd.DataFrame,
    xs: Logs,
    ys: Scores,
    axis_title: str,
    teacher: str | None,
) -> list[alt.Chart]:
    """The teacher's line, leaders, single runs, means and names, bottom to top."""
    places = place_labels(
        [(xs.pixel(x), ys.pixel(y)) for x, y in zip(means["x"], means["y"], strict=True)],
        list(means["label"]),
        width=WIDTH,
        height=HEIGHT,
        others=[(xs.pixel(x), ys.pixel(y)) for x, y in zip(single["x"], single["y"], strict=True)],
    )
    named = means.assign(
        lx=[xs.value(p.x) for p in places],
        ly=[ys.value(p.y) for p in places],
        align=[p.align for p in places],
        leader=[p.leader for p in places],
    )
    at = {"x": xs.axis(axis_title), "y": ys.axis()}
    arms = list(means["arm"])
    layers = [
        chart_of(means[means["arm"] == teacher])
        .mark_rule(color=light("teacher"), strokeDash=[4, 4], opacity=0.6, aria=False)
        .encode(y=at["y"]),
        chart_of(named[named["leader"]])
        .mark_rule(color=light("muted"), strokeWidth=0.7, opacity=0.6, aria=False)
        .encode(**at, x2=alt.X2("lx"), y2=alt.Y2("ly")),
        chart_of(means)
        .mark_rule(opacity=0.75, strokeWidth=1.4, aria=False)
        .encode(x=at["x"], y=alt.Y("low:Q"), y2=alt.Y2("high"), color=colour(arms)),
        chart_of(single[single["arm"].duplicated(keep=False)])
        .mark_point(shape="stroke", size=225, opacity=0.75, strokeWidth=1.4)
        .encode(**at, color=colour(arms), tooltip=tips(single)),
        chart_of(means)
        .mark_point(size=90, opacity=1, filled=True, strokeWidth=1.4)
        .encode(
            **at, fill=fill(arms), stroke=outline(arms), shape=shape(arms), tooltip=tips(means)
        ),
    ]
    layers += name_layers(named, x=alt.X("lx:Q"), y=alt.Y("ly:Q"))
    return [layer for layer in layers if layer.data.values]


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
        columns = {"Score": from_worst_to_best([o.score.mean for o in own], direction)}
        columns |= {
            quantity(c).label: from_worst_to_best([o.costs[c] for o in own], quantity(c).direction)
            for c in used
        }
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
            rows.append((Cell(pair), model_cell(o.arm), *cells))
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


def per_parameter(stats: Evidence) -> Figure | None:
    """Score for every million trained parameters."""
    found = [x for x in stats.per_cost if x.column == "trainable_params"]
    if len(found) < 2 or any(x.score_per_unit <= 0 for x in found):  # a loss has no log scale
        return None
    rows = pd.DataFrame([
        {"arm": x.arm, "label": w.short_arm_name(x.arm), "x": 1e6 * x.score_per_unit,
         "Model": w.arm_name(x.arm), "Score for a million": w.significant(1e6 * x.score_per_unit)}
        for x in found
    ])  # fmt: skip
    title = "Score per million trained parameters"
    alt_text = f"{title}, best first: {w.join(list(rows['label']))}."
    panel = dots("per_parameter", title, alt_text, rows,
                 x="Points per million trained parameters (log scale)", log=True)  # fmt: skip
    cells = w.plural(found[0].n_cells, "shared cell")
    caption = (
        f"Mean score over geometric mean parameters (n = {cells}). A small denominator flatters: "
        "read it beside the trade-off."
    )
    return Figure("per_parameter", title, caption, (panel,), ("per_cost",))


def per_cost(stats: Evidence) -> Table | None:
    """Score for every unit of each cost."""
    used = [c for c in COSTS if any(x.column == c for x in stats.per_cost)]
    if not used:
        return None
    found = {(x.arm, x.column): x for x in stats.per_cost}
    arms = list(dict.fromkeys(x.arm for x in stats.per_cost))
    rows = []
    for arm in arms:
        cells = []
        for column in used:
            x = found.get((arm, column))
            cells.append(w.number(x.score_per_unit * quantity(column).per) if x else Cell(w.NONE))
        rows.append((model_cell(arm), *cells))
    return Table(
        "per_cost",
        "Score for what it costs",
        (MODEL, *(Column(c, quantity(c).label, f"points/{quantity(c).cost_unit}") for c in used)),
        tuple(rows),
        "Mean score over geometric mean cost, on shared cells. A small denominator flatters: read "
        "it beside the trade-off.",
        folded=True,
    )


def pareto(stats: Evidence) -> Table | None:
    """Which models no other beats on score and one cost, and how surely."""
    used = [c for c, front in stats.fronts.items() if front.points]
    if not used:
        return None
    points_of = {c: {p.arm: p for p in stats.fronts[c].points} for c in used}
    arms = list(dict.fromkeys(arm for c in used for arm in points_of[c]))
    rows = []
    for arm in arms:
        cells = []
        for column in used:
            p = points_of[column].get(arm)
            if p is None:
                cells.append(Cell(w.NONE))
                continue
            share = p.on_front_share
            sub = "" if share is None else f"{100 * share:.0f} % of draws"
            extra = {"share": share}
            cells.append(Cell("yes" if p.on_front else "no", int(p.on_front), sub, extra=extra))
        rows.append((model_cell(arm), *cells))
    how = {front.resampled for front in stats.fronts.values()} - {""}
    drawn = f" The share is of bootstrap draws of {w.join(sorted(how))}." if how else ""
    return Table(
        "pareto",
        "On the Pareto set of score and cost",
        (
            MODEL,
            *(Column(c, f"Score and {quantity(c).label.lower()}", numeric=False) for c in used),
        ),
        tuple(rows),
        f"Yes where no other model is at least as good in both and better in one.{drawn}",
        folded=True,
    )
