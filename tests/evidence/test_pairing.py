from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from kdlora.errors import InputError
from kdlora.evidence.aggregates import shared_cells
from kdlora.evidence.pairing import match
from kdlora.evidence.scores import Selection, usable_runs
from kdlora.records.subset import subset
from kdlora.records.tidy import StudyFrame
from kdlora.vocabulary.metric import METRICS, metric
from tests.harness.evidence_frames import grid

A, B = "teacher/fft", "student/kd-lora"


def by_arm(arm: str, pair: str, task: str, seed: int) -> float:
    return 0.9 if arm == A else 0.8 + seed / 100


def test_differences_are_in_points_and_by_cell() -> None:
    matched = match(grid(by_arm), A, B)
    assert matched.unit == "points"
    np.testing.assert_allclose(matched.differences, [9, 8, 7, 9, 8, 7])
    assert list(matched.cells["seed"]) == [1, 2, 3, 1, 2, 3]
    assert matched.nesting.n_tasks == 2


def test_turning_the_sides_turns_the_signs() -> None:
    frame = grid(by_arm)
    np.testing.assert_allclose(match(frame, A, B).differences, -match(frame, B, A).differences)


def test_only_shared_cells_are_used_and_the_rest_is_counted() -> None:
    frame = grid(by_arm)
    holes = (frame["arm"] == B) & (frame["seed"] == 3) | (frame["arm"] == A) & (frame["seed"] == 1)
    matched = match(frame[~holes], A, B)
    assert len(matched.differences) == 2
    assert (matched.only_a, matched.only_b) == (2, 2)


def test_less_is_better_turns_the_sign_and_stops_points() -> None:
    frame = grid(by_arm, metric="rmse").assign(direction=-1)
    matched = match(frame, A, B)
    assert matched.unit == "rmse"
    np.testing.assert_allclose(matched.differences[:3], [-0.09, -0.08, -0.07])


def test_the_metric_says_the_direction_where_the_frame_does_not() -> None:
    frame = grid(by_arm, metric="ece").drop(columns="direction")
    np.testing.assert_allclose(match(frame, A, B).differences[0], -0.09)
    unknown = grid(by_arm, metric="gleu").drop(columns="direction")
    matched = match(unknown, A, B)
    assert matched.differences[0] > 0
    assert any("more is taken to be better for gleu" in note for note in matched.notes)


def test_scores_out_of_100_are_no_scores_of_a_metric_up_to_1() -> None:
    usable, notes = usable_runs(grid(lambda *cell: 100 * by_arm(*cell)))
    assert usable.empty
    assert any("accuracy cannot have (it lies in [0, 1]" in note for note in notes)


@pytest.mark.parametrize("name", [*METRICS, "bleu", "mean of accuracy and f1", None])
@pytest.mark.parametrize("runs", [1, 2, 5])
@pytest.mark.parametrize("size", ["small", "large", "mixed"])
def test_the_unit_of_a_score_is_that_of_its_metric_whatever_the_scores_are(
    name: str | None, runs: int, size: str
) -> None:
    one = metric(name or "")
    largest = {"small": 0.9, "large": 90.0, "mixed": 0.9}[size]
    values = [largest / k if size != "mixed" or k % 2 else 3.0 for k in range(1, runs + 1)]
    frame = grid(lambda *_: 0.5, arms=[A], tasks=["t"], seeds=range(runs)).assign(
        metric=name, direction=one.direction, score=values
    )
    usable, notes = usable_runs(frame)
    assert set(usable["unit"]) <= {one.unit}
    possible = [v for v in values if one.possible(v)]
    np.testing.assert_allclose(usable["value"], one.direction * one.factor * np.array(possible))
    assert any("cannot have" in note for note in notes) == (len(possible) < runs)


def test_tasks_in_another_unit_are_left_out_and_named() -> None:
    frame = pd.concat(
        [grid(by_arm), grid(by_arm, tasks=["load"], metric="rmse").assign(direction=-1)]
    )
    matched = match(frame, A, B)
    assert set(matched.cells["task"]) == {"t0", "t1"}
    assert any("load" in note for note in matched.notes)


def test_a_column_of_another_metric_uses_that_metrics_direction() -> None:
    frame = grid(by_arm).assign(**{"report.cross_entropy": lambda f: f["score"]})
    matched = match(frame, A, B, score="report.cross_entropy")
    assert matched.unit == "cross_entropy"
    assert matched.differences[0] == pytest.approx(-0.09)


def test_different_metrics_on_one_task_are_not_subtracted() -> None:
    frame = grid(by_arm)
    frame.loc[(frame["arm"] == B) & (frame["task"] == "t1"), "metric"] = "macro_f1"
    matched = match(frame, A, B)
    assert set(matched.cells["task"]) == {"t0"}
    assert any("different metrics on t1" in note for note in matched.notes)


def test_a_baseline_without_seeds_is_held_against_every_seed() -> None:
    frame = pd.concat(
        [
            grid(by_arm, arms=[B]),
            grid(lambda *_: 0.5, arms=["baseline/tfidf"], seeds=[0, 0, 0]),
        ]
    )
    frame.loc[frame["arm"] == "baseline/tfidf", "run_id"] = "tfidf"
    matched = match(frame, B, "baseline/tfidf")
    np.testing.assert_allclose(matched.differences[:3], [31, 32, 33])
    assert any("no seed" in note for note in matched.notes)


