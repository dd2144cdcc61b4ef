"""The trade-off that a reader steers: any two quantities, any tasks, models and pairs.

The page's script picks the axes, filters the points, averages them over tasks as `averages` does
and draws the Pareto set of what is shown. The still drawing is the score against the first cost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd

from kdlora.evidence.gains import Facts
from kdlora.evidence.study import Evidence
from kdlora.records.tidy import groups, metric_of, names, rows_of, scored
from kdlora.report import words as w
from kdlora.report.content.cells import score_cell
from kdlora.report.document import Axis, Explorer, Figure, Panel
from kdlora.report.render.label_placement import place_labels
from kdlora.report.render.theme import (
    HEIGHT,
    WIDTH,
    chart_of,
    kind_of,
    light,
    name_layers,
    panel_spec,
    shape_of,
)
from kdlora.vocabulary.metric import POINTS
from kdlora.vocabulary.quantity import quantity

MOST_RUNS = 3000  # more are drawn as means only

# What an axis can show: column, title, direction and whether it is logarithmic.
CHOICES = (
    ("score", f"Score, {POINTS}", 1, False),
    *(
        (one.column, one.axis_title, one.direction, one.log)
        for one in map(
            quantity,
            ("size_mb", "latency_p50_ms", "trainable_params", "total_params", "peak_memory_mb",
             "train_s", "inference_s", "train_flops", "throughput_per_s", "energy_j", "rank"),
        )
    ),
)  # fmt: skip

SIZE = (620, 380)  # px
CROWDED = 14  # points; where there are more, only those on the Pareto set are named


def explorer(facts: Facts, stats: Evidence | None) -> Explorer | None:
    """The steered chart; None where fewer than two quantities are known of fewer than two models.

    Scores of tasks whose metric is not in points are shown as they are, in their own unit.
    """
    done = scored(facts.frame)
    done = done[done["role"] != "baseline"]
    done = done.loc[[w.scale_of(str(m)).factor == 100 for m in done["metric"]]]
    known = [q for q in CHOICES if q[0] == "score" or (done[q[0]] > 0).sum() > 1]
    if len(known) < 2 or done["arm"].nunique() < 2:
        return None
    axes = tuple(Axis(*q) for q in known)
    runs = done.drop_duplicates(["pair", "run_id"])
    points = [] if len(runs) > MOST_RUNS else [_run(row, axes) for row in rows_of(runs)]
    means = [_mean(facts, key, own, axes) for key, own in groups(done, "pair", "task", "arm")]
    y, x = axes[:2]
    points_now = averages(means, x.key, y.key)
    if not points_now:
        return None
    still = panel_spec(_chart(points_now, x, y, SIZE), "Trade-off", width=SIZE[0], height=SIZE[1])
    alt_text = (
        f"Scatter plot of score against {x.label.lower()}, a mark for each of "
        f"{w.join([w.short_arm_name(a) for a in names(done, 'arm')])}."
    )
    many = f" Of {len(runs):,} runs only means are drawn." if not points else ""
    sure = (
        " How surely a model is on it stands in the table On the Pareto set of score and cost, "
        "and in the tooltips while nothing is filtered."
        if stats and any(p.on_front_share is not None for f in stats.fronts.values()
                         for p in f.points)
        else ""
    )  # fmt: skip
    caption = (
        f"Large marks are means over the tasks and seeds chosen, small ones single runs (n = "
        f"{len(runs):,} runs); the line joins the models that no other shown one beats on both "
        f"axes.{sure}{many}"
    )
    return Explorer(
        "explorer", "Explore the trade-off", caption, axes, tuple(_with_shares(means, stats)),
        tuple(points), {k: v for k, v in still.items() if k not in ("datasets", "title")},
        Panel("explorer", "Trade-off", alt_text, still), ("pareto", "quality", "costs"),
    )  # fmt: skip


def _values(row: dict[str, Any], axes: tuple[Axis, ...]) -> dict[str, float]:
    found = {a.key: row[a.key] * (100 if a.key == "score" else 1) for a in axes}
    return {k: round(float(v), 6) for k, v in found.items() if math.isfinite(v) and v != 0}


def _run(row: dict[str, Any], axes: tuple[Axis, ...]) -> dict[str, Any]:
    return {
        "arm": row["arm"], "pair": row["pair"], "task": row["task"], "seed": int(row["seed"]),
        "run": row["run_id"], **_values(row, axes),
    }  # fmt: skip


def _mean(
    facts: Facts, key: tuple[str, str, str], own: pd.DataFrame, axes: tuple[Axis, ...]
) -> dict[str, Any]:
    pair, task, arm = key
    found = {a.key: float(own[a.key].mean()) for a in axes}
    cell = score_cell(facts.spreads[key], metric_of(facts.frame, task)[0])
    return {
        "arm": arm, "pair": pair, "task": task, "n": int(own["run_id"].nunique()),
        "shown": cell.shown, **_values(found, axes),
    }  # fmt: skip


def _with_shares(means: list[dict[str, Any]], stats: Evidence | None) -> list[dict[str, Any]]:
    """Adds to each mean how often its arm is on the Pareto set of score and each cost."""
    if stats is None:
        return means
    shares: dict[str, dict[str, float]] = {}
    for cost, front in stats.fronts.items():
        for p in front.points:
            if p.on_front_share is not None:
                shares.setdefault(p.arm, {})[cost] = round(p.on_front_share, 4)
    return [{**row, "shares": shares.get(row["arm"], {})} for row in means]


def averages(means: Sequence[dict[str, Any]], x: str, y: str) -> list[dict[str, Any]]:
    """A mark for each pair and arm: means over the tasks that all arms of the pair have on both
    axes. The page's script does the same for what is chosen there."""
    rows = []
    for pair in dict.fromkeys(row["pair"] for row in means):
        own = [r for r in means if r["pair"] == pair and x in r and y in r]
        arms = list(dict.fromkeys(r["arm"] for r in own))
        have = {t: {r["arm"] for r in own if r["task"] == t} for t in {r["task"] for r in own}}
        tasks = {t for t, found in have.items() if len(found) == len(arms)}
        for arm in arms if tasks else []:
            part = [r for r in own if r["arm"] == arm and r["task"] in tasks]
            rows.append({
                "arm": arm, "pair": pair, "runs": sum(r["n"] for r in part),
                "x": sum(r[x] for r in part) / len(part), "y": sum(r[y] for r in part) / len(part),
            })  # fmt: skip
    return rows


