"""A study's rows on disk, with and without their texts."""

from __future__ import annotations

import pandas as pd

from kdlora.records.rows import make_rows, read_rows, write_rows

FACTS = pd.DataFrame(
    {
        "split": ["train", "report", "report"],
        "example_id": ["a", "a", "b"],
        "number": [1.0, 2.0, 3.0],
        "tokens": [None, 4.0, 5.0],
        "script": ["Latin"] * 3,
    }
)


def test_rows_are_found_by_split_and_id(tmp_path):
    texts = {"left": ["x", "y", "z"], "right": ["1", "2", "3"]}
    write_rows(make_rows(FACTS, texts, {"channel": ["web", "app", None]}), tmp_path, "moods")
    rows = read_rows(tmp_path, "moods")
    assert (rows.texts, rows.columns) == (("left", "right"), ("channel",))
    found = rows.at("report", ["b", "a", "unknown"])
    assert [rows.text(row) for _, row in found.iterrows()] == ["z ⏐ 3", "y ⏐ 2", None]
    assert found[rows.column("channel")].tolist()[1] == "app"


def test_without_texts_nothing_of_them_is_shown_nor_kept(tmp_path):
    write_rows(make_rows(FACTS, {"text": ["secret"] * 3}, {}), tmp_path, "moods")
    shown = read_rows(tmp_path, "moods", texts=False)
    assert shown.text(shown.at("report", ["a"]).iloc[0]) is None
    write_rows(make_rows(FACTS, {}, {}), tmp_path, "moods")
    assert b"secret" not in (tmp_path / "rows" / "moods.parquet").read_bytes()


def test_a_study_without_rows_or_with_damaged_ones_has_none(tmp_path):
    assert read_rows(tmp_path, "moods") is None
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "moods.parquet").write_bytes(b"no parquet")
    assert read_rows(tmp_path, "moods") is None
