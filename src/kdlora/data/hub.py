"""GLUE from the model hub, by way of `datasets`."""

from __future__ import annotations

from typing import Any

from kdlora.data.examples import Examples, Loaded
from kdlora.data.folder import examples_of
from kdlora.errors import DataError, FetchError
from kdlora.spec.tasks import Task

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
