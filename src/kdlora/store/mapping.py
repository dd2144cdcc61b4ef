"""How the columns of a foreign table become those of the tidy frame: a small YAML file.

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

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from kdlora.errors import InputError, did_you_mean
from kdlora.store.units import check_unit


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Column(Strict):
    """Where a tidy column comes from."""

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
    columns: dict[str, Column] = {}
    arm: Column | None = None
    metric_of_task: dict[str, str] = {}
    teacher_run: tuple[str, ...] = Field(
        (), description="a kd row's teacher is the teacher/fft row that shares these columns"
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
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
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
        problems = [
            f"{'.'.join(map(str, item['loc']))}: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors()
        ]
        raise InputError(problems, where=str(path)) from None


def built_in_names() -> list[str]:
    """Names of the mappings that come with kdlora."""
    folder = files("kdlora.store") / "mappings"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir())


def built_in(name: str) -> Mapping:
    """A mapping that comes with kdlora. Raises InputError for unknown names."""
    if name not in built_in_names():
        raise InputError(f"unknown mapping '{name}'.{did_you_mean(name, built_in_names())}")
    resource = files("kdlora.store") / "mappings" / f"{name}.yaml"
    return Mapping.model_validate(yaml.safe_load(resource.read_text(encoding="utf-8")))


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
