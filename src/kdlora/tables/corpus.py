"""Texts of a kind, many and without labels: the lines of a text file, or columns of a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdlora.errors import DataError
from kdlora.files import read_text
from kdlora.tables.reader import read_table, text_columns

_LARGEST = 1 << 36  # bytes of a text file; a table of as many texts is read whole, too


def read_corpus(path: Path, columns: Sequence[str]) -> list[str]:
    """The texts of a file: lines of a .txt file, or the cells of the columns of a table.

    Empty ones are left out. Raises DataError for a file that cannot be read.
    """
    if path.suffix.lower() != ".txt":
        found = text_columns(read_table(path, columns), columns)
        return [text for column in found for text in column if text.strip()]
    try:
        lines = read_text(path, largest=_LARGEST).splitlines()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    return [line for line in lines if line.strip()]
