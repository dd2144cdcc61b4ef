"""The figures that the published reports name, drawn again from the recomputed numbers.

Every figure has the file name that it has in its report, as SVG and PNG, in the folder that the
report names. What is drawn stands beside it as CSV (`figures/NAME.csv`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import altair as alt
import pandas as pd

from kdlora.report.document import Figure, Panel
from kdlora.report.render.colours import light
from kdlora.report.render.label_placement import place_labels
from kdlora.report.render.panels import heat_map, shades, tips
from kdlora.report.render.svg import draw, side_by_side, size_of
from kdlora.report.render.theme import FONT, HEIGHT, WIDTH, Logs, chart_of, name_layers, panel_spec

STRATEGIES = ("FFT", "LoRA", "KD-LoRA")
_COLOURS = dict(zip(STRATEGIES, ("teacher", "student", "kd"), strict=True))
_SHAPES = dict(zip(STRATEGIES, ("square", "circle", "diamond"), strict=True))
_DASHES: tuple[list[int], ...] = ([1, 0], [6, 3], [2, 2])
FOLDERS = {"000": "analysis_plots", "001": "", "002": "combined_plots", "003": "efficiency_plots"}
SOURCES = {
    "000": "Azimi et al. 2024 (arXiv 2410.20777), table 1: GLUE development sets, medians of the "
    "best 6 of about 25 configurations",
    "001": "574 trainings (26 January): means over the runs of a variant and strategy; the groups "
    "hold different tasks and seeds",
    "002": "Scores as report 002 prints or computes them; parameters, memory and time of plain "
    "LoRA at rank 8 from Azimi et al. 2024, table 2",
    "003": "Azimi et al. 2024 (arXiv 2410.20777), table 2",
}
NOTE_LINE, NOTE_SIZE = 15.0, 11  # px


@dataclass(frozen=True)
class Drawing:
    """A figure of a report as SVG, and where it lies below the report's folder."""

    name: str
    folder: str
    title: str
    svg: str


def drawn(report: str, name: str, data: pd.DataFrame) -> Drawing | None:
    """One figure of a report; None for data that the report does not draw."""
    kind = next((prefix for prefix in _FIGURES if name.startswith(prefix)), None)
    if report not in FOLDERS or kind is None:
        return None
    title, make = _FIGURES[kind]
    families = list(data["family"].unique()) if "family" in data else []
    if kind.endswith("_") and len(families) == 1:
        title = f"{title}, {families[0]}"
    panels = tuple(make(data))
    svg = side_by_side(Figure(name, title, "", panels, ()), [draw(p) for p in panels])
    return Drawing(name, FOLDERS[report], title, _framed(svg, title, f"Source: {SOURCES[report]}."))


def _framed(svg: str, title: str, note: str) -> str:
    """A picture below its title and above its source."""
    width, height = size_of(svg)
    width = max(width, 460.0)
    room = int((width - 32) / (0.52 * NOTE_SIZE))
    words, lines = note.split(), [""]
    for word in words:
        if len(lines[-1]) + len(word) >= room:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    top, whole = 34.0, height + 34.0 + NOTE_LINE * len(lines) + 14
    texts = "".join(
        f'<text x="16" y="{top + height + NOTE_LINE * (i + 0.6)}" font-size="{NOTE_SIZE}" '
        f'fill="{light("muted")}">{escape(line)}</text>'
        for i, line in enumerate(lines)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{width:g}" height="{whole:g}" viewBox="0 0 {width:g} {whole:g}" '
        f'font-family="{FONT}"><rect width="100%" height="100%" fill="{light("card")}"/>'
        f'<text x="16" y="26" font-size="15" font-weight="600" fill="{light("ink")}">'
        f"{escape(title)}</text>"
        f"{svg.strip().replace('<svg ', f'<svg y={chr(34)}{top:g}{chr(34)} ', 1)}{texts}</svg>\n"
    )


def _strategy(name: object) -> str:
    return "LoRA" if str(name) == "LoRA-only" else str(name)


