"""How the columns of a foreign table become those of the tidy frame: a small YAML file.

Every tidy column has one unit, told by its name (`_mb`, `_ms`, `_s`, `_j`, `params`, `flops`); a
foreign column is brought to it by the suffix in its cells or by the unit that the mapping states.
Nothing is guessed from the size of a number.

    name: our-lab
    about: one row a training, exported from our tracker
    columns:
      task: dataset                              # tidy column: foreign column
      trainable_params: {from: params_M, unit: M}  # with the unit of bare numbers
      report.accuracy: {from: [acc, eval_acc]}   # the first one that is not empty
      metric: {from: metric, values: {acc: accuracy}}
    arm: {from: method, values: {FT: teacher/fft, LoRA: "teacher/lora", KD: "student/kd-{peft}"}}
    set: {pair: bert, precision: fp32}           # the same for all rows

Everything that the file does not name is kept under its own name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator

from kdlora.errors import InputError, did_you_mean
from kdlora.spec.base import Strict, explain
from kdlora.spec.yaml_file import load_yaml

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


class ColumnMapping(Strict):
    """Where a tidy column comes from."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    source: tuple[str, ...] = Field(alias="from", description="foreign columns, first one wins")
    unit: str = Field("", description="unit of numbers that carry none")
    values: dict[str, str] = Field({}, description="foreign value -> ours; others stay")
    series: bool = Field(False, description="a cell holds numbers separated by blanks")
    keep: bool = Field(False, description="keep the foreign column too")

    @field_validator("source", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class Melt(Strict):
    """A wide table: every column whose name matches `columns` becomes a row of its own."""

    columns: str = Field(description="regular expression; named groups become columns")
    value: str = Field(description="the name of the melted value, to be used in `columns`")

    @field_validator("columns")
    @classmethod
    def _is_pattern(cls, value: str) -> str:
        return _pattern(value)


class Mapping(Strict):
    """One foreign format."""

    name: str
    about: str = ""
    needs: tuple[str, ...] = Field((), description="columns by which the format is recognised")
    melt: Melt | None = None
    path: str | None = Field(None, description="folders: regular expression over relative paths")
    files: tuple[str, ...] = Field(("metrics.json",), description="folders: the names looked for")
    aggregates: dict[str, tuple[str, ...]] = Field(
        {}, description="column -> values of rows that sum others up; not runs"
    )
    columns: dict[str, ColumnMapping] = {}
    arm: ColumnMapping | None = None
    metric_of_task: dict[str, str] = {}
    teacher_run: tuple[str, ...] = Field(
        (),
        description="a kd row's teacher shares these columns: the row of the given teacher, "
        "else of teacher/fft, else of the first teacher arm",
    )
    unranked: tuple[str, ...] = Field(
        ("fft", "given"), description="adaptations without a rank; repeats over ranks are one row"
    )
    set: dict[str, str | int | float | bool] = {}

    @field_validator("columns", mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {k: {"from": v} if isinstance(v, str | list) else v for k, v in value.items()}

    @field_validator("path")
    @classmethod
    def _is_pattern(cls, value: str | None) -> str | None:
        return None if value is None else _pattern(value)

    @model_validator(mode="after")
    def _units(self) -> Mapping:
        problems = [check_unit(name, c.unit) for name, c in self.columns.items() if c.unit]
        if any(problems):
            raise ValueError("; ".join(p for p in problems if p))
        return self

    def consumed(self) -> Iterable[str]:
        """Foreign columns that live on under a tidy name."""
        columns = [*self.columns.values(), *([self.arm] if self.arm else [])]
        return (source for column in columns if not column.keep for source in column.source)


def _pattern(value: str) -> str:
    try:
        pattern = re.compile(value)
    except re.error as error:
        raise ValueError(f"no regular expression: {error}") from None
    if not pattern.groupindex:
        raise ValueError("needs at least one named group, such as (?P<task>...)")
    return value


def read_mapping(path: Path) -> Mapping:
    """Read a mapping file. Raises InputError with every problem in it."""
    try:
        values = load_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"no mapping file at {path}; known by name:{did_you_mean(str(path), built_in_names())}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the mapping file {path}: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # dates, numbers, nesting
        raise InputError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a mapping with name, columns and arm")
    try:
        return Mapping.model_validate(values)
    except ValidationError as error:
        raise InputError(explain(error, Mapping), where=str(path)) from None


def built_in_names() -> list[str]:
    """Names of the mappings that come with kdlora."""
    folder = files("kdlora.importing") / "mappings"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir())


def built_in(name: str) -> Mapping:
    """A mapping that comes with kdlora. Raises InputError for unknown names."""
    if name not in built_in_names():
        raise InputError(f"unknown mapping '{name}'.{did_you_mean(name, built_in_names())}")
    resource = files("kdlora.importing") / "mappings" / f"{name}.yaml"
    return Mapping.model_validate(load_yaml(resource.read_text(encoding="utf-8")))


def find_mapping(given: str | Path | Mapping | None, columns: Iterable[str]) -> Mapping:
    """The mapping asked for (a name or a file), or the one whose needed columns are all there.

    Raises InputError when nothing fits, with the columns found.
    """
    if isinstance(given, Mapping):
        return given
    if given is not None:
        named = str(given)
        return built_in(named) if named in built_in_names() else read_mapping(Path(given))
    present = {str(name) for name in columns if not str(name).startswith("__")}
    fitting = [
        mapping
        for mapping in map(built_in, built_in_names())
        if mapping.needs
        and present.issuperset(mapping.needs)
        and (mapping.melt is None or any(re.search(mapping.melt.columns, c) for c in present))
    ]
    if fitting:
        return max(fitting, key=lambda mapping: len(mapping.needs))
    shown = ", ".join(sorted(present)[:30]) or "none"
    raise InputError(
        f"no known format has these columns: {shown}. Write a mapping file and give it with "
        f"--mapping; it says which column is the task, the arm and the score. Known formats: "
        f"{', '.join(built_in_names())}"
    )
