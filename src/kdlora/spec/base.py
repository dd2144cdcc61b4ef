"""What every section of the study file has in common, and how pydantic's findings are told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from kdlora.errors import did_you_mean


class Strict(BaseModel):
    """A section of the file: unknown keys are errors, values do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def as_tuple(value: Any) -> Any:
    """One value where several may stand."""
    return (value,) if isinstance(value, str | int) else value


Strings = Annotated[
    tuple[str, ...], BeforeValidator(as_tuple, json_schema_input_type=str | list[str])
]


def explain(error: ValidationError, model: type[BaseModel], *, prefix: str = "") -> list[str]:
    """What is wrong, in sentences that a user of the YAML understands.

    Args:
        model: the model that was read; its annotations tell which keys are known where.
        prefix: where in the file the model's values stand, as ``overrides.student/fft.``.
    """
    problems = []
    for item in error.errors():
        parts, models = _follow(item["loc"], model)
        place = (prefix + ".".join(parts)).rstrip(".")
        kind, given = item["type"], item.get("input")
        if (
            kind == "string_type"
            and isinstance(given, dict | BaseModel)
            and item["loc"][-1] == "str"
        ):
            continue  # a name or a mapping is expected; the mapping's own problem is told too
        if kind == "extra_forbidden":
            message = f"unknown key.{did_you_mean(parts[-1], _keys(models))}"
        elif kind == "missing":
            message = "is required"
        elif kind == "value_error":
            message = str(item["ctx"]["error"])
        else:
            message = item["msg"][0].lower() + item["msg"][1:] + f", got {given!r}"
        problems.append(f"{place}: {message}" if place else message)
    return list(dict.fromkeys(problems))


def _follow(
    location: tuple[int | str, ...], model: type[BaseModel]
) -> tuple[list[str], list[type[BaseModel]]]:
    """A location as the file writes it, and the models that may stand around its last part.

    Where several types may stand, pydantic adds to the location which of them it tried.
    """
    parts: list[str] = []
    around, models = [model], [model]
    for part in map(str, location):
        tried = [m for m in models if m.__name__ == part]
        if tried or part == "str" or part.startswith("function-"):
            models = tried or models
            continue
        parts.append(part)
        around = models
        fields = [field for m in models for n, field in m.model_fields.items()
                  if part in (n, field.alias)]  # fmt: skip
        inner = [m for field in fields for m in _models_in(field.annotation)]
        models = list(dict.fromkeys(inner)) or models
    return parts, around


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _keys(models: list[type[BaseModel]]) -> list[str]:
    return [
        field.alias or name
        for model in models
        for name, field in model.model_fields.items()
        if not field.exclude  # a field that no file holds
    ]