def _colour(rows: pd.DataFrame) -> alt.Color:
    domain = [s for s in STRATEGIES if s in set(rows["strategy"])]
    scale = alt.Scale(domain=domain, range=[light(_COLOURS[s]) for s in domain])
    return alt.Color("strategy:N", scale=scale, legend=_legend())


def _shape(rows: pd.DataFrame) -> alt.Shape:
    domain = [s for s in STRATEGIES if s in set(rows["strategy"])]
    scale = alt.Scale(domain=domain, range=[_SHAPES[s] for s in domain])
    return alt.Shape("strategy:N", scale=scale, legend=_legend())


def _legend() -> alt.Legend:
    return alt.Legend(title=None, orient="top", direction="horizontal", labelLimit=260,
                      labelColor=light("muted"), labelFontSize=11)  # fmt: skip


def _panel(layers: Sequence[alt.Chart], key: str, title: str, text: str, **size: float) -> Panel:
    return Panel(key, title, text, panel_spec(layers, title, **size))


def _bars(
    data: pd.DataFrame, x: str, y: str, title: str, *, log: bool = False, digits: str = ".1f"
) -> Panel:
    """Bars in groups, a group a value of `x`, a bar a strategy, each with its number above."""
    rows = pd.DataFrame(
        {
            "group": data[x].astype(str),
            "strategy": data["strategy"].map(_strategy),
            "value": data[y].astype(float),
        }
    )
    rows["label"] = [format(v, digits) for v in rows["value"]]
    groups = list(dict.fromkeys(rows["group"]))
    order = [s for s in STRATEGIES if s in set(rows["strategy"])]
    low, high = float(rows["value"].min()), float(rows["value"].max())
    scale = alt.Scale(domain=[0, 1.1 * high], nice=False)
    axis = alt.Axis(title=title, tickCount=6)
    floor = 0.0
    if log:
        ends = Logs.over([low / 2, 2 * high])
        floor = ends.low
        scale = alt.Scale(type="log", domain=[ends.low, ends.high], nice=False)
        axis = alt.Axis(title=f"{title} (log scale)", values=ends.ticks(), format="~g")
    rows["floor"] = floor
    across = alt.X("group:N", sort=groups, axis=alt.Axis(title=None, labelAngle=0, labelLimit=170))
    beside = alt.XOffset("strategy:N", sort=order)
    up = alt.Y("value:Q", scale=scale, axis=axis)
    bars = chart_of(rows).mark_bar().encode(
        x=across, xOffset=beside, y=up, y2=alt.Y2("floor"), color=_colour(rows)
    )  # fmt: skip
    texts = chart_of(rows).mark_text(dy=-7, fontSize=10, color=light("ink"), aria=False).encode(
        x=across, xOffset=beside, y=up, text=alt.Text("label:N")
    )  # fmt: skip
    told = "; ".join(f"{g} {s} {v}" for g, s, v in rows[["group", "strategy", "label"]].to_numpy())
    return _panel([bars, texts], y, title, f"Bars: {told}.", width=max(WIDTH, 150 * len(groups)))


