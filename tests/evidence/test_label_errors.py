"""Labels that out-of-sample probabilities speak against."""

from __future__ import annotations

import numpy as np
import pytest

from kdlora import extras
from kdlora.errors import InputError
from kdlora.evidence.label_errors import suspected_labels


def made(n: int = 400, wrong: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Labels of which the first `wrong` are turned, and probabilities of a fair model."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, n)
    probabilities = np.full((n, 3), 0.1)
    probabilities[np.arange(n), truth] = 0.8
    labels = truth.copy()
    labels[:wrong] = (truth[:wrong] + 1) % 3
    return labels, probabilities


def test_turned_labels_are_suspected_and_no_others():
    pytest.importorskip("cleanlab")
    labels, probabilities = made()
    assert sorted(suspected_labels(labels, probabilities)) == list(range(20))


def test_the_likeliest_comes_first():
    pytest.importorskip("cleanlab")
    labels, probabilities = made()
    probabilities[7] = 0.005
    probabilities[7, (labels[7] - 1) % 3] = 0.99
    assert suspected_labels(labels, probabilities)[0] == 7


def test_a_class_without_a_row_and_too_few_rows_are_no_error():
    pytest.importorskip("cleanlab")
    labels, probabilities = made()
    two = np.c_[probabilities, np.full(len(labels), 1e-6)]  # a fourth class that nobody has
    assert len(suspected_labels(labels, two)) == 20
    assert len(suspected_labels(labels[:29], probabilities[:29])) == 0
    assert len(suspected_labels(np.zeros(100, int), probabilities[:100])) == 0


def test_where_the_library_is_missing_it_is_said_how_to_install_it(monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'kdlora\[labels\]'"):
        suspected_labels(*made())
