"""The trade-off that a reader steers: any two quantities, any tasks, models and pairs.

The page's script picks the axes, filters the points, averages them over tasks as
`evidence.trade_off` does and draws the Pareto set of what is shown. The still drawing is the score
against the first cost.
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
from kdlora.evidence.trade_off import (
    PairMean,
    TaskMean,
    known_costs,
    not_beaten,
    pair_means,
    runs_behind,
    task_means,
    weighed_cells,
)
from kdlora.records.tidy import metrics_of, names, rows_of
from kdlora.report import words as w
from kdlora.report.content.cells import resumed_note, score_cell
from kdlora.report.document import Axis, Explorer, Figure, Panel
from kdlora.report.render.colours import kind_of, light, shape_of
from kdlora.report.render.label_placement import place_labels
from kdlora.report.render.theme import HEIGHT, WIDTH, chart_of, name_layers, panel_spec
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
    done = weighed_cells(facts.frame)
    axes = _axes(done)
    if len(axes) < 2 or len(names(done, "arm")) < 2:
        return None
    runs = done.drop_duplicates(["pair", "run_id"])
    points = [] if len(runs) > MOST_RUNS else [_run(row, axes) for row in rows_of(runs)]
    found = task_means(done, [axis.key for axis in axes])
    metrics = metrics_of(facts.frame)
    means = [_mean(facts, one, metrics[one.task][0]) for one in found]
    y, x = axes[:2]
    points_now = pair_means(found, x.key, y.key)
    if not points_now:
        return None
    still = panel_spec(_layers(points_now, x, y, SIZE), "Trade-off", width=SIZE[0], height=SIZE[1])
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
        f"axes.{sure}{many}{resumed_note(done) if 'train_s' in {a.key for a in axes} else ''}"
    )
    return Explorer(
        "explorer", "Explore the trade-off", caption, axes, tuple(_with_shares(means, stats)),
        tuple(points), {k: v for k, v in still.items() if k not in ("datasets", "title")},
        Panel("explorer", "Trade-off", alt_text, still), ("pareto", "quality", "costs"),
    )  # fmt: skip


def _axes(cells: pd.DataFrame) -> tuple[Axis, ...]:
    """The score and every cost that is known."""
    known = {"score", *known_costs(cells, [column for column, *_ in CHOICES[1:]])}
    return tuple(Axis(*choice) for choice in CHOICES if choice[0] in known)


def _run(row: dict[str, Any], axes: tuple[Axis, ...]) -> dict[str, Any]:
    values = {a.key: float(row[a.key]) for a in axes}
    return {
        "arm": row["arm"], "pair": row["pair"], "task": row["task"], "seed": int(row["seed"]),
        "run": row["run_id"],
        **{k: round(v, 6) for k, v in values.items() if math.isfinite(v) and v != 0},
    }  # fmt: skip


def _mean(facts: Facts, one: TaskMean, metric: str) -> dict[str, Any]:
    spread = facts.spreads[one.pair, one.task, one.arm]
    return {
        "arm": one.arm, "pair": one.pair, "task": one.task, "n": one.n,
        "shown": score_cell(spread, metric).shown,
        **{column: round(value, 6) for column, value in one.values.items()},
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


def _drawn(one: PairMean, x: Axis, y: Axis, several: bool) -> dict[str, Any]:
    """A row with what the chart reads: colour, shape, name, tooltip."""
    label = w.short_arm_name(one.arm) + (f" · {one.pair}" if several else "")
    return {
        "x": one.x, "y": one.y, "kind": kind_of(one.arm), "shape": shape_of(one.arm),
        "label": label, "Model": w.arm_name(one.arm), "Pair": one.pair,
        "Runs": one.runs, "Across": f"{w.significant(one.x)} ({x.label})",
        "Up": f"{w.significant(one.y)} ({y.label})",
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


def _layers(points: Sequence[PairMean], x: Axis, y: Axis, size: tuple[int, int]) -> list[alt.Chart]:
    """Front, runs, means and names, in this order: the page's script replaces their data."""
    kinds = ["teacher", "student", "kd", "baseline"]
    tints = alt.Scale(domain=kinds, range=[light(k) for k in kinds])
    rims = alt.Scale(domain=kinds, range=[light("ink" if k == "kd" else "card") for k in kinds])
    across = Span.over([p.x for p in points], x, size[0])
    up = Span.over([p.y for p in points], y, size[1])
    at = {
        "x": alt.X("x:Q", scale=across.scale(),
                   axis=alt.Axis(title=x.label, format="~s", grid=False, tickCount=6)),
        "y": alt.Y("y:Q", scale=up.scale(), axis=alt.Axis(title=y.label, format="~s",
                                                          tickCount=6)),
    }  # fmt: skip
    several = len({p.pair for p in points}) > 1
    best = not_beaten(points, (x.direction, y.direction))
    marks = pd.DataFrame([_drawn(p, x, y, several) for p in points])
    line = pd.DataFrame([{"x": p.x, "y": p.y} for p in best])
    named = [_drawn(p, x, y, several) for p in (best if len(points) > CROWDED else points)]
    places = place_labels(
        [(across.pixel(r["x"]), size[1] - up.pixel(r["y"])) for r in named],
        [r["label"] for r in named], width=size[0], height=size[1],
        others=[(across.pixel(p.x), size[1] - up.pixel(p.y)) for p in points],
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
    return layers


# What a model costs whoever uses it, then what it costs to make; the first that is known is drawn.
FIRST_COSTS = ("latency_p50_ms", "size_mb", "trainable_params", "train_s", "peak_memory_mb")
FIRST_SIZE = (350, 245)  # px


def score_against_cost(facts: Facts, steered: Explorer | None) -> Figure | None:
    """Every model's score against the cost that a user notices first, in one chart."""
    if steered is None:
        return None
    y, costs = steered.axes[0], {axis.key: axis for axis in steered.axes[1:]}
    means = task_means(weighed_cells(facts.frame), [axis.key for axis in steered.axes])
    for x in (costs[key] for key in FIRST_COSTS if key in costs):
        points = pair_means(means, x.key, y.key)
        if len(points) > 1:
            break
    else:
        return None
    title = f"Score against {quantity(x.key).noun}"
    spec = panel_spec(
        _layers(points, x, y, FIRST_SIZE), title, width=FIRST_SIZE[0], height=FIRST_SIZE[1]
    )
    best = not_beaten(points, (x.direction, y.direction))
    alt_text = (
        f"Scatter plot of score against {x.label[0].lower()}{x.label[1:]}; not beaten on both: "
        f"{w.join([w.short_arm_name(p.arm) for p in best])}."
    )
    caption = "The line joins the models that no other beats on both. Better is up and left."
    panel = Panel("first_cost", title, alt_text, spec)
    return Figure("first_cost", title, caption, (panel,), ("summary", "costs"))


def stills(facts: Facts, steered: Explorer | None, drawn: bool) -> Figure | None:
    """Score against every cost, one panel each; `drawn`: size and latency stand elsewhere."""
    if steered is None:
        return None
    y = steered.axes[0]
    means = task_means(weighed_cells(facts.frame), [axis.key for axis in steered.axes])
    left_out = ("total_params", "rank", "throughput_per_s", "train_flops", "energy_j",
                *(("size_mb", "latency_p50_ms") if drawn else ()))  # fmt: skip
    panels = []
    for x in steered.axes[1:]:
        points = pair_means(means, x.key, y.key) if x.key not in left_out else []
        if len(points) < 2:
            continue
        title = f"Against {x.label[0].lower()}{x.label[1:]}"
        spec = panel_spec(_layers(points, x, y, (WIDTH, HEIGHT)), title)
        best = [w.short_arm_name(p.arm) for p in not_beaten(points, (x.direction, y.direction))]
        alt_text = f"Scatter plot of score {title.lower()}; not beaten on both: {w.join(best)}."
        panels.append(Panel(f"score_costs_{x.key}", title, alt_text, spec))
    if not panels:
        return None
    n = runs_behind(means)
    caption = (
        f"Means over tasks that all models of a pair have (n = {n:,} runs); the line joins the "
        "models that no other beats on both axes, and where there are many only they are named."
    )
    return Figure("score_costs", "Score against cost", caption, tuple(panels),
                  ("pareto", "costs", "quality"))  # fmt: skip
