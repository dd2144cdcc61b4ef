from __future__ import annotations

import pytest

from kdlora.vocabulary.task import GLUE, METRIC_DIRECTION, TASKS


def test_the_nine_glue_tasks_have_the_official_primary_metrics():
    primary = {name: TASKS[name].primary for name in GLUE}
    assert primary.pop("cola") == "matthews"
    assert primary.pop("stsb") == "pearson"
    assert set(primary.values()) == {"accuracy"}
    assert len(GLUE) == 9


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_task_is_whole(task):
    assert task.metrics[0] == task.primary
    assert len(set(task.metrics)) == len(task.metrics)
    assert set(task.metrics) <= set(METRIC_DIRECTION)
    assert next(iter(task.reports)) == "report"
    assert (task.kind == "regression") == (task.label_names == ())
    assert task.positive is None or task.positive in task.label_names


def test_paired_metrics_of_the_benchmark_are_reported():
    assert "f1" in TASKS["mrpc"].metrics
    assert "f1" in TASKS["qqp"].metrics
    assert "spearman" in TASKS["stsb"].metrics
    assert list(TASKS["mnli"].reports) == ["report", "report_mismatched"]
