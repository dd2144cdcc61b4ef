"""What labels look like: classes of few rows, several labels in one cell, one text under several.

Limits are stated here once, with what they mean; the four tasks at hand that people know to be
sound (SST-2, tweets, movie reviews, QQP) stay below all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from kdlora.data.checks.duplicates import rows_by_group
from kdlora.data.label_sets import joined_labels
from kdlora.data.own_task import alike_notes
from kdlora.data.splits import SHORT_SELECTION
from kdlora.records.data_look import DataFinding, SplitCount, percent
from kdlora.vocabulary.task import Kind, Task

RARE_CLASS_ROWS = 10  # of train; fewer teach a class nothing that its score could show
SHORT_REPORT = 100  # rows; below it one answer moves a score by more than a point
THIN_ROWS = 30  # rows of a held-out split; below it no score means anything
CONFLICTING_SHARE = 0.01  # of labelled rows; a few occur in every large file
_SHOWN = 3


def class_findings(counts: Sequence[SplitCount]) -> Iterator[DataFinding]:
    """Rare classes of train."""
    train = counts[0]
    rare = {name: n for name, n in train.classes.items() if n < RARE_CLASS_ROWS}
    if not train.rows:  # a teacher that needs no labels says them all
        return
    if rare:
        listed = ", ".join(f"'{name}' ({n})" for name, n in list(rare.items())[: 2 * _SHOWN])
        more = f" and {len(rare) - 2 * _SHOWN} more" if len(rare) > 2 * _SHOWN else ""
        yield DataFinding(
            "rare_classes",
            "warning",
            f"{len(rare)} of {len(train.classes)} classes have fewer than {RARE_CLASS_ROWS} "
            f"training rows: {listed}{more}",
            "Give them more rows, or join them with another class (`labels` in the study file)",
        )


def missing_class_findings(counts: Sequence[SplitCount]) -> Iterator[DataFinding]:
    """Classes of which a held-out split has no row."""
    for count in counts[1:]:
        absent = [name for name, n in count.classes.items() if not n]
        if not absent or not count.rows:
            continue
        chosen = count.split == "selection"
        listed = ", ".join(map(repr, absent[: 2 * _SHOWN]))
        more = f" and {len(absent) - 2 * _SHOWN} more" if len(absent) > 2 * _SHOWN else ""
        yield DataFinding(
            "missing_classes",
            "info" if chosen else "warning",
            f"the {count.split} split has no row of {listed}{more}: no score there says how "
            f"{'it is' if len(absent) == 1 else 'they are'} answered",
            "" if chosen else "Give a held-out file that has all classes",
        )


def alike_class_findings(names: Sequence[str], column: str) -> Iterator[DataFinding]:
    """Classes that are most likely one: a class that is written in two ways is learnt as two."""
    for told in alike_notes(names, f"column '{column}'"):
        yield DataFinding(
            "alike_classes",
            "warning",
            told,
            "Write them in one way, or join them (`labels` in the study file)",
        )


def size_findings(counts: Sequence[SplitCount], kind: Kind) -> Iterator[DataFinding]:
    """Splits of so few rows that what is scored on them says little."""
    for count in counts[1:]:
        enough = SHORT_SELECTION if count.split == "selection" else SHORT_REPORT
        if not 0 < count.rows < enough:
            continue
        thin = count.rows < THIN_ROWS
        use = "chosen" if count.split == "selection" else "scored"
        yield DataFinding(
            f"short_{count.split}",
            "warning" if thin else "info",
            f"models are {use} on {count.rows} rows ({count.split}, of {counts[0].rows:,} for "
            f"training): {_chance(count.rows, kind)}",
            "Label more rows, or give a larger held-out file" if thin else "",
        )


def _chance(rows: int, kind: Kind) -> str:
    """How far chance moves a score on so few rows, where it moves it most."""
    if kind.numeric:  # Fisher (1915): atanh(r) has a standard error of 1 / sqrt(n - 3)
        spread = math.tanh(1.96 / math.sqrt(max(rows - 3, 1)))
        return f"chance alone moves a correlation by up to ±{spread:.2f}"
    spread = 100 * 1.96 * math.sqrt(0.25 / rows)
    what = "the accuracy on a label" if kind.several else "an accuracy"
    return (
        f"one answer is {100 / rows:.2g} points, and chance alone moves {what} by up to "
        f"±{spread:.0f} points"
    )


def several_label_findings(names: Sequence[str], column: str) -> Iterator[DataFinding]:
    if found := joined_labels(names):
        separator, tags = found
        joined = sum(separator in name for name in names)
        yield DataFinding(
            "several_labels",
            "warning",
            f"column '{column}' looks like several labels in one: {joined} of its {len(names)} "
            f"classes join {len(tags)} tags by '{separator}' ({', '.join(tags[: 2 * _SHOWN])})",
            "Each combination would be a class of its own. Several labels a text are of kind "
            f"multilabel: --label-separator '{separator}' (`label_separator` in the study file)",
        )


def conflict_findings(
    task: Task, groups: np.ndarray, labels: np.ndarray, where: Sequence[str], texts: Sequence[str]
) -> Iterator[DataFinding]:
    """The same text under several labels; of numbers, more than a standard deviation apart.

    Args:
        groups, labels: [n]; rows of the same text share a group.
        where: [n] the row as a user finds it, such as ``row 12 of train.csv``.
        texts: [n] to be quoted.
    """
    apart = float(np.std(labels)) if task.kind.numeric and len(labels) else 0.0
    conflicts = []
    for rows in rows_by_group(groups).values():
        found = labels[rows]
        if np.ptp(found, axis=0).max() > apart:
            conflicts.append(rows)
    if not conflicts:
        return
    concerned = sum(map(len, conflicts))
    share = concerned / len(labels)
    quoted = [
        f"{quote(texts[rows[0]])} is {_told(task, labels, rows, where)}"
        for rows in conflicts[:_SHOWN]
    ]
    yield DataFinding(
        "conflicting_labels",
        "warning" if share >= CONFLICTING_SHARE else "info",
        f"{_count(len(conflicts), 'text')} ({concerned:,} rows, {percent(share)}) "
        f"{'stands' if len(conflicts) == 1 else 'stand'} under "
        f"{'different' if task.kind.several else 'several'} labels: {'; '.join(quoted)}",
        "Decide which label is right: no model can answer both",
    )


def _told(task: Task, labels: np.ndarray, rows: Sequence[int], where: Sequence[str]) -> str:
    """``positive in row 3 of train.csv, negative in row 9 of train.csv``."""
    said: dict[str, str] = {}
    for row in rows:
        name = _written(task, labels[row])
        said.setdefault(name, where[row])
    return ", ".join(f"{name} in {place}" for name, place in list(said.items())[:_SHOWN])


def _written(task: Task, label: np.ndarray) -> str:
    """The label of one row as a user reads it."""
    if task.kind.numeric:
        return f"{label:g}"
    (written,) = task.kind.write(label[None], task.label_names)
    return " + ".join(written) or "no label" if task.kind.several else str(written)


def quote(text: str, most: int = 60) -> str:
    """A text as it is quoted in a sentence: on one line, and not long."""
    line = " ".join(text.split())
    return f'"{line if len(line) <= most else line[: most - 3] + "..."}"'


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"
