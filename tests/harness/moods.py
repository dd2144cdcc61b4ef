"""A small learnable task in files, and a tiny study of it."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdlora.spec.check import make_study
from kdlora.spec.study import Study

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


TRAINING = {
    "epochs": 4,
    "batch_size": 16,
    "dropout": 0.0,
    "lr": {"fft": 3e-3, "peft": 1e-2},
    "max_length": 32,
    "precision": "fp32",
}
# Half as many steps, which are what a tiny encoder's training takes: they teach the corner too.
BRIEF = {**TRAINING, "batch_size": 32}


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
            "training": TRAINING,
            "adapter": {"rank": 4},
            "data": {"selection_min": 40},
        }
        return make_study(values | changes)


TOPICS = {"price": ("good", "great"), "service": ("bad", "awful"), "food": ("funny", "sad")}


def reviews(n: int, seed: int) -> tuple[list[str], list[list[str]]]:
    """Sentences with none, one or several of three topics, which their words tell."""
    rng = np.random.default_rng(seed)
    texts, labels = [], []
    for _ in range(n):
        own = [topic for topic in TOPICS if rng.random() < 0.4]
        words = [*rng.choice(PLAIN, rng.integers(3, 7)), *(rng.choice(TOPICS[t]) for t in own)]
        texts.append(" ".join(rng.permutation(words)))
        labels.append(own)
    return texts, labels
