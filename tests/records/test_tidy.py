"""The frame as reports read it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from kdlora.errors import InputError
from kdlora.planning.costs import observations
from kdlora.records.frame import load_frame
from kdlora.records.record import Flag
from kdlora.records.tidy import (
    directions,
    groups,
    mean,
    metric_of,
    metrics_of,
    names,
    places,
    rows_of,
    severities,
    tidy,
)
from tests.harness.stored_studies import same_on_both, store_study
from tests.harness.studies import make_frame, put


@pytest.fixture(scope="module")
def one_task() -> pd.DataFrame:
    """One task, five arms, two seeds, two baselines, nothing wrong."""
    return make_frame()


def test_a_run_that_fills_several_cells_of_an_arm_counts_once(one_task):
    assert (one_task["arm"] == "baseline/tfidf").sum() == 2  # a row a seed, as plans have it
    assert (tidy(one_task)["arm"] == "baseline/tfidf").sum() == 1


def test_arms_are_read_from_teacher_to_baseline(one_task):
    shuffled = one_task.sample(frac=1, random_state=3)
    assert names(tidy(shuffled), "arm") == [
        "teacher/fft", "teacher/lora", "student/fft", "student/lora", "student/kd-lora",
        "baseline/tfidf", "baseline/majority",
    ]  # fmt: skip


def test_absent_columns_mean_not_known(one_task):
    bare = tidy(one_task.drop(columns=["size_mb", "flags", "flag_severities", "environment"]))
    assert bare["size_mb"].isna().all()
    assert not bare["flagged"].any()
    assert all(found == {} for found in bare["environment"])


def test_information_alone_does_not_flag_a_run(one_task):
    where = {"arm": "student/lora", "seed": 42}
    info = put(one_task, where, flags=("resumed",), flag_severities=("info",))
    assert not tidy(info)["flagged"].any()
    unstated = put(one_task, where, flags=("resumed",), flag_severities=())
    assert tidy(unstated)["flagged"].sum() == 1
    assert severities({"flags": ("a", "b"), "flag_severities": ("info",)}) == ("info", "warning")


@pytest.mark.parametrize(
    ("given", "expected"),
    [((), False), (("info",), False), (("warning",), True), (("info", "error"), True)],
    ids=["no flag", "info", "warning", "info and error"],
)
def test_whoever_asks_is_told_the_same_runs_to_be_flagged(tmp_path, given, expected):
    """A record, the tidy frame, and the plan's look at all records."""
    flags = [Flag(name=level, severity=level, detail="") for level in given]
    store = store_study(tmp_path, same_on_both(lambda run: 0.8), flagged=lambda run: flags)
    frame = tidy(load_frame(tmp_path))
    asked = {bool(store.read(run_id).doubts) for run_id in frame["run_id"]}
    asked |= {*frame["flagged"]} | {one.flagged for one in observations(store)}
    assert asked == {expected}


def test_nothing_to_report(one_task):
    with pytest.raises(InputError, match="no cells"):
        tidy(one_task.iloc[:0])
    with pytest.raises(InputError, match="has no column 'arm'"):
        tidy(one_task.drop(columns=["arm", "seed"]))


def test_two_metrics_for_one_task_are_refused(one_task):
    mixed = put(one_task, {"arm": "student/lora", "seed": 42}, metric="macro_f1")
    with pytest.raises(InputError, match="'movie-reviews' is scored by accuracy and macro_f1"):
        tidy(mixed)


def test_metric_and_direction_come_from_done_cells():
    frame = tidy(make_frame(("toxicity", "cola")))
    assert metric_of(frame, "toxicity") == ("rmse", -1)
    assert metric_of(frame, "cola") == ("matthews", 1)
    assert metric_of(frame, "unknown") == ("", 1)


@pytest.mark.parametrize(
    ("metric", "stated", "expected"),
    [
        ("rmse", [None, None], [-1, -1]),  # as the metric says
        ("rmse", [None, 1], [1, 1]),  # as another row of the task and metric states
        ("its own", [None, -1], [-1, -1]),
        ("its own", [0, -1], [-1, -1]),  # no direction
        ("accuracy", [-1, 1], [-1, 1]),  # as each row states
    ],
)
def test_a_direction_that_one_row_lacks_the_others_tell(metric, stated, expected) -> None:
    frame = pd.DataFrame({"task": "t", "metric": metric, "direction": stated})
    assert directions(frame).tolist() == expected
    assert metric_of(frame, "t") == (metric, expected[0])


