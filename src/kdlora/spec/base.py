"""What every section of the study file has in common, and how pydantic's findings are told."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
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
    for item in _one_a_choice(error.errors()):
        parts, models = _follow(item["loc"], model)
        place = (prefix + ".".join(parts)).rstrip(".")
        kind, given = item["type"], item.get("input")
        if kind == "extra_forbidden":
            message = f"unknown key.{did_you_mean(parts[-1], _keys(models))}"
        elif kind == "missing":
            message = "is required"
        elif kind == "no_choice":
            message = item["msg"]
        elif kind == "value_error":
            message = str(item["ctx"]["error"])
        else:
            message = item["msg"][0].lower() + item["msg"][1:] + f", got {given!r}"
        problems.append(f"{place}: {message}" if place else message)
    return list(dict.fromkeys(problems))


# What may be where several types may: as pydantic names the type's error.
_KINDS = {
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "tuple_type": "a list",
    "string_type": "a name",
}


def _is_choice(part: int | str) -> bool:
    """Whether a part of a location is no part of the file: which of several types was tried."""
    return part == "str" or bool(re.match(r"function-|(literal|dict|tuple)\[", str(part)))


def _one_a_choice(errors: Iterable[Any]) -> Iterator[Any]:
    """The errors, with one for a value that is none of the types that may stand in its place.

    A value that is like one of them is told what is wrong inside of it, and nothing else.
    """
    groups: dict[tuple[Any, ...], list[Any]] = {}
    for number, item in enumerate(errors):
        at = next((i for i, part in enumerate(item["loc"]) if _is_choice(part)), None)
        groups.setdefault((number,) if at is None else ("", *item["loc"][:at]), []).append(item)
    for (first, *place), items in groups.items():
        whole = [item for item in items if first == "" and len(item["loc"]) == len(place) + 1]
        whole = [item for item in whole if item["type"] in (*_KINDS, "literal_error")]
        inside = [item for item in items if item not in whole]
        word = next((i["input"] for i in whole if isinstance(i["input"], str)), None)
        if not whole or (inside and word is None):
            yield from inside
            continue
        kinds = [_KINDS.get(item["type"]) or item["ctx"]["expected"] for item in whole]
        kinds = sorted(dict.fromkeys(kinds), key=lambda kind: kind.startswith("a "))
        hint = did_you_mean(word, re.findall(r"'(.*?)'", kinds[0])) if word else ""
        hint = hint.partition(" Known:")[0]  # they stand in the sentence
        given = whole[0]["input"]
        message = f"input should be {' or '.join(kinds)}, got {given!r}{'.' * bool(hint)}{hint}"
        yield {"loc": tuple(place), "type": "no_choice", "msg": message, "input": given}


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
        if tried or _is_choice(part):
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
