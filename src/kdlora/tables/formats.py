"""The formats of tables: streams of the records in CSV, TSV, JSON lines and Parquet files.

`tables.reader` puts them to use. A stream that meets damage yields no further record, but reads on,
so that one DataError names all that is wrong with the file, in the same words for every use.
Nothing heavy is imported unless the file is Parquet.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TextIO, cast

from kdlora.errors import DataError
from kdlora.files import open_file
from kdlora.json_files import UnusableJson, parse_json

if TYPE_CHECKING:
    import pandas as pd
    from pyarrow.parquet import ParquetFile

Format = Literal["csv", "tsv", "jsonl", "parquet"]
Quotes = Literal["none", "around fields", "as in CSV"]

_ENDINGS: dict[str, Format] = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_BLOCK = 1 << 18  # bytes
_BATCH = 1024  # records that are read at a time
_LONGEST_FIELD = 1 << 24  # characters; csv's own limit is 131,072
_PACKING = 3  # times that gzip shortens text, as a rule
_SHOWN = 5
# What pyarrow raises beside its own errors where a Parquet file is damaged.
_OF_DAMAGE = (
    OSError, ValueError, OverflowError, KeyError, IndexError, TypeError, AttributeError,
    NotImplementedError, MemoryError,
)  # fmt: skip
_QUOTED = re.compile(r'"[^"]*(?:""[^"]*)*"')
_NOT_CP1252 = b"\x81\x8d\x8f\x90\x9d"


def is_table_name(path: Path) -> bool:
    """Whether a file's name is that of a table."""
    try:
        file_format(path)
    except DataError:
        return False
    return True


def table_stem(path: Path) -> str:
    """A file's name without the ending of a table: `rev.2023` of ``rev.2023.csv.gz``."""
    name = path.name[: -len(".gz")] if path.suffix.lower() == ".gz" else path.name
    ending = Path(name).suffix
    known = ending.lower() in (*_ENDINGS, ".json", ".parquet")
    return name[: -len(ending)] if known else name


def file_format(path: Path) -> Format:
    """The format that a file's name tells. Raises DataError for an unknown one."""
    name = path.name.lower()
    ending = Path(name.removesuffix(".gz")).suffix
    if ending == ".parquet" and not name.endswith(".gz"):
        return "parquet"
    if ending not in _ENDINGS:
        raise DataError(
            f"{path}: unknown kind of file '{Path(name).suffix or name}'. Known: "
            f"{', '.join(_ENDINGS)} (each also with .gz) and .parquet"
        )
    return _ENDINGS[ending]


def name_rows(positions: Sequence[int], what: str = "row") -> str:
    """ "row 3", or "rows 3, 7, 9, 12, 20 and 5 more": at most five of them, counted from 1."""
    shown = ", ".join(str(p) for p in positions[:_SHOWN])
    more = f" and {len(positions) - _SHOWN:,} more" if len(positions) > _SHOWN else ""
    return f"{what}{'s' if len(positions) > 1 else ''} {shown}{more}"


def csv_records(
    path: Path, delimiter: str = ",", limit: int | None = None
) -> Iterator[tuple[int, list[str]]]:
    """The line on which each record begins, and its fields; a blank line has none."""
    with _text(path, "", limit) as handle:
        reader = csv.reader(handle, delimiter=delimiter, strict=True)
        line, damage, more = 1, None, True
        while more:
            batch: list[tuple[int, list[str]]] = []
            # The longest field is a global setting of csv: it must not stay changed while
            # whoever takes the records does something else.
            usual = csv.field_size_limit(_LONGEST_FIELD)
            try:
                for record in islice(reader, _BATCH):
                    batch.append((line, record))
                    line = reader.line_num + 1
            except csv.Error as error:
                damage = DataError(
                    f"{path}, line {line}: a field in quotes that begins here does not end as it "
                    f"should ({error}). Put a field that holds quotes into quotes and double the "
                    'inner ones: "she said ""yes"""'
                )
            finally:
                csv.field_size_limit(usual)
            yield from batch
            more = len(batch) == _BATCH
        if damage:
            raise damage