def front(rows: Sequence[dict[str, Any]], x: Axis, y: Axis) -> list[dict[str, Any]]:
    """The rows that no other one beats on both axes, from left to right."""

    def beats(a: dict[str, Any], b: dict[str, Any]) -> bool:
        gains = [(a[k] - b[k]) * axis.direction for k, axis in (("x", x), ("y", y))]
        return min(gains) >= 0 and max(gains) > 0

    kept = [r for r in rows if not any(beats(other, r) for other in rows)]
    return sorted(kept, key=lambda r: r["x"])


def _drawn(row: dict[str, Any], x: Axis, y: Axis, several: bool) -> dict[str, Any]:
    """A row with what the chart reads: colour, shape, name, tooltip."""
    label = w.short_arm_name(row["arm"]) + (f" · {row['pair']}" if several else "")
    return {
        "x": row["x"], "y": row["y"], "kind": kind_of(row["arm"]), "shape": shape_of(row["arm"]),
        "label": label, "Model": w.arm_name(row["arm"]), "Pair": row["pair"],
        "Runs": row.get("runs", 1), "Across": f"{w.significant(row['x'])} ({x.label})",
        "Up": f"{w.significant(row['y'])} ({y.label})",
    }  # fmt: skip


@dataclass(frozen=True)
class Span:
    """The ends of an axis with a little room, and places on it in px."""

    low: float
    high: float
    log: bool
    px: float

    @classmethod
    def over(cls, values: Sequence[float], axis: Axis, px: float) -> Span:
        turned = [math.log(v) if axis.log else v for v in values]
        room = 0.08 * (max(turned) - min(turned)) or 0.5
        low, high = (
            math.exp(v) if axis.log else v for v in (min(turned) - room, max(turned) + room)
        )
        return cls(low, high, axis.log, px)

    def pixel(self, value: float) -> float:
        a, b, v = (math.log(u) if self.log else u for u in (self.low, self.high, value))
        return self.px * (v - a) / (b - a)

    def value(self, pixel: float) -> float:
        a, b = (math.log(u) if self.log else u for u in (self.low, self.high))
        found = a + (b - a) * pixel / self.px
        return math.exp(found) if self.log else found

    def scale(self) -> alt.Scale:
        return alt.Scale(
            type="log" if self.log else "linear", domain=[self.low, self.high], nice=False
        )


