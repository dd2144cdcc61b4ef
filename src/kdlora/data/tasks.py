"""From a reference to a task's rows: from the hub, a folder, own files or a package.

Labels are integers in the order of `Task.label_names`, as in GLUE's copy on the hub.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdlora.data.examples import (
    Examples,
    Loaded,
    TaskData,
    fingerprint,
    ids_of_texts,
    joined,
    overlap,
)
from kdlora.data.hub_data import as_files
from kdlora.data.own_task import load_own
from kdlora.data.packaged import fetch_movie_reviews
from kdlora.data.splits import (
    LARGEST_SHARE,
    carve,
    carve_labels,
    groups_of,
    report_size,
    selection_size,
    strata_of,
    subset,
)
from kdlora.errors import DataError, FetchError, did_you_mean
from kdlora.spec.fingerprint import hash_files
from kdlora.spec.run import TaskRef, seed_for
from kdlora.spec.sections import Data
from kdlora.tables.reader import changed_since_planned, name_rows, open_table, read_table
from kdlora.vocabulary.task import TASKS, Kind, Task, as_number


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
    header = open_table(path, quoting=False).columns
    if header[-1] != "label" or len(header) != len(task.texts) + 1:
        raise DataError(
            f"{path} has the columns {', '.join(header)}; expected {len(task.texts)} text "
            "column(s), then 'label'"
        )
    table = read_table(path, header, quoting=False)
    labels = table.columns.pop("label")
    texts = tuple(table.columns.values())
    return examples_of(task, texts, labels, where=str(path), rows=table.numbers)


def examples_of(
    task: Task,
    texts: tuple[list[str], ...],
    labels: Sequence[int | float | str],
    *,
    where: str,
    rows: Sequence[int] | None = None,
) -> Examples:
    """Rows of a known task; `rows` are their numbers, by default counted from 1.

    Raises DataError naming the rows whose label the task does not have.
    """
    found = np.arange(1, len(labels) + 1) if rows is None else np.array(rows, dtype=np.int64)
    numbers = np.array([np.nan if (x := as_number(v)) is None else x for v in labels])
    bad = np.flatnonzero(~task.kind.valid(numbers, task.num_outputs))
    if len(bad):
        named = [f"{i} {name}" for i, name in enumerate(task.label_names)]
        expected = f"one of {', '.join(named)}" if named else "a finite number"
        raise DataError(
            f"{where}: label '{labels[bad[0]]}' in {name_rows(found[bad].tolist())}; "
            f"expected {expected}"
        )
    values = numbers.astype(task.kind.unlabelled(0, task.num_outputs).dtype)
    return Examples(ids_of_texts(task.name, texts), texts, values, found)


REPOSITORY = "nyu-mll/glue"


def load_hub(task: Task) -> Loaded:
    """Load a GLUE task. Raises FetchError if the hub cannot be reached, DataError if it changed."""
    import datasets

    splits = {"train": "train", **task.reports}
    try:
        loaded = datasets.load_dataset(REPOSITORY, task.name, split=list(splits.values()))
    except Exception as error:  # network, disk and server errors of several libraries
        raise FetchError(
            f"task '{task.name}' could not be fetched from the hub ({REPOSITORY}): {error}. Check "
            "the network, or set data_dir to a folder that holds "
            f"{task.name}/{{{','.join(splits.values())}}}.tsv"
        ) from error
    parts = {
        name: _examples(task, dataset, f"{REPOSITORY}, {task.name}, {split}")
        for (name, split), dataset in zip(splits.items(), loaded, strict=True)
    }
    return Loaded(task, parts.pop("train"), parts)


def _examples(task: Task, dataset: Any, where: str) -> Examples:
    missing = [name for name in (*task.texts, task.label) if name not in dataset.column_names]
    if missing:
        raise DataError(
            f"{where}: no column {', '.join(missing)}; there are {', '.join(dataset.column_names)}"
        )
    # A changed order of the classes would silently train on wrong labels.
    names = getattr(dataset.features[task.label], "names", None)
    if names is not None and tuple(names) != task.label_names:
        raise DataError(
            f"{where}: the classes are {', '.join(names)}; expected {', '.join(task.label_names)}"
        )
    table = dataset.with_format("arrow")[:]
    texts = tuple(table.column(name).to_pylist() for name in task.texts)
    return examples_of(task, texts, table.column(task.label).to_pylist(), where=where)


def load_task(
    ref: TaskRef, data: Data, *, progress: Callable[[str], None] | None = None
) -> TaskData:
    """The rows of a task, split as every run of a study splits them.

    `progress` is told what is being fetched. Raises DataError with every problem of the rows, and
    FetchError if the hub or the package index cannot be reached.
    """
    try:
        return _assemble(_load(ref, progress), data)
    except DataError as error:
        raise DataError(error.problems, where=f"task '{ref.name}'") from None


def _load(ref: TaskRef, progress: Callable[[str], None] | None) -> Loaded:
    if ref.source == "files":
        if ref.own is None:
            raise DataError("own files are meant, but none are described")
        _check_unchanged(ref, [ref.own.train, ref.own.eval])
        return load_own(ref.own)
    if ref.own is not None:
        return load_own(as_files(ref.own, progress=progress))
    if ref.name not in TASKS:
        raise DataError(f"unknown task.{did_you_mean(ref.name, TASKS)}")
    task = TASKS[ref.name]
    if ref.version != task.version:
        raise DataError(
            f"version {ref.version} is meant, but this kdlora knows version {task.version}, whose "
            "scores mean something else: plan the study again"
        )
    if ref.source == "package":
        return _load_movie_reviews(task, progress)
    if ref.source == "hub":
        return load_hub(task)
    if ref.folder is None:
        raise DataError("a folder is meant, but none is named")
    return load_folder(task, Path(ref.folder))


def _check_unchanged(ref: TaskRef, names: list[str | None]) -> None:
    """Refuse files that are no longer those that were planned: the run's id speaks of them."""
    paths = [Path(name) if name else None for name in names]
    whole = all(path is None or path.is_file() for path in paths)
    if ref.fingerprint and whole and hash_files(paths) != ref.fingerprint:
        raise changed_since_planned(path for path in paths if path)


