"""Numbers with units, as other people's tables write them: "463.5MB", "2.9M", "6.10 s", "97.8 %".

Every tidy column has one unit, told by its name (`_mb`, `_ms`, `_s`, `_j`, `params`, `flops`); a
foreign column is brought to it by the suffix in its cells or by the unit that the mapping states.
Nothing is guessed from the size of a number.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd

# quantity -> unit -> factor to the tidy unit of that quantity
FACTORS: dict[str, dict[str, float]] = {
    "memory": {
        "B": 1e-6,
        "KB": 1e-3,
        "MB": 1.0,
        "GB": 1e3,
        "KiB": 1024 / 1e6,
        "MiB": 1024**2 / 1e6,
        "GiB": 1024**3 / 1e6,
    },
    "seconds": {"ms": 1e-3, "s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0},
    "milliseconds": {"us": 1e-3, "ms": 1.0, "s": 1e3},
    "energy": {"J": 1.0, "kJ": 1e3, "Wh": 3600.0, "kWh": 3.6e6},
    "count": {"": 1.0, "K": 1e3, "k": 1e3, "M": 1e6, "B": 1e9},
    "flops": {"": 1.0, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15},
    "score": {"": 1.0, "fraction": 1.0, "percent": 0.01, "%": 0.01},
    "number": {"": 1.0, "x": 1.0},
}

_NUMBER = re.compile(r"^\s*([-+]?[\d,]*\.?\d+(?:[eE][-+]?\d+)?)\s*([A-Za-z%]*)\s*$")
_MISSING = {"", "-", "\u2013", "n/a", "na", "nan", "none", "null"}


def quantity_of(column: str) -> str:
    """What a tidy column measures, told by its name."""
    if column == "score" or column == "selection_score" or column.startswith("report"):
        return "score"
    if column.endswith("_per_s"):
        return "number"
    for suffix, quantity in (
        ("_mb", "memory"),
        ("_ms", "milliseconds"),
        ("_s", "seconds"),
        ("_j", "energy"),
        ("params", "count"),
        ("flops", "flops"),
    ):
        if column.endswith(suffix):
            return quantity
    return "number"


def check_unit(column: str, unit: str) -> str | None:
    """A sentence if `unit` cannot be the unit of the tidy column, else None."""
    quantity = quantity_of(column)
    if unit in FACTORS[quantity]:
        return None
    known = ", ".join(repr(u) for u in FACTORS[quantity])
    return f"column '{column}': unit '{unit}' does not measure {quantity}; known: {known}"


def to_numbers(
    values: pd.Series, column: str, *, unit: str = ""
) -> tuple[pd.Series, dict[str, list[int]]]:
    """Foreign cells as floats in the tidy column's unit.

    `unit` holds for bare numbers; a suffix in the cell itself wins over it. Returns the values
    (NaN where a cell is empty or unreadable) and, by reason, the positions that could not be read.
    """
    factors = FACTORS[quantity_of(column)]
    factor = factors.get(unit, 1.0)
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        # a count in millions is printed as a decimal fraction: undo the noise of the product
        numbers = pd.to_numeric(values, errors="coerce").astype(float)
        return _whole_counts(_scale(numbers, factor), column), {}
    problems: dict[str, list[int]] = {}
    read = np.full(len(values), np.nan)
    for position, cell in enumerate(values):
        text = "" if cell is None or (isinstance(cell, float) and np.isnan(cell)) else str(cell)
        if text.strip().lower() in _MISSING:
            continue
        match = _NUMBER.match(text)
        if match is None:
            if text.strip().lower() in ("inf", "-inf", "+inf", "infinity"):
                read[position] = float(text)
                continue
            problems.setdefault("is not a number", []).append(position)
            continue
        suffix = match.group(2)
        if suffix and suffix not in factors:
            reason = f"has the unknown unit '{suffix}' (known: {', '.join(filter(None, factors))})"
            problems.setdefault(reason, []).append(position)
            continue
        cell_factor = factors[suffix] if suffix else factor
        number = float(match.group(1).replace(",", ""))
        read[position] = _scale(number, cell_factor)
    return _whole_counts(pd.Series(read, index=values.index), column), problems


def _scale(value: Any, factor: float) -> Any:
    """The product without its noise: 57.7 % is 0.577, not 0.5770000000000001."""
    return value if factor == 1.0 else np.round(value * factor, 12)


def _whole_counts(numbers: pd.Series, column: str) -> pd.Series:
    """0.29645 M is 296,450 trainable parameters, without the noise of the product."""
    if quantity_of(column) != "count":
        return numbers
    return numbers.where(~(numbers.abs() >= 1000), numbers.round())
