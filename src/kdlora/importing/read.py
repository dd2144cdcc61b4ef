"""Reading foreign results as they are: a table in a file.

    .csv .tsv .txt     separated by commas, semicolons, tabs or bars, as the file shows
    .jsonl .json       a list of objects, or the results of lm-evaluation-harness
    .parquet
    .tex .md           the one table in it
    .db .sqlite        a database of MLflow, such as kdlora's own mirror

Nothing is read that could run code when it is opened.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.io.parsers import TextParser  # type: ignore[attr-defined]  # the stubs lack it

from kdlora.errors import DataError, InputError
from kdlora.importing.mapping import ROW
from kdlora.importing.numbers import in_doubt, table_decimal
from kdlora.importing.paper_tables import read_paper_table
from kdlora.importing.trackers import (
    is_lm_eval,
    lm_eval_table,
    read_mlflow_database,
    with_mirrored_flags,
    without_dictionaries,
)
from kdlora.json_files import read_json
from kdlora.spec.fingerprint import sha256_of
from kdlora.tables.formats import csv_records, even_rows
from kdlora.tables.reader import open_table

TABLES = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json", ".parquet", ".tex", ".md", ".db",
          ".sqlite")  # fmt: skip
_SEPARATORS = (",", ";", "\t", "|")
_PANDAS_INDEX = re.compile(r"__index_level_\d+__")  # as pandas writes row names into Parquet


def read_table(path: Path) -> pd.DataFrame:
    """A table with all its columns and the column `ROW` (data rows count from 1).

    Raises InputError when the file is missing, empty, damaged, not a table, or of an unsafe format.
    """
    ending = Path(path.name.lower().removesuffix(".gz")).suffix
    if ending not in TABLES:
        raise InputError(
            f"{path.name}: cannot import '{path.suffix or 'a file without ending'}'; "
            f"expected a folder of JSON metrics or one of {', '.join(TABLES)}"
        )
    if ending == ".json":
        table = _read_json(path)
    elif ending in (".db", ".sqlite"):
        table = read_mlflow_database(path)
    elif ending in (".tex", ".md"):
        names, rows = read_paper_table(path)
        table = _typed(names, rows, path)
        table[ROW] = [f"row {number}" for number in range(1, len(rows) + 1)]
    else:
        table = _read_rows(path, ending)
    return with_mirrored_flags(without_dictionaries(table))


def _read_rows(path: Path, ending: str) -> pd.DataFrame:
    file = open_table(path, format="csv" if ending == ".txt" else None)
    if file.format == "csv" and (separator := _separator(path)) != ",":
        lines = even_rows(csv_records(path, separator), path)
        columns = next(lines)[1]
        found: list[tuple[int, Sequence[Any]]] = list(lines)
        if not found:
            raise DataError(f"{path} holds a header but no rows")
    else:
        found = list(file.rows())
        columns = file.columns
    numbers = [f"row {number}" for number, _ in found]
    rows = [list(values) for _, values in found]
    names = [name.strip() or f"Unnamed: {i}" for i, name in enumerate(columns)]
    if file.format in ("csv", "tsv"):
        table = _typed(names, rows, path)
    else:
        _require_once(names, path)
        table = pd.DataFrame(rows, columns=names)
        table = table[[name for name in names if not _PANDAS_INDEX.fullmatch(name)]]
    return table.assign(**{ROW: numbers})


def _separator(path: Path) -> str:
    """What separates the fields of a CSV: a comma, unless only another makes even rows of it.

    Spreadsheets of countries with decimal commas write semicolons.
    """
    widths: dict[str, int] = {}
    for separator in _SEPARATORS:
        try:
            lengths = [len(fields) for _, fields in even_rows(csv_records(path, separator), path)]
        except DataError:
            continue
        if lengths and lengths[0] > 1:
            widths[separator] = lengths[0]
    return max(widths, key=lambda s: (widths[s], s == ","), default=",")


def _require_once(names: list[str], path: Path) -> None:
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise InputError(f"{path.name}: columns named twice: {', '.join(twice)}")


def _typed(names: list[str], rows: list[list[str]], path: Path) -> pd.DataFrame:
    """Columns of text as what pandas takes them for, but for numbers that may be read in two ways.

    pandas tells numbers and what stands for nothing ("NA", "null", ...) from other strings, and
    always takes a point for a decimal one.
    """
    _require_once(names, path)
    cells = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    commas = table_decimal(cells.values()) == "comma"
    texts = {name: str for name, own in cells.items() if in_doubt(own, commas=commas)}
    parser = TextParser([names, *rows], skip_blank_lines=False, dtype=texts)
    return pd.DataFrame(parser.read())


def load_json(path: Path) -> Any:
    """What a JSON file holds. Raises InputError that names the file for what cannot be read."""
    try:
        return read_json(path)
    except FileNotFoundError:
        raise InputError(f"{path.name}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path.name}: {_first_line(error)}") from None


def _read_json(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise InputError(f"no file at {path}")
    try:
        values = load_json(path)
    except InputError as error:
        raise InputError(f"{path.name} is no readable table: {error}") from None
    if is_lm_eval(values):
        return lm_eval_table({path.name: values})
    rows = values if isinstance(values, list) else [values]
    if not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path.name} is no readable table: expected a list of objects")
    table = pd.DataFrame([flatten(row) for row in rows])
    if table.empty:
        raise InputError(f"{path.name} holds no rows")
    return table.assign(**{ROW: [f"row {number}" for number in range(1, len(rows) + 1)]})


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested objects as dotted names; a Trainer's `log_history` as one series a metric."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            # eval and train blocks carry the same names that a flat file has
            flat |= flatten(value, "" if key in ("eval", "train", "metrics") else f"{name}.")
        elif key == "log_history" and isinstance(value, list):
            flat |= _history(value)
        elif isinstance(value, list):
            flat[name] = " ".join(str(item) for item in value)
        else:
            flat[name] = value
    return flat


def _history(entries: list[Any]) -> dict[str, str]:
    """`history.eval_loss: "0.44 0.43 0.41"` and so on, in the order logged."""
    series: dict[str, list[str]] = {}
    for entry in entries:
        if isinstance(entry, dict):
            for key, value in entry.items():
                if key.startswith("eval_") and isinstance(value, int | float):
                    series.setdefault(f"history.{key}", []).append(repr(value))
    return {name: " ".join(values) for name, values in series.items()}


def fingerprint(path: Path) -> str:
    """sha256 of a file, or of the sorted relative paths and hashes of a folder's JSON files."""
    if path.is_file():
        return sha256_of(path)
    digest = hashlib.sha256()
    for item in sorted(item for item in path.rglob("*.json") if item.is_file()):
        digest.update(item.relative_to(path).as_posix().encode())
        digest.update(bytes.fromhex(sha256_of(item)))
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
