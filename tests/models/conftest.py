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
    root, saved = tmp_path_factory.mktemp("encoders"), {}

    def get(family: str) -> EncoderRef:
        if family not in saved:
            saved[family] = save_tiny_encoder(Path(root / family), family)
        return saved[family]

    return get
