"""The rows of a study's tasks, kept beside its records, so that a report can show what was read.

One file a task, below `rows` in the study's folder. Where a study keeps no texts (`keep_texts:
false`) it holds ids, numbers and the columns that sort rows into slices, and no text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from kdlora.errors import DataError
from kdlora.files import whole_file
from kdlora.tables.formats import parquet_frame

FOLDER = "rows"  # in a study's folder
_TEXT, _COLUMN = "text.", "column."  # before the names of the user's own columns


@dataclass(frozen=True, eq=False)
class TaskRows:
    """All rows of a task by split and example id.

    frame: index (split, example_id); columns `number` (the row's in its file, NaN where it is not
        known), `tokens` (of the student's input, NaN where they were not counted), `script`, and
        the user's own ones under the names that `texts` and `columns` list.
    texts: columns of texts; none where the study keeps none.
    columns: further columns of the file that sort rows into slices.
    """

    frame: pd.DataFrame
    texts: tuple[str, ...]
    columns: tuple[str, ...]

    def at(self, split: str, ids: Sequence[str]) -> pd.DataFrame:
        """The rows with these ids, in their order; what is not known of one is missing."""
        wanted = pd.MultiIndex.from_arrays([[split] * len(ids), list(map(str, ids))])
        return self.frame.reindex(wanted)

    def text(self, row: pd.Series) -> str | None:
        """A row's text, or both of a pair; None where no text is kept."""
        found = [row[_TEXT + name] for name in self.texts]
        return " ⏐ ".join(map(str, found)) if found and not pd.isna(found).any() else None

    def column(self, name: str) -> str:
        """What a column of the user's is called in `frame`."""
        return _COLUMN + name


def make_rows(
    facts: pd.DataFrame, texts: Mapping[str, Sequence[str]], columns: Mapping[str, Sequence[Any]]
) -> TaskRows:
    """Rows from their facts [n] (split, example_id, number, tokens, script) and own columns [n]."""
    own: dict[str, Sequence[Any]] = {_TEXT + name: values for name, values in texts.items()}
    own |= {_COLUMN + name: values for name, values in columns.items()}
    return _read(pd.concat([facts, pd.DataFrame(own, index=facts.index)], axis=1))


def write_rows(rows: TaskRows, root: Path, task: str) -> None:
    """Keep a task's rows in a study's folder; what was kept of it before is replaced."""
    path = _path(root, task)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        rows.frame.reset_index().to_parquet(temporary, index=False)


def read_rows(root: Path, task: str, *, texts: bool = True) -> TaskRows | None:
    """A task's rows; None where the study's folder holds none, or none that can be read.

    Without `texts` they are as those of a study that keeps none.
    """
    try:
        rows = _read(parquet_frame(_path(root, task)))
    except (DataError, ValueError, KeyError):
        return None
    return rows if texts else replace(rows, texts=())


def _path(root: Path, task: str) -> Path:
    return root / FOLDER / f"{task}.parquet"


def _read(frame: pd.DataFrame) -> TaskRows:
    def named(prefix: str) -> tuple[str, ...]:
        return tuple(c.removeprefix(prefix) for c in frame.columns if c.startswith(prefix))

    frame = frame.drop_duplicates(["split", "example_id"])
    indexed = frame.astype({"example_id": str}).set_index(["split", "example_id"])
    return TaskRows(indexed, named(_TEXT), named(_COLUMN))