def test_a_direction_that_nothing_tells_is_not_made_up() -> None:
    frame = pd.DataFrame({"task": "t", "metric": ["its own", None]})
    assert directions(frame).isna().all()
    assert metric_of(frame, "t") == ("its own", 1)


def test_groups_have_only_the_columns_that_are_asked_for():
    frame = pd.DataFrame({"task": ["b", "a", "b"], "score": [1, 2, 3], "wide": [None] * 3})
    found = dict(groups(frame, "task", columns=("score", "task")))
    assert {key: list(own) for key, own in found.items()} == {k: ["task", "score"] for k in "ba"}
    assert found["b"]["score"].tolist() == [1, 3]
    assert list(dict(groups(frame, "task"))["a"]) == ["task", "score", "wide"]


@pytest.mark.parametrize("first", [-1.0, 1.0, np.nan, 0.0])
def test_a_metrics_direction_is_the_one_that_directions_tells(first):
    """Whether the first row of a task states it, another one does, or none."""
    for other in (-1.0, 1.0, np.nan):
        frame = pd.DataFrame(
            {"task": ["a", "t", "t"], "metric": ["rmse", "rmse", "rmse"],
             "direction": [1.0, first, other]}
        )  # fmt: skip
        told = directions(frame[frame["task"] == "t"]).iloc[0]
        assert metric_of(frame, "t") == ("rmse", int(told))


@pytest.mark.parametrize("n", [1, 3, 9, 40])
def test_means_of_places_are_those_of_pandas_to_the_last_bit(n):
    rng = np.random.default_rng(n)
    frame = pd.DataFrame({
        "task": np.repeat(["b", "a", "c"], n), "arm": "x", "score": rng.normal(size=3 * n),
    }).sample(frac=1, random_state=n)  # fmt: skip
    frame.loc[rng.random(3 * n) < 0.2, "score"] = np.nan
    values = frame["score"].to_numpy()
    found = {key: mean(values[rows]) for key, rows in places(frame, "task", "arm")}
    expected = {key: own["score"].mean() for key, own in groups(frame, "task", "arm")}
    assert list(found) == list(expected)
    np.testing.assert_array_equal(list(found.values()), list(expected.values()))


def test_places_leave_out_rows_without_a_key_as_groups_do():
    frame = pd.DataFrame({"pair": ["p", None, "q", "p"], "task": ["t", "t", "t", "u"]})
    assert {key: rows.tolist() for key, rows in places(frame, "pair", "task")} == {
        ("p", "t"): [0], ("q", "t"): [2], ("p", "u"): [3],
    }  # fmt: skip
    assert [key for key, _ in places(frame, "pair")] == ["p", "q"]
    assert list(places(frame.iloc[:0], "pair")) == []


def test_the_metrics_of_all_tasks_are_those_of_each():
    frame = pd.DataFrame({
        "task": ["a", "a", "b", "c", "d"],
        "metric": [None, "rmse", "its own", None, "matthews"],
        "direction": [np.nan, np.nan, -1.0, 1.0, np.nan],
    })  # fmt: skip
    assert metrics_of(frame) == {
        "a": ("rmse", -1), "b": ("its own", -1), "c": ("", 1), "d": ("matthews", 1),
    }  # fmt: skip
    assert all(metric_of(frame, task) == own for task, own in metrics_of(frame).items())


def test_rows_have_the_columns_that_were_named_and_the_frame_has(one_task):
    rows = rows_of(one_task, "arm", "nonsense", "seed")
    assert {tuple(row) for row in rows} == {("arm", "seed")}
    whole = rows_of(one_task)
    assert [row["arm"] for row in rows] == [row["arm"] for row in whole]
    assert set(one_task) == set(whole[0])


def test_rows_are_what_pandas_makes_of_them() -> None:
    mixed = pd.DataFrame({
        "whole": [1, 2], "part": [1.5, np.nan], "text": ["x", None], "told": [True, False],
        "held": pd.Series([np.float64(1), np.int64(3)], dtype=object), "many": [(1,), [2]],
        "day": pd.to_datetime(["2020-01-01", "2021-01-01"]), "nullable": pd.array([1, None]),
        "kind": pd.Categorical(["u", "v"]), "none": [None, {"a": 1}],
    })  # fmt: skip
    for frame in (mixed, mixed.head(0), mixed[["part"]], mixed[["whole", "part"]], mixed[[]]):
        found, expected = rows_of(frame), frame.to_dict("records")
        assert repr(found) == repr(expected)
        for ours, theirs in zip(found, expected, strict=True):
            assert list(map(type, ours.values())) == list(map(type, theirs.values()))
