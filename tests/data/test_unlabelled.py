from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kdlora.data.examples import Examples, TaskData, ids_of_texts, joined
from kdlora.data.unlabelled import load_unlabelled
from kdlora.errors import DataError
from kdlora.spec.fingerprint import hash_file
from kdlora.spec.run import TextsRef
from kdlora.vocabulary.task import TASKS
from tests.harness.moods import write_csv

SST2, STSB = TASKS["sst2"], TASKS["stsb"]


def examples(*texts: str, label: float = 0) -> Examples:
    dtype = np.float32 if isinstance(label, float) else np.int64
    column = list(texts)
    return Examples(ids_of_texts("sst2", [column]), (column,), np.full(len(texts), label, dtype))


def task_data(task=SST2, label: float = 0) -> TaskData:
    def part(*texts: str) -> Examples:
        rows = examples(*texts, label=label)
        return rows if task is SST2 else Examples(rows.ids, (rows.texts[0],) * 2, rows.labels)

    return TaskData(
        task, part("train one", "train two"), part("selected"), {"report": part("reported")}, 0, "f"
    )


def source(path, *texts: str, max_rows: int | None = None) -> TextsRef:
    write_csv(path, sentence=list(texts), other=["x"] * len(texts))
    return TextsRef(
        file=str(path), text=("sentence",), max_rows=max_rows, fingerprint=hash_file(path)
    )


def test_what_must_not_be_learnt_from_is_dropped_and_counted(tmp_path):
    one = source(tmp_path / "1.csv", "new", "selected", "reported", "train two", "new", " ", "more")
    two = source(tmp_path / "2.csv", "more", "last")
    found = load_unlabelled([one, two], task_data(), split_seed=0)
    assert found.rows.texts == (["new", "more", "last"],)
    assert found.counts() == {"used": 3, "held_out": 2, "in_train": 1, "repeated": 2, "empty": 1}
    assert found.read == sum(found.counts().values()) == 9
    assert (found.rows.labels == -1).all()


def test_no_source_no_rows():
    assert load_unlabelled([], task_data(), split_seed=0) is None


def test_max_rows_is_drawn_by_the_split_seed_alone(tmp_path):
    ref = source(tmp_path / "1.csv", *(f"text {i}" for i in range(50)), max_rows=10)
    draws = [load_unlabelled([ref], task_data(), split_seed=s).rows for s in (0, 0, 1)]
    assert draws[0].texts == draws[1].texts != draws[2].texts
    assert len(set(draws[0].texts[0])) == 10
    counts = load_unlabelled([ref], task_data(), split_seed=0).counts()
    assert counts == {"used": 10, "beyond_max_rows": 40}


def test_joined_rows_keep_their_ids_apart(tmp_path):
    data = task_data()
    ref = source(tmp_path / "1.csv", "a", "b")
    extra = load_unlabelled([ref], data, split_seed=0).rows
    whole = joined(data.train, extra)
    assert whole.texts == (["train one", "train two", "a", "b"],)
    assert whole.labels.tolist() == [0, 0, -1, -1]
    assert whole.labels.dtype == data.train.labels.dtype
    assert len(set(whole.ids)) == 4
    assert not set(extra.ids) & set(ids_of_texts("sst2", [["a", "b"]]))
    assert joined(data.train, None) is data.train


def test_a_pair_counts_as_a_whole_and_regression_has_nan_labels(tmp_path):
    path = write_csv(tmp_path / "p.csv", a=["selected", "selected"], b=["selected", "other"])
    ref = TextsRef(file=str(path), text=("a", "b"), fingerprint=hash_file(path))
    found = load_unlabelled([ref], task_data(STSB, 1.0), split_seed=0)
    assert found.rows.texts == (["selected"], ["other"])
    assert np.isnan(found.rows.labels).all()
    assert joined(task_data(STSB, 1.0).train, found.rows).labels.dtype == np.float32


def test_problems_of_all_files_come_together(tmp_path):
    one = source(tmp_path / "1.csv", "x").model_copy(update={"text": ("sentense",)})
    two = source(tmp_path / "2.csv", "y").model_copy(update={"fingerprint": "0"})
    with pytest.raises(DataError) as caught:
        load_unlabelled([one, two], task_data(), split_seed=0)
    assert "no column 'sentense'. Did you mean 'sentence'?" in str(caught.value)
    assert "changed since the study was planned" in str(caught.value)


def test_nothing_left_is_an_error(tmp_path):
    ref = source(tmp_path / "1.csv", "selected", "train one")
    with pytest.raises(DataError, match=r"none of 2 unlabelled texts .* 1 held out, 1 in train"):
        load_unlabelled([ref], task_data(), split_seed=0)


def test_the_rest_are_train_rows_that_are_left_out_under_their_own_ids():
    data = task_data()
    rest = examples("left one", "selected", "train one", "left two", "left one")
    data = replace(data, rest=rest)
    ref = TextsRef(file="rest", text=("sentence",), fingerprint="rest")
    found = load_unlabelled([ref], data, split_seed=0)
    assert found.rows.texts == (["left one", "left two"],)
    assert found.counts() == {"used": 2, "held_out": 1, "in_train": 1, "repeated": 1}
    assert (found.rows.labels == -1).all()
    assert found.rows.ids[1] == rest.ids[3]
    assert found.rows.ids[0] in rest.ids[[0, 4]]


def test_no_rest_without_rows_that_are_left_out():
    ref = TextsRef(file="rest", text=("sentence",), fingerprint="rest")
    with pytest.raises(DataError, match="max_train leaves no train row out"):
        load_unlabelled([ref], task_data(), split_seed=0)