def tsv_records(
    path: Path, quotes: Quotes, limit: int | None = None
) -> Iterator[tuple[int, list[str]]]:
    """The same of a TSV, whose `quotes` are as `tsv_quotes` found them."""
    if quotes == "as in CSV":
        yield from csv_records(path, "\t", limit)
        return
    # Only \n ends a line: str.splitlines would also cut at separators inside a text.
    with _text(path, "\n", limit) as handle:
        for number, line in enumerate(handle, 1):
            content = line.removesuffix("\n").removesuffix("\r")
            fields = content.split("\t") if content else []
            if quotes == "around fields" and '"' in content:
                fields = [f[1:-1].replace('""', '"') if f[:1] == '"' else f for f in fields]
            yield number, fields


def tsv_quotes(path: Path) -> Quotes:
    """What the quotes of a TSV mean, which only the whole file tells.

    Mostly nothing: a TSV is written without quoting. They stand around fields if every field that
    holds one is written as in CSV, and are CSV's own (so that a field may hold tabs and ends of
    lines) if only so every record has as many fields as the header.
    """
    with open_binary(path) as binary:
        if not any(b'"' in block for block in iter(lambda: binary.read(_BLOCK), b"")):
            return "none"
    width, around = 0, True
    with _text(path, "\n") as handle:
        for line in handle:
            if width and '"' not in line and line.count("\t") + 1 == width:
                continue
            fields = line.removesuffix("\n").removesuffix("\r").split("\t")
            if is_blank(fields):
                continue
            width = width or len(fields)
            if len(fields) != width:
                return "as in CSV" if _reads_as_csv(path) else "none"
            around = around and all(_QUOTED.fullmatch(field) for field in fields if '"' in field)
    return "around fields" if around else "none"


def _reads_as_csv(path: Path) -> bool:
    """Whether a file with tabs reads as CSV with records of one length."""
    width = 0
    try:
        for _, fields in csv_records(path, "\t"):
            if not is_blank(fields):
                width = width or len(fields)
                if len(fields) != width:
                    return False
    except DataError:
        return False
    return True


def is_blank(cells: Iterable[Any]) -> bool:
    """Whether no cell holds anything: null, NaN, nothing and white space are nothing."""
    for cell in cells:
        if isinstance(cell, str):
            if cell and not cell.isspace():
                return False
        elif cell is not None and cell == cell:
            return False
    return True


def even_rows(
    records: Iterator[tuple[int, list[str]]], path: Path
) -> Iterator[tuple[int, list[str]]]:
    """The header with the number 0, then the rows numbered from 1.

    Lines without any cell that holds something, as spreadsheets write them, are left out; below
    the header they are counted. A table of one column may hold empty cells, written as "".
    Raises DataError naming all lines with another number of fields than the header.
    """
    header = next((fields for _, fields in records if not is_blank(fields)), None)
    if header is None:
        raise DataError(f"{path} is empty")
    width = len(header)
    uneven: list[tuple[int, int]] = []
    damage: list[str] = []
    yield 0, header
    try:
        for number, (line, fields) in enumerate(records, 1):
            if len(fields) == width and (width == 1 or not is_blank(fields)):
                if not uneven:
                    yield number, fields
            elif not is_blank(fields):
                uneven.append((line, len(fields)))
    except DataError as error:
        damage = error.problems
    if uneven:
        counts = ", ".join(str(n) for n in sorted({n for _, n in uneven})[:_SHOWN])
        damage.insert(
            0,
            f"{path}: {name_rows([line for line, _ in uneven], 'line')}: {counts} fields found, "
            f"but the header names {width} columns. Put a text that holds the separator into "
            "quotes",
        )
    if damage:
        raise DataError(damage)


