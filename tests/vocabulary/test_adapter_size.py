"""Ranks and sizes of adapters; `tests/models/test_counting.py` holds them against real models."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from kdlora.vocabulary.adapter_size import halving_ranks


@given(st.integers(1, 1000))
def test_ranks_halve_down_to_one(rank: int) -> None:
    ranks = halving_ranks(rank)
    assert ranks[0] == rank
    assert ranks[-1] == 1
    assert all(b == a // 2 for a, b in itertools.pairwise(ranks))
    assert sum(ranks) < 2 * rank
