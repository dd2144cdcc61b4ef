"""A p-value is written by one rule, wherever it is read."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kdlora.cli import compare
from kdlora.report import words as w
from kdlora.report.content.cells import p_cell


@given(st.floats(0, 1))
@example(0.001)
def test_sentences_tables_and_the_terminal_write_a_p_value_alike(p: float) -> None:
    cell, sentence = p_cell(p), w.p_text(p)
    assert cell.value == p
    assert cell.text == compare._p(p) == sentence.replace("below", "<")
    if p < 0.001:
        assert sentence == "below 0.001"
    else:
        assert float(sentence) == pytest.approx(p, abs=0.0005)


def test_where_there_is_no_p_value_there_is_a_dash() -> None:
    assert w.p_text(None) == p_cell(None).text == w.NONE
    assert compare._p(None) == "-"
