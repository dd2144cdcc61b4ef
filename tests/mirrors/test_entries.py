"""What a tracker is told of a record: labels by themselves, under names that it takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdlora.mirrors import entries
from kdlora.records.record import LabelQuality, Quality
from kdlora.spec.plan import make_plan
from tests.harness.records import record_of


def points_of(corner, **quality) -> dict[str, float]:
    run = make_plan(corner.study(baselines=False)).runs[0]
    known = {
        "primary": "accuracy",
        "direction": 1,
        "splits": {"report": {"accuracy": 0.5}},
        "n": {},
    }
    record = record_of(run).model_copy(update={"quality": Quality(**known | quality)})
    made = entries.entry(record, [], root=Path("study"), study="tiny")
    assert len({point.name for point in made.points}) == len(made.points)
    return {point.name: point.value for point in made.points}


def test_each_of_several_labels_has_its_own_metrics(corner) -> None:
    one = LabelQuality(
        true_positive=6, false_positive=2, false_negative=4, true_negative=8, average_precision=0.7
    )
    never = LabelQuality(true_positive=0, false_positive=0, false_negative=3, true_negative=17)
    found = points_of(
        corner, per_class_f1={"joy": 2 / 3, "fear": 0.0}, per_label={"joy": one, "fear": never}
    )
    assert found["report/f1/joy"] == pytest.approx(2 / 3)
    assert found["report/precision/joy"] == 6 / 8
    assert found["report/recall/joy"] == 6 / 10
    assert found["report/average_precision/joy"] == 0.7
    assert found["report/positives/joy"] == 10
    assert found["report/recall/fear"] == 0.0
    assert "report/precision/fear" not in found  # undefined is not zero


def test_a_class_of_any_name_has_a_metric_that_mlflow_takes(corner) -> None:
    from mlflow.utils.validation import _validate_metric_name

    names = ["a/b", "a.b", "..", "/", "", "größer", "漢字", "x" * 400, "50 % off!", "50 % off?"]
    found = points_of(corner, per_class_f1={name: i / 10 for i, name in enumerate(names)})
    shown = {name: value for name, value in found.items() if name.startswith("report/f1/")}
    assert sorted(shown.values()) == [i / 10 for i in range(len(names))]
    for name in shown:
        _validate_metric_name(name)
