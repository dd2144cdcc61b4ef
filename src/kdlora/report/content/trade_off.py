"""The charts of a report. Each panel is one task, so that small multiples wrap to the width of a
page, a phone or a printed sheet.
"""

from __future__ import annotations

from dataclasses import replace

import altair as alt
import pandas as pd

from kdlora.evidence.gains import Facts
from kdlora.evidence.teacher import teacher_arm
from kdlora.records.tidy import groups, metric_of, names, scored
from kdlora.report import words as w
from kdlora.report.content.checks import unsteady
from kdlora.report.content.tables import score_cell
from kdlora.report.document import Figure, Panel
from kdlora.report.render.label_placement import place_labels
from kdlora.report.render.theme import (
    HEIGHT,
    WIDTH,
    Logs,
    Scores,
    chart_of,
    colour,
    fill,
    light,
    name_layers,
    outline,
    panel_spec,
    shape,
)
from kdlora.vocabulary.quantity import quantity

COSTS = ("size_mb", "latency_p50_ms")
MOST_PANELS = 12  # of a figure
MOST_TICKS = 400  # single runs of a panel; more hide one another


def trade_offs(facts: Facts) -> list[Figure]:
    """Quality against size and against latency: one figure for one task, else one for each cost."""
    done = scored(facts.frame)
    if done.groupby(["pair", "task"]).ngroups > MOST_PANELS:
        return []  # too many to look at; the explorer has them all
    panels = {column: _panels(facts, done, column) for column in COSTS}
    filled = {column: found for column, found in panels.items() if found}
    if all(len(found) == 1 for found in filled.values()) and len(filled) == len(COSTS):
        both = tuple(
            replace(
                found[0],
                title=f"Against {quantity(column).noun}",
                spec=found[0].spec | {"title": f"Against {quantity(column).noun}"},
            )
            for column, found in filled.items()
        )
        caption = _caption(facts, done, list(COSTS))
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
    trained = done[done["role"] != "baseline"]
    counts = trained.groupby(["pair", "task", "arm"])["run_id"].nunique()
    n = sorted(set(counts))
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
        _trade_off_panel(facts, cells, str(pair), str(task), column,
                         f"{task} · {pair}" if several else str(task))
        for (pair, task), cells in groups(drawn, "pair", "task")
    ]  # fmt: skip


def _trade_off_panel(
    facts: Facts, cells: pd.DataFrame, pair: str, task: str, column: str, where: str
) -> Panel:
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
    for arm in names(cells, "arm"):
        found = facts.spreads[pair, task, arm]
        cell, x = score_cell(found, metric), float(cells.loc[cells["arm"] == arm, column].mean())
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
    chart = alt.layer(*_layers(single, means, xs, ys, axis_title, teacher_arm(facts.frame, pair)))
    listed = "; ".join(f"{r['Model']} {r['Score']} at {r[tip]}" for r in rows)
    alt_text = f"Scatter plot of {w.metric_name(metric)} against {short} on {where}: {listed}."
    return Panel(f"quality_{short}_{where}", where, alt_text, panel_spec(chart, where))


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
        .encode(**at, x2="lx", y2="ly"),
        chart_of(means)
        .mark_rule(opacity=0.75, strokeWidth=1.4, aria=False)
        .encode(x=at["x"], y="low:Q", y2="high", color=colour(arms)),
        chart_of(single[single["arm"].duplicated(keep=False)])
        .mark_point(shape="stroke", size=225, opacity=0.75, strokeWidth=1.4)
        .encode(**at, color=colour(arms), tooltip=_tips(single)),
        chart_of(means)
        .mark_point(size=90, opacity=1, filled=True, strokeWidth=1.4)
        .encode(
            **at, fill=fill(arms), stroke=outline(arms), shape=shape(arms), tooltip=_tips(means)
        ),
    ]
    layers += name_layers(named, x=alt.X("lx:Q"), y=alt.Y("ly:Q"))
    return [layer for layer in layers if layer.data.values]


def _tips(rows: pd.DataFrame) -> list[str]:
    """The columns that are written to be read are the capitalised ones."""
    return [f"{name}:N" for name in rows if str(name)[0].isupper()]