def _scatter(
    data: pd.DataFrame, x: str, title: str, labels: Sequence[str], *, log: bool, y: str, up: str
) -> Panel:
    """Points by strategy, each with its name."""
    rows = pd.DataFrame(
        {
            "x": data[x].astype(float),
            "y": data[y].astype(float),
            "strategy": data["strategy"].map(_strategy),
            "label": list(labels),
        }
    )
    low, high = float(rows["y"].min()), float(rows["y"].max())
    room = 0.09 * (high - low)
    low, high = low - room, high + room
    left, right = float(rows["x"].min()), float(rows["x"].max())
    wide = 0.1 * (right - left)
    logs = Logs.over(rows["x"])
    ends = (logs.low, logs.high) if log else (left - wide, right + wide)

    def to_x(value: float) -> float:
        return logs.pixel(value) if log else WIDTH * (value - ends[0]) / (ends[1] - ends[0])

    def from_x(pixel: float) -> float:
        return logs.value(pixel) if log else ends[0] + pixel / WIDTH * (ends[1] - ends[0])

    places = place_labels(
        [(to_x(a), HEIGHT * (high - b) / (high - low)) for a, b in rows[["x", "y"]].to_numpy()],
        list(labels),
        width=WIDTH,
        height=HEIGHT,
    )
    named = rows.assign(
        lx=[from_x(p.x) for p in places],
        ly=[high - p.y / HEIGHT * (high - low) for p in places],
        align=[p.align for p in places],
        leader=[p.leader for p in places],
    )
    across = logs.axis(f"{title} (log scale)") if log else alt.X(
        "x:Q", scale=alt.Scale(domain=list(ends), nice=False), axis=alt.Axis(title=title)
    )  # fmt: skip
    above = alt.Y("y:Q", scale=alt.Scale(domain=[low, high], nice=False, zero=False),
                  axis=alt.Axis(title=up, tickCount=6))  # fmt: skip
    leaders = chart_of(named[named["leader"]]).mark_rule(
        color=light("muted"), strokeWidth=0.7, opacity=0.6, aria=False
    ).encode(x=across, y=above, x2=alt.X2("lx"), y2=alt.Y2("ly"))  # fmt: skip
    points = chart_of(rows).mark_point(size=80, filled=True, opacity=1).encode(
        x=across, y=above, color=_colour(rows), shape=_shape(rows), tooltip=tips(rows)
    )  # fmt: skip
    layers = [leaders, points, *name_layers(named, x=alt.X("lx:Q"), y=alt.Y("ly:Q"))]
    told = "; ".join(f"{n} {v:.4g}" for n, v in zip(labels, rows["y"], strict=True))
    return _panel([layer for layer in layers if layer.data.values], x, title,
                  f"Scatter of {up} against {title}: {told}.")  # fmt: skip


def _average_scores(data: pd.DataFrame) -> list[Panel]:
    return [_bars(data, "family", "score", "Mean GLUE score of ten rows, points", digits=".2f")]


def _task_heat(data: pd.DataFrame) -> list[Panel]:
    rows = data.assign(column=data["strategy"].map(_strategy), row=data["Task"])
    rows["label"] = [f"{v:.1f}" for v in rows["score"]]
    rows["shade"] = shades(rows["score"].tolist())
    rows = rows[["column", "row", "label", "shade"]]
    text = "Heat map of scores in points, tasks by strategies."
    return [heat_map("heat", "Score, points (metric of each task)", text, rows, y="Task")]


def _task_lines(data: pd.DataFrame) -> list[Panel]:
    rows = pd.DataFrame({"x": data["Task"], "y": data["score"].astype(float),
                         "strategy": data["strategy"].map(_strategy)})  # fmt: skip
    tasks = list(dict.fromkeys(rows["x"]))
    across = alt.X("x:N", sort=tasks, axis=alt.Axis(title="Task", labelAngle=-35))
    up = alt.Y("y:Q", scale=alt.Scale(zero=False, nice=True),
               axis=alt.Axis(title="Score, points (metric of each task)", tickCount=7))  # fmt: skip
    lines = chart_of(rows).mark_line(strokeWidth=1.5, opacity=0.8, aria=False)
    points = chart_of(rows).mark_point(size=55, filled=True, opacity=1)
    layers = [
        lines.encode(x=across, y=up, color=_colour(rows)),
        points.encode(x=across, y=up, color=_colour(rows), shape=_shape(rows)),
    ]
    return [_panel(layers, "lines", "Score by task", "Lines of scores by task.", width=560)]


def _cost_scatters(data: pd.DataFrame) -> list[Panel]:
    labels = [
        "FFT" if s == "FFT" else f"{'KD-' if s == 'KD-LoRA' else ''}{v}"
        for v, s in zip(data["variant"], data["strategy"], strict=True)
    ]
    columns = {
        "Trainable Params (M)": ("Trained parameters, M", True),
        "Train Time (s)": ("Training time, s", True),
        "Memory (MB)": ("Allocated memory, mean over epochs, MB", True),
        "Throughput (samples/s)": ("Training throughput, samples/s", False),
    }
    return [
        _scatter(data, column, title, labels, log=log, y="Performance", up="Mean score")
        for column, (title, log) in columns.items()
    ]


