"""What predictions show of single models: calibration, confusion, agreement with the teacher."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import altair as alt
import pandas as pd

from kdlora.evidence.predictions import (
    AGREEMENT,
    BINS,
    ConfidenceBins,
    Confusion,
    agreement_rows,
    confusions,
    mean_agreement,
    risk_curves,
)
from kdlora.evidence.predictions import reliability as added_up
from kdlora.records.tidy import groups, names, rows_of
from kdlora.report import words as w
from kdlora.report.content.cells import Lead
from kdlora.report.document import Cell, Column, Figure, Panel, Table
from kdlora.report.render.colours import light
from kdlora.report.render.panels import ROW, heat_map, shade, tips
from kdlora.report.render.theme import chart_of, colour, panel_spec, shape
from kdlora.vocabulary.arm import Arm
from kdlora.vocabulary.task import MULTILABEL

SIDE = 250  # px of a reliability diagram
MOST_PANELS = 12
MOST_CLASSES = 12
MOST_ROWS = 30  # of a panel of agreements; more are averaged over seeds


def reliability(
    frame: pd.DataFrame, bins: Mapping[str, ConfidenceBins]
) -> tuple[Figure, Table] | None:
    """Share of right answers by confidence: a panel a task (and pair), a line a model."""
    lead, rows = Lead(frame), []
    panels: list[Panel] = []
    several = len(names(frame, "pair")) > 1
    used: set[str] = set()
    for (pair, task), cells in groups(frame[frame["run_id"].isin(set(bins))], "pair", "task"):
        drawn = []
        for arm, own in groups(cells, "arm"):
            used |= set(own["run_id"])
            for point in added_up([bins[r] for r in dict.fromkeys(own["run_id"])]):
                x, y = point.confidence, point.correct
                drawn.append({
                    "arm": arm, "x": 100 * x, "y": 100 * y, "label": w.short_arm_name(arm),
                    "Model": w.arm_name(arm), "Confidence": f"{100 * x:.1f} %",
                    "Right": f"{100 * y:.1f} %", "Rows": point.n,
                })  # fmt: skip
                rows.append((
                    *lead.cells(pair, task, arm), Cell(f"{100 * x:.1f}", x),
                    Cell(f"{100 * y:.1f}", y), w.count(point.n),
                ))  # fmt: skip
        if drawn and len(panels) < MOST_PANELS:
            where = f"{task} · {pair}" if several else str(task)
            panels.append(_reliability_panel(where, pd.DataFrame(drawn)))
    if not panels:
        return None
    table = Table(
        "reliability",
        "Right answers by confidence",
        (*lead.columns, Column("confidence", "Mean confidence", "%"), Column("right", "Right", "%"),
         Column("rows", "Rows")),
        tuple(rows),
        f"Report rows of all runs shown, in {BINS} bins of the predicted class's probability."
        f"{_of_labels(frame)}",
        heads=len(lead.columns), folded=True,
    )  # fmt: skip
    caption = (
        f"Report rows in {BINS} bins of confidence, all seeds together (n = {len(used)} runs). On "
        "the dashed line a model is right as often as it says; below it, it is overconfident."
        f"{_of_labels(frame)}"
    )
    return Figure("reliability", "Calibration", caption, tuple(panels), ("reliability",)), table


def risk_coverage(
    frame: pd.DataFrame, bins: Mapping[str, ConfidenceBins]
) -> tuple[Figure, Table] | None:
    """Wrong answers by the share of rows answered: a panel a task (and pair), a line a model."""
    lead, rows = Lead(frame), []
    drawn: dict[str, list[dict[str, Any]]] = {}
    used = 0
    for (pair, task, arm), (curve, n) in risk_curves(frame, bins).items():
        used += n
        panel = drawn.setdefault(_where(frame, pair, task) or str(task), [])
        for coverage, risk in zip(curve.coverage, curve.risk, strict=True):
            panel.append({
                "arm": arm, "label": w.short_arm_name(arm), "x": 100 * coverage, "y": 100 * risk,
                "Model": w.arm_name(arm), "Answered": f"{100 * coverage:.0f} %",
                "Wrong": f"{100 * risk:.1f} %",
            })  # fmt: skip
            rows.append((
                *lead.cells(pair, task, arm), Cell(f"{100 * coverage:.0f}", coverage),
                Cell(f"{100 * risk:.1f}", risk), Cell(f"{100 * curve.area:.2f}", curve.area),
                w.count(n),
            ))  # fmt: skip
    if not drawn:
        return None
    panels = [_risk_panel(where, pd.DataFrame(own)) for where, own in drawn.items()][:MOST_PANELS]
    table = Table(
        "risk_coverage",
        "Wrong answers by the share of rows answered",
        (*lead.columns, Column("coverage", "Answered", "%"), Column("risk", "Wrong", "%"),
         Column("area", "Area under the curve", "%"), Column("runs", "Runs")),
        tuple(rows),
        "Report rows, the surest first, mean over the runs. The area is the mean of all coverages: "
        "less is better.",
        heads=len(lead.columns), folded=True,
    )  # fmt: skip
    caption = (
        "Report rows are answered in the order of the probability of their answer, mean over the "
        f"seeds (n = {used} runs). `kdlora calibrate --abstain` chooses a point of such a curve on "
        "the selection split."
    )
    return Figure("risk_coverage", "If unsure answers were withheld", caption, tuple(panels),
                  ("risk_coverage",)), table  # fmt: skip


def _risk_panel(where: str, rows: pd.DataFrame) -> Panel:
    top = 1.15 * max(rows["y"].max(), 1.0)
    x = alt.X("x:Q", scale=alt.Scale(domain=[0, 100], nice=False),
              axis=alt.Axis(title="Rows answered, %", tickCount=5))  # fmt: skip
    y = alt.Y("y:Q", scale=alt.Scale(domain=[0, top], nice=False),
              axis=alt.Axis(title="Wrong answers, %", tickCount=5))  # fmt: skip
    alt_text = (
        f"Share of wrong answers on {where} by the share of rows answered, for "
        f"{w.join([w.short_arm_name(a) for a in dict.fromkeys(rows['arm'])])}."
    )
    layers = _lines_with_names(rows.sort_values("x"), x, y, top)
    spec = panel_spec(layers, where, width=SIDE * 1.2, height=SIDE)
    return Panel(f"risk_coverage_{where}", where, alt_text, spec)


def _of_labels(frame: pd.DataFrame) -> str:
    """What confidence is where a text may have several labels; nothing where none has."""
    if "task_kind" not in frame or not (frame["task_kind"] == MULTILABEL.name).any():
        return ""
    return (
        " Where a text may have several labels, each label of each text counts by its probability, "
        "and as right where it is there."
    )


def _reliability_panel(where: str, rows: pd.DataFrame) -> Panel:
    scale = alt.Scale(domain=[0, 100], nice=False)
    x = alt.X("x:Q", scale=scale, axis=alt.Axis(title="Mean confidence, %", tickCount=5))
    y = alt.Y("y:Q", scale=scale, axis=alt.Axis(title="Right answers, %", tickCount=5))
    diagonal = chart_of(pd.DataFrame({"x": [0, 100], "y": [0, 100]}))
    diagonal = diagonal.mark_line(color=light("muted"), strokeDash=[4, 4], aria=False)
    layers = [diagonal.encode(x=x, y=y), *_lines_with_names(rows, x, y, 100.0)]
    alt_text = (
        f"Reliability diagram on {where}: share of right answers by confidence for "
        f"{w.join([w.short_arm_name(a) for a in dict.fromkeys(rows['arm'])])}."
    )
    spec = panel_spec(layers, where, width=SIDE * 1.2, height=SIDE)
    return Panel(f"reliability_{where}", where, alt_text, spec)


def _lines_with_names(rows: pd.DataFrame, x: alt.X, y: alt.Y, top: float) -> list[alt.Chart]:
    """A line of points a model, and their names in the empty corner at the upper left.

    `rows` are in the order of x. The names stand in the order of the lines' right ends; `top` is
    where the axis `y` ends.
    """
    arms = list(dict.fromkeys(rows["arm"]))
    last = rows.drop_duplicates("arm", keep="last").sort_values("y", ascending=False)
    named = last.assign(ly=[top * (96 - 6.2 * i) / 100 for i in range(len(last))], lx=4.0)
    legend = chart_of(named)
    return [
        chart_of(rows).mark_line(opacity=0.6, strokeWidth=1.3, aria=False)
        .encode(x=x, y=y, color=colour(arms), detail=alt.Detail("arm:N")),
        chart_of(rows).mark_point(filled=True, opacity=0.95, size=42)
        .encode(x=x, y=y, color=colour(arms), shape=shape(arms), tooltip=tips(rows)),
        legend.mark_point(filled=True, size=42, opacity=1, aria=False)
        .encode(x=alt.X("lx:Q"), y=alt.Y("ly:Q"), color=colour(arms), shape=shape(arms)),
        legend.mark_text(align="left", baseline="middle", dx=8, aria=False)
        .encode(x=alt.X("lx:Q"), y=alt.Y("ly:Q"), text=alt.Text("label:N")),
    ]  # fmt: skip


def confusion(frame: pd.DataFrame) -> tuple[Figure, Table] | None:
    """Confusion matrices: a panel a task and model, all seeds added up."""
    lead, rows = Lead(frame), []
    panels: list[Panel] = []
    for (pair, task, arm), found in confusions(frame).items():
        if len(found.labels) > MOST_CLASSES:
            continue
        if not Arm.read(arm).is_baseline and len(panels) < MOST_PANELS:
            panels.append(_confusion_panel(_where(frame, pair, task), arm, found))
        for i, truth in enumerate(found.labels):
            for j, said in enumerate(found.labels):
                share = found.share(i, j)
                rows.append((
                    *lead.cells(pair, task, arm), Cell(truth), Cell(said),
                    w.count(found.counts[i][j]),
                    Cell(w.fixed(100 * share, 1), None if math.isnan(share) else share),
                ))  # fmt: skip
    if not panels:
        return None
    table = Table(
        "confusion",
        "What is taken for what",
        (*lead.columns, Column("true", "True class", numeric=False),
         Column("predicted", "Predicted", numeric=False), Column("n", "Rows"),
         Column("share", "Of the true class", "%")),
        tuple(rows),
        "Report rows, all seeds together.",
        heads=len(lead.columns) + 2, folded=True,
    )  # fmt: skip
    caption = (
        "Per cent of the rows of each true class, all seeds together (n in the table); the "
        "diagonal is right."
    )
    figure = Figure("confusion", "Confusion matrices", caption, tuple(panels), ("confusion",))
    return figure, table


def _where(frame: pd.DataFrame, pair: str, task: str) -> str:
    parts = [task] if len(names(frame, "task")) > 1 else []
    parts += [pair] if len(names(frame, "pair")) > 1 else []
    return " · ".join(parts)


def _confusion_panel(where: str, arm: str, found: Confusion) -> Panel:
    rows = []
    for j, said in enumerate(found.labels):
        for i, truth in enumerate(found.labels):
            share = found.share(i, j) if any(found.counts[i]) else 0.0
            rows.append({
                "column": said, "row": truth, "shade": shade(share),
                "label": w.fixed(100 * share, 1), "True": truth, "Predicted": said,
                "Rows": found.counts[i][j],
            })  # fmt: skip
    name = w.short_arm_name(arm)
    title = f"{name} · {where}" if where else name
    alt_text = f"Confusion matrix of {name}{' on ' + where if where else ''}."
    return heat_map(f"confusion_{title}", title, alt_text, pd.DataFrame(rows),
                    x="Predicted", y="True")  # fmt: skip


def agreement_figure(frame: pd.DataFrame) -> Figure | None:
    """Agreement of students with their teachers, within what their accuracies allow."""
    known = agreement_rows(frame)
    if known.empty:
        return None
    panels: list[Panel] = []
    averaged = False
    for task, own in groups(known, "task"):
        drawn = rows_of(own)
        if len(own) > MOST_ROWS:
            averaged = True
            drawn = [
                {"pair": pair, "arm": arm, "seed": "mean", **means}
                for (pair, arm), means in mean_agreement(own).items()
            ]
        rows = [_agreement_row(row, frame) for row in drawn]
        if len(panels) < MOST_PANELS:
            panels.append(_agreement_panel(str(task), pd.DataFrame(rows)))
    caption = (
        f"A dot {'the mean of a model' if averaged else 'a distilled student'} (n = {len(known)} "
        f"runs); the bar is what the accuracies of "
        "student and teacher allow, the tick what independent guesses would reach. Where the "
        "teacher's accuracy is unknown there is no bar, and the level says little."
    )
    return Figure("agreement", "Agreement with the teacher", caption, tuple(panels), ("agreement",))


def _agreement_row(row: dict[str, Any], frame: pd.DataFrame) -> dict[str, Any]:
    pair = f"{row['pair']} · " if len(names(frame, "pair")) > 1 else ""
    seed = row["seed"] if row["seed"] == "mean" else f"seed {row['seed']}"
    name = f"{pair}{w.short_arm_name(row['arm'])}, {seed}"
    return {
        "label": name, "x": 100 * row["agreement"], "low": 100 * row["agreement_lower"],
        "high": 100 * row["agreement_upper"], "chance": 100 * row["agreement_chance"],
        "Student": name, "Agreement": f"{w.fixed(100 * row['agreement'], 1)} %",
        "Possible": f"{w.fixed(100 * row['agreement_lower'], 1)} to "
                    f"{w.fixed(100 * row['agreement_upper'], 1)} %",
        "By chance": f"{w.fixed(100 * row['agreement_chance'], 1)} %",
    }  # fmt: skip


def _agreement_panel(task: str, rows: pd.DataFrame) -> Panel:
    scale = alt.Scale(domain=[0, 100], nice=False)
    x = alt.X("x:Q", scale=scale, axis=alt.Axis(title="Same answer, % of report rows"))
    y = alt.Y("label:N", sort=list(rows["label"]),
              axis=alt.Axis(title=None, ticks=False, domain=False, labelLimit=320))  # fmt: skip
    layers = []
    bounded = rows[rows["low"].notna()]
    if len(bounded):
        bar = chart_of(bounded).mark_bar(height=9, color=light("student"), opacity=0.3, aria=False)
        layers.append(bar.encode(x=alt.X("low:Q", scale=scale), x2=alt.X2("high"), y=y))
    guessed = rows[rows["chance"].notna()]
    if len(guessed):
        tick = chart_of(guessed).mark_tick(color=light("muted"), thickness=2, size=15, aria=False)
        layers.append(tick.encode(x=alt.X("chance:Q", scale=scale), y=y))
    point = chart_of(rows).mark_point(size=60, filled=True, color=light("kd"), opacity=1)
    layers.append(point.encode(x=x, y=y, tooltip=tips(rows)))
    alt_text = f"Agreement of each distilled student with its teacher on {task}, with its bounds."
    spec = panel_spec(layers, task, height=ROW * len(rows))
    return Panel(f"agreement_{task}", task, alt_text, spec)


def agreement_table(frame: pd.DataFrame) -> Table | None:
    """How often distilled students say what their teacher says, and what was possible."""
    cells = agreement_rows(frame)
    if cells.empty:
        return None
    lead = Lead(frame)
    rows = []
    for row in rows_of(cells):
        scale = w.scale_of(row["metric"] or "")
        shares = [
            Cell(w.fixed(100 * row[key], 1), row[key]) if math.isfinite(row[key]) else Cell(w.NONE)
            for key in AGREEMENT
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
        "the same class shares. Of several labels a text, the same is the same set of them.",
        heads=len(lead.columns),
    )
