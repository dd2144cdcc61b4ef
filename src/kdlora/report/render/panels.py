"""Kinds of panels that many figures share: heat maps, dots with intervals, lines.

Shades are opacities of one colour, so that they are read in grey, by people who see few colours,
and on dark pages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd

from kdlora.report.document import Panel
from kdlora.report.render.colours import light
from kdlora.report.render.label_placement import place_labels
from kdlora.report.render.theme import (
    HEIGHT,
    WIDTH,
    Logs,
    chart_of,
    colour,
    fill,
    outline,
    panel_spec,
    shape,
)

CELL = (62, 24)  # px, smallest width and height of a cell of a heat map
ROW = 21  # px of a row of dots
# Shades, as opacities: on the darkest the text still has a contrast of 4.5 on both pages.
FAINT, FULL = 0.04, 0.5


def tips(rows: pd.DataFrame) -> list[alt.Tooltip]:
    """The columns that are written to be read are the capitalised ones."""
    return [alt.Tooltip(f"{name}:N") for name in rows if str(name)[0].isupper()]


def shade(share: float) -> float:
    """The shade of a share: 0 is faint, 1 is full."""
    return FAINT + (FULL - FAINT) * min(1.0, max(0.0, share))


def shades(values: Sequence[float], direction: int = 1) -> list[float]:
    """Shades of values, the best darkest; all alike where they are."""
    low, high = min(values), max(values)
    if high - low < 1e-12:
        return [shade(0.4) for _ in values]
    shares = [(v - low) / (high - low) for v in values]
    return [shade(s if direction > 0 else 1 - s) for s in shares]


def heat_map(
    key: str, title: str, alt_text: str, rows: pd.DataFrame, *, x: str = "", y: str = ""
) -> Panel:
    """A heat map of rows with `column`, `row`, `shade` (0 to 1) and `label`; others are tooltips.

    Columns and rows keep their order; `x` and `y` title the axes.
    """
    columns, lines = (list(dict.fromkeys(rows[name])) for name in ("column", "row"))
    at = {
        "x": alt.X(
            "column:N", sort=columns,
            axis=alt.Axis(title=x or None, orient="top", labelAngle=-35 if _long(columns) else 0,
                          domain=False, ticks=False, labelLimit=140),
        ),
        "y": alt.Y(
            "row:N", sort=lines,
            axis=alt.Axis(title=y or None, domain=False, ticks=False, labelLimit=220),
        ),
    }  # fmt: skip
    cells = chart_of(rows).mark_rect(color=light("accent"), stroke=light("card"), strokeWidth=1)
    opacity = alt.Opacity("shade:Q", legend=None, scale=alt.Scale(domain=[0, 1], range=[0, 1]))
    text = chart_of(rows).mark_text(color=light("ink"), fontSize=10, aria=False)
    layers = [
        cells.encode(**at, opacity=opacity, tooltip=tips(rows)),
        text.encode(**at, text=alt.Text("label:N")),
    ]
    widest = max(len(str(label)) for label in rows["label"])
    size = {
        "width": max(CELL[0], 6.4 * widest + 10) * len(columns),
        "height": CELL[1] * len(lines),
    }
    return Panel(key, title, alt_text, panel_spec(layers, title, **size))


def _long(names: Sequence[Any]) -> bool:
    return len(names) > 5 or max(len(str(n)) for n in names) > 10


def dots(
    key: str,
    title: str,
    alt_text: str,
    rows: pd.DataFrame,
    *,
    x: str,
    log: bool = False,
) -> Panel:
    """A dot a model in its own row, named on the axis, with an interval where there is one.

    `rows` have `arm`, `label` and `x`, maybe `low` and `high`.
    """
    order = list(dict.fromkeys(rows["label"]))
    arms = list(dict.fromkeys(rows["arm"]))
    scale = alt.Scale(zero=False, nice=False, padding=14)
    axis = alt.Axis(title=x, grid=True, tickCount=6)
    if log:
        ends = [rows[name].dropna() for name in ("x", "low", "high") if name in rows]
        logs = Logs.over([v for part in ends for v in part if v > 0])
        scale = alt.Scale(type="log", domain=[logs.low, logs.high], nice=False)
        axis = alt.Axis(title=x, grid=True, values=logs.ticks(), format="~g")
    across = alt.X("x:Q", scale=scale, axis=axis)
    down = alt.Y("label:N", sort=order,
                 axis=alt.Axis(title=None, ticks=False, domain=False, labelLimit=240))  # fmt: skip
    layers: list[Any] = []
    if "low" in rows and rows["low"].notna().any():
        known = rows[rows["low"].notna() & rows["high"].notna()]
        line = chart_of(known).mark_rule(strokeWidth=1.6, opacity=0.8, aria=False)
        layers.append(line.encode(x=alt.X("low:Q", scale=scale), x2=alt.X2("high"), y=down,
                                  color=colour(arms)))  # fmt: skip
    point = chart_of(rows).mark_point(size=75, opacity=1, filled=True, strokeWidth=1.4)
    layers.append(
        point.encode(x=across, y=down, fill=fill(arms), stroke=outline(arms), shape=shape(arms),
                     tooltip=tips(rows))
    )  # fmt: skip
    height = ROW * len(order)
    return Panel(key, title, alt_text, panel_spec(layers, title, height=height))


@dataclass(frozen=True)
class YAxis:
    """The y axis of a line chart: how it is drawn, and the values at its ends."""

    drawn: alt.Y
    low: float
    high: float
    log: bool = False


def trends(key: str, title: str, alt_text: str, rows: pd.DataFrame, *, x: alt.X, y: YAxis) -> Panel:
    """Lines of rows with `arm`, `x`, `y`, each named where it ends."""
    arms = list(dict.fromkeys(rows["arm"]))
    last = rows.groupby("arm", sort=False).tail(1)[["arm", "x", "y", "label"]].copy()
    turn, back = (math.log, math.exp) if y.log else (float, float)
    a, b = turn(y.low), turn(y.high)
    ends = [(0.0, HEIGHT * (1 - (turn(v) - a) / (b - a))) for v in last["y"]]
    places = place_labels(ends, list(last["label"]), width=10.0 * WIDTH, height=HEIGHT)
    last["ly"] = [back(a + (1 - place.y / HEIGHT) * (b - a)) for place in places]
    at = {"x": x, "y": y.drawn}
    lines = chart_of(rows).mark_line(strokeWidth=1.5, opacity=0.75, aria=False)
    points = chart_of(rows).mark_point(size=34, filled=True, opacity=0.95)
    text = chart_of(last).mark_text(align="left", baseline="middle", dx=12, aria=False)
    layers = [
        lines.encode(**at, color=colour(arms)),
        points.encode(**at, color=colour(arms), shape=shape(arms), tooltip=tips(rows)),
        text.encode(x=x, y=alt.Y("ly:Q"), text=alt.Text("label:N")),
    ]
    return Panel(key, title, alt_text, panel_spec(layers, title))