def _per_parameter(data: pd.DataFrame) -> list[Panel]:
    rows = data.assign(strategy=data["strategy"].map(_strategy))
    rows["name"] = [f"{v}, {s}" for v, s in zip(rows["variant"], rows["strategy"], strict=True)]
    rows = rows.rename(columns={"Performance/Parameter": "x"})
    rows["label"] = [f"{v:.2f}" for v in rows["x"]]
    order = list(rows["name"])
    down = alt.Y("name:N", sort=order, axis=alt.Axis(title=None, ticks=False, labelLimit=200))
    scale = alt.Scale(domain=[0, 1.12 * float(rows["x"].max())], nice=False)
    across = alt.X("x:Q", scale=scale, axis=alt.Axis(title="Mean score per million parameters"))
    rows = rows[["name", "x", "label", "strategy"]]
    bars = chart_of(rows).mark_bar().encode(x=across, y=down, color=_colour(rows))
    texts = chart_of(rows).mark_text(
        align="left", dx=4, fontSize=10, color=light("ink"), aria=False
    )
    first = _panel(
        [bars, texts.encode(x=across, y=down, text=alt.Text("label:N"))], "bars",
        "Score per million trained parameters", "Bars, best first.", height=21 * len(order),
    )  # fmt: skip
    labels = [f"{'KD-' if s == 'KD-LoRA' else ''}{v}"
              for v, s in zip(data["variant"], data["strategy"], strict=True)]  # fmt: skip
    second = _scatter(data, "Parameters (M)", "Trained parameters, M", labels, log=False,
                      y="Performance", up="Mean score")  # fmt: skip
    return [first, second]


def _score_scatter(column: str, title: str, log: bool) -> Callable[[pd.DataFrame], list[Panel]]:
    def make(data: pd.DataFrame) -> list[Panel]:
        labels = [f"{m}, {s}" for m, s in zip(data["Model"], data["strategy"], strict=True)]
        return [_scatter(data, column, title, labels, log=log, y="GLUE Score",
                         up="GLUE score (0 to 1)")]  # fmt: skip

    return make


def _score_per_parameter(data: pd.DataFrame) -> list[Panel]:
    return [_bars(data, "family", "Score per Param (per M)", "GLUE score per million parameters",
                  log=True, digits=".3g")]  # fmt: skip


def _normalised(data: pd.DataFrame) -> list[Panel]:
    columns = {
        "GLUE Score": "GLUE score", "Parameters (M)": "Parameters", "Memory Usage": "Memory",
        "Inference Time": "Time", "Score per Param (per M)": "Score/parameter",
        "Score per Memory (per GB)": "Score/memory", "Score per Time (per s)": "Score/time",
    }  # fmt: skip
    rows = pd.DataFrame([
        {"column": title, "row": f"{family}, {strategy}", "label": f"{value:.2f}",
         "shade": 0.04 + 0.46 * value}
        for column, title in columns.items()
        for family, strategy, value in data[["family", "strategy", column]].to_numpy()
    ])  # fmt: skip
    title = "Each column from its least (0) to its greatest (1); of costs less is better"
    return [heat_map("normalised", title, "Heat map of scores and costs from 0 to 1.", rows)]


def _cost_bars(
    column: str, title: str, log: bool = False, digits: str = ".1f"
) -> Callable[[pd.DataFrame], list[Panel]]:
    def make(data: pd.DataFrame) -> list[Panel]:
        rows = data.rename(columns={"method": "strategy"})
        return [_bars(rows, "family", column, title, log=log, digits=digits)]

    return make


