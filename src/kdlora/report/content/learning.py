"""Learning curves: the score at every evaluation, and the one whose checkpoint was kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd

from kdlora.evidence.learning_curves import (
    Evaluation,
    evaluations,
    logged_histories,
    mean_evaluations,
    typical_ends,
)
from kdlora.records.tidy import groups, metric_of, names
from kdlora.report import words as w
from kdlora.report.content.trade_off import MOST_PANELS
from kdlora.report.document import Figure, Panel
from kdlora.report.render.label_placement import place_labels
from kdlora.report.render.panels import tips
from kdlora.report.render.theme import HEIGHT, WIDTH, Scores, chart_of, colour, panel_spec, shape

MOST_CURVES = 24  # of a panel; more are averaged model by model


def learning(frame: pd.DataFrame, histories: dict[str, list[dict[str, Any]]]) -> Figure | None:
    """Scores at every evaluation with the one that was kept: a panel a task (and pair).

    A line a run, or the mean of each model's runs where there are many. Imported runs that logged
    a score an epoch have no selection split: theirs are of the split that is reported.
    """
    logged = not histories and "epoch_scores" in frame
    curves = logged_histories(frame) if logged else histories
    if not curves:
        return None
    split = "report split" if logged else "selection split"
    several = len(names(frame, "pair")) > 1
    places = set(zip(frame["pair"], frame["task"], strict=True))
    by = ("pair", "task") if len(places) <= MOST_PANELS else ("task",)
    panels, averaged, kept, runs = [], False, False, 0
    for key, cells in groups(frame, *by):
        task = str(key[-1]) if isinstance(key, tuple) else str(key)
        metric, direction = metric_of(frame, task)
        found = evaluations(cells, curves, metric)
        if not found:
            continue
        n = len({one.run_id for one in found})
        runs += n
        kept |= any(one.kept for one in found)
        if n > MOST_CURVES:
            found, averaged = mean_evaluations(found), True
        rows, scale = _rows(found, w.scale_of(metric)), w.scale_of(metric)
        where = f"{task} · {key[0]}" if several and len(by) > 1 else task
        alt_text = (
            f"Line chart of {w.metric_name(metric)} on the {split} by epoch on {where}, "
            f"for {w.join([w.arm_name(arm) for arm in names(rows, 'arm')])}."
        )
        ends = {
            arm: scale.factor * one.score for arm, one in typical_ends(found).items()
        }  # a mean of runs that went far apart is where no line is
        layers = _learning_layers(rows, ends, Scores.over(metric, direction, rows["y"]), split)
        panels.append(Panel(f"learning_{where}", where, alt_text, panel_spec(layers, where)))
    if not panels:
        return None
    line = "the mean of a model's runs" if averaged else "a run"
    ring = "the ring the one kept most often" if averaged else "the ring the one that was kept"
    caption = f"A line is {line} (n = {runs} runs), a mark an evaluation on the {split}"
    caption += f", {ring}." if kept else "."
    return Figure("learning", f"Score on the {split} by epoch", caption, tuple(panels), ("runs",))


def _rows(found: Sequence[Evaluation], scale: w.Scale) -> pd.DataFrame:
    """What is drawn of each evaluation; `id` tells the lines apart."""
    return pd.DataFrame([
        {
            "x": one.epoch, "y": one.score * scale.factor, "kept": one.kept, "arm": one.arm,
            "Model": w.arm_name(one.arm), "Score": scale.write(one.score),
            "Epoch": w.significant(one.epoch),
            "Run": one.run_id or f"mean of {one.runs}", "id": one.run_id or one.arm,
        }
        for one in found
    ])  # fmt: skip


def _learning_layers(
    rows: pd.DataFrame, ends: dict[str, float], ys: Scores, split: str
) -> list[alt.Chart]:
    """`ends`: where each arm's line ends that bears its name."""
    arms, x_high = names(rows, "arm"), max(float(rows["x"].max()), 1e-9)
    tick = 1 if x_high >= 2 else 0
    last = pd.DataFrame([
        {"arm": arm, "x": x_high, "y": y, "label": w.short_arm_name(arm)}
        for arm, y in ends.items()
    ])  # fmt: skip
    margin = 10.0 * WIDTH  # names stand outside the plot, where there is room on one side
    at_end = [(0.0, ys.pixel(y)) for y in last["y"]]
    places = place_labels(at_end, list(last["label"]), width=margin, height=HEIGHT)
    last["ly"] = [ys.value(p.y) for p in places]
    x = alt.X(
        "x:Q",
        scale=alt.Scale(domain=[0, x_high], nice=False),
        axis=alt.Axis(title="Epoch", grid=False, tickCount=5, tickMinStep=tick, format="~g"),
    )
    at = {"x": x, "y": ys.axis(f", {split}"), "color": colour(arms)}
    lines = chart_of(rows).mark_line(strokeWidth=1.6, opacity=0.8, aria=False)
    dots = chart_of(rows).mark_point(size=30, filled=True, opacity=0.9)
    text = chart_of(last).mark_text(align="left", baseline="middle", dx=12, aria=False)
    layers = [
        lines.encode(**at, detail=alt.Detail("id:N")),
        dots.encode(**at, shape=shape(arms), tooltip=tips(rows)),
        text.encode(x=alt.X("x:Q"), y=alt.Y("ly:Q"), text=alt.Text("label:N")),
    ]
    if rows["kept"].any():
        ring = chart_of(rows[rows["kept"]]).mark_point(
            size=130, shape="circle", filled=False, strokeWidth=1.6, opacity=1, aria=False
        )
        layers.insert(2, ring.encode(**at))
    return layers
