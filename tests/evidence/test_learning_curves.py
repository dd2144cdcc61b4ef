"""Scores by epoch, of single runs and as means of models, against hand-made histories."""

from __future__ import annotations

import pandas as pd

from kdlora.evidence.learning_curves import (
    Evaluation,
    evaluations,
    mean_evaluations,
    typical_ends,
)


def one(run, epoch, score, kept=False, arm="a"):
    return Evaluation(arm, run, float(epoch), score, kept)


def test_every_evaluation_with_a_score_is_there_and_the_saved_one_is_kept():
    cells = pd.DataFrame([{"arm": "a", "run_id": "r", "best_step": 20}])
    points = [
        {"epoch": 1, "step": 10, "selection": {"accuracy": 0.5}},
        {"epoch": 2, "step": 20, "selection": {"accuracy": 0.7, "f1": 0.1}},
        {"epoch": 3, "step": 30, "selection": {"accuracy": float("nan")}},
        {"epoch": 4, "step": 40, "selection": None},
    ]
    found = evaluations(cells, {"r": points, "another": points}, "accuracy")
    assert found == [one("r", 1, 0.5), one("r", 2, 0.7, kept=True)]


def test_a_mean_is_kept_where_most_runs_were_and_at_the_first_of_equals():
    found = [
        one("r1", 1, 0.2), one("r1", 2, 0.6, kept=True), one("r2", 1, 0.4, kept=True),
        one("r2", 2, 0.8), one("r3", 2, 0.7, kept=True),
    ]  # fmt: skip
    first, second = mean_evaluations(found)
    assert (first.score, first.runs, first.kept) == (0.30000000000000004, 2, False)
    assert (round(second.score, 9), second.runs, second.kept) == (0.7, 3, True)
    tied = mean_evaluations(found[:4])
    assert [m.kept for m in tied] == [True, False] or [m.kept for m in tied] == [False, True]
    assert sum(m.kept for m in tied) == 1
    assert not any(m.kept for m in mean_evaluations([one("r", 1, 0.5), one("r", 2, 0.6)]))


def test_a_name_stands_at_the_end_of_the_run_nearest_to_the_mean():
    found = [
        one("far", 1, 0.9), one("far", 2, 0.1), one("near", 1, 0.1), one("near", 2, 0.52),
        one("high", 1, 0.5), one("high", 2, 0.9), one("other", 5, 0.3, arm="b"),
    ]  # fmt: skip
    ends = typical_ends(found)
    assert (ends["a"].run_id, ends["a"].score) == ("near", 0.52)
    assert ends["b"].run_id == "other"
