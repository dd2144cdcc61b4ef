"""One look for all charts: fonts, axes and the frame around every panel."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd
from altair.utils import schemapi

from kdlora.records.tidy import rows_of
from kdlora.report import words as w
from kdlora.report.render.colours import kind_of, light, shape_of

_HALO = {"stroke": light("card"), "strokeWidth": 4}  # below a name, to lift it off the lines

WIDTH, HEIGHT = 380, 270  # px of a panel's plot

FONT = "Helvetica Neue, Helvetica, Arial, Liberation Sans, sans-serif"


def config() -> dict[str, Any]:
    """The theme, as a Vega-Lite config."""
    quiet = {
        "labelColor": light("muted"),
        "titleColor": light("muted"),
        "titleFontWeight": "normal",
    }
    return {
        "background": light("card"),
        "font": FONT,
        "view": {"stroke": None},
        "axis": {
            **quiet,
            "gridColor": light("grid"),
            "domainColor": light("line"),
            "tickColor": light("line"),
            "labelFontSize": 11,
            "titleFontSize": 11,
            "titlePadding": 8,
        },
        "title": {
            "color": light("ink"),
            "fontSize": 13,
            "fontWeight": 600,
            "anchor": "start",
            "offset": 12,
        },
        "text": {"color": light("ink"), "fontSize": 11},
    }


def colour(arms: Sequence[str]) -> alt.Color:
    return alt.Color("arm:N", legend=None, scale=_colours(arms))


def fill(arms: Sequence[str]) -> alt.Fill:
    return alt.Fill("arm:N", legend=None, scale=_colours(arms))


def outline(arms: Sequence[str]) -> alt.Stroke:
    """Distilled students have a dark rim, which tells them apart without colour."""
    rims = [light("ink" if kind_of(arm) == "kd" else "card") for arm in arms]
    return alt.Stroke("arm:N", legend=None, scale=alt.Scale(domain=list(arms), range=rims))


def _colours(arms: Sequence[str]) -> alt.Scale:
    return alt.Scale(domain=list(arms), range=[light(kind_of(arm)) for arm in arms])


def shape(arms: Sequence[str]) -> alt.Shape:
    scale = alt.Scale(domain=list(arms), range=[shape_of(arm) for arm in arms])
    return alt.Shape("arm:N", legend=None, scale=scale)


@dataclass(frozen=True)
class Scores:
    """The score axis of a panel: better is always further up."""

    metric: str
    direction: int
    low: float
    high: float

    @classmethod
    def over(cls, metric: str, direction: int, values: Iterable[float]) -> Scores:
        """An axis with a little room around the drawn values (times the metric's factor)."""
        found = list(values)
        low, high = min(found), max(found)
        room = max((high - low) * 0.08, abs(high) * 0.005, 1e-6)
        return cls(metric, direction, low - room, high + room)

    def axis(self, suffix: str = "") -> alt.Y:
        unit = ", points" if w.scale_of(self.metric).unit == "points" else ""
        better = "" if self.direction > 0 else ", lower is better"
        title = f"{w.sentence_case(w.metric_name(self.metric))}{suffix}{unit}{better}"
        scale = alt.Scale(
            domain=[self.low, self.high], nice=False, zero=False, reverse=self.direction < 0
        )
        return alt.Y("y:Q", scale=scale, axis=alt.Axis(title=title, tickCount=6))

    def pixel(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return HEIGHT * (1 - share if self.direction > 0 else share)

    def value(self, pixel: float) -> float:
        share = pixel / HEIGHT
        return self.low + (1 - share if self.direction > 0 else share) * (self.high - self.low)


FARTHEST = 100  # decades from 1: the ends of an axis and their quotient stay finite


@dataclass(frozen=True)
class Logs:
    """A logarithmic x axis of a panel."""

    low: float
    high: float

    @classmethod
    def over(cls, values: Iterable[float]) -> Logs:
        """Room of an eighth on each side, and at least half a decade in all."""
        logs = [min(max(math.log10(v), -FARTHEST), FARTHEST) for v in values]
        low, high = min(logs), max(logs)
        room = max((high - low) / 8, (0.5 - (high - low)) / 2, 0.05)
        return cls(10 ** (low - room), 10 ** (high + room))

    def axis(self, title: str) -> alt.X:
        scale = alt.Scale(type="log", domain=[self.low, self.high], nice=False)
        ticks = alt.Axis(title=title, values=self.ticks(), format="~g", grid=False)
        return alt.X("x:Q", scale=scale, axis=ticks)

    def ticks(self) -> list[float]:
        """1, 2, 5, 10 ... within the domain; tens only where it spans many decades."""
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        steps = (1, 2, 5) if math.log10(self.high / self.low) < 2.7 else (1,)
        found = [float(f"{s}e{d}") for d in decades for s in steps]
        return [tick for tick in found if self.low <= tick <= self.high]

    def pixel(self, value: float) -> float:
        return WIDTH * (math.log(value) - math.log(self.low)) / math.log(self.high / self.low)

    def value(self, pixel: float) -> float:
        return self.low * (self.high / self.low) ** (pixel / WIDTH)


def chart_of(rows: pd.DataFrame) -> alt.Chart:
    """A chart of plain rows: Altair's own reading of frames costs more than drawing them.

    What is not known is null, as JSON has no other word for it. Encode with `alt.Text("name:N")`
    rather than with "name:N": Altair searches all its classes for the one that a string means.
    """
    if rows.isna().any(axis=None):
        rows = rows.astype(object).where(rows.notna(), None)
    # A tuple: Altair copies every value of a list each time that it puts a chart into another.
    return alt.Chart(alt.InlineData(values=tuple(rows_of(rows))))


def charts_unchecked() -> AbstractContextManager[None]:
    """Meanwhile Altair takes its objects as they are.

    It compares each with the schema of Vega-Lite as it is made, a third of what drawing takes;
    whoever makes a panel outside, as tests do, has it checked.
    """
    return schemapi.debug_mode(False)


def panel_spec(
    layers: Sequence[alt.Chart], title: str, *, width: float = WIDTH, height: float = HEIGHT
) -> dict[str, Any]:
    """A panel of layers, the lowest first, as plain Vega-Lite with the theme in it.

    They are put together here: Altair's own `layer` copies each several times, which takes longer
    than all else that is done to make a panel.
    """
    datasets: dict[str, Sequence[Any]] = {}
    context = {"datasets": datasets, "top_level": False}
    drawn = [layer.to_dict(validate=False, context=context) for layer in layers]
    spec: dict[str, Any] = {"config": config(), "layer": drawn}
    if len(drawn) == 1:
        spec["data"] = drawn[0].pop("data")
    return spec | {
        "height": height, "title": title, "width": width,
        "datasets": {name: list(rows) for name, rows in datasets.items()},
    }  # fmt: skip


def name_layers(rows: pd.DataFrame, *, x: alt.X, y: alt.Y, **mark: Any) -> list[alt.Chart]:
    """The names in `label`, left- and right-aligned by `align`, each above its halo: 4 layers."""
    return [
        chart_of(rows[rows["align"] == align])
        .mark_text(align=align, baseline="middle", aria=False, **mark, **style)
        .encode(x=x, y=y, text=alt.Text("label:N"))
        for align in ("left", "right")
        for style in (_HALO, {"color": light("ink")})
    ]
