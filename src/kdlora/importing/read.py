"""Reading foreign results as they are: a CSV, TSV or Excel-free table, or a folder of JSON files.

Only text formats and Parquet are read; nothing that could run code when it is opened.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.io.parsers import TextParser  # type: ignore[attr-defined]  # the stubs lack it

from kdlora.errors import InputError
from kdlora.importing.mapping import Mapping
from kdlora.tables.reader import open_table

TABLES = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json", ".parquet")
ROW = "__row"  # where in the source a row stands; becomes part of its provenance
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
    return _read_json(path) if ending == ".json" else _read_rows(path, ending)


def _read_rows(path: Path, ending: str) -> pd.DataFrame:
    file = open_table(path, format="csv" if ending == ".txt" else None)
    numbers, rows = [], []
    for number, values in file.rows():
        numbers.append(f"row {number}")
        rows.append(values)
    names = [name.strip() or f"Unnamed: {i}" for i, name in enumerate(file.columns)]
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise InputError(f"{path.name}: columns named twice: {', '.join(twice)}")
    if file.format in ("csv", "tsv"):
        # pandas tells numbers and what stands for nothing ("NA", "null", ...) from other strings
        table = TextParser([names, *rows], skip_blank_lines=False).read()
    else:
        table = pd.DataFrame(rows, columns=names)
        table = table[[name for name in names if not _PANDAS_INDEX.fullmatch(name)]]
    return table.assign(**{ROW: numbers})


def _read_json(path: Path) -> pd.DataFrame:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"no file at {path}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path.name} is no readable table: {_first_line(error)}") from None
    rows = values if isinstance(values, list) else [values]
    if not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path.name} is no readable table: expected a list of objects")
    table = pd.DataFrame([flatten(row) for row in rows])
    if table.empty:
        raise InputError(f"{path.name} holds no rows")
    return table.assign(**{ROW: [f"row {number}" for number in range(1, len(rows) + 1)]})


def read_folder(folder: Path, mapping: Mapping) -> pd.DataFrame:
    """One row a JSON file named in `mapping.files`, with what `mapping.path` reads from its place.

    Raises InputError when there is none, or when some cannot be read (all of them named).
    """
    paths = sorted(
        (p for name in mapping.files for p in folder.rglob(name) if p.is_file()),
        key=lambda p: (p.parent, mapping.files.index(p.name)),
    )
    if not paths:
        raise InputError(
            f"no {' or '.join(mapping.files)} below {folder}; `files` in a mapping names others"
        )
    pattern = re.compile(mapping.path) if mapping.path else None
    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    seen: set[Path] = set()
    for path in paths:
        if path.parent in seen:  # all_results.json repeats metrics.json of the same run
            continue
        relative = path.relative_to(folder).as_posix()
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            problems.append(f"{relative}: {_first_line(error)}")
            continue
        if not isinstance(values, dict):
            problems.append(f"{relative}: expected an object with metrics")
            continue
        # the folder's own name may be part of the pattern when a single run is imported
        match = pattern.search(f"{folder.name}/{relative}") if pattern else None
        named = {k: v for k, v in match.groupdict().items() if v is not None} if match else {}
        seen.add(path.parent)
        rows.append({**flatten(values), **named, ROW: relative})
    if problems:
        raise InputError(problems, where=f"{folder}")
    table = pd.DataFrame(rows)
    return table.infer_objects()


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
        return hashlib.sha256(path.read_bytes()).hexdigest()
    digest = hashlib.sha256()
    for item in sorted(path.rglob("*.json")):
        digest.update(item.relative_to(path).as_posix().encode())
        digest.update(hashlib.sha256(item.read_bytes()).digest())
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