def _chart(
    points: Sequence[dict[str, Any]], x: Axis, y: Axis, size: tuple[int, int]
) -> alt.LayerChart | alt.FacetChart:
    """Front, runs, means and names, in this order: the page's script replaces their data."""
    kinds = ["teacher", "student", "kd", "baseline"]
    tints = alt.Scale(domain=kinds, range=[light(k) for k in kinds])
    rims = alt.Scale(domain=kinds, range=[light("ink" if k == "kd" else "card") for k in kinds])
    across = Span.over([p["x"] for p in points], x, size[0])
    up = Span.over([p["y"] for p in points], y, size[1])
    at = {
        "x": alt.X("x:Q", scale=across.scale(),
                   axis=alt.Axis(title=x.label, format="~s", grid=False, tickCount=6)),
        "y": alt.Y("y:Q", scale=up.scale(), axis=alt.Axis(title=y.label, format="~s",
                                                          tickCount=6)),
    }  # fmt: skip
    several = len({row["pair"] for row in points}) > 1
    best = front(points, x, y)
    marks = pd.DataFrame([_drawn(row, x, y, several) for row in points])
    line = pd.DataFrame([{"x": r["x"], "y": r["y"]} for r in best])
    named = [_drawn(row, x, y, several) for row in (best if len(points) > CROWDED else points)]
    places = place_labels(
        [(across.pixel(r["x"]), size[1] - up.pixel(r["y"])) for r in named],
        [r["label"] for r in named], width=size[0], height=size[1],
        others=[(across.pixel(p["x"]), size[1] - up.pixel(p["y"])) for p in points],
    )  # fmt: skip
    texts = pd.DataFrame([
        {"lx": across.value(place.x), "ly": up.value(size[1] - place.y), "align": place.align,
         "label": row["label"]}
        for row, place in zip(named, places, strict=True)
    ])  # fmt: skip
    tint = alt.Fill("kind:N", legend=None, scale=tints)
    form = alt.Shape("shape:N", legend=None, scale=None)
    rim = alt.Stroke("kind:N", legend=None, scale=rims)
    dash = chart_of(line).mark_line(color=light("muted"), strokeDash=[5, 3], strokeWidth=1.3,
                                    interpolate="step-after", aria=False)  # fmt: skip
    single = chart_of(marks.head(0)).mark_point(size=30, filled=True, opacity=0.45, strokeWidth=0)
    mean = chart_of(marks).mark_point(size=110, filled=True, opacity=1, strokeWidth=1.5)
    means = ["Model", "Pair", "Runs", "Across", "Up", "Pareto"]
    runs = ["Model", "Pair", "Task", "Seed", "Run", "Across", "Up"]
    layers = [
        dash.encode(x=at["x"], y=at["y"]),
        single.encode(**at, fill=tint, shape=form, tooltip=[alt.Tooltip(f"{n}:N") for n in runs]),
        mean.encode(
            **at, fill=tint, shape=form, stroke=rim, tooltip=[alt.Tooltip(f"{n}:N") for n in means]
        ),
    ]
    lx, ly = alt.X("lx:Q", scale=across.scale()), alt.Y("ly:Q", scale=up.scale())
    layers += name_layers(texts, x=lx, y=ly, fontSize=10)
    return alt.layer(*layers)


def stills(steered: Explorer | None, drawn: bool) -> Figure | None:
    """Score against every cost, one panel each; `drawn`: size and latency stand elsewhere."""
    if steered is None:
        return None
    y = steered.axes[0]
    left_out = ("total_params", "rank", "throughput_per_s", "train_flops", "energy_j",
                *(("size_mb", "latency_p50_ms") if drawn else ()))  # fmt: skip
    panels = []
    for x in steered.axes[1:]:
        points = averages(steered.means, x.key, y.key) if x.key not in left_out else []
        if len(points) < 2:
            continue
        title = f"Against {x.label[0].lower()}{x.label[1:]}"
        spec = panel_spec(_chart(points, x, y, (WIDTH, HEIGHT)), title)
        best = [w.short_arm_name(r["arm"]) for r in front(points, x, y)]
        alt_text = f"Scatter plot of score {title.lower()}; not beaten on both: {w.join(best)}."
        panels.append(Panel(f"score_costs_{x.key}", title, alt_text, spec))
    if not panels:
        return None
    n = sum(row["n"] for row in steered.means)
    caption = (
        f"Means over tasks that all models of a pair have (n = {n:,} runs); the line joins the "
        "models that no other beats on both axes, and where there are many only they are named."
    )
    return Figure("score_costs", "Score against cost", caption, tuple(panels),
                  ("pareto", "costs", "quality"))  # fmt: skip
