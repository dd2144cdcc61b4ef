"""A teacher that is a file: what a larger model, an API or annotators said of every example."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kdlora.data.examples import Examples, ids_of_keys
from kdlora.data.label_sets import NoLabelSet, label_set
from kdlora.data.own_task import at_a_glance
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
from kdlora.vocabulary.task import Kind, Task, as_number, class_name

LEAST_PROBABILITY = 1e-6  # a probability of 0 has no logarithm; annotators' votes hold many
PSEUDO_VOTES = 0.5  # added to each class's votes: three of three annotators may all be wrong
SUM_TOLERANCE = 0.01  # of probabilities written with two decimals
ASSUMED_ACCURACY = 0.9  # of a class without a confidence, until gold labels tell
_MARKS = " .,:;!?*'\"`()[]{}<>"  # what models and people put around an answer
_SHOWN = 5
_NO_CLASS, _EMPTY = -1, -2  # instead of a class's place


@dataclass(frozen=True, eq=False)
class TeacherTable:
    """Logits (or a regression's predictions) of the file's rows by example id or by text.

    `read` rows were there; of those that `left_out` counts by reason nothing is learnt. `no_class`
    counts the answers that are no class of the task. Of several labels a text, it counts the names
    that are none of them; `partly` rows have such names beside others, which are learnt.
    """

    path: Path
    by_id: bool
    rows: dict[Any, int]  # id, or tuple of texts -> row of `logits`
    logits: np.ndarray  # [rows, c] float32
    read: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    no_class: dict[str, int] = field(default_factory=dict)
    partly: int = 0

    def find(self, examples: Examples) -> np.ndarray:
        """Row of each example in `logits`, -1 where the file lacks it, [n] int64."""
        keys = examples.ids.tolist() if self.by_id else zip(*examples.texts, strict=True)
        return np.array([self.rows.get(key, -1) for key in keys], dtype=np.int64)

    def require_some(self, examples: Examples) -> None:
        """Raises DataError, with an example, if the file says nothing of any row to learn from."""
        if (self.find(examples) >= 0).any():
            return
        first = " | ".join(column[0] for column in examples.texts) if len(examples) else ""
        shown = first if len(first) <= 80 else first[:77] + "..."
        by = "ids" if self.by_id else "texts, word for word"
        raise DataError(
            f"{self.path} answers none of the {len(examples):,} rows to learn from (joined by "
            f"their {by}), for instance: {shown}. It must hold rows of the train file or of the "
            "unlabelled texts"
        )

    def remarks(self) -> list[str]:
        """What a user should be told of the rows that are left out, or learnt in part."""
        first = [f"'{name}' ({count:,})" for name, count in list(self.no_class.items())[:_SHOWN]]
        more = ", ..." if len(self.no_class) > _SHOWN else ""
        named = f": {', '.join(first)}{more}" if first else ""
        found = []
        if self.left_out:
            counts = [f"{count:,} {reason}" for reason, count in self.left_out.items()]
            found.append(
                f"{self.path}: {sum(self.left_out.values()):,} of {self.read:,} answers are left "
                f"out ({', '.join(counts)}{'' if self.partly else named})"
            )
        if self.partly:
            found.append(
                f"{self.path}: {self.partly:,} of {self.read:,} answers are learnt in part: some "
                "of their names are no labels of the task"
            )
            found.append(f"{self.path}: names that are no labels of the task{named}")
        return found


def read_teacher_outputs(ref: OutputsRef, task: Task) -> TeacherTable:
    """Read and check a teacher's file. Raises DataError with every problem found in it.

    Probabilities become their logarithms, so that softmax gives them back; those below 1e-6 are
    raised to it first. Of several labels a row, each is a probability of its own, and becomes its
    log odds. Votes become shares, half a vote being added to each class first. A class alone gets
    its confidence, or an assumed accuracy, as its probability; the others share the rest. So does
    each of several labels, whether it is said or not. Rows for
    texts that no split holds are ignored.
    """
    where = f"task '{task.name}', teacher_outputs"
    path = Path(ref.file)
    require_as_planned(path, ref.fingerprint, where=where)
    if problems := _unfit(ref, task):
        raise DataError(problems, where=where)
    columns = ref.answer_columns(task.label_names)
    keys = [ref.id] if ref.id else list(ref.text)
    if clash := sorted({name for name in columns if (*keys, *columns).count(name) > 1}):
        raise DataError(f"columns used twice: {', '.join(clash)}", where=where)
    try:
        table = read_table(path, [*keys, *columns])
        if ref.kind == "labels":
            return _labels_table(table, ref, task)
        values = _numbers(table, columns)
        logits = _logits(table, values, ref.kind, task.kind)
        rows = _keys(table, ref, task, values)
    except DataError as error:
        raise DataError(error.problems, where=where) from None
    return TeacherTable(path, ref.id is not None, rows, logits, read=len(table))


def _unfit(ref: OutputsRef, task: Task) -> list[str]:
    classes = task.label_names or (SCORE,)
    problems = [
        f"columns: the task has no class '{name}'.{did_you_mean(name, classes)}"
        for name in ref.columns
        if name not in classes
    ]
    if ref.kind not in task.kind.teacher_files:
        fitting = alternatives(task.kind.teacher_files)
        problems.append(f"kind '{ref.kind}' does not fit a {task.kind}: expected {fitting}")
    if ref.label_separator is not None and not task.kind.several:
        problems.append(f"label_separator is given, but in a {task.kind} a text has one label")
    return problems


@dataclass(frozen=True, eq=False)
class _Named:
    """What the cells of a column name: said [n, c], and which of the rows [n] say anything."""

    said: np.ndarray
    usable: np.ndarray
    left_out: dict[str, int]
    strange: Counter[str]  # names that are none of the task's
    partly: int = 0
    hint: str = ""  # what to do where no row is usable


def _labels_table(table: FileTable, ref: OutputsRef, task: Task) -> TeacherTable:
    """Names in one column; cells that name no class, or label, are counted and left out."""
    assert ref.label is not None
    several, cells = task.kind.several, table.columns[ref.label]
    place = _place_of(task.label_names)
    named = _sets(cells, place, ref, task) if several else _classes(cells, place, task)
    if not named.usable.any():
        names = ", ".join(f"'{name}'" for name, _ in named.strange.most_common(_SHOWN))
        what = "set of labels" if several else "class"
        raise DataError(
            f"{table.path}: no answer in column '{ref.label}' is a {what} of the task. It holds "
            f"{names or 'empty cells'}; the {'labels' if several else 'classes'} are "
            f"{', '.join(task.label_names)}{named.hint}"
        )
    least = 1 / (2 if several else task.num_outputs)
    sure = _confidence(table, ref, named.usable, least=least)
    others = (1 - sure) / (1 if several else task.num_outputs - 1)
    shares = np.where(named.said, sure[:, None], others[:, None])
    rows = _keys(table, ref, task, shares, use=named.usable)
    return TeacherTable(
        table.path,
        ref.id is not None,
        rows,
        _odds(shares) if several else np.log(shares).astype(np.float32),
        read=len(table),
        left_out={reason: count for reason, count in named.left_out.items() if count},
        no_class=dict(named.strange.most_common()),
        partly=named.partly,
    )


def _place_of(names: Sequence[str]) -> Callable[[Any], int]:
    """The place of the class or label that a text names, or `_NO_CLASS`.

    "Positive." is positive, unless two of them differ in no more than that.
    """
    exact = {name: place for place, name in enumerate(names)}
    alike = Counter(map(_plain, names))
    plain = {_plain(name): place for name, place in exact.items() if alike[_plain(name)] == 1}

    def place(written: Any) -> int:
        name = class_name(written)
        return exact.get(name, plain.get(_plain(name), _NO_CLASS))

    return place


def _classes(cells: Sequence[Any], place: Callable[[Any], int], task: Task) -> _Named:
    """The one class that each cell names."""
    answers = np.array([_EMPTY if is_missing(cell) else place(cell) for cell in cells], np.int64)
    strange = Counter(
        str(cell).strip()
        for cell, answer in zip(cells, answers, strict=True)
        if answer == _NO_CLASS
    )
    return _Named(
        said=np.arange(task.num_outputs) == answers[:, None],
        usable=answers >= 0,
        left_out={
            "empty": int((answers == _EMPTY).sum()),
            "that name no class": int((answers == _NO_CLASS).sum()),
        },
        strange=strange,
    )


def _sets(
    cells: Sequence[Any], place: Callable[[Any], int], ref: OutputsRef, task: Task
) -> _Named:  # fmt: skip
    """All labels that each cell names; [] are none, and an empty cell says nothing."""
    said = np.zeros((len(cells), task.num_outputs), bool)
    usable = np.zeros(len(cells), bool)
    reasons, strange, partly, hint = Counter[str](), Counter[str](), 0, ""
    for row, cell in enumerate(cells):
        if is_missing(cell):
            reasons["empty, where [] says none"] += 1
            continue
        try:
            names = label_set(cell, ref.label_separator)
        except NoLabelSet as error:
            reasons["that are no set of labels"] += 1
            strange[str(cell).strip()] += 1
            hint = hint or f". {error}"
            continue
        places = [place(name) for name in names]
        unknown = [n for n, found in zip(names, places, strict=True) if found == _NO_CLASS]
        strange.update(unknown)
        if names and len(unknown) == len(names):
            reasons["that name no label of the task"] += 1
            continue
        partly += bool(unknown)
        usable[row] = True
        said[row, [found for found in places if found != _NO_CLASS]] = True
    return _Named(said, usable, dict(reasons), strange, partly, hint)


def _plain(answer: str) -> str:
    return at_a_glance(answer).strip(_MARKS)


def _confidence(
    table: FileTable, ref: OutputsRef, usable: np.ndarray, *, least: float
) -> np.ndarray:
    """How sure each answer is, as the probability [n] of what it says, which is above `least`.

    A cell without a number counts as the mean of the others. However unsure, an answer stays the
    likeliest.
    """
    if ref.confidence is None:
        return np.full(len(usable), ASSUMED_ACCURACY)
    numbers = [as_number(value) for value in table.columns[ref.confidence]]
    sure = np.array([np.nan if x is None else x for x in numbers], dtype=np.float64)
    wrong = usable & ((sure < 0) | (sure > 1))
    if wrong.any():
        percent = " Per cents are divided by 100" if 1 < np.nanmax(sure) <= 100 else ""
        raise DataError(
            f"{table.path}: column '{ref.confidence}' is not between 0 and 1 in "
            f"{_named(table, wrong)}.{percent}"
        )
    known = np.isfinite(sure) & usable
    if not known.any():
        raise DataError(f"{table.path}: column '{ref.confidence}' holds no number")
    sure = np.where(np.isfinite(sure), sure, sure[known].mean())
    return np.clip(sure, least + 0.01 * (1 - least), 1 - LEAST_PROBABILITY)


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


def _logits(table: FileTable, values: np.ndarray, what: str, kind: Kind) -> np.ndarray:
    if what == "votes":
        return _shares(table, values)
    if what != "probabilities":
        return values.astype(np.float32)
    if kind.several:
        return _log_odds(table, values)
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


def _log_odds(table: FileTable, values: np.ndarray) -> np.ndarray:
    """Log odds of the probabilities [n, c] of labels, of which a row may have several."""
    outside = ((values < 0) | (values > 1)).any(axis=1)
    if outside.any():
        counts = " Columns of logits are of kind logits" if (values < 0).any() else ""
        raise DataError(
            f"{table.path}: probabilities lie between 0 and 1, but not in "
            f"{_named(table, outside)}.{counts}"
        )
    return _odds(values)


def _odds(shares: np.ndarray) -> np.ndarray:
    """The log odds of probabilities, those next to 0 and 1 drawn away from them first."""
    clipped = np.clip(shares, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    return (np.log(clipped) - np.log1p(-clipped)).astype(np.float32)


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


def _keys(
    table: FileTable, ref: OutputsRef, task: Task, values: np.ndarray, use: np.ndarray | None = None
) -> dict[Any, int]:
    """Where each id or text stands; one that stands twice with different answers is a problem.

    `use` [n] says which rows hold an answer; by default all do.
    """
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
        if use is not None and not use[i]:
            continue
        first = rows.setdefault(key, i)
        if first != i and not np.allclose(values[first], values[i]):
            differing.append(table.numbers[i])
    if differing:
        what = "another answer" if ref.kind == "labels" else "other numbers"
        raise DataError(
            f"{table.path}: {name_rows(differing)} repeat the {'id' if ref.id else 'text'} of an "
            f"earlier row with {what}"
        )
    return rows