def _by_rank(data: pd.DataFrame) -> list[Panel]:
    rows = pd.DataFrame(
        {
            "x": data["rank"],
            "y": data["params_m"].astype(float),
            "strategy": data["method"].map(_strategy),
            "family": data["family"],
        }
    )
    rows["line"] = rows["family"] + ", " + rows["strategy"]
    families = list(dict.fromkeys(rows["family"]))
    logs = Logs.over(rows["y"])
    ranks = sorted({int(r) for r in rows["x"]})
    domain = [ranks[0] * 0.9, ranks[-1] * 1.1]
    across = alt.X("x:Q", scale=alt.Scale(type="log", base=2, domain=domain, nice=False),
                   axis=alt.Axis(title="LoRA rank (log scale)", values=ranks,
                                 format="d"))  # fmt: skip
    up = alt.Y("y:Q", scale=alt.Scale(type="log", domain=[logs.low, logs.high], nice=False),
               axis=alt.Axis(title="Trained parameters, M (log scale)",
                             values=logs.ticks(), format="~g"))  # fmt: skip
    dash = alt.StrokeDash(
        "family:N", legend=_legend(),
        scale=alt.Scale(domain=families, range=list(_DASHES[: len(families)])),
    )  # fmt: skip
    lines = chart_of(rows).mark_line(strokeWidth=1.6, opacity=0.9, aria=False)
    points = chart_of(rows).mark_point(size=45, filled=True, opacity=1)
    layers = [
        lines.encode(x=across, y=up, color=_colour(rows), strokeDash=dash, detail="line:N"),
        points.encode(x=across, y=up, color=_colour(rows), shape=_shape(rows)),
    ]
    text = "Lines of trained parameters by rank."
    return [_panel(layers, "ranks", _on_each_other(rows), text, width=460)]


def _on_each_other(rows: pd.DataFrame) -> str:
    """Which lines hide one another, for a title: families that train as many parameters."""
    found: dict[tuple[str, tuple[float, ...]], int] = {}
    for (strategy, _), line in rows.groupby(["strategy", "family"], sort=False):
        key = (str(strategy), tuple(line.sort_values("x")["y"]))
        found[key] = found.get(key, 0) + 1
    told = [f"{strategy} of {n} families" for (strategy, _), n in found.items() if n > 1]
    return f"One line for {' and '.join(told)}" if told else "A line a family and method"


def _reductions(data: pd.DataFrame) -> list[Panel]:
    panels = []
    for method, part in data.groupby("method", sort=False):
        rows = pd.DataFrame({"column": part["rank"], "row": part["family"],
                             "label": [f"{v:.3f}" for v in part["reduction"]],
                             "shade": shades(part["reduction"].tolist())})  # fmt: skip
        title = f"{method}: share saved, 0 to 1"
        panels.append(heat_map(f"reduction_{method}", title, f"Heat map, {title}.", rows))
    return panels


# Name in its report -> title and panels. A name that ends in _ is followed by a family.
_FIGURES: dict[str, tuple[str, Callable[[pd.DataFrame], Any]]] = {
    "bar_avg_scores": ("Average GLUE score by family and strategy", _average_scores),
    "heatmap_normalized": ("Scores and costs side by side", _normalised),
    "heatmap_": ("Scores by task and strategy", _task_heat),
    "line_trends_": ("Scores across tasks", _task_lines),
    "efficiency_performance_scatter": ("Score against cost, by variant", _cost_scatters),
    "parameter_efficiency_analysis": ("What a parameter buys", _per_parameter),
    "scatter_params_vs_score": (
        "GLUE score against parameters",
        _score_scatter("Parameters (M)", "Trained parameters, M", True),
    ),
    "scatter_time_vs_score": (
        "GLUE score against inference time",
        _score_scatter("Inference Time", "Inference time, s", False),
    ),
    "bar_score_per_param": ("Score per million parameters", _score_per_parameter),
    "param_count_rank8": (
        "Trained parameters at rank 8",
        _cost_bars("Rank 8", "Trained parameters, M", log=True),
    ),
    "memory_usage": ("Memory by family and method", _cost_bars("Memory Usage", "GPU memory, MB")),
    "inference_time": (
        "Inference time by family and method",
        _cost_bars("Inference Time", "One pass over CoLA's validation set, s", digits=".2f"),
    ),
    "param_vs_rank": ("Trained parameters by LoRA rank", _by_rank),
    "reduction_heatmap": ("Trained parameters saved against FFT", _reductions),
}
