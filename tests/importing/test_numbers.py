"""Numbers as people write them: both conventions, marks of LaTeX, units, and what is in doubt."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdlora.importing.numbers import (
    FACTORS,
    WrittenNumber,
    is_nothing,
    plain_text,
    table_decimal,
    to_numbers,
)

THOUSANDS = {
    "point": (",", " ", "\u202f", "\u00a0", "'", ""),
    "comma": (".", " ", "\u2009", "'", ""),
}
DECIMALS = {"point": ".", "comma": ","}


def written(value: float, decimal: str, by: str, digits: int) -> str:
    """A number as a country writes it."""
    text = f"{value:,.{digits}f}"
    return text.replace(",", "\0").replace(".", DECIMALS[decimal]).replace("\0", by)


def read(*cells: object, column: str = "train_s", **how: object) -> list[float]:
    return to_numbers(pd.Series(cells, dtype=object), column, **how).values.tolist()  # type: ignore[arg-type]


@given(
    st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=5),
    st.sampled_from(["point", "comma"]),
    st.integers(0, 5),
    st.integers(0, 6),
)
def test_a_column_comes_back_as_it_was_written_in_either_convention(values, decimal, place, digits):
    by = THOUSANDS[decimal][place % len(THOUSANDS[decimal])]
    cells = [written(v, decimal, by, digits) for v in values]
    found = to_numbers(pd.Series(cells), "train_s", decimal=decimal)
    assert not found.problems
    assert found.values.tolist() == pytest.approx([round(v, digits) for v in values], abs=1e-9)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=5), st.sampled_from(["point", "comma"]))
def test_one_cell_that_leaves_no_doubt_decides_for_the_column(values, decimal):
    sure = {"point": "0.25", "comma": "0,25"}[decimal]
    cells = [written(v, decimal, THOUSANDS[decimal][0], 3) for v in values]
    found = to_numbers(pd.Series([*cells, sure]), "train_s")
    assert found.values.tolist() == pytest.approx([*(round(v, 3) for v in values), 0.25])
    assert not found.problems
    assert not found.notes


@given(st.text(max_size=30), st.sampled_from(["score", "train_s", "trainable_params", "seed"]))
def test_no_cell_raises(text, column):
    cells = pd.Series([text, f"{text}1", f"1{text}", f"\\textbf{{{text}}}", f"${text}$"])
    found = to_numbers(cells, column)
    assert len(found.values) == 5
    plain_text(text)
    is_nothing(text)


@given(st.lists(st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=3)
                | st.lists(st.integers(), max_size=2), max_size=4))  # fmt: skip
def test_no_value_of_json_or_parquet_raises(cells):
    assert len(to_numbers(pd.Series(cells, dtype=object), "peak_memory_mb").values) == len(cells)


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("12,5", 12.5),
        ("2,9", 2.9),
        ("1.234,5", 1234.5),
        ("1 234,5", 1234.5),
        ("1\u202f234.5", 1234.5),
        ("1'234.5", 1234.5),
        ("1,234,567", 1234567),
        ("1.234.567", 1234567),
        ("1.2e6", 1.2e6),
        ("1.2\u00d710^6", 1.2e6),
        (r"$1.2\times 10^{-3}$", 1.2e-3),
        ("92.7 \u00b1 0.2", 92.7),
        ("92.7+/-0.2", 92.7),
        ("85.0 (0.9)", 85.0),
        ("85.0 [84.1, 85.9]", 85.0),
        (r"\textbf{92.7}", 92.7),
        (r"\underline{\textbf{92.7}}", 92.7),
        (r"{\bf 92.7}", 92.7),
        (r"$\mathbf{92.7 \pm 0.2}$", 92.7),
        (r"$92.7_{\pm 0.2}$", 92.7),
        (r"$92.7_{0.2}$", 92.7),
        (r"$92.7^{\dagger}$", 92.7),
        (r"\cellcolor{gray!20}92.7", 92.7),
        (r"\textcolor{red}{92.7}", 92.7),
        (r"92{,}7", 92.7),
        ("**92.7**", 92.7),
        ("__92.7__", 92.7),
        ("<b>92.7</b>", 92.7),
        ("92.7*", 92.7),
        ("\u22120.3", -0.3),
        ("\u20130.3", -0.3),
        ("12 s", 12.0),
        ("1.5 min", 90.0),
        ("250 ms", 0.25),
    ],
)
def test_cells_of_papers_and_spreadsheets(cell, value):
    assert read(cell) == pytest.approx([value])


@pytest.mark.parametrize(
    "cell", ["", " ", "-", "\u2013", "\u2014", "--", "n/a", "NaN", r"\textemdash"]
)
def test_dashes_and_blanks_are_missing_and_no_problem(cell):
    found = to_numbers(pd.Series([cell, "0.5"]), "score")
    assert np.isnan(found.values[0])
    assert not found.problems


def test_units_in_cells_win_and_millions_are_counted():
    assert read("85 %", "0.9", column="score") == [0.85, 0.9]
    assert read("3.4M", "1.2e6", "110K", column="trainable_params") == [3.4e6, 1.2e6, 110e3]
    assert read("2,9", column="trainable_params", unit="M") == [2.9e6]
    assert read("1.5\u00d7", column="speedup_latency") == [1.5]


def test_what_may_be_read_in_two_ways_is_told_and_not_guessed():
    found = to_numbers(pd.Series(["1,234", "5,678"]), "train_s")
    assert found.values.isna().all()
    (reason,) = found.problems
    assert "may be 1234 or 1.234" in reason
    assert "decimal: comma" in reason
    for elsewhere, value in (("point", 1234.0), ("comma", 1.234)):
        found = to_numbers(pd.Series(["1,234"]), "train_s", elsewhere=elsewhere)
        assert found.values.tolist() == [value]
        (note,) = found.notes
        assert "other columns" in note
    found = to_numbers(pd.Series(["1,234"]), "trainable_params")
    assert found.values.tolist() == [1234.0]  # a count is whole
    assert found.notes
    assert to_numbers(pd.Series(["1.234"]), "train_s").notes


def test_a_column_of_both_conventions_keeps_to_what_most_cells_say():
    found = to_numbers(pd.Series(["0.5", "71.25", "12,5"]), "train_s")
    assert found.values.tolist()[:2] == [0.5, 71.25]
    assert np.isnan(found.values[2])
    (reason,) = found.problems
    assert "no number with a decimal point" in reason
    even = to_numbers(pd.Series(["0.5", "0,5", "1.234"]), "train_s")
    assert even.values.tolist()[:2] == [0.5, 0.5]
    assert np.isnan(even.values[2])
    assert "as many cells" in even.notes[0]


def test_a_table_tells_how_it_writes_decimals():
    assert table_decimal([["1,5", "x"], ["1.234"]]) == "comma"
    assert table_decimal([["1.5"], ["1,234"]]) == "point"
    assert table_decimal([["1.5"], ["2,5"]]) is None
    assert table_decimal([["a", "3"]]) is None


def test_a_fraction_among_per_cents_is_doubtful_and_the_reverse_is_not():
    found = to_numbers(pd.Series(["71.5", "0.87", "66.1"]), "score", unit="percent")
    assert found.doubtful == [1]
    assert to_numbers(pd.Series([71.5, 0.87, 66.1]), "score", unit="percent").doubtful == [1]
    assert to_numbers(pd.Series(["71.5", "0.87 %", "66.1"]), "score", unit="percent").doubtful == []
    assert to_numbers(pd.Series(["0.5", "0", "66.1"]), "score", unit="percent").doubtful == []


def test_a_sign_of_per_cent_in_one_cell_holds_for_the_bare_ones():
    assert read("71.5 %", "66.1", "65", column="score") == [0.715, 0.661, 0.65]


def test_a_second_number_in_a_cell_is_no_run_of_its_own():
    found = to_numbers(pd.Series(["92.7 \u00b1 0.2", "85.0 (0.9)", "80"]), "score", unit="percent")
    assert found.beside == [0, 1]
    assert found.values.tolist() == [0.927, 0.85, 0.8]


@given(st.floats(1e-3, 1e6), st.sampled_from([(q, u) for q in ("memory", "count", "flops")
                                               for u in FACTORS[q] if u]))  # fmt: skip
def test_every_unit_is_read_with_its_factor(value, unit):
    quantity, name = unit
    column = {"memory": "size_mb", "count": "total_params", "flops": "train_flops"}[quantity]
    found = to_numbers(pd.Series([f"{value:.6f} {name}"]), column).values[0]
    expected = round(value, 6) * FACTORS[quantity][name]
    assert found == pytest.approx(expected, rel=1e-6, abs=0.5 if quantity == "count" else 1e-11)


def test_names_keep_their_underscores():
    for name in ("train_samples_per_second", "model_name_or_path", "paper_table_1", "lora_r"):
        assert plain_text(name) == name
    assert plain_text(r"KD-LoRA \textit{(ours)}") == "KD-LoRA (ours)"
    assert WrittenNumber.of("88.9/91.2") is None
