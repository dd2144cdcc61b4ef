"""Labels that are several, rare, or contradict each other."""

from __future__ import annotations

import pytest

from kdlora.data.checks.labels import quote, several_labels


@pytest.mark.parametrize(
    ("names", "tags"),
    [
        (["price", "service", "food", "price|service", "price|food", "food|service",
          "food|price|service"], ["food", "price", "service"]),
        (["a", "b", "a;b", "b; a"], ["a", "b"]),
        (["['a']", "['b']", "['a', 'b']", "['b', 'a']"], ["a", "b"]),
        (["x,y", "y,x", "x,z"], ["x", "y", "z"]),
        (["price", "service", "price and service"], ["price", "service"]),
        (['["price"]', '["service"]', '["price", "service"]'], ["price", "service"]),
    ],
)  # fmt: skip
def test_classes_that_join_tags_are_seen(names, tags):
    found = several_labels(names)
    assert found is not None
    assert found[1] == tags


@pytest.mark.parametrize(
    "names",
    [
        ["World", "Sports", "Business", "Sci/Tech"],
        ["Electronics/Phones", "Electronics/Laptops", "Home/Kitchen", "Home/Garden"],
        ["Books, films and music", "Home, garden and tools"],
        ["positive", "negative"],
        ["0", "1"],
        ["1,5", "2,5", "3"],
        ["salt", "salt and pepper", "sugar"],
        [],
    ],
)
def test_classes_that_only_hold_a_sign_are_not(names):
    assert several_labels(names) is None


def test_a_quoted_text_stands_on_one_line():
    assert quote("a\nb") == '"a b"'
    assert len(quote("word " * 50)) == 62
