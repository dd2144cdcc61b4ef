from __future__ import annotations

import pandas as pd
import pytest

from kdlora.errors import InputError
from kdlora.records.subset import subset
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
