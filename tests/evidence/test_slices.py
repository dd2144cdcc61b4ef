"""Slices of a report split: what is worse is found, and where nothing is nothing is claimed."""

from __future__ import annotations

import numpy as np
import pytest

from kdlora.evidence.result import Rules
from kdlora.evidence.slices import judged, slice_scores

RULES = Rules()


def scored(values: np.ndarray, *, is_error: bool = False, **columns) -> dict:
    (slices,) = judged([slice_scores(columns, values, is_error=is_error, rules=RULES)], RULES)
    return {(one.column, one.value): one for one in slices}


def test_a_slice_that_is_truly_worse_is_found_with_its_numbers():
    channel = np.array(["mail"] * 100 + ["web"] * 200 + ["shop"] * 200)
    right = np.r_[np.arange(100) < 60, np.arange(400) < 340] * 1.0
    found = scored(right, channel=channel)
    mail = found["channel", "mail"]
    assert (mail.n, mail.score, mail.rest, mail.verdict) == (100, 0.6, 0.85, "worse")
    assert mail.low == pytest.approx(0.502, abs=0.001)  # Wilson's
    assert mail.high == pytest.approx(0.691, abs=0.001)
    assert mail.p < mail.p_adjusted < 0.001


def test_what_is_right_more_often_than_the_rest_is_no_complaint():
    side = np.array(["a"] * 100 + ["b"] * 100)
    found = scored(np.r_[np.ones(100), np.arange(100) < 60] * 1.0, side=side)
    assert [found["side", name].verdict for name in "ab"] == ["better", "worse"]


def test_numbers_are_cut_in_quarters_and_missing_cells_are_a_slice():
    price = [*np.arange(80.0), *[None] * 20]
    found = scored(np.ones(100), price=price)
    assert [value for _, value in found] == [
        "0 to 19",
        "20 to 39",
        "40 to 59",
        "60 to 79",
        "(empty)",
    ]
    assert sum(one.n for one in found.values()) == 100


def test_few_rows_are_shown_and_not_tested_and_one_value_is_no_slice():
    rare = np.array(["rare"] * 19 + ["usual"] * 300)
    found = scored(np.r_[np.zeros(19), np.ones(300)], rare=rare, same=["x"] * 319)
    assert found["rare", "rare"].verdict == "too few rows"
    assert found["rare", "rare"].p is None
    assert not any(column == "same" for column, _ in found)


def test_of_errors_more_is_worse():
    rng = np.random.default_rng(0)
    side = np.array(["a"] * 200 + ["b"] * 200)
    errors = np.abs(np.r_[rng.normal(0, 1, 200), rng.normal(0, 2, 200)])
    found = scored(errors, is_error=True, side=side)
    assert [found["side", name].verdict for name in "ab"] == ["better", "worse"]


def test_studies_without_a_worse_slice_claim_one_in_at_most_one_of_twenty():
    claims, studies = 0, 400
    for seed in range(studies):
        rng = np.random.default_rng(seed)
        n = 400
        columns = {
            "class": rng.choice(["a", "b"], n, p=[0.7, 0.3]),
            "tokens": rng.integers(4, 60, n).astype(float),
            "channel": rng.choice(list("uvwxyz"), n),
        }
        found = scored((rng.random(n) < 0.85) * 1.0, **columns)
        claims += any(one.verdict in ("worse", "better") for one in found.values())
    assert claims <= 0.05 * studies


def test_the_halves_of_a_column_are_one_test():
    right = np.r_[np.ones(100), np.arange(100) < 60] * 1.0
    halves = scored(right, side=["a"] * 100 + ["b"] * 100)
    assert [halves["side", name].p_adjusted for name in "ab"] == [halves["side", "a"].p] * 2
    parts = scored(right, side=["a"] * 100 + ["b"] * 50 + ["c"] * 50)
    assert parts["side", "a"].p_adjusted == pytest.approx(3 * parts["side", "a"].p)


def test_all_tasks_are_one_family():
    right = np.r_[np.ones(100), np.arange(100) < 60] * 1.0
    one = slice_scores({"side": ["a"] * 100 + ["b"] * 100}, right, is_error=False, rules=RULES)
    twice = judged([one, one, []], RULES)
    assert [len(own) for own in twice] == [2, 2, 0]
    assert twice[0][0].p_adjusted == pytest.approx(2 * one[0].p)


@pytest.mark.parametrize("n", [100, 400])
def test_a_difference_is_found_as_often_as_it_is_said(n):
    """Of a slice of 40 % of the rows, beside three others, in about four of five studies."""
    part = int(0.4 * n)
    channel, rng = np.array(["mail"] * part + ["web"] * (n - part)), np.random.default_rng(0)
    length = np.tile(np.arange(4.0), n // 4)
    first = scored((np.arange(n) % 10 < 7) * 1.0, channel=channel, length=length)
    gap = first["channel", "mail"].detectable
    found, studies = 0, 300
    for _ in range(studies):
        right = rng.random(n) < np.where(channel == "mail", 0.7 - 0.6 * gap, 0.7 + 0.4 * gap)
        one = scored(right * 1.0, channel=channel, length=rng.permutation(length))
        found += one["channel", "mail"].verdict == "worse"
    assert 0.7 * studies <= found <= 0.95 * studies
