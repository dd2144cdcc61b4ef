from __future__ import annotations

import pandas as pd
import pytest

from kdlora import compare_arms
from kdlora.errors import InputError
from kdlora.records.subset import subset
from kdlora.records.tidy import StudyFrame
from tests.harness.evidence_frames import grid, noisy

ARMS = ("teacher/fft", "student/lora", "student/kd-lora", "student/kd-lora[temperature=4]")


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    made = grid(noisy(0.1), arms=ARMS, pairs=["bert", "roberta"], tasks=["rte", "mrpc"], rank=8.0)
    made.loc[made["arm"] == "teacher/fft", "rank"] = None
    made.loc[made["arm"] == "student/kd-lora[temperature=4]", "rank"] = 16.0
    baseline = grid(noisy(0.1), arms=["baseline/tfidf"], pairs=["bert"], tasks=["rte"], seeds=[0])
    return pd.concat([made, baseline], ignore_index=True)


def kept(frame: pd.DataFrame, column: str, *where: str, without: tuple[str, ...] = ()) -> set:
    return set(subset(frame, where, without)[0][column])


def test_nothing_asked_for_is_the_whole_study(frame) -> None:
    found, told = subset(frame)
    assert found is frame
    assert told == ""


def test_values_of_a_column_are_alternatives_and_columns_hold_together(frame) -> None:
    found, told = subset(frame, ["task=rte", "task=mrpc", "pair=bert", "seed=1"])
    assert set(found["task"]) == {"rte", "mrpc"}
    assert set(found["pair"]) == {"bert"}
    assert set(found.loc[found["role"] != "baseline", "seed"]) == {1}
    n, total = found["run_id"].nunique(), frame["run_id"].nunique()
    assert told == (
        f"Of a part of the study, with task=rte, task=mrpc, pair=bert, seed=1: {n} of its "
        f"{total} runs."
    )


def test_an_arm_is_named_as_it_is_a_pattern_or_a_value(frame) -> None:
    rest = {"teacher/fft", "student/lora", "baseline/tfidf"}
    assert kept(frame, "arm", without=("student/kd-*",)) == rest
    assert kept(frame, "arm", without=("student/kd-lora[temperature=4]",)) == {
        *rest, "student/kd-lora",
    }  # fmt: skip
    assert kept(frame, "arm", "student/lora", "arm=teacher/fft") == {"teacher/fft", "student/lora"}
    assert kept(frame, "pair", "family=rob*") == {"roberta"}


def test_a_column_leaves_those_alone_to_whom_it_does_not_apply(frame) -> None:
    assert kept(frame, "arm", "rank=8") == {
        "teacher/fft", "student/lora", "student/kd-lora", "baseline/tfidf",
    }  # fmt: skip
    assert kept(frame, "arm", without=("rank=8",)) == {
        "teacher/fft", "student/kd-lora[temperature=4]", "baseline/tfidf",
    }  # fmt: skip
    assert "baseline/tfidf" in kept(frame, "arm", "seed=2")


@pytest.mark.parametrize(("column", "values"), [("seed", [1, 2, None]), ("pair", ["x", "y", None])])
def test_an_arm_that_never_has_a_pair_or_a_seed_stands_beside_every_one(column, values) -> None:
    arms = ["mine", "mine", "rival"]
    made = pd.DataFrame({"task": "rte", "arm": arms, column: values, "score": [0.8, 0.7, 0.9]})
    beside = StudyFrame.of(made).table
    assert set(beside.loc[beside[f"any_{column}"], "arm"]) == {"rival"}
    for value in values[:2]:
        assert kept(made, "arm", f"{column}={value}") == {"mine", "rival"}
        assert kept(made, "score", f"{column}={value}", without=("rival",)) == {
            made["score"][values.index(value)]
        }


@pytest.mark.parametrize("column", ["seed", "pair"])
def test_a_part_of_a_study_keeps_what_stands_beside_every_pair_or_seed(column) -> None:
    values = {"seed": [1, 2, 1, 2, None], "pair": [*"xyxy", None]}[column]
    arms = ["mine", "mine", "other", "other", "rival"]
    made = pd.DataFrame({"task": "rte", "metric": "accuracy", "arm": arms, column: values})
    made["score"] = [0.8, 0.7, 0.6, 0.5, 0.9]
    study = StudyFrame.of(made)
    for given in (made, study):
        (found,) = compare_arms(given, "mine", "rival", where=[f"{column}={values[0]}"])
        assert found.matched.differences.tolist() == pytest.approx([-10.0])


def test_a_value_is_a_pattern_as_an_arm_is(frame) -> None:
    names = frame.assign(encoder=frame["pair"] + "[" + frame["task"] + "]")
    assert kept(names, "encoder", "encoder=*[rte]") == {"bert[rte]", "roberta[rte]"}


def test_all_that_names_nothing_is_told_at_once(frame) -> None:
    with pytest.raises(InputError) as caught:
        subset(frame, ["task=rta", "tusk=rte"], ["student/lara"])
    text = str(caught.value)
    assert "'task=rta': no row has it. Did you mean 'rte'?" in text
    assert "no column 'tusk'. Did you mean 'task'?" in text
    assert "'student/lara' is no arm here" in text
    assert "Did you mean 'student/lora'?" in text
    with pytest.raises(InputError, match="no run is left with task=rte and without task=rte"):
        subset(frame, ["task=rte"], ["task=rte"])
