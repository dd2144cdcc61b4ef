"""A look at own files before anything is planned: headers and first rows, in milliseconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from kdlora.data.files import column_problem, read_header
from kdlora.errors import DataError
from kdlora.spec.run import SCORE, Run
from kdlora.spec.study import OwnTask
from kdlora.spec.tasks import TASKS


def wanted_columns(own: OwnTask) -> list[str]:
    """The columns that a task names. Raises DataError if it uses one for two things."""
    names = [*own.text, own.label, *([own.id] if own.id else [])]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"text, label and id must be different columns; named twice: {twice[0]}")
    return names


def check_teaching_files(run: Run) -> list[str]:
    """What is wrong with a run's unlabelled texts and its teacher's file, as headers tell."""
    wanted: list[tuple[str, Sequence[str]]] = [(s.file, s.text) for s in run.unlabelled]
    if run.outputs is not None:
        source, task = run.outputs, TASKS.get(run.task.name)
        keys = (source.id,) if source.id else source.text
        named = list(source.columns.values())
        if task is not None:  # the classes of own data are known once it is read
            classes = task.label_names or (SCORE,)
            named = [source.columns.get(name, name) for name in classes]
        wanted.append((source.file, (*keys, *named)))
    problems: list[str] = []
    for name, columns in wanted:
        try:
            present = read_header(Path(name))
        except DataError as error:
            problems += error.problems
        else:
            problems += [p for c in columns if (p := column_problem(Path(name), c, present))]
    return problems


def check_own_task(own: OwnTask) -> list[str]:
    """What is wrong with a task's files as far as their beginnings tell; empty if nothing is.

    Finds missing and empty files, unknown kinds, broken encodings and wrong columns. What only
    the whole file can tell (labels, ragged lines) is found by `load_task`.
    """
    try:
        wanted = wanted_columns(own)
    except DataError as error:
        return error.problems
    problems: list[str] = []
    for name in (own.train, own.eval):
        if name is None:
            continue
        path = Path(name)
        try:
            present = read_header(path)
        except DataError as error:
            problems += error.problems
        else:
            problems += [p for column in wanted if (p := column_problem(path, column, present))]
    return problems
