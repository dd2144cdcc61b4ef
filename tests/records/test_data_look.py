"""What a look found is kept in a study's folder and read again as it was."""

from __future__ import annotations

from kdlora.records.data_look import (
    LOOK_FILE,
    DataFinding,
    DataLook,
    SplitCount,
    TokenCount,
    by_severity,
    percent,
    read_looks,
    write_looks,
)

LOOK = DataLook(
    "moods",
    "classification",
    ("text", "second"),
    "abc",
    (SplitCount("train", "train.csv", 3, {"neg": 1, "pos": 2}),),
    (TokenCount(("a", "b"), 3, 3, 128, 5, 9, 9, 0.0, 0.0, 0.0, 0.0, 1.25),),
    (DataFinding("cut_texts", "warning", "much is cut", "Cut less"),),
)


def test_what_is_written_is_read_as_it_was(tmp_path):
    write_looks([LOOK], tmp_path)
    assert read_looks(tmp_path) == [LOOK]


def test_a_folder_without_a_look_or_with_a_damaged_one_has_none(tmp_path):
    assert read_looks(tmp_path) == []
    for content in (
        "{",
        "[]",
        '{"tasks": ' + "[" * 3000,
        '{"tasks": [{"task": "x"}]}',
        '{"tasks": [{"no": 1}]}',
    ):
        (tmp_path / LOOK_FILE).write_text(content)
        assert read_looks(tmp_path) == []


def test_the_worst_stands_first_and_order_is_kept_within():
    found = [DataFinding(str(i), level, "s") for i, level in enumerate(
        ("info", "warning", "error", "warning"))]  # fmt: skip
    assert [finding.name for finding in by_severity(found)] == ["2", "1", "3", "0"]


def test_a_finding_is_told_with_what_to_do():
    assert LOOK.findings[0].told == "much is cut. Cut less."
    assert DataFinding("x", "info", "a note").told == "a note."


def test_shares_are_told_in_two_digits():
    assert [percent(x) for x in (0, 0.0004, 0.052, 0.5, 1)] == [
        "0 %", "0.04 %", "5.2 %", "50 %", "100 %",
    ]  # fmt: skip
