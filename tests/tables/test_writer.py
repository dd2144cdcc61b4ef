"""CSV for people: what looks like a formula is text, and numbers stay numbers."""

from __future__ import annotations

import io

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdlora.tables.writer import csv_text, harmless


@pytest.mark.parametrize(
    "text",
    ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "--", "-a", "+-1", "="],
)
def test_formulas_become_texts(text: str) -> None:
    assert harmless(text) == (text if len(text) == 1 else f"'{text}")


@pytest.mark.parametrize(
    "value",
    ["-1.5", "+3", "-1,234.5", "-2e-05", "-12.5 %", "-inf", "-.5", "-", "a=b", "", "1-2", -1.5,
     None, float("nan"), True, "\N{MINUS SIGN}3"],
)  # fmt: skip
def test_numbers_and_other_texts_stay(value: object) -> None:
    assert harmless(value) is value


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r")), min_size=1))
def test_nothing_is_lost_and_no_text_begins_as_a_formula(texts: list[str]) -> None:
    written = csv_text(pd.DataFrame({"=name": texts, "n": range(len(texts))}))
    read = pd.read_csv(io.StringIO(written), dtype=str, keep_default_na=False)
    assert list(read.columns) == ["'=name", "n"]
    for found, text in zip(read["'=name"], texts, strict=True):
        assert found in (text, f"'{text}")
        if found[:1] in ("=", "@") and len(found) > 1:
            pytest.fail(found)