def _load_movie_reviews(task: Task, progress: Callable[[str], None] | None) -> Loaded:
    path = fetch_movie_reviews(progress=progress)
    columns = read_table(path, ["split", "label", "text"]).columns
    labels = [task.label_names.index(name) for name in columns["label"]]
    rows = examples_of(task, (columns["text"],), labels, where=str(path))
    is_train = np.array([split == "train" for split in columns["split"]])
    return Loaded(task, rows.take(is_train), {"report": rows.take(~is_train)})


def _assemble(loaded: Loaded, data: Data) -> TaskData:
    task, reports, notes = loaded.task, dict(loaded.reports), list(loaded.notes)
    train, scarce = loaded.train, loaded.rest is not None and len(loaded.rest) > 0
    if not reports:
        size = report_size(len(train), data, scarce=scarce)
        train, report = _carve(task.kind, train, size, seed_for(data.split_seed, "report"))
        reports = {"report": report}
        notes.append(f"no eval file: {len(report):,} rows of train are held out to report on")
    if data.selection_fraction > LARGEST_SHARE:
        notes.append(
            f"selection_fraction {data.selection_fraction:g} was cut to {LARGEST_SHARE:g}: more "
            "would starve the training"
        )
    if len(train):
        size = selection_size(len(train), data, scarce=scarce)
        train, selection = _carve(task.kind, train, size, seed_for(data.split_seed, "selection"))
    else:
        report = reports["report"]
        size = selection_size(len(report), data, scarce=True)
        report, selection = _carve(task.kind, report, size, seed_for(data.split_seed, "selection"))
        reports["report"] = report
        notes.append(f"no train row has a label: {len(selection):,} of eval are selected on")
    for name, part in reports.items():
        if data.max_eval is not None and data.max_eval < len(part):
            notes.append(f"max_eval: {data.max_eval:,} of {len(part):,} {name} rows are used")
            reports[name] = _subset(
                task.kind, part, data.max_eval, seed_for(data.split_seed, "max_eval")
            )[0]
    if data.max_selection == size and data.max_train is not None:
        notes.append(
            f"checkpoints are selected on {size:,} rows: more labels are not at hand where "
            f"{data.max_train:,} rows are trained on (data.max_selection)"
        )
    rest = loaded.rest
    if data.max_train is not None and data.max_train < len(train):
        notes.append(f"max_train: {data.max_train:,} of {len(train):,} train rows are used")
        train, left = _subset(
            task.kind, train, data.max_train, seed_for(data.split_seed, "max_train")
        )
        rest = left if rest is None else joined(left, rest)

    splits = {"train": train, "selection": selection, **reports}
    if loaded.rest is None:  # else a teacher knows the classes
        _require_classes(task, train)
    return TaskData(
        task=task,
        train=train,
        selection=selection,
        reports=reports,
        overlap=sum(overlap(part, train, selection) for part in reports.values()),
        fingerprint=fingerprint(splits),
        notes=tuple(notes),
        rest=rest,
        dropped=loaded.dropped,
    )


def _carve(kind: Kind, rows: Examples, size: int, seed: int) -> tuple[Examples, Examples]:
    groups, rng = groups_of(rows.texts), np.random.default_rng(seed)
    if kind.several:
        kept, carved = carve_labels(rows.labels, groups, size=size, rng=rng)
    else:
        kept, carved = carve(strata_of(kind, rows.labels), groups, size=size, rng=rng)
    if len(carved) == 0:
        raise DataError(
            f"no rows can be set aside out of {len(rows):,}: too few different texts per class"
        )
    return rows.take(kept), rows.take(carved)


def _subset(kind: Kind, rows: Examples, size: int, seed: int) -> tuple[Examples, Examples]:
    """A stratified subset of rows, and the others."""
    used, rng = np.zeros(len(rows), dtype=bool), np.random.default_rng(seed)
    if kind.several:
        chosen = carve_labels(rows.labels, np.arange(len(rows)), size=size, rng=rng)[1]
    else:
        chosen = subset(strata_of(kind, rows.labels), size=size, rng=rng)
    used[chosen] = True
    return rows.take(used), rows.take(~used)


def _require_classes(task: Task, train: Examples) -> None:
    """Raises DataError if the training rows lack a class."""
    counts = task.kind.counts(train.labels, task.label_names)
    what = "label" if task.kind.several else "class"
    if absent := [name for name, n in counts.items() if not n]:
        raise DataError(
            f"{len(train):,} train rows hold no row of {what} {', '.join(absent)}: raise "
            f"max_train, or give each {what} more rows with different texts"
        )
