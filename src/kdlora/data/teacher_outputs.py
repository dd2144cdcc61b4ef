"""A teacher that is a file: what a larger model, an API or annotators said of every example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdlora.data.examples import Examples, ids_of_keys
from kdlora.errors import DataError, alternatives, did_you_mean
from kdlora.spec.run import SCORE, OutputsRef
from kdlora.tables.reader import (
    FileTable,
    is_missing,
    name_rows,
    read_table,
    require_as_planned,
    text_columns,
)
from kdlora.vocabulary.task import Task, as_number, class_name

LEAST_PROBABILITY = 1e-6  # a probability of 0 has no logarithm; annotators' votes hold many
PSEUDO_VOTES = 0.5  # added to each class's votes: three of three annotators may all be wrong
SUM_TOLERANCE = 0.01  # of probabilities written with two decimals


@dataclass(frozen=True, eq=False)
class TeacherTable:
    """Logits (or a regression's predictions) of the file's rows by example id or by text."""

    path: Path
    by_id: bool
    rows: dict[Any, int]  # id, or tuple of texts -> row of `logits`
    logits: np.ndarray  # [rows, c] float32

    def find(self, examples: Examples) -> np.ndarray:
        """Row of each example in `logits`, -1 where the file lacks it, [n] int64."""
        keys = examples.ids.tolist() if self.by_id else zip(*examples.texts, strict=True)
        return np.array([self.rows.get(key, -1) for key in keys], dtype=np.int64)

    def require(self, examples: Examples, what: str) -> None:
        """Raises DataError, with an example, if the file lacks rows of a split."""
        missing = np.flatnonzero(self.find(examples) < 0)
        if len(missing):
            first = " | ".join(column[missing[0]] for column in examples.texts)
            shown = first if len(first) <= 80 else first[:77] + "..."
            by = "ids" if self.by_id else "texts, word for word"
            raise DataError(
                f"{self.path} lacks {len(missing):,} of {len(examples):,} {what} rows (joined by "
                f"their {by}), for instance: {shown}. A teacher's file must hold all rows that "
                "are trained on"
            )


def read_teacher_outputs(ref: OutputsRef, task: Task) -> TeacherTable:
    """Read and check a teacher's file. Raises DataError with every problem found in it.

    Probabilities become their logarithms, so that softmax gives them back; those below 1e-6 are
    raised to it first. Votes become shares, half a vote being added to each class first. Rows for
    texts that no split holds are ignored.
    """
    where = f"task '{task.name}', teacher_outputs"
    path = Path(ref.file)
    require_as_planned(path, ref.fingerprint, where=where)
    classes = task.label_names or (SCORE,)
    problems = [
        f"columns: the task has no class '{name}'.{did_you_mean(name, classes)}"
        for name in ref.columns
        if name not in classes
    ]
    if ref.kind not in task.kind.teacher_files:
        fitting = alternatives(task.kind.teacher_files)
        problems.append(f"kind '{ref.kind}' does not fit a {task.kind}: expected {fitting}")
    if problems:
        raise DataError(problems, where=where)
    columns = [ref.columns.get(name, name) for name in classes]
    keys = [ref.id] if ref.id else list(ref.text)
    if clash := sorted(set(columns) & set(keys)):
        raise DataError(f"columns used twice: {', '.join(clash)}", where=where)
    try:
        table = read_table(path, [*keys, *columns])
        values = _numbers(table, columns)
        logits = _logits(table, values, ref.kind)
        rows = _keys(table, ref, task, values)
    except DataError as error:
        raise DataError(error.problems, where=where) from None
    return TeacherTable(path, ref.id is not None, rows, logits)


def _numbers(table: FileTable, columns: Sequence[str]) -> np.ndarray:
    """The named columns as floats [n, c]."""
    problems = []
    found = np.zeros((len(table), len(columns)))
    for place, name in enumerate(columns):
        numbers = [as_number(value) for value in table.columns[name]]
        bad = [x is None or not np.isfinite(x) for x in numbers]
        if any(bad):
            problems.append(
                f"{table.path}: column '{name}' holds no finite number in {_named(table, bad)}"
            )
        else:
            found[:, place] = numbers
    if problems:
        raise DataError(problems)
    return found


def _named(table: FileTable, chosen: Any) -> str:
    """The rows that are true in `chosen` [n], by their numbers in the file."""
    return name_rows([table.numbers[i] for i in np.flatnonzero(chosen)])


def _logits(table: FileTable, values: np.ndarray, kind: str) -> np.ndarray:
    if kind == "votes":
        return _shares(table, values)
    if kind != "probabilities":
        return values.astype(np.float32)
    sums = values.sum(axis=1)
    outside = np.any((values < 0) | (values > 1), axis=1)
    wrong = np.abs(sums - 1) > SUM_TOLERANCE
    counts = "; columns that count votes are of kind votes" if _are_votes(values) else ""
    problems = []
    if outside.any():
        problems.append(
            f"{table.path}: probabilities below 0 or above 1 in {_named(table, outside)}; "
            f"are these logits?{counts}"
        )
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        problems.append(
            f"{table.path}: probabilities do not sum to 1 in {_named(table, wrong)} "
            f"(row {table.numbers[first]} sums to {sums[first]:.4g}){counts}"
        )
    if problems:
        raise DataError(problems)
    clipped = np.clip(values / sums[:, None], LEAST_PROBABILITY, None)
    return np.log(clipped).astype(np.float32)


def _are_votes(values: np.ndarray) -> bool:
    return bool((values >= 0).all() and (values == np.rint(values)).all())


def _shares(table: FileTable, values: np.ndarray) -> np.ndarray:
    """Logarithms of the smoothed shares of counted votes [n, c]."""
    problems = []
    wrong = ((values < 0) | (values != np.rint(values))).any(axis=1)
    empty = (values == 0).all(axis=1)
    if wrong.any():
        problems.append(
            f"{table.path}: votes are whole numbers from 0, but not in {_named(table, wrong)}. "
            "Shares of votes that sum to 1 are of kind probabilities"
        )
    if empty.any():
        problems.append(
            f"{table.path}: nobody voted in {_named(table, empty)}: leave such rows out"
        )
    if problems:
        raise DataError(problems)
    smoothed = values + PSEUDO_VOTES
    return np.log(smoothed / smoothed.sum(axis=1, keepdims=True)).astype(np.float32)


def _keys(table: FileTable, ref: OutputsRef, task: Task, values: np.ndarray) -> dict[Any, int]:
    """Where each id or text stands; one that stands twice with different numbers is a problem."""
    keys: Sequence[Any]
    if ref.id:
        missing = table.where(ref.id, is_missing)
        if missing:
            raise DataError(f"{table.path}: no id in {name_rows(missing)} (column '{ref.id}')")
        keys = ids_of_keys(task.name, [class_name(v) for v in table.columns[ref.id]]).tolist()
    else:
        keys = list(zip(*text_columns(table, ref.text), strict=True))
    rows: dict[Any, int] = {}
    differing = []
    for i, key in enumerate(keys):
        first = rows.setdefault(key, i)
        if first != i and not np.allclose(values[first], values[i]):
            differing.append(table.numbers[i])
    if differing:
        raise DataError(
            f"{table.path}: {name_rows(differing)} repeat the {'id' if ref.id else 'text'} of an "
            "earlier row with other numbers"
        )
    return rows