def json_objects(path: Path, limit: int | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """The object on each line that is not blank, with the line's number.

    Raises DataError naming all lines that hold none, or one that cannot be used: a key named
    twice, half a character, lists within lists without end.
    """
    broken: list[str] = []
    others: list[int] = []
    empty = True
    with _text(path, "\n", limit) as handle:
        for number, line in enumerate(handle, 1):
            if line.isspace():
                continue
            empty = False
            try:
                row = parse_json(line.rstrip("\n"))
            except UnusableJson as error:
                broken.append(f"{path}, line {number}: {error}")
            except ValueError as error:
                broken.append(f"{path}, line {number}: not valid JSON ({error})")
            else:
                if not isinstance(row, dict):
                    others.append(number)
                elif not broken and not others:
                    yield number, row
    problems = broken[:_SHOWN]
    if len(broken) > _SHOWN:
        problems.append(f"{path}: {len(broken) - _SHOWN:,} more lines are not valid JSON")
    if others:
        problems.append(f"{path}: {name_rows(others, 'line')}: not a JSON object with named values")
    if empty:
        problems.append(f"{path} is empty")
    if problems:
        raise DataError(problems)


@contextmanager
def open_parquet(path: Path) -> Iterator[ParquetFile]:
    """A Parquet file; whatever pyarrow says of damage while it is open becomes a DataError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
    except (pa.ArrowException, *_OF_DAMAGE) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path} is not a readable Parquet file: {reason}") from None


def parquet_frame(path: Path) -> pd.DataFrame:
    """All of a Parquet file. Raises DataError where it is not there or damaged.

    A filter is for the caller to apply: pyarrow's own can wait for ever on a damaged file.
    """
    with open_parquet(path) as file:
        table = file.read()
        table.validate(full=True)  # pandas would find a text that is no UTF-8 when it is used
        return table.to_pandas()


def parquet_records(path: Path, names: Sequence[str] | None) -> Iterator[tuple[Any, ...]]:
    """The values of each row in the named columns, or in all."""
    with open_parquet(path) as file:
        for batch in file.iter_batches(_BATCH, columns=None if names is None else list(names)):
            columns = batch.columns if names is None else [batch.column(name) for name in names]
            yield from zip(*(column.to_pylist() for column in columns), strict=True)


@contextmanager
def _text(path: Path, newline: str, limit: int | None = None) -> Iterator[TextIO]:
    """A UTF-8 file's text, unpacked and without a byte order mark.

    With a `limit` only the lines that end within so many bytes, if not all do. Raises DataError
    for what cannot be read.
    """
    try:
        with open_binary(path) as binary:
            content = binary if limit is None else io.BytesIO(_head(binary, limit)[0])
            with io.TextIOWrapper(content, encoding="utf-8-sig", newline=newline) as handle:
                yield handle
    except UnicodeDecodeError:
        raise _not_utf8(path) from None


@contextmanager
def open_binary(path: Path) -> Iterator[BinaryIO]:
    """A file's bytes, unpacked if it is a gzip. Raises DataError for what cannot be read."""
    try:
        with open_file(path) as handle:
            if path.suffix.lower() != ".gz":
                yield handle
                return
            with gzip.open(handle) as unpacked:
                yield cast(BinaryIO, unpacked)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is not a whole gzip file: {error}") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None


def _head(binary: BinaryIO, limit: int) -> tuple[bytes, bool]:
    """The lines that end within `limit` bytes, and whether they are all that there is."""
    head = binary.read(limit + 1)
    whole = len(head) <= limit
    return (head if whole else head[: head.rfind(b"\n", 0, limit) + 1]), whole


def share_of_head(path: Path, limit: int) -> float:
    """About which share of a text file the lines are that end within `limit` bytes."""
    with open_binary(path) as binary:
        head, whole = _head(binary, limit)
    packed = _PACKING if path.suffix.lower() == ".gz" else 1
    return 1.0 if whole else min(1.0, len(head) / (packed * path.stat().st_size))


def _not_utf8(path: Path) -> DataError:
    """Which byte of a file is the first that UTF-8 does not know, and what the file may be."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset, line, first, likely, is_mixed = 0, 1, None, "cp1252", False
    with open_binary(path) as handle:
        while True:
            block = handle.read(_BLOCK)
            if offset == 0 and block[:2] in (b"\xff\xfe", b"\xfe\xff"):
                likely = "utf-16"
            elif likely == "cp1252" and any(byte in block for byte in _NOT_CP1252):
                likely = "latin-1"
            if first is None:
                try:
                    is_mixed |= not decoder.decode(block, final=not block).isascii()
                except UnicodeDecodeError as error:
                    begin = offset + len(block) - len(error.object) + error.start
                    line += error.object.count(b"\n", 0, error.start)
                    is_mixed |= not error.object[: error.start].isascii()
                    first = f"byte 0x{error.object[error.start]:02x} at offset {begin}"
                else:
                    line += block.count(b"\n")
            offset += len(block)
            if not block:
                break
    if is_mixed and likely != "utf-16":
        return DataError(
            f"{path} is not UTF-8 all through: {first} (line {line}), and what stands before is. "
            f"These look like parts of two encodings, UTF-8 and {likely}: export each as UTF-8"
        )
    return DataError(
        f"{path} is not UTF-8: {first} (line {line}). It looks like {likely}; save it as UTF-8, "
        f"for instance with `iconv -f {likely} -t utf-8`"
    )
