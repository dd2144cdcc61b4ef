"""A text made of several columns is read alike by training, planning and predicting."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdlora.data.own_task import check_own_task, load_own
from kdlora.errors import DataError
from kdlora.planning.workload import text_rows
from kdlora.ship.predict import load_predictor, predict_file
from kdlora.ship.predict_rows import predict_rows
from kdlora.spec.sections import OwnTask
from kdlora.tables.reader import column_problems, read_table
from kdlora.tables.templates import fields_of, filled, is_template
from tests.harness.exported import save_exported
from tests.harness.moods import write_csv

TEMPLATE = "{title} [SEP] {body}"


def table(path: Path, n: int = 30) -> Path:
    return write_csv(
        path,
        title=[f"good {i}" if i else "" for i in range(n)],
        body=["film"] * (n - 1) + [""],
        label=["a", "b"] * (n // 2),
    )


def test_a_template_names_its_columns_and_a_name_itself():
    assert fields_of(TEMPLATE) == ("title", "body")
    assert fields_of("title") == ("title",)
    assert fields_of("{a}{a}") == ("a",)
    assert fields_of("{a}", present=["{a}"]) == ("{a}",)
    assert is_template("x {a}")
    assert not is_template("{}")
    assert not is_template("a")


@given(st.text(), st.text())
def test_what_stands_in_a_cell_is_never_a_template_itself(a, b):
    expected = f"{a} [SEP] {b}" if a.strip() or b.strip() else ""
    assert filled(TEMPLATE, {"title": a, "body": b}) == expected


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_every_format_reads_it(tmp_path, ending):
    frame = pd.DataFrame({"title": ["x", None], "body": ["y", "z"], "label": ["a", "b"]})
    path = tmp_path / f"t.{ending}"
    if ending == "csv":
        frame.to_csv(path, index=False)
    elif ending == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_parquet(path)
    found = read_table(path, [TEMPLATE, "label"])
    assert found.columns == {TEMPLATE: ["x [SEP] y", " [SEP] z"], "label": ["a", "b"]}
    assert column_problems(path, [TEMPLATE]) == []
    (problem,) = column_problems(path, ["{titel} {body}"])
    assert "no column 'titel'. Did you mean 'title'" in problem


def test_training_reads_it_and_refuses_the_label_in_it(tmp_path):
    path = table(tmp_path / "a.csv")
    loaded = load_own(OwnTask(name="t", train=str(path), text=TEMPLATE))
    assert loaded.train.texts[0][:2] == [" [SEP] film", "good 1 [SEP] film"]
    assert loaded.task.texts == (TEMPLATE,)
    leaky = OwnTask(name="t", train=str(path), text="{title} {label}")
    assert check_own_task(leaky) == ["text must not hold the label or the id: label"]
    with pytest.raises(DataError, match="must not hold the label"):
        load_own(leaky)


def test_a_row_of_which_all_columns_are_empty_holds_no_text(tmp_path):
    path = write_csv(tmp_path / "a.csv", title=["a", " "] * 20, body=["", ""] * 20,
                     label=["x", "x", "y", "y"] * 10)  # fmt: skip
    loaded = load_own(OwnTask(name="t", train=str(path), text=TEMPLATE))
    assert loaded.train.texts[0] == ["a [SEP] "] * 20


def test_plans_estimate_it(tmp_path):
    rows, tokens = text_rows(str(table(tmp_path / "a.csv")), (TEMPLATE,), None)
    assert rows == 30
    assert tokens > text_rows(str(tmp_path / "a.csv"), ("title",), None)[1]


def test_files_and_frames_are_predicted_by_it(tmp_path):
    folder = save_exported(tmp_path / "moods", card={"text_columns": [TEMPLATE]})
    predictor = load_predictor(folder)
    path = table(tmp_path / "a.csv", 4)
    target = predict_file(predictor, path, tmp_path / "out.csv").path
    found = pd.read_csv(target)
    frame = predict_rows(predictor, pd.read_csv(path))
    assert list(found["prediction"]) == list(frame["prediction"])
    assert list(found["title"][1:]) == ["good 1", "good 2", "good 3"]
    (alone,) = predict_rows(predictor, "good 1 [SEP] film")
    assert frame["p_positive"][1] == pytest.approx(alone["probabilities"]["positive"], abs=1e-6)
