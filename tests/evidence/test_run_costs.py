"""What runs cost, against sums done by hand."""

from __future__ import annotations

import numpy as np
import pytest

from kdlora.evidence.run_costs import (
    cost_ranges,
    means_by_task,
    parameters_by_rank,
    run_counts,
    savings,
)
from kdlora.records.tidy import tidy
from tests.harness.evidence_frames import grid

ARMS = ("teacher/lora", "student/lora")


def frame(**columns: object):
    cells = grid(lambda *_: 0.5, arms=ARMS, tasks=("a", "b"), seeds=(1, 2), **columns)
    return cells.assign(rank=8.0, trainable_params=2e5)


def test_savings_are_geometric_means_over_matched_runs():
    made = frame()
    made["train_s"] = [100.0, 100, 400, 400, 50, 200, 100, np.nan]
    found = savings(tidy(made), "teacher/lora", ["train_s", "size_mb"])
    ratio = (0.5 * 2 * 0.25) ** (1 / 3)  # the run without a time is matched with none
    assert found == {("bert", "student/lora"): {"train_s": pytest.approx(100 * (1 - ratio))}}


def test_ranges_and_means_are_over_done_runs_that_were_measured():
    made = frame()
    made["train_s"] = [1.0, 3, 5, 7, 0, np.nan, 0, 0]
    made.loc[3, "status"] = "failed"
    data = tidy(made)
    teacher = cost_ranges(data, ["train_s"])["bert", "teacher/lora"]["train_s"]
    assert (teacher.mean, teacher.low, teacher.high, teacher.n) == (3, 1, 5, 3)
    assert cost_ranges(data, ["train_s"])["bert", "student/lora"] == {}
    assert run_counts(data) == {("bert", "teacher/lora"): 3, ("bert", "student/lora"): 4}
    assert means_by_task(data, ["train_s"])["bert", "b", "teacher/lora"] == (1, {"train_s": 5})


def test_only_arms_of_several_ranks_are_drawn_by_rank():
    made = frame()
    of_teacher = made["arm"] == "teacher/lora"
    made.loc[of_teacher & (made["seed"] == 2), ["rank", "trainable_params"]] = [16, 4e5]
    found, n = parameters_by_rank(tidy(made))
    assert found == {"bert": [("teacher/lora", 8, 2e5), ("teacher/lora", 16, 4e5)]}
    assert n == 8
