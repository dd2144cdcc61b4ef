"""Imported results on disk: the folder of a study whose runs somebody else trained.

    results/<study>/imported.parquet     the tidy frame, one row a cell
    results/<study>/imported.json        where it comes from (`Provenance`), written last

`importing` reads the foreign files and makes the frame; this module keeps it and reads it again,
as `records.frame` does for studies of kdlora's own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kdlora.errors import InputError, StoreError
from kdlora.files import read_bytes, whole_file
from kdlora.records.plausible import as_fractions, flag_impossible, impossible_values
from kdlora.records.store import write_json
from kdlora.spec.fingerprint import sha256_of
from kdlora.tables.formats import parquet_frame

TABLE, PROVENANCE = "imported.parquet", "imported.json"


class Provenance(BaseModel):
    """`imported.json`: what was read, how, when, and what was noticed."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    schema_version: Literal[1] = Field(1, alias="schema")
    study: str
    source: str = Field(description="name of the file or folder; not its place on a machine")
    sha256: str = Field(description="of the file, or over a folder's files")
    table_sha256: str
    mapping: dict[str, Any]
    rows: int
    aggregates: int
    kept_columns: list[str]
    problems: list[str]
    imported_at: str
    replaces: Provenance | None = Field(
        None, description="that of the earlier table, until this one's has taken its place"
    )


def write_imported(folder: Path, frame: pd.DataFrame, facts: dict[str, Any]) -> None:
    """Write the frame, then its provenance: `facts` and the table's rows and checksum.

    At any moment the folder holds the whole earlier import or the whole new one: while a table
    takes the place of another, the provenance is that of both, and the table tells which is true.
    Raises StoreError when the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(folder / TABLE) as temporary:
            _for_parquet(frame).to_parquet(temporary, index=False)
            table = {"table_sha256": sha256_of(temporary), "rows": len(frame)}
            made = Provenance.model_validate({**facts, **table})
            if (before := _earlier(folder)) is None:
                (folder / PROVENANCE).unlink(missing_ok=True)
            else:
                _write_provenance(folder, made.model_copy(update={"replaces": before}))
    except OSError as error:
        raise StoreError(f"cannot write to {folder}: {error.strerror or error}") from None
    _write_provenance(folder, made)


def _write_provenance(folder: Path, made: Provenance) -> None:
    left_out = {"replaces"} if made.replaces is None else None
    values = made.model_dump(mode="json", by_alias=True, exclude=left_out)
    write_json(folder / PROVENANCE, values)


def _earlier(folder: Path) -> Provenance | None:
    """The provenance of the table that is there; None where it is not known."""
    try:
        return read_provenance(folder)
    except InputError:
        return None


def is_imported(folder: str | Path) -> bool:
    """Whether a study's folder holds imported results."""
    return (Path(folder) / PROVENANCE).is_file()


def read_provenance(folder: str | Path) -> Provenance:
    """Where a study's imported results come from. Raises InputError if that is not known."""
    path = Path(folder) / PROVENANCE
    try:
        found = Provenance.model_validate_json(read_bytes(path))
        if (earlier := found.replaces) is not None:  # a process that imported anew was killed
            table = Path(folder) / TABLE
            still = table.is_file() and sha256_of(table) == earlier.table_sha256
            found = earlier if still else found
        return found.model_copy(update={"replaces": None})
    except FileNotFoundError:
        raise InputError(f"{folder} holds no imported results ({PROVENANCE} is missing)") from None
    except (OSError, ValidationError, ValueError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}); import again") from None


def load_imported(folder: str | Path) -> pd.DataFrame:
    """The tidy frame of an imported study. Raises InputError when absent or changed since."""
    provenance = read_provenance(folder)
    path = Path(folder) / TABLE
    if not path.is_file() or sha256_of(path) != provenance.table_sha256:
        raise InputError(f"{path} is missing or was changed after the import; import again")
    frame = parquet_frame(path)
    frame["flags"] = pd.Series([tuple(f) for f in frame["flags"]], frame.index, dtype=object)
    for column in ("epoch_scores", "epoch_losses"):
        if column in frame:
            cells = [None if c is None else tuple(map(float, c)) for c in frame[column]]
            frame[column] = pd.Series(cells, frame.index, dtype=object)
    return _fractions(frame, provenance.mapping.get("columns", {}))


def _fractions(frame: pd.DataFrame, columns: dict[str, Any]) -> pd.DataFrame:
    """Per cents that an older import left as they were become fractions, flagged anew."""
    units = {n: c.get("unit", "") if isinstance(c, dict) else "" for n, c in columns.items()}
    converted, notes = as_fractions(frame, units)
    if not notes:
        return frame
    flags = {f"impossible:{note.partition(':')[0]}" for note in notes}
    left = [tuple(flag for flag in row if flag not in flags) for row in converted["flags"]]
    converted["flags"] = pd.Series(left, converted.index, dtype=object)
    converted["flags"] = flag_impossible(converted, impossible_values(converted))
    return converted


def _for_parquet(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns of mixed types as text, tuples as lists: Parquet knows one type a column."""
    out = frame.copy()
    for column in out.columns:
        if out[column].dtype != object:
            continue
        cells = out[column].tolist()
        if any(isinstance(c, list | tuple) for c in cells):
            out[column] = pd.Series(
                [list(c) if isinstance(c, list | tuple) else None for c in cells],
                index=out.index,
                dtype=object,
            )
        else:
            out[column] = pd.Series(
                [None if c is None or c is pd.NA or c != c else str(c) for c in cells],
                index=out.index,
                dtype=object,
            )
    return out
