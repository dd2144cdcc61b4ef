"""Rows of a file of any length, a chunk at a time, for work that must not grow with the file."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from kdlora.data.files import file_format, read_header
from kdlora.data.parsing import long_fields
from kdlora.errors import DataError

Row = dict[str, Any]


def read_chunks(path: Path, size: int) -> Iterator[list[Row]]:
    """Lists of up to `size` rows, each a mapping from column to value, in the file's order.

    Raises DataError, when it is reached, for a line that cannot be read.
    """
    read_header(path)  # says clearly what is wrong with the file as a whole
    form = file_format(path)
    rows = _parquet(path, size) if form == "parquet" else _lines(path, form)
    while chunk := list(islice(rows, size)):
        yield chunk


def _lines(path: Path, form: str) -> Iterator[Row]:
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    with opened(path, "rt", encoding="utf-8-sig", newline="") as handle, long_fields():
        try:
            yield from _json(path, handle) if form == "jsonl" else _table(path, handle, form)
        except (UnicodeDecodeError, csv.Error, EOFError, OSError) as error:
            raise DataError(f"cannot read {path}: {error}") from None


def _table(path: Path, handle: TextIO, form: str) -> Iterator[Row]:
    reader = csv.reader(handle)
    if form == "tsv":
        reader = csv.reader(handle, delimiter="\t", quoting=csv.QUOTE_NONE)
    header = next(reader)
    for fields in reader:
        if not fields:
            continue
        if len(fields) != len(header):
            raise DataError(
                f"{path}, line {reader.line_num}: {len(fields)} fields where the header names "
                f"{len(header)}"
            )
        yield dict(zip(header, fields, strict=True))


def _json(path: Path, handle: TextIO) -> Iterator[Row]:
    for number, line in enumerate(handle, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: expected an object with keys")
        yield row


def _parquet(path: Path, size: int) -> Iterator[Row]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=size):
            yield from batch.to_pylist()
