"""Data sets of the hub as tables: fetched once a revision, then read like any own files.

A column of `datasets.ClassLabel` becomes the names of its classes; everything else stays as it is.
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
    names = {
        part: getattr(rows.features.get(own.label), "names", None) for part, rows in parts.items()
    }
    distinct = {tuple(found) if found else None for found in names.values()}
    if len(distinct) > 1:
        told = "; ".join(
            f"{getattr(own, part)}: {', '.join(found) if found else 'not named'}"
            for part, found in names.items()
        )
        raise DataError(f"{own.hub}: the splits name other classes in '{own.label}' ({told})")


def _named(rows: Any) -> Any:
    """The rows with names of classes instead of their numbers; -1 is no class."""
    classes = {
        name: feature.names for name, feature in rows.features.items() if hasattr(feature, "names")
    }
    if not classes:
        return rows
    import datasets

    features = rows.features.copy()
    for name in classes:
        features[name] = datasets.Value("string")

    def translate(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {
            name: [None if i is None or i < 0 else names[i] for i in batch[name]]
            for name, names in classes.items()
        }

    return rows.map(translate, batched=True, features=features)
