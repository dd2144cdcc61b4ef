"""Learning curves: the score at every evaluation, and the one whose checkpoint was kept."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from kdlora.evidence.diagnosis import epochs_table
from kdlora.records.tidy import groups, metric_of, names, rows_of
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
    curves = logged_curves(frame) if logged else histories
    if not curves:
        return None
    split = "report split" if logged else "selection split"
    several = len(names(frame, "pair")) > 1
    by = ("pair", "task") if frame.groupby(["pair", "task"]).ngroups <= MOST_PANELS else ("task",)
    panels, averaged, kept, runs = [], False, False, 0
    for key, cells in groups(frame, *by):
        task = str(key[-1]) if isinstance(key, tuple) else str(key)
        metric, direction = metric_of(frame, task)
        rows = _curves(cells, curves, metric)
        if rows.empty:
            continue
        runs += rows["Run"].nunique()
        kept |= bool(rows["kept"].any())
        if rows["Run"].nunique() > MOST_CURVES:
            rows, averaged = _mean_curves(rows, w.scale_of(metric)), True
        where = f"{task} · {key[0]}" if several and len(by) > 1 else task
        alt_text = (
            f"Line chart of {w.metric_name(metric)} on the {split} by epoch on {where}, "
            f"for {w.join([w.arm_name(arm) for arm in names(rows, 'arm')])}."
        )
        chart = _learning_chart(rows, Scores.over(metric, direction, rows["y"]), split)
        panels.append(Panel(f"learning_{where}", where, alt_text, panel_spec(chart, where)))
    if not panels:
        return None
    line = "the mean of a model's runs" if averaged else "a run"
    ring = "the ring the one kept most often" if averaged else "the ring the one that was kept"
    caption = f"A line is {line} (n = {runs} runs), a mark an evaluation on the {split}"
    caption += f", {ring}." if kept else "."
    return Figure("learning", f"Score on the {split} by epoch", caption, tuple(panels), ("runs",))


def logged_curves(frame: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    """Histories of imported runs, from their scores by epoch and the epoch that was kept."""
    table = epochs_table(frame)
    found = {}
    for row, chosen in zip(rows_of(frame.loc[table.index]), table["matched_epoch"], strict=True):
        found[row["run_id"]] = [
            {"epoch": float(i), "selection": {row["metric"]: score}, "kept": i == chosen}
            for i, score in enumerate(row["epoch_scores"], start=1)
        ]
    return found


def _curves(
    cells: pd.DataFrame, histories: dict[str, list[dict[str, Any]]], metric: str
) -> pd.DataFrame:
    scale = w.scale_of(metric)
    return pd.DataFrame(
        [
            {
                "x": float(point["epoch"]),
                "y": float(value) * scale.factor,
                "kept": _is_kept(point, run),
                "arm": run["arm"],
                "Model": w.arm_name(run["arm"]),
                "Score": scale.write(value),
                "Epoch": w.significant(point["epoch"]),
                "Run": run["run_id"],
            }
            for run in rows_of(cells)
            for point in histories.get(run["run_id"], ())
            if w.is_number(value := (point.get("selection") or {}).get(metric))
        ]
    )


def _is_kept(point: dict[str, Any], run: dict[str, Any]) -> bool:
    """Whether the checkpoint of an evaluation is the one that was saved."""
    return bool(point.get("kept", "step" in point and point["step"] == run.get("best_step")))


def _mean_curves(rows: pd.DataFrame, scale: w.Scale) -> pd.DataFrame:
    """One curve a model: means over its runs, kept where most of them were."""
    means = rows.groupby(["arm", "x"], sort=False).agg(
        y=("y", "mean"), kept=("kept", "sum"), runs=("Run", "nunique")
    )
    means = means.reset_index()
    most = means.groupby("arm")["kept"].transform("max")
    means["kept"] = (means["kept"] == most) & (most > 0)
    means["kept"] &= ~means.duplicated(["arm", "kept"])
    return means.assign(
        Model=[w.arm_name(arm) for arm in means["arm"]],
        Score=[scale.write(y / scale.factor) for y in means["y"]],
        Epoch=[w.significant(x) for x in means["x"]],
        Run=[f"mean of {n}" for n in means["runs"]],
        id=means["arm"],
    )


def _learning_chart(rows: pd.DataFrame, ys: Scores, split: str) -> alt.LayerChart | alt.FacetChart:
    rows = rows if "id" in rows else rows.assign(id=rows["Run"])
    arms, x_high = names(rows, "arm"), max(float(rows["x"].max()), 1e-9)
    tick = 1 if x_high >= 2 else 0
    end = rows.loc[rows.groupby("id", sort=False)["x"].idxmax()]
    # The name stands at the run that ended nearest to its arm's mean: a mean of runs that went
    # far apart is where no line is.
    off = (end["y"] - end.groupby("arm")["y"].transform("mean")).abs()
    last = end.loc[off.groupby(end["arm"], sort=False).idxmin(), ["arm", "x", "y"]].copy()
    last["label"] = [w.short_arm_name(arm) for arm in last["arm"]]
    margin = 10.0 * WIDTH  # names stand outside the plot, where there is room on one side
    ends = [(0.0, ys.pixel(y)) for y in last["y"]]
    places = place_labels(ends, list(last["label"]), width=margin, height=HEIGHT)
    last["ly"], last["x"] = [ys.value(p.y) for p in places], x_high
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
    return alt.layer(*layers)