@pytest.mark.parametrize("key", ["pair", "seed"])
@pytest.mark.parametrize(
    "part", [("task", "t0"), ("seed", 2), ("arm", A)], ids=lambda part: part[0]
)
def test_runs_that_lack_what_others_have_are_compared_with_their_like_or_said(key, part) -> None:
    """As of two tables in one file, of which one has no column of pairs, or of seeds."""
    frame = grid(by_arm, pairs=["p"], arms=[A, B, "student/lora"])
    frame["score"] += np.random.default_rng(0).normal(0, 0.01, len(frame))
    whole = match(frame, A, B)
    lacks = frame[part[0]] == part[1]
    frame[key] = frame[key].astype(object).mask(lacks, None)
    found = match(frame, A, B)
    if part[0] == "arm":  # the whole side lacks it: it stands beside every one
        assert any(f"has no {key}" in note for note in found.notes)
    else:
        assert any(f"without a {key}" in note for note in found.notes)
    if key == "pair" or part[0] == "seed":
        assert sorted(found.differences) == pytest.approx(sorted(whole.differences))
        shared = shared_cells(frame, [A, B])
        assert len(shared.table) == len(whole.differences)
    means = found.cells.groupby("task")["difference"].mean()
    expected = whole.cells.groupby("task")["difference"].mean()
    assert dict(means) == pytest.approx(dict(expected))


def test_the_same_two_runs_in_two_cells_count_once() -> None:
    # A student without distillation stands beside both teachers: one run, two rows.
    frame = grid(by_arm, arms=["student/fft", "student/lora"], pairs=["p", "q"])
    frame["run_id"] = frame["run_id"].str.replace("-q-", "-p-")
    matched = match(frame, "student/fft", "student/lora")
    assert len(matched.differences) == 6
    assert any("repeat the same two runs" in note for note in matched.notes)


def test_several_runs_of_a_cell_are_averaged_and_what_differs_is_named() -> None:
    low, high = grid(by_arm, rank=4), grid(lambda *c: by_arm(*c) + 0.02, rank=8)
    high["run_id"] += "-r8"
    frame = pd.concat([low, high[high["arm"] == B]])
    matched = match(frame, A, B)
    np.testing.assert_allclose(matched.differences[:3], [8, 7, 6])
    assert any("average several runs that differ in rank" in note for note in matched.notes)
    np.testing.assert_allclose(match(frame, A, f"{B},rank=8").differences[:3], [7, 6, 5])


def test_pairing_on_fewer_keys_averages_first() -> None:
    matched = match(grid(by_arm), A, B, keys=("family", "task"))
    np.testing.assert_allclose(matched.differences, [8, 8])


def test_a_pattern_needs_all_its_arms_in_a_cell() -> None:
    frame = grid(by_arm, arms=[A, B, "student/kd-dora"])
    frame = frame[~((frame["arm"] == "student/kd-dora") & (frame["seed"] == 1))]
    matched = match(frame, A, "student/kd-*")
    assert sorted(matched.cells["seed"]) == [2, 2, 3, 3]
    assert any("lack one of its 2 arms" in note for note in matched.notes)


def test_impossible_and_missing_scores_are_named() -> None:
    frame = grid(by_arm)
    frame.loc[0, "score"] = np.inf
    frame.loc[1, "score"] = np.nan
    frame.loc[2, "score"] = 83.0
    frame.loc[3, "status"] = "failed"
    usable, notes = usable_runs(frame)
    assert len(usable) == len(frame) - 4
    text = " ".join(notes)
    assert "1 cells have no finished run" in text
    assert "2 runs (teacher/fft/bert/t0/1" in text
    assert "1 runs (teacher/fft/bert/t0/3) with a score that accuracy cannot have" in text


READ_ALIKE = ["task=t*", "targets=query,value", "targets=*,value", "rank=8", "rank=8.0",
              "family=bert", "pair=*", "family_size=3", "targets=query,value,rank=8"]  # fmt: skip


@pytest.mark.parametrize("text", READ_ALIKE)
def test_a_column_of_a_side_has_the_values_that_it_has_in_a_part_of_the_study(text) -> None:
    given = grid(by_arm, pairs=["bert", "roberta"], rank=8.0)
    given["targets"] = ["query,value" if seed == 1 else "all-linear" for seed in given["seed"]]
    given["family_size"] = 3
    frame = StudyFrame.of(given).table
    wanted, _ = subset(frame, [f"arm={A}", *text.replace(",rank", ";rank").split(";")])
    found = Selection.parse(f"{A},{text}").rows(frame)
    assert len(found)
    assert found.index.tolist() == wanted.index.tolist()


def test_selections_are_read_back_and_bad_ones_explained() -> None:
    assert str(Selection.parse("student/kd-lora, rank=8,family=bert")) == (
        "student/kd-lora,rank=8,pair=bert"
    )
    with pytest.raises(InputError, match="column=value"):
        Selection.parse("student/kd-lora,rank")
    with pytest.raises(InputError, match="Did you mean 'seed'"):
        match(grid(by_arm), f"{A},sed=1", B)


def test_numbers_match_however_they_are_written() -> None:
    frame = grid(by_arm, rank=8.0)
    assert len(match(frame, f"{A},rank=8", f"{B},rank=8.0").differences) == 6


def test_wrong_keys_are_all_named_at_once() -> None:
    with pytest.raises(InputError) as caught:
        match(grid(by_arm), A, B, keys=("pair", "fold"))
    assert len(caught.value.problems) == 2


def test_a_frame_without_needed_columns_is_an_input_error() -> None:
    with pytest.raises(InputError, match="no column 'score'"):
        match(grid(by_arm).drop(columns="score"), A, B)
