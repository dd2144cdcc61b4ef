"""What every section of the study file has in common."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict


class Strict(BaseModel):
    """A section of the file: unknown keys are errors, values do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def as_tuple(value: Any) -> Any:
    """One value where several may stand."""
    return (value,) if isinstance(value, str | int) else value


Strings = Annotated[
    tuple[str, ...], BeforeValidator(as_tuple, json_schema_input_type=str | list[str])
]
