"""The adapter section of a study: its size, where it sits, and what else its method takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from kdlora.spec.base import Strict, Strings


class Adapter(Strict):
    """The adapter of every PEFT arm.

    Its size is a `rank`, or a `budget` of trainable parameters from which the rank follows once
    the encoder is known. `method` and `config` are for the arms named ``peft`` alone: any other
    method of peft and the arguments of its config, which then say all but the targets.
    """

    rank: PositiveInt | None = Field(16, description="default 16; not together with a budget")
    alpha: PositiveFloat | Literal["rank", "2*rank"] = "2*rank"
    dropout: float = Field(0.0, ge=0, lt=1)
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
        if isinstance(self.alpha, str):
            return float(self.known_rank * (2 if self.alpha == "2*rank" else 1))
        return self.alpha
