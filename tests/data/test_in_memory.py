"""Rows in memory become one file, whatever they come as, and the same rows the same file."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest

from kdlora.data.in_memory import RowFiles, is_in_memory, write_rows
from kdlora.errors import DataError, InputError
from kdlora.tables.reader import read_table

TEXTS, LABELS = ["good", 'a "quoted"\nline', "na\u00efve"], ["pos", "neg", "pos"]


def forms():
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )
    coded = [["neg", "pos"].index(label) for label in LABELS]
    yield pd.DataFrame({"text": TEXTS, "label": LABELS}, index=[7, 7, 9])
    yield datasets.Dataset.from_dict({"text": TEXTS, "label": coded}, features=features)
    yield [{"text": t, "label": x} for t, x in zip(TEXTS, LABELS, strict=True)]
    yield list(zip(TEXTS, LABELS, strict=True))


def test_all_forms_of_the_same_rows_are_one_file(tmp_path):
    paths = {
        write_rows(rows, tmp_path, stem="train", texts=["text"], label="label") for rows in forms()
    }
    (path,) = paths
    assert path.name == "train.jsonl"
    table = read_table(path, ["text", "label"])
    assert table.columns == {"text": TEXTS, "label": LABELS}


def test_numbers_nulls_and_further_columns_are_kept(tmp_path):
    frame = pd.DataFrame({"text": ["a", "b"], "score": np.array([1.5, np.nan], np.float32),
                          "n": pd.array([1, None], dtype="Int64")})  # fmt: skip
    path = write_rows(frame, tmp_path, stem="x", texts=["text"], label="score")
    table = read_table(path, ["text", "score", "n"])
    assert table.columns == {"text": ["a", "b"], "score": [1.5, None], "n": [1, None]}


def test_a_class_label_of_minus_one_is_no_label(tmp_path):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["a", "b"])}
    )
    rows = datasets.Dataset.from_dict({"text": ["x", "y"], "label": [1, -1]}, features=features)
    path = write_rows(rows, tmp_path, stem="x", texts=["text"], label="label")
    assert read_table(path, ["label"]).columns["label"] == ["b", None]


SETS = [["pos", "neg"], [], ["neg"]]


def forms_of_sets():
    names = ["neg", "pos"]
    feature = datasets.List(datasets.ClassLabel(names=names))
    features = datasets.Features({"text": datasets.Value("string"), "label": feature})
    coded = [[names.index(one) for one in row] for row in SETS]
    frame = pd.DataFrame({"text": TEXTS, "label": SETS})
    yield frame
    yield frame.assign(label=[np.array(row, dtype=object) for row in SETS])  # as Parquet is read
    yield frame.assign(label=[tuple(row) for row in SETS])
    yield datasets.Dataset.from_dict({"text": TEXTS, "label": coded}, features=features)
    yield list(zip(TEXTS, SETS, strict=True))


def test_lists_of_labels_are_one_file_in_all_forms_and_have_names(tmp_path):
    paths = {
        write_rows(rows, tmp_path, stem="train", texts=["text"], label="label")
        for rows in forms_of_sets()
    }
    (path,) = paths
    assert read_table(path, ["label"]).columns["label"] == SETS


def test_sets_are_written_in_one_order_and_arrays_of_one_stay_lists(tmp_path):
    rows = [{"text": "x", "label": {"b", "a"}}, {"text": "y", "label": np.array(["a"])}]
    path = write_rows(rows, tmp_path, stem="x", texts=["text"], label="label")
    assert read_table(path, ["label"]).columns["label"] == [["a", "b"], ["a"]]


def test_a_list_that_holds_no_class_is_not_known(tmp_path):
    feature = datasets.List(datasets.ClassLabel(names=["a", "b"]))
    features = datasets.Features({"text": datasets.Value("string"), "label": feature})
    rows = datasets.Dataset.from_dict(
        {"text": ["x", "y"], "label": [[1, -1], [0]]}, features=features
    )
    path = write_rows(rows, tmp_path, stem="x", texts=["text"], label="label")
    assert read_table(path, ["label"]).columns["label"] == [None, ["a"]]


def test_texts_and_pairs_without_labels(tmp_path):
    path = write_rows(["a", "b"], tmp_path, stem="u", texts=["review"])
    assert read_table(path, ["review"]).columns == {"review": ["a", "b"]}
    path = write_rows([("a", "b")], tmp_path, stem="u", texts=["one", "two"])
    assert read_table(path, ["one", "two"]).columns == {"one": ["a"], "two": ["b"]}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (3, "int given; expected a file"),
        ({"text": "a"}, "dict given; expected a file"),
        ([("a",)], "row 0 is"),
        ([("a", "x"), 5], "row 1 is 5"),
        ([], "there are no rows"),
    ],
)
def test_what_are_no_rows_is_told(rows, said, tmp_path):
    with pytest.raises(DataError, match=said):
        write_rows(rows, tmp_path, stem="train", texts=["text"], label="label")
    assert not list(tmp_path.iterdir())


def test_files_stay_files(tmp_path):
    for source in ("a.csv", tmp_path / "a.csv", ["a.csv", "b.csv"], None, ()):
        assert not is_in_memory(source)
    assert is_in_memory(pd.DataFrame())
    assert is_in_memory([("a", "b")])
    assert is_in_memory([{"text": "a"}])


def refused(study: Path, rows: list) -> None:
    with RowFiles(study, ["text"]) as files:
        assert files.file(rows, "train", "label").is_file()
        raise InputError("no")


def test_nothing_is_left_of_a_study_that_was_refused(tmp_path):
    study = tmp_path / "study"
    with pytest.raises(InputError):
        refused(study, [("a", "x")])
    assert not study.exists()
    before = RowFiles(study, ["text"]).file([("a", "x")], "train", "label")
    with pytest.raises(InputError):
        refused(study, [("b", "x")])
    assert before.is_file()
