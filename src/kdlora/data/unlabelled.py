"""Texts without labels: read, freed of what must not be learnt from, and joined to the train rows.

Only a teacher labels them. What stands in the selection or a report split is dropped, so that a
transfer set can never leak what the student is chosen or reported on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdlora.data.augmented import augmented
from kdlora.data.examples import Examples, TaskData, fingerprint, ids_of_texts
from kdlora.data.recombined import recombined
from kdlora.errors import DataError
from kdlora.spec.run import TextsRef, seed_for
from kdlora.tables.reader import read_table, require_as_planned, text_columns


@dataclass(frozen=True, eq=False)
class Unlabelled:
    """Rows that only a teacher labels; their labels are -1, or NaN for regression.

    The counts say what became of the files' rows: `read` is the sum of all others and `rows`.
    """

    rows: Examples
    read: int = 0
    held_out: int = 0
    in_train: int = 0
    repeated: int = 0
    empty: int = 0
    beyond_max_rows: int = 0

    @property
    def fingerprint(self) -> str:
        return fingerprint({"unlabelled": self.rows})

    def counts(self) -> dict[str, int]:
        """The rows used and, by reason, those dropped."""
        reasons = ("held_out", "in_train", "repeated", "empty", "beyond_max_rows")
        dropped = {name: getattr(self, name) for name in reasons}
        return {"used": len(self.rows), **{k: v for k, v in dropped.items() if v}}


def load_unlabelled(
    sources: Sequence[TextsRef], data: TaskData, *, split_seed: int
) -> Unlabelled | None:
    """The texts of all sources that a student may learn from; None without sources.

    Texts of the selection and report splits are dropped, then those of the train rows in use and
    repetitions. Of what is left a source's `max_rows` are drawn by `split_seed` alone. Train rows
    that `max_train` leaves out keep their ids, by which a teacher's file may know them. Raises
    DataError with all that is wrong with the files, or if nothing is left.
    """
    if not sources:
        return None
    problems: list[str] = []
    tables = []
    for source in sources:
        try:
            tables.append(_texts(source, data, split_seed))
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems, where=f"task '{data.task.name}', unlabelled")

    held_out = _rows_of(data.selection, *data.reports.values())
    train, seen = _rows_of(data.train), set[tuple[str, ...]]()
    counts = dict.fromkeys(("held_out", "in_train", "repeated", "empty", "beyond_max_rows"), 0)
    kept: list[tuple[str, ...]] = []
    for number, (source, texts) in enumerate(zip(sources, tables, strict=True)):
        fresh = []
        for row in texts:
            why = _unwanted(row, held_out, train, seen)
            if why:
                counts[why] += 1
            else:
                seen.add(row)
                fresh.append(row)
        if source.max_rows is not None and len(fresh) > source.max_rows:
            counts["beyond_max_rows"] += len(fresh) - source.max_rows
            rng = np.random.default_rng(seed_for(split_seed, f"unlabelled {number}"))
            chosen = np.sort(rng.choice(len(fresh), source.max_rows, replace=False))
            fresh = [fresh[i] for i in chosen]
        kept += fresh
    if not any(tables):  # no train row happens to be without a label
        return None
    if not kept:
        raise DataError(
            f"none of {sum(map(len, tables)):,} unlabelled texts can be used: "
            + ", ".join(f"{v:,} {k.replace('_', ' ')}" for k, v in counts.items() if v),
            where=f"task '{data.task.name}', unlabelled",
        )
    rows = _examples(data, kept)
    return Unlabelled(rows, read=sum(map(len, tables)), **counts)


def _texts(source: TextsRef, data: TaskData, split_seed: int) -> list[tuple[str, ...]]:
    """The rows of a file, where nulls are empty texts, or what the train rows give."""
    if source.is_recombined or source.is_augmented:
        rows = list(zip(*data.train.texts, strict=True))
        rng = np.random.default_rng(seed_for(split_seed, source.file))
        if source.is_recombined:
            return [*recombined(rows, rng)]
        if not (made := augmented(rows, rng)):
            raise DataError("augmented: no text has two words")
        return made
    if source.is_rest:
        if data.rest is None:
            raise DataError("rest: max_train leaves no train row out")
        return list(zip(*data.rest.texts, strict=True))
    path = Path(source.file)
    require_as_planned(path, source.fingerprint)
    return list(zip(*text_columns(read_table(path, source.text), source.text), strict=True))


def _unwanted(
    row: tuple[str, ...],
    held_out: set[tuple[str, ...]],
    train: set[tuple[str, ...]],
    seen: set[tuple[str, ...]],
) -> str | None:
    if not any(text.strip() for text in row):
        return "empty"
    known = ((held_out, "held_out"), (train, "in_train"), (seen, "repeated"))
    return next((why for texts, why in known if row in texts), None)


def _rows_of(*parts: Examples) -> set[tuple[str, ...]]:
    return {row for part in parts for row in zip(*part.texts, strict=True)}


def _examples(data: TaskData, rows: Sequence[tuple[str, ...]]) -> Examples:
    texts, task = tuple(list(column) for column in zip(*rows, strict=True)), data.task
    # ids of their own: the same text may be a labelled row that is not in use
    ids = ids_of_texts(f"{task.name} unlabelled", texts)
    if data.rest is not None:
        own = dict(zip(zip(*data.rest.texts, strict=True), data.rest.ids.tolist(), strict=True))
        ids = np.array([own.get(row, new) for row, new in zip(rows, ids.tolist(), strict=True)])
    return Examples(ids, texts, task.kind.unlabelled(len(texts[0]), task.num_outputs))
