"""What the charts draw, read back from their specifications."""

from __future__ import annotations

import pytest

from kdlora.evidence.gains import describe as gather
from kdlora.records.tidy import tidy
from kdlora.report.content.learning import learning
from kdlora.report.content.trade_off import trade_offs
from kdlora.report.render.svg import draw, side_by_side
from tests.harness.studies import make_frame, make_histories, put, with_prefix


def data_of(panel, *columns):
    """The rows of the first layer's data that have all the columns."""
    for layer in panel.spec["layer"]:
        rows = panel.spec["datasets"][layer["data"]["name"]]
        if all(column in rows[0] for column in columns):
            return rows
    raise AssertionError(f"no layer has {columns}")


def means_of(panel):
    """{arm: row} of the large marks."""
    (layer,) = (m for m in panel.spec["layer"] if "fill" in m["encoding"])
    return {row["arm"]: row for row in panel.spec["datasets"][layer["data"]["name"]]}


def names_of(panel):
    """{arm: written name} of all labels."""
    rows = [panel.spec["datasets"][m["data"]["name"]] for m in layers(panel, "text")]
    return {row["arm"]: row["label"] for part in rows for row in part}


def layers(panel, kind):
    return [layer for layer in panel.spec["layer"] if layer["mark"]["type"] == kind]


@pytest.fixture(scope="module")
def demo(one_task):
    """The one figure of the demo's shape."""
    (figure,) = trade_offs(gather(one_task))
    return figure


@pytest.fixture(scope="module")
def many(troubled):
    """The figures of several tasks."""
    return trade_offs(gather(troubled))


def test_one_task_has_both_costs_in_one_figure(one_task, demo):
    assert [panel.title for panel in demo.panels] == ["Against size", "Against latency"]
    size, latency = demo.panels
    for panel, column in ((size, "size_mb"), (latency, "latency_p50_ms")):
        means = means_of(panel)
        assert set(means) == set(one_task["arm"]) - {"baseline/majority"}
        own = one_task[one_task["arm"] == "student/kd-lora"]
        assert means["student/kd-lora"]["x"] == pytest.approx(own[column].mean())
        assert means["student/kd-lora"]["y"] == pytest.approx(100 * own["score"].mean())
        assert names_of(panel)["student/kd-lora"] == "student KD-LoRA"
        assert set(names_of(panel)) == set(means)


def test_every_run_is_drawn_with_its_tooltip(one_task, demo):
    runs = data_of(demo.panels[0], "Run", "Seed")
    trained = one_task[one_task["role"] != "baseline"]
    assert {row["Run"] for row in runs} == set(trained["run_id"])
    row = next(r for r in runs if r["Run"] == trained["run_id"].iloc[0])
    assert row["Score"] == f"{100 * trained['score'].iloc[0]:.1f}"
    (ticks,) = (m for m in layers(demo.panels[0], "point") if m["mark"].get("shape") == "stroke")
    assert {"Model", "Score", "Size", "Seed", "Run"} == {
        tip["field"] for tip in ticks["encoding"]["tooltip"]
    }


def test_axes_are_logarithmic_and_have_units(demo):
    for panel, unit in zip(demo.panels, ("MB", "ms"), strict=True):
        x = layers(panel, "point")[0]["encoding"]["x"]
        assert x["scale"]["type"] == "log"
        assert unit in x["axis"]["title"]


def test_the_line_is_the_teachers_mean(demo):
    (line,) = (r for r in layers(demo.panels[0], "rule") if "strokeDash" in r["mark"])
    (row,) = demo.panels[0].spec["datasets"][line["data"]["name"]]
    assert row["arm"] == "teacher/fft"


def test_a_panel_a_task_and_a_figure_a_cost(many):
    assert [figure.key for figure in many] == ["quality_size", "quality_latency"]
    for figure in many:
        assert [p.title for p in figure.panels] == ["rte", "cola", "stsb", "sst2", "toxicity"]
        assert len({panel.key for panel in figure.panels}) == 5


