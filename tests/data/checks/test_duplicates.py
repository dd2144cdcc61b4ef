"""Same texts and nearly same ones, against what a slow comparison of all pairs finds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdlora.data.checks.duplicates import (
    LEAST_WORDS,
    NEAR,
    near_groups,
    numbered,
    plain_form,
    plain_forms,
    rows_by_group,
)


@pytest.mark.parametrize(
    "variant",
    ["A fine film.", "a fine  film", " A FINE\tfilm ", "a fine film!", "A fine film ...",
     "a ｆｉｎｅ film。"],  # noqa: RUF001
)  # fmt: skip
def test_case_white_space_and_a_final_stop_say_nothing(variant):
    assert plain_form(variant) == "a fine film"


@pytest.mark.parametrize(
    "other", ["a fine film, not", "afine film", "a. fine film", "a fine films"]
)
def test_what_changes_words_is_kept(other):
    assert plain_form(other) != plain_form("a fine film")


@given(st.text())
def test_a_plain_form_is_its_own(text):
    assert plain_form(plain_form(text)) == plain_form(text)


def test_the_texts_of_a_pair_are_kept_apart():
    first, second = plain_forms((["a b", "a"], ["c", "b c"]))
    assert first != second


def jaccard(a: str, b: str) -> float:
    left, right = (set(itertools.pairwise(text.split())) for text in (a, b))
    return len(left & right) / len(left | right)


def slow_groups(forms: list[str]) -> list[int]:
    """Chains of texts of enough words that share enough word pairs, all compared with all."""
    groups = list(range(len(forms)))
    for i, j in itertools.combinations(range(len(forms)), 2):
        long = min(len(forms[i].split()), len(forms[j].split())) >= LEAST_WORDS
        if forms[i] == forms[j] or (long and jaccard(forms[i], forms[j]) >= NEAR):
            old, new = max(groups[i], groups[j]), min(groups[i], groups[j])
            groups = [new if group == old else group for group in groups]
    return groups


def same_partition(a: list[int], b: list[int]) -> bool:
    return len(set(a)) == len(set(b)) == len(set(zip(a, b, strict=True)))


def test_near_duplicates_are_those_that_a_slow_comparison_finds():
    rng = np.random.default_rng(0)
    vocabulary = [f"w{i}" for i in range(500)]
    forms = []
    for size in rng.integers(4, 40, 60):
        words = rng.choice(vocabulary, size).tolist()
        forms.append(" ".join(words))
        for changes in (1, 3, 8):
            other = list(words)
            for place in rng.integers(0, size, changes):
                other[place] = str(rng.choice(vocabulary))
            forms.append(" ".join(other))
    found = near_groups(forms).tolist()
    assert same_partition(found, slow_groups(forms))
    assert len(set(found)) < len(forms)


def test_short_texts_are_near_only_to_equal_ones():
    forms = ["a fine film", "a fine film", "a fine story"]
    groups = near_groups(forms)
    assert groups[0] == groups[1] != groups[2]


def test_nothing_and_one_text_have_their_groups():
    assert near_groups([]).tolist() == []
    assert near_groups(["w " * 20]).tolist() == [0]


def test_groups_of_several_rows_are_listed_with_their_rows():
    assert rows_by_group(numbered(["a", "b", "a", "c", "b"])) == {0: [0, 2], 1: [1, 4]}
    assert rows_by_group(numbered([])) == {}
