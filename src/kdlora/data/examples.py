"""Labelled texts in memory, and the ids by which everything else refers to them.

Teacher signals, predictions and metrics are aligned by `Examples.ids`, never by position.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdlora.vocabulary.task import NO_LABEL, Task

ID_LENGTH = 16  # hex digits: 64 bits, so that among 400,000 rows a chance clash is 1 in 10^8


@dataclass(frozen=True, eq=False)
class Examples:
    """n rows of one split.

    ids: [n] unicode, unique within the file that the rows come from.
    texts: one or two columns of n strings.
    labels: [n] int64 indices into `Task.label_names`, or float32 for regression; where a row may
        have several, [n, c] int64 of 0 and 1.
    numbers: [n] the rows' numbers in the file that they come from, where they are known.
    """

    ids: np.ndarray
    texts: tuple[list[str], ...]
    labels: np.ndarray
    numbers: np.ndarray | None = None

    def __post_init__(self) -> None:
        lengths = {len(self.ids), len(self.labels), *(len(column) for column in self.texts)}
        if len(lengths) != 1:
            raise ValueError(f"ids, texts and labels differ in length: {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, index: np.ndarray) -> Examples:
        """The rows at integer positions (or where a boolean mask is true), in that order."""
        index = np.asarray(index)
        index = np.flatnonzero(index) if index.dtype == bool else index.astype(np.int64)
        rows = index.tolist()
        texts = tuple([column[i] for i in rows] for column in self.texts)
        numbers = None if self.numbers is None else self.numbers[index]
        return Examples(self.ids[index], texts, self.labels[index], numbers)


@dataclass(frozen=True, eq=False)
class Loaded:
    """What a source gives, before any split is carved. `reports` is empty if it has none.

    `rest` are train rows without a label, where the source may lack some; None where it may not.
    `dropped` counts rows without any text, which are not among the others.
    """

    task: Task
    train: Examples
    reports: dict[str, Examples]
    notes: tuple[str, ...] = ()
    rest: Examples | None = None
    dropped: int = 0


@dataclass(frozen=True, eq=False)
class TaskData:
    """A task's rows as one run uses them.

    task: resolved; for own data the label names are those of the train file.
    reports: keyed as `Task.reports`; the first is "report".
    overlap: report rows whose exact text also stands in train or selection.
    fingerprint: hash over all ids, texts and labels of all splits: what was really used.
    rest: train rows that `max_train` leaves out, and those without a label; they belong to no
        split. None where there cannot be any.
    notes: what a user should be told.
    dropped: rows of the source that hold no text; they belong to no split either.
    """

    task: Task
    train: Examples
    selection: Examples
    reports: dict[str, Examples]
    overlap: int
    fingerprint: str
    notes: tuple[str, ...] = ()
    rest: Examples | None = None
    dropped: int = 0

    def splits(self) -> dict[str, Examples]:
        """All splits by name, train first."""
        return {"train": self.train, "selection": self.selection, **self.reports}

    def split(self, name: str) -> Examples:
        """The rows of "train", "selection" or a report split. Raises KeyError for other names."""
        splits = self.splits()
        if name not in splits:
            raise KeyError(f"no split '{name}'; there are {', '.join(splits)}")
        return splits[name]


def ids_of_texts(task: str, texts: Sequence[Sequence[str]]) -> np.ndarray:
    """Ids [n] from what a row says: equal rows are told apart by their occurrence in the file."""
    seen: Counter[tuple[str, ...]] = Counter()
    ids = []
    for row in zip(*texts, strict=True):
        ids.append(_digest((task, *row, str(seen[row]))))
        seen[row] += 1
    return np.array(ids, dtype=f"<U{ID_LENGTH}")


def ids_of_keys(task: str, keys: Sequence[str]) -> np.ndarray:
    """Ids [n] from the values of the user's own id column."""
    return np.array([_digest((task, key)) for key in keys], dtype=f"<U{ID_LENGTH}")


def _digest(parts: Sequence[str]) -> str:
    # Lengths keep the parts apart: ("ab", "c") and ("a", "bc") must not meet.
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:ID_LENGTH]


def fingerprint(splits: dict[str, Examples]) -> str:
    """Hash over the names, ids, texts and labels of splits, in their order."""
    digest = hashlib.sha256()
    for name, part in splits.items():
        kind = "<f4" if part.labels.dtype.kind == "f" else "<i8"
        digest.update(f"{name}:{len(part)}:{kind};".encode())
        digest.update(part.ids.astype(f"S{ID_LENGTH}").tobytes())
        digest.update(part.labels.astype(kind).tobytes())
        for column in part.texts:
            digest.update("\x1e".join(column).encode())
    return digest.hexdigest()[:ID_LENGTH]


def joined(train: Examples, extra: Examples | None) -> Examples:
    """Train rows and, behind them, rows that only a teacher labels."""
    if extra is None:
        return train
    return Examples(
        np.concatenate([train.ids, extra.ids]),
        tuple([*a, *b] for a, b in zip(train.texts, extra.texts, strict=True)),
        np.concatenate([train.labels, extra.labels.astype(train.labels.dtype)]),
    )


def is_labelled(labels: np.ndarray) -> np.ndarray:
    """Which of the rows have a label, of labels [n] or [n, c]: boolean [n]."""
    known = ~np.isnan(labels) if labels.dtype.kind == "f" else labels != NO_LABEL
    return known if known.ndim == 1 else known.all(axis=1)


def overlap(part: Examples, *others: Examples) -> int:
    """How many rows of `part` have exactly the texts of some row of the others."""
    known = {row for other in others for row in zip(*other.texts, strict=True)}
    return sum(row in known for row in zip(*part.texts, strict=True))
