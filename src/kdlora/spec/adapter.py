"""The adapter section of a study: its size, where it sits, and what else its method takes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import (
    BeforeValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from kdlora.spec.base import Strict, Strings

_NUMBER = r"(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"
_MULTIPLE = rf"^\s*(({_NUMBER})\s*\*\s*)?rank\s*$"


def _as_alpha(value: Any) -> Any:
    """A positive number, or a multiple of the rank in one spelling.

    One spelling, so that ``2 * rank`` and ``2.0*rank`` are the run that ``2*rank`` is.
    """
    found = re.fullmatch(_MULTIPLE, value) if isinstance(value, str) else None
    try:
        number = float(found[2] or 1) if found else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not 0 < number < math.inf:
        raise ValueError(
            f"{value!r} is no alpha: give a positive number (16), rank, or a positive multiple of "
            "it (2*rank, 0.5*rank)"
        )
    if not found:
        return number
    return "rank" if number == 1 else f"{number:.12g}*rank"


Alpha = Annotated[
    float | str,
    BeforeValidator(
        _as_alpha,
        json_schema_input_type=PositiveFloat | Annotated[str, Field(pattern=_MULTIPLE)],
    ),
]


class Adapter(Strict):
    """The adapter of every PEFT arm.

    Its size is a `rank`, or a `budget` of trainable parameters from which the rank follows once
    the encoder is known. `method` and `config` are for the arms named ``peft`` alone: any other
    method of peft and the arguments of its config, which then say all but the targets.
    """

    rank: PositiveInt | None = Field(16, description="default 16; not together with a budget")
    alpha: Alpha = Field("2*rank", description="a number, rank, or a multiple as 0.5*rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="of the adapter's input while it trains")
    targets: Strings = Field(
        ("all-linear",),
        description="all-linear, query-value (as in the reports), or module names",
    )
    options: dict[str, Any] = Field({}, description="further arguments of the variant's config")
    budget: PositiveInt | None = Field(
        None, description="trainable parameters of the adapter, without the head: sets the rank"
    )
    method: str | None = Field(None, description="of arms named peft: a method of peft")
    config: dict[str, Any] = Field({}, description="of arms named peft: its config's arguments")

    @model_validator(mode="before")
    @classmethod
    def _one_size(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("budget") is None:
            return values
        if values.get("rank") is not None:
            raise ValueError(
                f"rank {values['rank']} and budget {values['budget']} are both given: the budget "
                "sets the rank, so give one of them"
            )
        return {**values, "rank": None}

    @model_validator(mode="after")
    def _sized(self) -> Self:
        if self.rank is None and self.budget is None and self.method is None:
            raise ValueError("give a rank, or a budget of trainable parameters")
        if self.config and self.method is None:
            raise ValueError("config holds arguments of a peft method: name that in method")
        return self

    @field_validator("method")
    @classmethod
    def _as_peft_writes_it(cls, value: str | None) -> str | None:
        """In capitals; ``loha`` and ``ln-tuning`` are read too."""
        return None if value is None else value.strip().upper().replace("-", "_")

    def replaced(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """This section's values with some replaced; a size gives way to one of the other kind."""
        kept = self.model_dump()
        if values.get("budget") is not None:
            del kept["rank"]
        elif values.get("rank") is not None:
            del kept["budget"]
        if "method" in values:
            del kept["config"]
        return {**kept, **values}

    def of(self, adaptation: str) -> Adapter:
        """What of this section holds for an adaptation: the peft method, or all the rest."""
        if adaptation == "peft":
            return Adapter(rank=None, method=self.method, config=self.config, targets=self.targets)
        return self.model_copy(update={"method": None, "config": {}})

    def at_rank(self, rank: int) -> Adapter:
        """The same adapter with its budget resolved to a rank."""
        return self.model_copy(update={"rank": rank, "budget": None})

    @property
    def known_rank(self) -> int:
        """The rank. Raises ValueError where a budget has not been resolved yet."""
        if self.rank is None:
            raise ValueError("the rank is not known before the budget is resolved")
        return self.rank

    @property
    def alpha_value(self) -> float:
        """Alpha as a number. Raises ValueError where it needs a rank that is not known yet."""
        if isinstance(self.alpha, str):
            factor = self.alpha.removesuffix("rank").rstrip("*")
            return self.known_rank * float(factor or 1)
        return self.alpha
