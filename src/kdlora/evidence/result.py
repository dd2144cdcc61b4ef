"""What every analysis shares: the rules it was made under and results that turn into plain data."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import pandas as pd

from kdlora.errors import InputError

# What a claim is about, the widest first.
Scope = Literal["tasks like these", "these tasks", "trained models"]
TASKS_LIKE_THESE: Final = "tasks like these"
THESE_TASKS: Final = "these tasks"
TRAINED_MODELS: Final = "trained models"
SCOPES: tuple[Scope, ...] = (TASKS_LIKE_THESE, THESE_TASKS, TRAINED_MODELS)
# What the number of an arm is in its column, see `evidence.best`; of the rest nothing is said.
Mark = Literal["best", "not told apart"]


class Result:
    """Base of the frozen dataclasses that analyses return."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; what is not a finite number becomes None."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return {f.name: plain(getattr(self, f.name)) for f in fields if f.repr}


def plain(value: Any) -> Any:
    """Turn dataclasses, arrays, frames and NumPy scalars into what `json.dumps` takes."""
    if isinstance(value, Result):
        return value.to_dict()
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, pd.DataFrame):
        return [plain(row) for row in value.to_dict("records")]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


@dataclass(frozen=True)
class Rules(Result):
    """How a comparison is judged; stored with every result.

    alpha: error rate of a verdict; intervals have confidence 1 - alpha.
    margin: differences within ±margin (in `margin_unit`) count as equivalent.
    correction: how p-values are corrected over the family of comparisons made together.
    power: that of the minimum detectable difference.
    draws, permutations: Monte-Carlo sizes; where every sign pattern can be listed, it is.
    bootstrap: "expanded" widens the percentiles for small samples (Hesterberg 2015), so that the
        interval covers what it says; "percentile" is the plain one.
    """

    alpha: float = 0.05
    margin: float = 1.0
    margin_unit: str = "points"
    correction: Literal["holm", "bh", "none"] = "holm"
    power: float = 0.8
    draws: int = 10_000
    permutations: int = 9_999
    bootstrap: Literal["expanded", "percentile"] = "expanded"

    def __post_init__(self) -> None:
        problems = []
        if not 0 < self.alpha < 0.5:
            problems.append(f"alpha is {self.alpha}; expected a value between 0 and 0.5")
        if not (math.isfinite(self.margin) and self.margin > 0):
            problems.append(f"margin is {self.margin}; expected a difference above 0")
        if not self.alpha < self.power < 1:
            problems.append(f"power is {self.power}; expected a value between alpha and 1")
        if self.correction not in ("holm", "bh", "none"):
            problems.append(f"correction is '{self.correction}'; expected holm, bh or none")
        if self.bootstrap not in ("expanded", "percentile"):
            problems.append(f"bootstrap is '{self.bootstrap}'; expected expanded or percentile")
        problems += [
            f"{name} is {value}; expected 0 (off) or at least 100"
            for name, value in (("draws", self.draws), ("permutations", self.permutations))
            if value < 0 or 0 < value < 100
        ]
        if problems:
            raise InputError(problems, where="rules of the comparison")


def finite(value: Any) -> float | None:
    """A float, or None for what is no finite number."""
    number = float(value)
    return number if math.isfinite(number) else None
