"""Columns that are shown: their words, units and directions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdlora.records.record import Efficiency
from kdlora.vocabulary.quantity import QUANTITIES, directions, quantity

# The end of a column's name says the unit of what is stored.
UNITS = {"_mb": "MB", "_ms": "ms", "_per_s": "texts/s", "_s": "s", "_j": "J", "_flops": "FLOP",
         "_params": ""}  # fmt: skip


@pytest.mark.parametrize("column", QUANTITIES)
def test_the_unit_is_that_of_the_columns_name(column):
    one = QUANTITIES[column]
    ending = next((end for end in UNITS if column.endswith(end)), None)
    if ending is not None:
        assert one.unit == UNITS[ending]
    assert one.column == column
    assert (one.per == 1) == (not one.shown_unit)
    assert one.axis_title.endswith(one.unit)
    assert one.noun == one.noun.lower() or one.noun.startswith("FLOPs")


@pytest.mark.parametrize("column", QUANTITIES)
def test_more_is_better_of_what_is_got_and_less_of_what_is_spent(column):
    assert (QUANTITIES[column].direction > 0) == column.startswith(("throughput", "speedup"))


def test_no_two_columns_have_one_head_or_one_axis():
    heads = [(one.label, one.head_unit) for one in QUANTITIES.values()]
    axes = [one.axis_title for one in QUANTITIES.values()]
    assert len(set(heads)) == len(heads)
    assert len(set(axes)) == len(axes)


@given(st.text())
def test_an_unknown_column_is_called_as_it_is(column):
    one = quantity(column)
    assert column in QUANTITIES or (one.label, one.unit, one.per) == (column, "", 1)


def test_costs_that_a_record_measures_are_known():
    known = {"trainable_params", "total_params", "size_mb", "train_s", "peak_memory_mb",
             "train_flops", "forward_flops", "latency_p50_ms", "latency_p95_ms",
             "throughput_per_s", "speedup_latency", "energy_j"}  # fmt: skip
    assert known <= set(QUANTITIES)
    assert known <= set(Efficiency.model_fields)


def test_directions_of_columns():
    assert directions(["size_mb", "speedup_latency"]) == {"size_mb": -1, "speedup_latency": 1}
