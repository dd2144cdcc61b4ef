from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from kdlora.data.examples import Examples, TaskData, ids_of_texts
from kdlora.errors import StoreError
from kdlora.measure.quality import score_split
from kdlora.records.predictions import (
    SplitOutputs,
    read_outputs,
    read_predictions,
    write_predictions,
)
from kdlora.vocabulary.task import CLASSIFICATION, MULTILABEL, REGRESSION, TASKS


def part(prefix: str, labels: list) -> Examples:
    words = [f"{prefix}{i}" for i in range(len(labels))]
    dtype = np.int64 if isinstance(labels[0], int) else np.float32
    return Examples(ids_of_texts("t", (words, words)), (words, words), np.array(labels, dtype))


def parts_of(data: TaskData, outputs: dict) -> dict[str, SplitOutputs]:
    splits = {name: data.split(name) for name in outputs}
    return {n: SplitOutputs(s.ids, s.labels, outputs[n]) for n, s in splits.items()}


def test_every_metric_is_recomputable_from_the_file(tmp_path):
    task = TASKS["mnli"]
    reports = {"report": part("r", [0, 1, 2, 2]), "report_mismatched": part("m", [2, 0])}
    data = TaskData(task, part("t", [0, 1]), part("s", [1, 0, 2]), reports, 0, "f")
    rng = np.random.default_rng(0)
    outputs = {
        name: rng.normal(size=(len(data.split(name)), 3)).astype(np.float32)
        for name in ("selection", "report", "report_mismatched")
    }
    write_predictions(tmp_path, parts_of(data, outputs))
    found, labels = read_predictions(tmp_path).by_split()
    assert list(found) == list(outputs)
    for name, values in outputs.items():
        np.testing.assert_array_equal(found[name], values)
        expected = score_split(task, values, data.split(name).labels)
        assert score_split(task, found[name], labels[name]) == expected
    ids = read_predictions(tmp_path).frame.set_index("split").loc["report", "example_id"]
    assert list(ids) == list(reports["report"].ids)


def test_regression_keeps_one_output_and_real_labels(tmp_path):
    data = TaskData(
        TASKS["stsb"], part("t", [0.5]), part("s", [1.5, 2.0]), {"report": part("r", [4.2])}, 0, "f"
    )
    outputs = {"selection": np.zeros((2, 1)), "report": np.ones((1, 1))}
    write_predictions(tmp_path, parts_of(data, outputs))
    found, labels = read_predictions(tmp_path).by_split()
    assert found["report"].shape == (1, 1)
    assert labels["report"][0] == np.float32(4.2)


def test_several_labels_are_stored_and_come_back(tmp_path):
    labels = np.array([[1, 0], [0, 0], [1, 1]])
    ids = np.array(["a", "b", "c"])
    outputs = np.array([[2.0, -1.0], [-1.0, 1.0], [1.0, 3.0]], np.float32)
    folder = tmp_path / "runs" / "r"
    folder.mkdir(parents=True)
    write_predictions(folder, {"report": SplitOutputs(ids, labels, outputs)})
    found, read = read_predictions(folder).by_split()
    np.testing.assert_array_equal(found["report"], outputs)
    np.testing.assert_array_equal(read["report"], labels)
    split = read_outputs(tmp_path, ["r"], "report")["r"]
    np.testing.assert_array_equal(split.labels, labels)
    assert split.kind is MULTILABEL
    assert split.right.tolist() == [True, False, True]
    assert SplitOutputs(ids, labels[:, 0], outputs).kind is CLASSIFICATION
    assert SplitOutputs(ids, labels[:, 0], outputs[:, :1]).kind is REGRESSION


@pytest.mark.parametrize("change", [
    {"split": None}, {"example_id": None}, {"label": None}, {"logits": None},
    {"label": ["a", "b"]}, {"label": [[0, 1], [0]]}, {"logits": ["a", "b"]},
    {"logits": [[0.5], [0.5, 0.25]]}, {"logits": [["a"], ["b"]]}, {"logits": [0.5, 0.25]},
])  # fmt: skip
def test_a_file_of_something_else_is_said_to_be_damaged(tmp_path, change):
    """Of a run from before hashes were kept; None takes the column out."""
    rows = {"split": ["report"] * 2, "example_id": ["a", "b"], "label": [0, 1]}
    rows |= {"logits": [[0.5, 0.25], [1.0, 2.0]]}
    kept = {name: values for name, values in (rows | change).items() if values is not None}
    folder = tmp_path / "runs" / "a"
    folder.mkdir(parents=True)
    pd.DataFrame(kept).to_parquet(folder / "predictions.parquet")
    with pytest.raises(StoreError, match="is damaged"):
        read_outputs(tmp_path, ["a"], "report")
    with pytest.raises(StoreError, match="is damaged"):
        read_predictions(folder).by_split()