def test_the_caption_counts_runs_and_names_what_is_not_drawn(demo, many):
    assert "n = 2 per trained model" in demo.caption
    assert demo.caption.endswith("Not drawn, for want of a size or latency to measure: "
                                   "Baseline, majority or mean.")  # fmt: skip
    assert "n = 1 or 2 per trained model" in many[0].caption


def test_the_caption_warns_of_an_unsteady_machine(one_task, demo):
    slow = put(one_task, {"arm": "teacher/lora", "seed": 42}, latency_p50_ms=9.4)
    (figure,) = trade_offs(gather(slow))
    assert "the machine was not steady" in figure.caption
    assert "steady" not in demo.caption


def test_flagged_means_are_marked(many):
    labels = names_of(many[0].panels[1])
    assert labels["student/lora"] == "student LoRA†"
    assert labels["student/fft"] == "student FFT"


def test_the_alternative_text_has_every_model_in_numbers(one_task, demo):
    mean = 100 * one_task.loc[one_task["arm"] == "student/kd-lora", "score"].mean()
    assert f"Student, KD-LoRA {mean:.1f}" in demo.panels[0].alt
    assert "at 69.6 MB" in demo.panels[0].alt


def test_nothing_measured_nothing_drawn(one_task):
    frame = put(one_task, {"task": "movie-reviews"}, size_mb=None, latency_p50_ms=None)
    assert trade_offs(gather(frame)) == []
    size_only = put(one_task, {"task": "movie-reviews"}, latency_p50_ms=None)
    assert [figure.key for figure in trade_offs(gather(size_only))] == ["quality_size"]


def test_learning_curves_have_a_point_an_evaluation(one_task):
    figure = learning(tidy(one_task), make_histories(one_task))
    rows = data_of(figure.panels[0], "Epoch")
    assert len(rows) == 10 * 3
    run = one_task[one_task["arm"] == "student/fft"].iloc[0]
    own = [row for row in rows if row["Run"] == run["run_id"]]
    assert [row["x"] for row in own] == [1, 2, 3]
    assert own[-1]["y"] == pytest.approx(100 * run["selection_score"] * 0.999)
    assert learning(tidy(one_task), {}) is None


def test_the_end_of_a_curve_is_named_where_a_line_ends(troubled):
    figure = learning(tidy(troubled), make_histories(troubled))
    cola = figure.panels[1]
    named = {row["arm"]: row["y"] for row in data_of(cola, "ly")}
    ends = [row["y"] for row in data_of(cola, "Epoch") if row["x"] == 3]
    assert named["student/lora"] in ends  # its two runs went far apart


def test_of_several_runs_the_most_typical_is_named():
    frame = make_frame(seeds=(1, 2, 3))
    for seed, score in ((1, 0.50), (2, 0.80), (3, 0.82)):
        where = {"arm": "student/lora", "seed": seed}
        frame = put(frame, where, selection_score=score)
    figure = learning(tidy(frame), make_histories(frame))
    named = {row["arm"]: row["y"] for row in data_of(figure.panels[0], "ly")}
    assert named["student/lora"] == pytest.approx(80 * 0.999)


def test_the_drawings_compile_and_reverse_what_is_better_low():
    (figure,) = trade_offs(gather(make_frame(("toxicity",))))
    svg = side_by_side(figure, [draw(panel) for panel in figure.panels])
    assert svg.count("student KD-LoRA") >= 2
    means = means_of(figure.panels[0])
    y = layers(figure.panels[0], "point")[0]["encoding"]["y"]
    assert y["scale"]["reverse"] is True
    assert means["teacher/fft"]["y"] < means["student/fft"]["y"]
    assert "lower is better" in y["axis"]["title"]


def test_pairs_have_panels_of_their_own():
    import pandas as pd

    other = make_frame(pair="bert--distilbert")
    other = with_prefix(other, "other-")
    size, _ = trade_offs(gather(pd.concat([make_frame(), other])))
    assert [panel.title for panel in size.panels] == [
        "movie-reviews · minilm-l6--minilm-l3", "movie-reviews · bert--distilbert"
    ]  # fmt: skip
