"""Fixtures that many tests share: where real data lies, small encoders, a small learnable task."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test waits for a hub
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # two test workers share the cores

import numpy as np
import pytest

from kdlora.spec.study import Study, make_study
from tests.harness.tiny_models import save_tiny_encoder

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real tasks and reference results beside the checkout; skips without it."""
    folder = Path(os.environ.get("KDLORA_SHARED", ROOT.parent / "shared"))
    if not (folder / "reference").is_dir():
        pytest.skip(f"real data not found: no {folder}/reference (set KDLORA_SHARED to it)")
    return folder


GOOD = ("good", "great", "fine", "best", "nice", "bright", "funny", "happy", "love", "loved")
BAD = ("bad", "terrible", "awful", "worst", "dull", "boring", "sad", "hate", "hated", "worse")
PLAIN = ("the", "a", "film", "movie", "story", "plot", "actor", "scene", "music", "book", "with")


def sentences(n: int, seed: int) -> tuple[list[str], list[str]]:
    """Sentences that say "pos" or "neg" by their words: a tiny encoder learns them in seconds."""
    rng = np.random.default_rng(seed)
    texts, labels = [], []
    for _ in range(n):
        positive = bool(rng.random() < 0.55)
        words = [*rng.choice(PLAIN, rng.integers(3, 9)), *rng.choice(GOOD if positive else BAD, 2)]
        texts.append(" ".join(rng.permutation(words)))
        labels.append("pos" if positive else "neg")
    return texts, labels


def write_csv(path: Path, **columns: list) -> Path:
    """A CSV with the given columns."""
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


@dataclass(frozen=True)
class Corner:
    """A folder with two small encoders and own data in two files."""

    folder: Path
    teacher: str
    student: str
    train: str
    eval: str

    def study(self, **changes: object) -> Study:
        """A study of all default arms, tiny in every respect."""
        task = {"name": "moods", "train": self.train, "eval": self.eval, "text": "review"}
        task |= {"label": "mood"}
        values: dict[str, object] = {
            "name": "tiny",
            "tasks": [task],
            "pairs": [{"name": "tiny", "teacher": self.teacher, "student": self.student}],
            "seeds": [1],
            "training": {
                "epochs": 4,
                "batch_size": 16,
                "dropout": 0.0,
                "lr": {"fft": 3e-3, "peft": 1e-2},
                "max_length": 32,
                "precision": "fp32",
            },
            "adapter": {"rank": 4},
            "data": {"selection_min": 40},
        }
        return make_study(values | changes)


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


def apart(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The function's result from a thread of its own.

    A browser test in the same process leaves an event loop running, beside which `asyncio.run`
    refuses to work.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *args, **kwargs).result()
