"""The chart that a reader steers: its axes, its points, and the places on it."""

from __future__ import annotations

import pytest

from kdlora.evidence.gains import describe as gather
from kdlora.evidence.study import gather_report
from kdlora.report.content.explorer import Span, explorer
from kdlora.report.document import Axis
from tests.harness.studies import make_frame


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
