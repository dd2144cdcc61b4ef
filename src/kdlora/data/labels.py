"""The labels of own data: classes or numbers, and everything that can be wrong with them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from kdlora.data.parsing import name_rows
from kdlora.spec.tasks import Kind

_MOST_CLASSES = 50
_SHOWN = 10
_LARGEST = float(np.finfo(np.float32).max)
_INTEGRAL = re.compile(r"[+-]?\d+\.0*")


def is_missing(value: Any) -> bool:
    """Whether a cell holds no label: null, NaN or nothing. "none" and "NA" may be classes."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and value.strip().lower() in ("", "nan"))


def class_name(value: Any) -> str:
    """A label as its class is called: trimmed, and 1.0 is 1, as pandas writes integers."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = str(value).strip()
    return text.partition(".")[0] if _INTEGRAL.fullmatch(text) else text


def as_number(value: Any) -> float | None:
    """A label or text as a number, None if it is none. Truth values are classes, not numbers."""
    if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def infer_kind(values: Sequence[Any]) -> Kind:
    """Regression if most labels are numbers with a fraction, or all are numbers and some are so."""
    numbers = [as_number(value) for value in values]
    fractional = sum(x is not None and not float(x).is_integer() for x in numbers)
    if fractional and (None not in numbers or fractional > len(values) / 2):
        return "regression"
    return "classification"


def class_names(values: Sequence[Any]) -> tuple[str, ...]:
    """The distinct classes, in numerical order if all are numbers, else in alphabetical order."""
    names = {class_name(value) for value in values}
    numbers = {name: as_number(name) for name in names}
    if all(x is not None and math.isfinite(x) for x in numbers.values()):
        return tuple(sorted(names, key=lambda name: (numbers[name], name)))
    return tuple(sorted(names))


def check_classes(values: Sequence[Any], names: Sequence[str], *, stated: bool) -> list[str]:
    """Problems of the train file's classes. `stated`: the user said that these are classes."""
    if len(names) == 1:
        return [f"only one class, '{names[0]}': there is nothing to tell apart"]
    numeric = all(as_number(name) is not None for name in names)
    ask = "set `kind: regression` if they are scores" if numeric else "check the label column"
    if len(names) > len(values) / 2:
        return [f"{len(names):,} different labels in {len(values):,} rows are no classes: {ask}"]
    if len(names) > _MOST_CLASSES and not stated:
        return [
            f"{len(names):,} different labels ({show(names)}): {ask}, or set `kind: "
            "classification` if they are classes"
        ]
    return []


def check_unknown(values: Sequence[Any], names: Sequence[str]) -> list[str]:
    """Classes of a held-out file that the train file lacks."""
    unknown = Counter(class_name(value) for value in values)
    for name in names:
        del unknown[name]
    if not unknown:
        return []
    listed = show([f"'{name}' ({count:,} rows)" for name, count in sorted(unknown.items())])
    return [f"labels that the train file lacks: {listed}. It knows {show(names)}"]


def check_numbers(values: Sequence[Any], rows: Sequence[int]) -> list[str]:
    """Problems of regression labels; `rows` are their row numbers."""
    numbers = [as_number(value) for value in values]
    bad = [i for i, x in enumerate(numbers) if x is None or not abs(x) <= _LARGEST]
    if not bad:
        return []
    examples = show(list(dict.fromkeys(f"'{values[i]}'" for i in bad)), 3)
    return [
        f"labels that are not finite numbers, in {name_rows([rows[i] for i in bad])}: {examples}"
    ]


def encode(values: Sequence[Any], kind: Kind, names: Sequence[str]) -> np.ndarray:
    """Labels [n]: int64 positions in `names`, or float32 numbers."""
    if kind == "regression":
        return np.array([as_number(value) for value in values], dtype=np.float32)
    place = {name: i for i, name in enumerate(names)}
    return np.array([place[class_name(value)] for value in values], dtype=np.int64)


def show(items: Sequence[str], most: int = _SHOWN) -> str:
    """Items with commas between, at most ten."""
    rest = f" and {len(items) - most:,} more" if len(items) > most else ""
    return ", ".join(items[:most]) + rest
