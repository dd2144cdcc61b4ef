"""Tables as CSV for people, who open them in a spreadsheet: no cell of a stranger is a formula."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_FORMULA = re.compile(r"[=+\-@\t\r]")  # what spreadsheets take for the beginning of one
_NUMBER = re.compile(r"[+-]?(\d[\d,.\u202f ]*|\.\d+|inf|nan)([eE][+-]?\d+)?\s*%?", re.ASCII)


def csv_text(frame: pd.DataFrame) -> str:
    """The frame as CSV without its index, texts that look like formulas behind an apostrophe."""
    safe = frame.rename(columns=harmless).map(harmless)
    return safe.to_csv(index=False, lineterminator="\n")


def harmless(value: Any) -> Any:
    """A cell that no spreadsheet computes: ``'=1+1`` for ``=1+1``; numbers stay as they are."""
    if not isinstance(value, str) or not _FORMULA.match(value):
        return value
    return value if len(value) == 1 or _NUMBER.fullmatch(value) else f"'{value}"
