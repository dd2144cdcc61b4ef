"""From text to records: CSV, TSV and JSON lines, read strictly.

A malformed line is an error that names the line, not a row that is quietly dropped or filled.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdlora.errors import DataError

_LONGEST_FIELD = 1 << 24  # characters; csv's own limit is 131,072
_SHOWN = 5
_QUOTED = re.compile(r'"(?:[^"]|"")*"')


def name_rows(positions: Sequence[int], what: str = "row") -> str:
    """ "row 3", or "rows 3, 7, 9, 12, 20 and 5 more": at most five of them, counted from 1."""
    shown = ", ".join(str(p) for p in positions[:_SHOWN])
    more = f" and {len(positions) - _SHOWN:,} more" if len(positions) > _SHOWN else ""
    return f"{what}{'s' if len(positions) > 1 else ''} {shown}{more}"


@contextmanager
def long_fields() -> Iterator[None]:
    """Let csv read long documents; its limit is global, so it is put back."""
    before = csv.field_size_limit(_LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def csv_records(text: str, path: Path, delimiter: str = ",") -> tuple[list[str], list[list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    records: list[list[str]] = []
    begins: list[int] = []  # line on which each record begins
    line = 1
    with long_fields():
        try:
            for record in reader:
                if record:  # a blank line is an empty record
                    records.append(record)
                    begins.append(line)
                line = reader.line_num + 1
        except csv.Error as error:
            raise DataError(f"{path}, line {line}: {csv_advice(error)}") from None
    _require_even(records, begins, path)
    return records[0], records[1:]


def csv_advice(error: csv.Error) -> str:
    return (
        f"a field in quotes that begins here does not end as it should ({error}). Put a field that "
        'holds quotes into quotes and double the inner ones: "she said ""yes"""'
    )


def tsv_records(text: str, path: Path, quoting: bool) -> tuple[list[str], list[list[str]]]:
    """TSV as it is mostly written, without quotes; else as pandas and Excel write it."""
    # only \n ends a line: str.splitlines would also cut at separators inside a text
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    numbered = [(i, line.split("\t")) for i, line in enumerate(lines, start=1) if line]
    records = [record for _, record in numbered]
    try:
        _require_even(records, [i for i, _ in numbered], path)
    except DataError:
        if quoting and '"' in text:
            try:
                return csv_records(text, path, "\t")
            except DataError:
                pass  # the problem without quotes is the one to tell
        raise
    if quoting:
        records = unquoted(records, [field for record in records for field in record])
    return records[0], records[1:]


def unquoted(records: list[list[str]], fields: list[str]) -> list[list[str]]:
    """Records without CSV quotes, if every quote among the fields is one."""
    with_quotes = [field for field in fields if '"' in field]
    if not with_quotes or not all(_QUOTED.fullmatch(field) for field in with_quotes):
        return records
    return [
        [f[1:-1].replace('""', '"') if f.startswith('"') else f for f in record]
        for record in records
    ]


def _require_even(records: list[list[str]], lines: list[int], path: Path) -> None:
    """Every record must have as many fields as the header."""
    if not records:
        raise DataError(f"{path} is empty")
    width = len(records[0])
    uneven = [(i, len(r)) for i, r in zip(lines, records, strict=True) if len(r) != width]
    if uneven:
        found = ", ".join(str(n) for n in sorted({n for _, n in uneven})[:_SHOWN])
        raise DataError(
            f"{path}: {name_rows([i for i, _ in uneven], 'line')}: {found} fields found, but the "
            f"header names {width} columns. Put a text that holds the separator into quotes"
        )


def json_rows(text: str, path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    broken: list[str] = []
    others: list[int] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            broken.append(f"{path}, line {number}: not valid JSON ({error})")
            continue
        if isinstance(row, dict):
            rows.append(row)
        else:
            others.append(number)
    problems = broken[:_SHOWN]
    if len(broken) > _SHOWN:
        problems.append(f"{path}: {len(broken) - _SHOWN:,} more lines are not valid JSON")
    if others:
        problems.append(f"{path}: {name_rows(others, 'line')}: not a JSON object with named values")
    if problems:
        raise DataError(problems)
    return rows
