import pytest

from kdlora.data.own_task import (
    check_classes,
    check_numbers,
    check_unknown,
    infer_kind,
    is_missing,
)
from kdlora.vocabulary.task import CLASSIFICATION, KINDS


@pytest.mark.parametrize("value", [None, float("nan"), "", "  ", "nan", "NaN"])
def test_missing(value):
    assert is_missing(value)


@pytest.mark.parametrize("value", [0, False, 0.0, "0", "none", "NA", "null"])
def test_not_missing(value):
    assert not is_missing(value)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1.5", "2", "3"], "regression"),
        ([0.1, 1], "regression"),
        (["1.0", "2.0"], "classification"),
        ([1, 2, 3], "classification"),
        ([True, False], "classification"),
        (["good", "bad"], "classification"),
        (["0.5", "x", "y", "z"], "classification"),
        (["0.5", "1.5", "2.5", "x"], "regression"),  # a slip among scores
    ],
)
def test_infer_kind(values, kind):
    assert infer_kind(values) is KINDS[kind]


def check(values, stated=False):
    return check_classes(values, CLASSIFICATION.names(values), stated=stated)


def test_good_classes():
    assert check(["a", "b"] * 20) == []
    assert check(list(range(50)) * 4) == []
    assert check(list(range(77)) * 4, stated=True) == []


def test_bad_classes():
    assert check(["a"] * 20) == ["only one class, 'a': there is nothing to tell apart"]
    (many,) = check(list(range(51)) * 4)
    assert "51 different labels" in many
    assert "kind: regression" in many
    (texts,) = check([f"t{i}" for i in range(51)] * 4)
    assert "check the label column" in texts
    for stated in (True, False):
        (ids,) = check(list(range(40)), stated)
        assert "40 different labels in 40 rows" in ids


def test_unknown_classes_are_named_and_counted():
    assert check_unknown(["a", "b", 1.0], ("1", "a", "b")) == []
    (said,) = check_unknown(["a", "z", "z", "y"], ("a", "b"))
    assert said == "labels that the train file lacks: 'y' (1 rows), 'z' (2 rows). It knows a, b"


def test_numbers_that_are_none_are_shown_with_their_rows():
    assert check_numbers(["1", 2.5, "-3e2"], [1, 2, 3]) == []
    (said,) = check_numbers(["1", "high", "inf", 1e39, "high"], [1, 4, 6, 8, 9])
    assert said == (
        "labels that are not finite numbers, in rows 4, 6, 8, 9: 'high', 'inf', '1e+39'"
    )
