"""Known tasks from a local folder of `<split>.tsv`.

Labels are integers in the order of `Task.label_names`, as in GLUE's copy on the hub.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kdlora.data.examples import Examples, Loaded, ids_of_texts
from kdlora.data.files import read_header, read_table
from kdlora.data.labels import as_number
from kdlora.data.parsing import name_rows
from kdlora.errors import DataError
from kdlora.spec.tasks import Task


def load_folder(task: Task, folder: Path) -> Loaded:
    """Read UTF-8 TSV files without quoting whose last column is `label`.

    The other columns in order are the task's texts, whatever they are called. Raises DataError
    with the problems of all files.
    """
    problems: list[str] = []
    parts: dict[str, Examples] = {}
    for name, split in {"train": "train", **task.reports}.items():
        try:
            parts[name] = _read_split(task, folder / f"{split}.tsv")
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    return Loaded(task, parts.pop("train"), parts)


def _read_split(task: Task, path: Path) -> Examples:
    header = read_header(path)
    if header[-1] != "label" or len(header) != len(task.texts) + 1:
        raise DataError(
            f"{path} has the columns {', '.join(header)}; expected {len(task.texts)} text "
            "column(s), then 'label'"
        )
    columns = read_table(path, header, quoting=False).columns
    labels = columns.pop("label")
    return examples_of(task, tuple(columns.values()), labels, where=str(path))


def examples_of(
    task: Task, texts: tuple[list[str], ...], labels: Sequence[int | float | str], *, where: str
) -> Examples:
    """Rows of a known task. Raises DataError naming the rows whose label the task does not have."""
    numbers = np.array([np.nan if (x := as_number(v)) is None else x for v in labels])
    if task.kind == "regression":
        wrong, expected = ~np.isfinite(numbers), "a finite number"
    else:
        known = range(len(task.label_names))
        wrong = ~np.isin(numbers, known)
        named = [f"{i} {name}" for i, name in enumerate(task.label_names)]
        expected = f"one of {', '.join(named)}"
    if wrong.any():
        bad = np.flatnonzero(wrong)
        raise DataError(
            f"{where}: label '{labels[bad[0]]}' in {name_rows((bad + 1).tolist())}; "
            f"expected {expected}"
        )
    dtype = np.float32 if task.kind == "regression" else np.int64
    return Examples(ids_of_texts(task.name, texts), texts, numbers.astype(dtype))
