"""Tables in files: CSV, TSV, JSON lines and Parquet, whole or a chunk at a time.

A malformed line is an error that names the line, not a row that is quietly dropped or filled.

Nothing heavy is imported unless the file is Parquet.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from kdlora.errors import DataError, did_you_mean
from kdlora.spec.fingerprint import hash_file

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


_FORMATS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_HEAD_BYTES = 1 << 20


@dataclass(frozen=True)
class Table:
    """Chosen columns of a file: `columns[name][i]` is row i; `present` names all columns."""

    path: Path
    present: list[str]
    columns: dict[str, list[Any]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


def read_table(path: Path, wanted: Sequence[str], *, quoting: bool = True) -> Table:
    """Read the wanted columns, told apart by the file's extension (`.gz` may follow).

    Values are strings in CSV and TSV, and whatever the file says in JSON lines and Parquet;
    a key that a JSON line lacks is None. TSV fields are unquoted only if all quotes in the file
    are CSV quotes; with `quoting=False` never. Raises DataError with every problem of the file.
    """
    form = file_format(path)
    if form == "parquet":
        return _read_parquet(path, wanted)
    text = _decode(_read_bytes(path), path)
    if form == "jsonl":
        rows = json_rows(text, path)
        present = list(dict.fromkeys(key for row in rows for key in row))
        _require_columns(path, wanted, present)
        columns = {name: [row.get(name) for row in rows] for name in wanted}
    else:
        header, records = (
            csv_records(text, path) if form == "csv" else tsv_records(text, path, quoting)
        )
        present = header
        _require_columns(path, wanted, present)
        place = {name: header.index(name) for name in wanted}
        columns = {name: [record[i] for record in records] for name, i in place.items()}
    if not next(iter(columns.values()), []):
        raise DataError(f"{path} holds a header but no rows")
    return Table(path, present, columns)


def read_header(path: Path) -> list[str]:
    """Names of the columns, from the start of the file.

    Raises DataError if the file is missing, empty, of an unknown kind, not UTF-8 in its first
    megabyte, or holds no row.
    """
    form = file_format(path)
    if form == "parquet":
        return _read_parquet(path, []).present
    head = _read_bytes(path, _HEAD_BYTES)
    text = _decode(head, path, partial=len(head) == _HEAD_BYTES)
    if form == "jsonl":
        if "\n" not in text.strip():  # one long row, of which the head may be a part
            text = _decode(_read_bytes(path), path)
        return list(json_rows(text.lstrip().partition("\n")[0], path)[0])
    start = text.lstrip("\r\n")
    if form == "tsv":
        header, _, rest = start.partition("\n")
        names = header.rstrip("\r").split("\t")
        names = unquoted([names], names)[0]
    else:
        lines = io.StringIO(start, newline="")
        with long_fields():
            try:
                names = next(csv.reader(lines, strict=True))
            except csv.Error as error:
                raise DataError(f"{path}, line 1: {csv_advice(error)}") from None
        rest = lines.read()
    if not rest.strip():
        raise DataError(f"{path} holds a header but no rows")
    return names


def changed_since_planned(paths: Iterable[Path], *, where: str | None = None) -> DataError:
    """What to say of files that are no longer those that a run's id speaks of."""
    return DataError(
        f"{', '.join(map(str, paths))} changed since the study was planned; "
        "run the same command again to plan with what is there now",
        where=where,
    )


def require_as_planned(path: Path, fingerprint: str, *, where: str | None = None) -> None:
    """Raises DataError for a file that is there with another content than was planned with."""
    if path.is_file() and hash_file(path) != fingerprint:
        raise changed_since_planned([path], where=where)


def column_problem(path: Path, wanted: str, present: Sequence[str]) -> str | None:
    """Why a column cannot be used, or None if it is there once."""
    if present.count(wanted) == 1:
        return None
    if wanted in present:
        return f"{path}: {present.count(wanted)} columns are called '{wanted}'"
    names = [name if len(name) <= 40 else name[:37] + "..." for name in present]
    hint = did_you_mean(wanted, names)
    if len(present) == 1 and path.name.lower().removesuffix(".gz").endswith((".csv", ".tsv")):
        found = next((s for s in (";", "\t", "|", ",") if s in present[0]), None)
        if found:
            hint += f" Its header seems to be separated by {found!r}: .csv wants commas, .tsv tabs"
    return f"{path} has no column '{wanted}'.{hint}"


def _require_columns(path: Path, wanted: Sequence[str], present: Sequence[str]) -> None:
    problems = [p for name in wanted if (p := column_problem(path, name, present))]
    if problems:
        raise DataError(problems)


def file_format(path: Path) -> str:
    name = path.name.lower()
    ending = Path(name.removesuffix(".gz")).suffix
    if ending == ".parquet" and not name.endswith(".gz"):
        return "parquet"
    if ending not in _FORMATS:
        raise DataError(
            f"{path}: unknown kind of file '{Path(name).suffix or name}'. Known: "
            f"{', '.join(_FORMATS)} (each also with .gz) and .parquet"
        )
    return _FORMATS[ending]


def _read_bytes(path: Path, size: int = -1) -> bytes:
    """The file's bytes, unpacked; all of them or the first `size`."""
    _require_file(path)
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as handle:
            data = handle.read(size)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is not a whole gzip file: {error}") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    if not data.strip():
        raise DataError(f"{path} is empty")
    return data


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"{path} is a folder" if path.is_dir() else f"there is no file {path}")


def _decode(data: bytes, path: Path, *, partial: bool = False) -> str:
    """UTF-8 text without its byte order mark; `partial` data may end within a character."""
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        if partial and error.start >= len(data) - 3:
            return _decode(data[: error.start], path)
        line = data.count(b"\n", 0, error.start) + 1
        likely = _likely_encoding(data)
        raise DataError(
            f"{path} is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start} "
            f"(line {line}). It looks like {likely}; save it as UTF-8, for instance with "
            f"`iconv -f {likely} -t utf-8`"
        ) from None


def _likely_encoding(data: bytes) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    try:
        data.decode("cp1252")
    except UnicodeDecodeError:
        return "latin-1"
    return "cp1252"


def _read_parquet(path: Path, wanted: Sequence[str]) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    _require_file(path)
    try:
        with pq.ParquetFile(path) as file:
            present = list(file.schema_arrow.names)
            if file.metadata.num_rows == 0:
                raise DataError(f"{path} holds no rows")
            _require_columns(path, wanted, present)
            table = file.read(columns=list(wanted))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}") from None
    return Table(path, present, {name: table.column(name).to_pylist() for name in wanted})


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
