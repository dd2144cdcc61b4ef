"""One server for all tests that only ask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kdlora.ship.answers import Predictor
from kdlora.ship.predict import load_predictor
from tests.harness.exported import save_exported
from tests.harness.serving import serving


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_exported(tmp_path_factory.mktemp("served") / "moods")


@pytest.fixture(scope="package")
def port(folder: Path) -> Iterator[int]:
    limits = ("--body-timeout-s", "1", "--max-text-chars", "500", "--max-body-mb", "0.05")
    with serving(folder, *limits, "--queue", "64") as (_, found):
        yield found


@pytest.fixture(scope="package")
def predictor(folder: Path) -> Predictor:
    return load_predictor(folder)
