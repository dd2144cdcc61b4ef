"""The explorer's points and Pareto set, against hand-made rows."""

from __future__ import annotations

import pytest

from kdlora.evidence.gains import describe as gather
from kdlora.evidence.study import gather_report
from kdlora.report.content.explorer import Span, averages, explorer, front
from kdlora.report.document import Axis
from tests.harness.studies import make_frame

SCORE, SIZE = Axis("score", "Score", 1, False), Axis("size", "Size", -1, True)


def row(arm, task, score, size, n=2):
    return {"arm": arm, "pair": "p", "task": task, "n": n, "score": score, "size": size}


def test_averages_are_over_tasks_that_all_models_have():
    rows = [row("a", "t1", 80, 10), row("a", "t2", 60, 30), row("b", "t1", 70, 5)]
    found = {r["arm"]: (r["x"], r["y"], r["runs"]) for r in averages(rows, "size", "score")}
    assert found == {"a": (10, 80, 2), "b": (5, 70, 2)}  # t2 would favour nobody fairly
    assert averages([row("a", "t1", 80, 10), row("b", "t2", 70, 5)], "size", "score") == []


def test_the_front_keeps_what_nobody_beats_on_both():
    points = [{"arm": a, "x": x, "y": y} for a, x, y in
              (("small", 1, 60), ("good", 5, 80), ("beaten", 6, 79), ("same", 5, 80))]  # fmt: skip
    assert [p["arm"] for p in front(points, SIZE, SCORE)] == ["small", "good", "same"]
    cheaper_is_worse = Axis("speed", "Speed", 1, True)
    assert [p["arm"] for p in front(points, cheaper_is_worse, SCORE)] == [
        "good",
        "same",
        "beaten",
    ]


@pytest.mark.parametrize("log", [False, True])
def test_places_on_an_axis_and_back(log):
    span = Span.over([2.0, 50.0], Axis("x", "x", 1, log), 400)
    assert 0 < span.pixel(2.0) < span.pixel(50.0) < 400
    assert span.value(span.pixel(7.0)) == pytest.approx(7.0)


def test_every_run_and_every_known_quantity_is_there():
    frame = make_frame(("rte", "cola"))
    facts = gather(frame)
    made = explorer(facts, gather_report(facts.frame))
    trained = frame[frame["role"] != "baseline"]
    assert {r["run"] for r in made.runs} == set(trained["run_id"])
    assert {a.key for a in made.axes} >= {"score", "size_mb", "latency_p50_ms", "trainable_params",
                                          "train_s", "peak_memory_mb"}  # fmt: skip
    own = next(r for r in made.runs if r["arm"] == "student/kd-lora" and r["task"] == "rte")
    true = trained[trained["run_id"] == own["run"]].iloc[0]
    assert own["score"] == pytest.approx(100 * true["score"], abs=1e-5)
    assert own["size_mb"] == true["size_mb"]
    assert not any(m["shares"] for m in made.means)  # two tasks are too few to resample


def test_how_often_a_model_is_on_the_front_goes_with_its_mean():
    tasks = ("rte", "cola", "mrpc", "stsb", "movie-reviews", "sst2")
    facts = gather(make_frame(tasks, arms=("teacher/fft", "student/lora"), seeds=(1,)))
    made = explorer(facts, gather_report(facts.frame))
    shares = next(m["shares"] for m in made.means if m["arm"] == "teacher/fft")
    assert 0 <= shares["size_mb"] <= 1


def test_one_model_is_nothing_to_explore():
    facts = gather(make_frame(arms=("teacher/fft",), baselines=False))
    assert explorer(facts, None) is None
