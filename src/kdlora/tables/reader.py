"""Tables in files: CSV, TSV, JSON lines and Parquet, read by one rule for every use.

`open_table` looks at a file, whose rows then come as a stream (`rows`), in chunks of bounded memory
(`chunks`) or as a sample for estimates (`sample`). `read_table` reads columns whole, and
`column_problems` tells from as little as possible whether a file has them. All of them see the same
columns and rows, and raise the same DataError for the same damage: a malformed line is an error
that names the line, not a row that is quietly dropped or filled.

- Text is UTF-8, with or without a byte order mark, and possibly packed by gzip.
- CSV has commas and quotes. What the quotes of a TSV mean is decided once, from the whole file.
- The first line that holds something is the header of CSV and TSV. The columns of JSON lines are
  the keys of all lines in the order in which they are first seen; a key that a line lacks is None.
- In a table of several columns a row of which no cell holds anything is no row: spreadsheets and
  data frames write such rows. Blank lines are none either.
- Rows are numbered from 1 by the lines below the header, in JSON lines by the lines of the file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from kdlora.errors import DataError, did_you_mean
from kdlora.files import odd_kind
from kdlora.spec.fingerprint import hash_file
from kdlora.tables.formats import (
    Format,
    Quotes,
    csv_records,
    even_rows,
    file_format,
    is_blank,
    json_objects,
    name_rows,
    open_parquet,
    parquet_records,
    share_of_head,
    tsv_quotes,
    tsv_records,
)
from kdlora.tables.templates import columns_of, composed, is_template

Row = tuple[int, Sequence[Any]]  # its number in the file and its values
_SAMPLED_BYTES, _SAMPLED_ROWS = 1 << 18, 1000


def open_table(path: Path, *, format: Format | None = None, quoting: bool = True) -> TableFile:
    """A table in a file, whose name tells the format (`.gz` may follow) unless it is given.

    With `quoting=False` the quotes of a TSV are characters as any other. Raises DataError if
    there is no such file, or for a format that is not known.
    """
    found = format or file_format(path)
    require_file(path)
    return TableFile(path, found, quoting)


def require_file(path: Path) -> None:
    """Raises DataError for a path that leads to no file."""
    try:
        odd = odd_kind(path)
    except (OSError, ValueError):  # a name that no file can have
        raise DataError(f"there is no file {path}") from None
    if odd:
        raise DataError(f"{path} is {odd}, and a file is expected")


@dataclass
class TableFile:
    """A table in a file. What it holds is read when it is asked for, and not kept."""

    path: Path
    format: Format
    quoting: bool = True
    limit: int | None = None  # bytes from the start that are read; None means all
    _keys: list[str] | None = field(default=None, init=False, repr=False)  # of all JSON lines

    @cached_property
    def quotes(self) -> Quotes:
        """What the quotes of a TSV mean; the whole file is read for it."""
        return tsv_quotes(self.path) if self.quoting and self.format == "tsv" else "none"

    @cached_property
    def columns(self) -> list[str]:
        """The names of all columns. All JSON lines are read for it, of CSV only the header."""
        if self.format == "parquet":
            with open_parquet(self.path) as file:
                return list(file.schema_arrow.names)
        if self.format == "jsonl":
            if self._keys is None:
                for _ in self.objects():
                    pass
            return self._keys or []
        return next(self._lines())[1]

    def rows(self, names: Sequence[str] | None = None) -> Iterator[Row]:
        """The rows, each with its number and its values in the named columns, or in all.

        Values are strings in CSV and TSV, and whatever the file says in JSON lines and Parquet. A
        name may be a template of columns (see `tables.templates`).
        Raises DataError for damage when it is reached, for a table without rows and, except in
        JSON lines, for columns that are not there once: a key that no line has is always None.
        """
        row = None
        templates = names is not None and any(is_template(n) for n in names)
        for row in self._composed(names or ()) if templates else self._rows(names):
            yield row
        if row is None:
            header = "a header but " if self.format in ("csv", "tsv") else ""
            raise DataError(f"{self.path} holds {header}no rows")

    def _composed(self, names: Sequence[str]) -> Iterator[Row]:
        """The rows by names of which some are templates."""
        present = self.columns
        wanted = columns_of(names, present)
        self.require(names)
        for number, values in self._rows(wanted):
            cells = dict(zip(wanted, values, strict=True))
            yield number, composed(names, cells, present, text_of)

    def _rows(self, names: Sequence[str] | None) -> Iterator[Row]:
        if self.format == "jsonl":
            yield from self._rows_of_objects(self.columns if names is None else names)
            return
        if names is not None:
            self.require(names)
        if self.format == "parquet":
            yield from self._rows_of_parquet(names)
            return
        lines = self._lines()
        _, header = next(lines)
        if names is None:
            yield from lines
        else:
            places = [header.index(name) for name in names]
            for number, fields in lines:
                yield number, [fields[i] for i in places]

    def chunks(self, size: int) -> Iterator[list[Row]]:
        """All rows with all columns, up to `size` rows at a time."""
        rows = self.rows()
        while chunk := list(islice(rows, size)):
            yield chunk

    def sample(self, names: Sequence[str]) -> tuple[list[Row], float]:
        """The first rows, and about which share of the file's rows they are; 1 if all are read.

        Raises DataError for what is wrong with them.
        """
        if self.format == "parquet":
            with open_parquet(self.path) as file:
                count = file.metadata.num_rows
            rows = list(islice(self.rows(names), _SAMPLED_ROWS))
            return rows, (rows[-1][0] / count if len(rows) == _SAMPLED_ROWS else 1.0)
        share = share_of_head(self.path, _SAMPLED_BYTES)
        if share == 1:
            return list(self.rows(names)), share
        head = replace(self, limit=_SAMPLED_BYTES)
        head.quotes = self.quotes
        rows = []
        with suppress(DataError):  # the last row may be cut
            for row in head.rows(names):
                rows.append(row)
        return rows, share

    def about_rows(self) -> int:
        """About how many rows the file holds, by its size and its beginning; 0 without any.

        Raises DataError for what is wrong with the first of them.
        """
        rows, share = self.sample(self.columns)
        return round(len(rows) / share)

    def objects(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The JSON lines that are not blank, with their numbers."""
        seen: dict[str, Any] = {}
        for number, row in json_objects(self.path, self.limit):
            seen.update(row)
            yield number, row
        self._keys = list(seen)

    def require(self, names: Sequence[str]) -> None:
        """Raises DataError with every column that is not there, or there more than once."""
        wanted = columns_of(names, self.columns)
        problems = [p for name in wanted if (p := column_problem(self.path, name, self.columns))]
        if problems:
            raise DataError(problems)

    def _lines(self) -> Iterator[tuple[int, list[str]]]:
        if self.format == "tsv":
            return even_rows(tsv_records(self.path, self.quotes, self.limit), self.path)
        return even_rows(csv_records(self.path, limit=self.limit), self.path)

    def _rows_of_objects(self, names: Sequence[str]) -> Iterator[Row]:
        for number, row in self.objects():
            values = [row.get(name) for name in names]
            if is_blank(values) and is_blank(row.values()) and len(self.columns) > 1:
                continue
            yield number, values

    def _rows_of_parquet(self, names: Sequence[str] | None) -> Iterator[Row]:
        several = len(self.columns) > 1
        others = [name for name in self.columns if names is not None and name not in names]
        rest: Iterator[tuple[int, Any]] | None = None  # read only if it tells whether a row is one
        for number, values in enumerate(parquet_records(self.path, names), 1):
            if several and is_blank(values):
                if not others:
                    continue
                rest = rest or enumerate(parquet_records(self.path, others), 1)
                if is_blank(next(cells for place, cells in rest if place == number)):
                    continue
            yield number, values


