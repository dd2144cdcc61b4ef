"""Rows in memory (data frames, data sets, lists) written to a file, so that a study can be rerun.

The file lies in a folder named after the hash of its content: the same rows have one file.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from kdlora.data.hub_data import classes_of, named_class
from kdlora.errors import DataError, InputError
from kdlora.files import whole_file

_HASH = 12  # hexadecimal digits


def is_in_memory(source: object) -> bool:
    """Whether this is neither the name of a file nor several of them."""
    if isinstance(source, str | Path) or source is None:
        return False
    if isinstance(source, tuple):
        return not all(isinstance(name, str | Path) for name in source)
    named = isinstance(source, list) and source and all(isinstance(s, str | Path) for s in source)
    return not named


class RowFiles:
    """Rows in memory that a study keeps in files below its folder.

    As a context manager it takes them away again where a study is refused before it began, so that
    nothing is half-written.
    """

    def __init__(self, study: Path, texts: Sequence[str]) -> None:
        self.folder, self.texts = study / "data", texts
        self._had_study, self._had_data = study.exists(), self.folder.exists()

    def file(self, source: Any, stem: str, label: str | None = None) -> Any:
        """The file of these rows; what is a file already, or nothing, stays as it is."""
        if not is_in_memory(source):
            return source
        with self:
            return write_rows(source, self.folder, stem=stem, texts=self.texts, label=label)

    def __enter__(self) -> RowFiles:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None or not issubclass(kind, InputError):
            return
        if not self._had_data:
            shutil.rmtree(self.folder, ignore_errors=True)
        if not self._had_study:
            with suppress(OSError):  # it holds something by now
                self.folder.parent.rmdir()


def write_rows(
    source: Any, folder: Path, *, stem: str, texts: Sequence[str], label: str | None = None
) -> Path:
    """Write rows as JSON lines into a folder; returns the file, which may be there already.

    Args:
        source: a pandas DataFrame, a `datasets.Dataset` (class labels become their names), a list
            of mappings, or a list of texts, pairs and labels in the order of `texts` and `label`.
        stem: the file's name, without its ending.
        texts, label: what the columns of rows without names are called.

    Raises DataError for what are no rows.
    """
    names = (*texts, *([label] if label else []))
    lines = [json.dumps(row, ensure_ascii=False) for row in _rows(source, names)]
    if not lines:
        raise DataError(f"{stem}: there are no rows")
    content = "\n".join(lines) + "\n"
    digest = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH]
    path = folder / digest / f"{stem}.jsonl"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return path


def _rows(source: Any, names: Sequence[str]) -> Iterable[dict[str, Any]]:
    pandas, datasets = sys.modules.get("pandas"), sys.modules.get("datasets")
    if pandas is not None and isinstance(source, pandas.DataFrame):
        columns = [str(name) for name in source.columns]
        values = (source.iloc[:, i].tolist() for i in range(len(columns)))
        return [
            dict(zip(columns, map(_plain, row), strict=True)) for row in zip(*values, strict=True)
        ]
    if datasets is not None and isinstance(source, datasets.Dataset):
        return _of_dataset(source)
    if not isinstance(source, Iterable) or isinstance(source, str | bytes | Mapping):
        raise DataError(
            f"{type(source).__name__} given; expected a file, a DataFrame, a datasets.Dataset, or "
            f"a list of rows: mappings, or tuples of {', '.join(names)}"
        )
    return [_of_list(place, row, names) for place, row in enumerate(source)]


def _of_dataset(source: Any) -> list[dict[str, Any]]:
    """Rows of a data set of the hub's library, classes by their names."""
    classes = classes_of(source.features)

    def named(name: str, value: Any) -> Any:
        return named_class(value, classes[name]) if name in classes else _plain(value)

    return [{name: named(name, value) for name, value in row.items()} for row in source]


def _of_list(place: int, row: Any, names: Sequence[str]) -> dict[str, Any]:
    if isinstance(row, Mapping):
        return {str(name): _plain(value) for name, value in row.items()}
    cells = (row,) if isinstance(row, str) else row
    if not isinstance(cells, tuple | list) or len(cells) != len(names):
        raise DataError(
            f"row {place} is {repr(row)[:60]}; expected a mapping, or {', '.join(names)} in a tuple"
        )
    return dict(zip(names, map(_plain, cells), strict=True))


def _plain(value: Any) -> Any:
    """A value as JSON has it: numbers of numpy become numbers, missing ones null, arrays lists.

    A set, whose order says nothing, becomes a sorted list.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, set | frozenset):
        value = sorted(value, key=str)
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    pandas = sys.modules.get("pandas")
    if pandas is not None and value is pandas.NA:
        return None
    return value if isinstance(value, str | int | float | bool | dict | type(None)) else str(value)
