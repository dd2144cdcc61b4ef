"""The names that a classifier's config gives its outputs."""

from __future__ import annotations

import pytest

from kdlora.vocabulary.output_names import names_in


@pytest.mark.parametrize("key", [int, str], ids=["in transformers", "in a file"])
def test_names_stand_in_the_order_of_their_numbers(key) -> None:
    names = [f"class {i}" for i in range(12)]
    shuffled = sorted(range(12), key=str)  # 0, 1, 10, 11, 2: as a text would be sorted
    assert names_in({"id2label": {key(i): names[i] for i in shuffled}}) == tuple(names)


@pytest.mark.parametrize(
    "labels",
    [None, {}, ["no", "yes"], {"a": "no", "b": "yes"}, {"0": "no", "7": "yes"}],
    ids=["none", "empty", "a list", "not by number", "not from 0 on"],
)
def test_what_is_not_numbered_from_0_on_names_no_outputs(labels) -> None:
    assert names_in({"id2label": labels}) == ()
    assert names_in({}) == ()