@dataclass(frozen=True)
class FileTable:
    """Chosen columns of a file: `columns[name][i]` is row i, which the file numbers `numbers[i]`.

    `present` names all columns of the file.
    """

    path: Path
    present: list[str]
    columns: dict[str, list[Any]]
    numbers: list[int]

    def __len__(self) -> int:
        return len(self.numbers)

    def where(self, name: str, test: Callable[[Any], bool]) -> list[int]:
        """The numbers of the rows whose cell in a column passes a test."""
        cells = zip(self.numbers, self.columns[name], strict=True)
        return [number for number, cell in cells if test(cell)]


def read_table(path: Path, wanted: Sequence[str], *, quoting: bool = True) -> FileTable:
    """Read the wanted columns of all rows. Raises DataError with every problem of the file."""
    file = open_table(path, quoting=quoting)
    wanted = list(dict.fromkeys(wanted))
    numbers: list[int] = []
    columns: dict[str, list[Any]] = {name: [] for name in wanted}
    appends = [column.append for column in columns.values()]
    for number, values in file.rows(wanted):
        numbers.append(number)
        for append, value in zip(appends, values, strict=True):
            append(value)
    file.require(wanted)  # the columns of JSON lines are known now
    return FileTable(path, file.columns, columns, numbers)


def column_problems(path: Path, wanted: Sequence[str]) -> list[str]:
    """What is wrong with a file and its columns as its beginning tells; empty if nothing is.

    No more is read than the first row, and of JSON lines as many as it takes to see every wanted
    key: a key that only a late line has is there too.
    """
    try:
        file = open_table(path)
        if file.format == "jsonl":
            unseen = set(columns_of(wanted))
            for _, row in file.objects():
                unseen -= row.keys()
                if not unseen:
                    return []
        file.require(wanted)
        next(file.rows(wanted))
    except DataError as error:
        return error.problems
    return []


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


def is_missing(value: Any) -> bool:
    """Whether a cell holds no label: null, NaN or nothing. "none" and "NA" may be classes."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and value.strip().lower() in ("", "nan"))


def is_structured(value: Any) -> bool:
    """Whether a cell holds something that is neither a text nor a number nor a truth value."""
    return isinstance(value, list | dict | bytes)


def text_of(value: Any) -> str:
    """A cell as the text that a model reads: null and NaN are empty."""
    return value if isinstance(value, str) else "" if is_missing(value) else str(value)


def texts_of(
    path: Path, name: str, cells: Sequence[Any], numbers: Sequence[int]
) -> tuple[list[str], list[str]]:
    """The cells of a column as the texts that a model reads, and what is wrong with them.

    `numbers` are those of the rows.
    """
    odd = [n for n, cell in zip(numbers, cells, strict=True) if is_structured(cell)]
    problems = [f"{path}: column '{name}' holds no text in {name_rows(odd)}"] if odd else []
    return [text_of(cell) for cell in cells], problems


def text_columns(table: FileTable, names: Sequence[str]) -> tuple[list[str], ...]:
    """Columns as texts. Raises DataError for all cells that hold none."""
    found = [texts_of(table.path, name, table.columns[name], table.numbers) for name in names]
    if problems := [problem for _, odd in found for problem in odd]:
        raise DataError(problems)
    return tuple(texts for texts, _ in found)


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
