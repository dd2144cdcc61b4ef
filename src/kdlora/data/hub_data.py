"""Data sets of the hub as tables: fetched once a revision, then read like any own files.

A column of `datasets.ClassLabel`, or of lists of them, becomes the names of the classes; everything
else stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdlora.errors import DataError, FetchError, did_you_mean
from kdlora.files import whole_file
from kdlora.spec.hub_data import data_set_revision, is_stored, stored_splits
from kdlora.spec.sections import OwnTask
from kdlora.tables.reader import changed_since_planned


def as_files(own: OwnTask, *, progress: Callable[[str], None] | None = None) -> OwnTask:
    """The same task with its splits as files, which are fetched if they are not here.

    Raises FetchError if the hub cannot be reached, DataError if it has no such split or column,
    or its splits name other classes.
    """
    paths = stored_splits(own)
    if not is_stored(own):
        if progress is not None:
            progress(f"fetching {own.hub}")
        _fetch(own, paths)
    located = {part: str(path) for part, path in paths.items()}
    return own.model_copy(update={**located, "hub": None, "config": None, "revision": None})


def _fetch(own: OwnTask, paths: dict[str, Path]) -> None:
    import datasets

    datasets.disable_progress_bars()
    assert own.hub is not None
    splits = {part: split for part in paths if (split := getattr(own, part))}
    folder = Path(own.hub)
    local = folder.is_dir()
    if local and data_set_revision(own.hub, None, folder) != own.revision:
        raise changed_since_planned([folder])
    try:
        loaded = datasets.load_dataset(
            own.hub, own.config, revision=None if local else own.revision, split=None
        )
    except Exception as error:  # network, disk and server errors of several libraries
        detail = " ".join(str(error).split())[:300]
        raise FetchError(
            f"data set {own.hub} could not be fetched: {detail}. Check the network, the config "
            "and the revision"
        ) from None
    known = list(loaded)
    if missing := [split for split in splits.values() if split not in known]:
        raise DataError(f"{own.hub} has no split '{missing[0]}'.{did_you_mean(missing[0], known)}")
    parts = {part: loaded[split] for part, split in splits.items()}
    _check_classes(own, parts)
    for part, path in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            _named(parts[part]).to_parquet(str(temporary))


def _check_classes(own: OwnTask, parts: dict[str, Any]) -> None:
    """Raises DataError where splits give the same numbers to other classes."""
    names = {part: classes_of(rows.features).get(own.label) for part, rows in parts.items()}
    distinct = {tuple(found) if found else None for found in names.values()}
    if len(distinct) > 1:
        told = "; ".join(
            f"{getattr(own, part)}: {', '.join(found) if found else 'not named'}"
            for part, found in names.items()
        )
        raise DataError(f"{own.hub}: the splits name other classes in '{own.label}' ({told})")


def classes_of(features: Any) -> dict[str, list[str]]:
    """The names of the classes of each column of `datasets.Features` that holds any.

    That is one class a row, or a list of them.
    """
    found = {}
    for name, feature in features.items():
        names = getattr(getattr(feature, "feature", feature), "names", None)
        if names:
            found[name] = list(names)
    return found


def named_class(value: Any, names: list[str]) -> Any:
    """The name of a class by its number, or of each of a list; None for none, such as -1.

    A list that holds none is none as a whole: what a row has is then not known.
    """
    if isinstance(value, list):
        found = [named_class(one, names) for one in value]
        return None if None in found else found
    return names[value] if value is not None and 0 <= value < len(names) else None


def _named(rows: Any) -> Any:
    """The rows with names of classes instead of their numbers."""
    classes = classes_of(rows.features)
    if not classes:
        return rows
    import datasets

    features = rows.features.copy()
    for name in classes:
        several = hasattr(features[name], "feature")
        text = datasets.Value("string")
        features[name] = datasets.List(text) if several else text

    def translate(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {
            name: [named_class(value, names) for value in batch[name]]
            for name, names in classes.items()
        }

    return rows.map(translate, batched=True, features=features)
