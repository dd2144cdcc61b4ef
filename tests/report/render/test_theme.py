"""Colours that can be read, axes that mean what they show."""

from __future__ import annotations

import itertools
import math

import altair as alt
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdlora.report.render.colours import COLOURS, kind_of, shape_of
from kdlora.report.render.theme import HEIGHT, WIDTH, Logs, Scores, chart_of, panel_spec


def luminance(colour):
    """Relative luminance of WCAG 2."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_an_axis_survives_costs_beyond_all_sense():
    for values in ([1.0, 1e300], [1e-300, 1.0], [1e-300, 1e300], [1e300], [5e-324]):
        logs = Logs.over(values)
        assert 0 < logs.low < logs.high < math.inf
        assert all(math.isfinite(tick) for tick in logs.ticks())
        assert all(math.isfinite(logs.pixel(value)) for value in values)


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("ground", ["page", "card"])
def test_text_and_marks_stand_out(mode, ground):
    behind = COLOURS[ground][mode]
    for name, least in (("ink", 7), ("muted", 4.5), ("accent", 4.5), ("warn", 4.5),
                        ("teacher", 3), ("student", 3), ("kd", 3), ("baseline", 3)):  # fmt: skip
        assert contrast(COLOURS[name][mode], behind) >= least, name


def test_each_light_colour_names_one_variable():
    lights = [light for light, _ in COLOURS.values()]
    assert len(set(lights)) == len(lights)
    assert all(len(c) == 7 and c == c.lower() for pair in COLOURS.values() for c in pair)


def test_kinds_differ_by_more_than_hue():
    kinds = [COLOURS[k][0] for k in ("teacher", "student")]
    assert contrast(*kinds) > 2.5
    assert (kind_of("student/kd-dora"), kind_of("student/dora")) == ("kd", "student")
    assert (kind_of("baseline/tfidf"), kind_of("teacher/given")) == ("baseline", "teacher")
    variants = [
        "student/" + v for v in ("fft", "lora", "adalora", "dora", "mrlora", "olora", "rslora")
    ]
    assert all(shape_of(a) != shape_of(b) for a, b in itertools.combinations(variants, 2))
    assert shape_of("student/kd-lora") == shape_of("student/lora")


scores = st.lists(st.floats(min_value=-100, max_value=100), min_size=1, max_size=8)


@given(scores, st.sampled_from([1, -1]))
def test_better_is_always_further_up(values, direction):
    axis = Scores.over("accuracy", direction, values)
    best = max(values) if direction > 0 else min(values)
    assert all(axis.pixel(best) <= axis.pixel(v) for v in values)
    assert all(0 <= axis.pixel(v) <= HEIGHT for v in values)
    for value in values:
        assert axis.value(axis.pixel(value)) == pytest.approx(value, abs=1e-6)


@given(st.lists(st.floats(min_value=1e-3, max_value=1e5), min_size=1, max_size=8))
def test_the_log_axis_holds_its_values_and_has_ticks(values):
    axis = Logs.over(values)
    for value in values:
        assert 0 < axis.pixel(value) < WIDTH
        assert axis.value(axis.pixel(value)) == pytest.approx(value, rel=1e-9)
    assert 1 <= len(axis.ticks()) <= 12
    assert all(axis.low <= tick <= axis.high for tick in axis.ticks())


def test_ticks_are_round():
    assert Logs(0.9, 120.0).ticks() == [1, 2, 5, 10, 20, 50, 100]
    assert Logs(0.9, 12000.0).ticks() == [1, 10, 100, 1000, 10000]


def test_the_score_axis_says_unit_and_direction():
    lower = Scores("rmse", -1, 0, 1).axis().to_dict()
    assert lower["axis"]["title"] == "Root mean square error, lower is better"
    assert lower["scale"]["reverse"] is True
    points = Scores("accuracy", 1, 0, 1).axis().to_dict()
    assert points["axis"]["title"] == "Accuracy, points"
    assert points["scale"]["reverse"] is False


def test_the_rows_of_a_chart_are_not_copied_into_its_layers():
    """Altair copies lists value by value, each time that it copies a chart."""
    chart = chart_of(pd.DataFrame({"x": [1.0, None]}))
    layers = [chart.mark_point(), chart.mark_rule()]
    assert all(layer.data.values is chart.data.values for layer in layers)
    spec = panel_spec(layers, "a panel")
    assert list(spec["datasets"].values()) == [[{"x": 1.0}, {"x": None}]]


@pytest.mark.parametrize("count", [1, 2])
def test_a_panel_is_what_altair_makes_of_the_same_layers(count):
    rows = pd.DataFrame({"x": [1.0, 2.0]}), pd.DataFrame({"x": [3.0], "y": ["a"]})
    layers = [
        chart_of(rows[i]).mark_point(size=3).encode(x=alt.X("x:Q", axis=alt.Axis(title="times")))
        for i in range(count)
    ]
    whole = alt.layer(*layers).properties(title="a panel", width=WIDTH, height=HEIGHT).to_dict()
    found = panel_spec(layers, "a panel") | {"$schema": whole["$schema"]}
    alt.LayerChart.from_dict(found)  # checked against the schema of Vega-Lite
    del found["config"], whole["config"]
    whole["datasets"] = {name: list(own) for name, own in whole["datasets"].items()}
    assert found == whole
