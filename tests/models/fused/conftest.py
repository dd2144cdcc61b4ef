"""Fixtures of the tests on the fused pass."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from kdlora.models.fused import team


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two threads, and shares however small."""
    monkeypatch.setattr(team, "LEAST", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
