"""Every family's tiny encoder, saved once for all tests of the models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kdlora.spec.run import EncoderRef
from tests.harness.tiny_models import save_tiny_encoder


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], EncoderRef]:
    """From a family's name to its saved tiny encoder (never changed by a test)."""
    return _saved_in(tmp_path_factory.mktemp("encoders"), layers=2)


@pytest.fixture(scope="session")
def shallow(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], EncoderRef]:
    """The same with one layer, two in ALBERT alone, which shares them: a third of the seconds."""
    return _saved_in(tmp_path_factory.mktemp("shallow"), layers=1)


def _saved_in(root: Path, *, layers: int) -> Callable[[str], EncoderRef]:
    saved: dict[str, EncoderRef] = {}

    def get(family: str) -> EncoderRef:
        if family not in saved:
            own = 2 if family == "albert" else layers
            saved[family] = save_tiny_encoder(root / family, family, layers=own)
        return saved[family]

    return get
