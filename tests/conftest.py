"""Fixtures that many tests share: where real data lies, small encoders, a small learnable task."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test waits for a hub
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # two test workers share the cores

import pytest

from tests.harness.moods import Corner, sentences, write_csv
from tests.harness.tiny_models import save_tiny_encoder

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real tasks and reference results beside the checkout; skips without it."""
    folder = Path(os.environ.get("KDLORA_SHARED", ROOT.parent / "shared"))
    if not (folder / "reference").is_dir():
        pytest.skip(f"real data not found: no {folder}/reference (set KDLORA_SHARED to it)")
    return folder


@pytest.fixture(scope="session")
def corner(tmp_path_factory: pytest.TempPathFactory) -> Corner:
    folder = tmp_path_factory.mktemp("corner")
    save_tiny_encoder(folder / "teacher", "bert", layers=2, seed=1)
    save_tiny_encoder(folder / "student", "distilbert", layers=1, seed=2)
    for name, n, seed in (("train", 640, 3), ("dev", 120, 4)):
        texts, moods = sentences(n, seed)
        write_csv(folder / f"{name}.csv", review=texts, mood=moods)
    return Corner(
        folder,
        str(folder / "teacher"),
        str(folder / "student"),
        str(folder / "train.csv"),
        str(folder / "dev.csv"),
    )
