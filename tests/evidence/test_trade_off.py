"""Means of models on two axes and which of them nobody beats, against hand-made rows."""

from __future__ import annotations

import math

import pytest

from kdlora.evidence.trade_off import (
    PairMean,
    TaskMean,
    cost_means,
    from_worst_to_best,
    not_beaten,
    pair_means,
    runs_of_models,
    task_means,
    weighed_cells,
)
from kdlora.records.tidy import tidy
from tests.harness.studies import make_frame


def mean(arm, task, score, size, n=2):
    return TaskMean("p", task, arm, n, {"score": score, "size": size})


def test_averages_are_over_tasks_that_all_models_have():
    rows = [mean("a", "t1", 80, 10), mean("a", "t2", 60, 30), mean("b", "t1", 70, 5)]
    found = {p.arm: (p.x, p.y, p.runs) for p in pair_means(rows, "size", "score")}
    assert found == {"a": (10, 80, 2), "b": (5, 70, 2)}  # t2 would favour nobody fairly
    assert pair_means([mean("a", "t1", 80, 10), mean("b", "t2", 70, 5)], "size", "score") == []


def test_nobody_beats_what_is_kept_on_both_axes():
    points = [PairMean("p", arm, 1, x, y) for arm, x, y in
              (("small", 1, 60), ("good", 5, 80), ("beaten", 6, 79), ("same", 5, 80))]  # fmt: skip
    assert [p.arm for p in not_beaten(points, (-1, 1))] == ["small", "good", "same"]
    assert [p.arm for p in not_beaten(points, (1, 1))] == ["good", "same", "beaten"]
    assert not_beaten([], (1, 1)) == []


def test_means_are_those_of_the_runs_in_points():
    frame = tidy(make_frame(("rte", "stsb")))
    cells = weighed_cells(frame)
    (one,) = [m for m in task_means(cells, ["score", "size_mb", "energy_j"])
              if (m.task, m.arm) == ("rte", "student/kd-lora")]  # fmt: skip
    own = frame[(frame["task"] == "rte") & (frame["arm"] == "student/kd-lora")]
    assert one.values["score"] == pytest.approx(100 * own["score"].mean())
    assert one.values["size_mb"] == pytest.approx(own["size_mb"].mean())
    assert one.n == len(own) == runs_of_models(cells)[-1]
    assert ("energy_j" in one.values) == bool((own["energy_j"] > 0).any())
    assert set(cells["role"]) == {"teacher", "student"}


def test_a_cost_is_averaged_where_it_is_known():
    frame = tidy(make_frame(("rte",)))
    own = frame.index[frame["arm"] == "student/kd-lora"]
    frame.loc[own, "size_mb"] = [0.0, *range(10, 10 * len(own), 10)]
    known = frame.loc[own[1:], "size_mb"].mean()
    (pair,) = set(frame["pair"])
    assert cost_means(frame, "size_mb")[pair, "rte", "student/kd-lora"] == pytest.approx(known)


def test_the_worst_is_zero_and_the_best_one_whichever_way_is_better():
    assert from_worst_to_best([2.0, 4.0, 3.0], 1) == [0.0, 1.0, 0.5]
    assert from_worst_to_best([2.0, 4.0, 3.0], -1) == [1.0, 0.0, 0.5]
    assert from_worst_to_best([2.0, 2.0], -1) == [1.0, 1.0]
    left, unknown = from_worst_to_best([2.0, math.nan], 1)
    assert left == 1.0
    assert math.isnan(unknown)
    assert all(map(math.isnan, from_worst_to_best([math.nan], 1)))
