"""Numbers and names as they are written."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdlora.report import words as w

finite = st.floats(min_value=-1e9, max_value=1e9, allow_nan=False)


@pytest.mark.parametrize(
    ("value", "decimals", "signed", "text"),
    [
        (-1.25, 1, False, "\N{MINUS SIGN}1.2"),
        (0.04, 1, True, "0.0"),
        (-0.04, 1, True, "0.0"),
        (0.06, 1, True, "+0.1"),
        (1234.5, 1, False, "1,234.5"),
        (math.nan, 1, False, "\N{EN DASH}"),
        (None, 1, False, "\N{EN DASH}"),
    ],
)
def test_fixed(value, decimals, signed, text):
    assert w.fixed(value, decimals, signed=signed) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0123456, "0.0123"), (1.8712, "1.87"), (69.61, "69.6"), (421.4, "421"), (12345.6, "12,346"),
     (0.0, "0"), (math.inf, "\N{EN DASH}")],
)  # fmt: skip
def test_significant(value, text):
    assert w.significant(value) == text


@given(finite)
def test_what_is_written_reads_back_within_half_a_unit(value):
    read = float(w.fixed(value, 1).replace("\N{MINUS SIGN}", "-").replace(",", ""))
    assert abs(read - value) <= 0.05 + 1e-9 * abs(value)


@given(st.floats(min_value=1e-6, max_value=1e9))
def test_three_digits_are_within_half_a_percent(value):
    read = float(w.significant(value).replace(",", ""))
    assert read == pytest.approx(value, rel=0.00501)


def test_amounts_are_short_and_keep_the_value():
    assert [w.amount(v).text for v in (2, 591_362, 22_713_986)] == ["2", "591 k", "22.7 M"]
    assert w.amount(591_362).value == 591_362


def test_only_more_is_better_metrics_become_points():
    assert w.scale_of("accuracy").write(0.8366) == "83.7"
    assert w.scale_of("matthews").write(-0.05, signed=True) == "\N{MINUS SIGN}5.0"
    assert w.scale_of("rmse").write(0.8366) == "0.837"
    assert w.scale_of("ece").unit != "points"


def test_join():
    assert [w.join([]), w.join(["a"]), w.join(["a", "b"]), w.join(["a", "b", "c"])] == [
        "", "a", "a and b", "a, b and c"
    ]  # fmt: skip


def test_a_difference_is_told_in_the_unit_of_its_comparison():
    assert w.signed_difference(1.25, "points") == "+1.2 points"
    assert w.signed_difference(-0.0312, "rmse") == "\N{MINUS SIGN}0.031 root mean square error"
    assert w.span_text(-0.0312, 0.0049, "rmse") == " [\N{MINUS SIGN}0.031 to 0.005]"
