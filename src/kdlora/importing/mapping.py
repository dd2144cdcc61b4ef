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
      status: {from: state, values: {oom: failed}}
    arm: {from: method, values: {FT: teacher/fft, LoRA: "teacher/lora", KD: "student/kd-{peft}"}}
    decimal: comma                               # where the cells themselves leave it open
    set: {pair: bert, precision: fp32}           # the same for all rows

An arm of two columns is named by a value that quotes the other, as "student/kd-{peft}" does, or by
both at once:

    arm:
      from: [method, rank]
      join: " "
      values: {LoRA 8: teacher/lora, KD 8: student/kd-lora, KD 16: "student/kd-lora[rank 16]"}

Everything that the file does not name is kept under its own name.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator

from kdlora.errors import InputError, did_you_mean
from kdlora.files import read_text
from kdlora.importing.numbers import Decimal, check_unit
from kdlora.spec.base import Strict, explain
from kdlora.spec.yaml_file import load_yaml

ROW = "__row"  # where in the source a row stands; becomes part of its provenance


class ColumnMapping(Strict):
    """Where a tidy column comes from."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    source: tuple[str, ...] = Field(alias="from", description="foreign columns, first one wins")
    unit: str = Field("", description="unit of numbers that carry none")
    values: dict[str, str] = Field({}, description="foreign value -> ours; others stay")
    join: str | None = Field(
        None, description="put what all of `from` hold side by side, with this between"
    )
    decimal: Decimal | None = Field(None, description="how the numbers write decimals")
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
    files: tuple[str, ...] = Field(
        ("metrics.json",),
        description="folders: names or patterns (results_*.json); of a run's folder the first one",
    )
    decimal: Decimal | None = Field(
        None, description="how all numbers write decimals; default as the cells tell"
    )
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

    @field_validator("arm", mode="before")
    @classmethod
    def _short_arm(cls, value: Any) -> Any:
        return {"from": value} if isinstance(value, str | list) else value

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
        values = load_yaml(read_text(path))
    except FileNotFoundError:
        raise InputError(
            f"no mapping file at {path}; known by name:{did_you_mean(str(path), built_in_names())}"
        ) from None
    except OSError as error:
        raise InputError(f"cannot read the mapping file {path}: {error.strerror}") from None
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


def known_by_columns(columns: Iterable[str]) -> Mapping | None:
    """The mapping that comes with kdlora whose needed columns are all there, None for none.

    Of a wide table it must understand every other column: a method beside those that it knows would
    be lost.
    """
    present = {str(name) for name in columns if name != ROW}
    fitting = [
        mapping
        for mapping in map(built_in, built_in_names())
        if mapping.needs
        and present.issuperset(mapping.needs)
        and (mapping.melt is None or _melts_all(mapping.melt, present - {*mapping.needs}))
    ]
    return max(fitting, key=lambda mapping: len(mapping.needs), default=None)


def _melts_all(melt: Melt, columns: Collection[str]) -> bool:
    return bool(columns) and all(re.search(melt.columns, column) for column in columns)


def find_mapping(given: str | Path | Mapping) -> Mapping:
    """The mapping asked for: itself, the name of one that comes with kdlora, or a file."""
    if isinstance(given, Mapping):
        return given
    named = str(given)
    return built_in(named) if named in built_in_names() else read_mapping(Path(given))
