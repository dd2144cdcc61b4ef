"""Early decisions: which arms race one another, when the slower half stops, and in which blocks.

Successive halving (Jamieson and Talwalkar 2016, "Non-stochastic best arm identification and
hyperparameter optimization"): all candidates train up to a rung, the better share goes on. Every
candidate keeps its full schedule, so one that survives is the run it would have been anyway.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PositiveInt, field_validator

from kdlora.spec.base import Strict, Strings, as_tuple
from kdlora.spec.fingerprint import hash_json
from kdlora.vocabulary.arm import labelled, matching


class Halving(Strict):
    """Arms of which only the better ones are trained to the end, block by block."""

    arms: Strings = Field(
        min_length=1,
        description="candidates: arms, labelled arms, or patterns such as student/kd-*; they race "
        "within every pair, task and seed",
    )
    rungs: Annotated[
        tuple[PositiveInt, ...], BeforeValidator(as_tuple, json_schema_input_type=int | list[int])
    ] = Field((1,), min_length=1, description="epochs after which the weaker ones stop")
    keep: float = Field(
        0.5, gt=0, lt=1, description="share that goes on at each rung, rounded up, at least one"
    )

    @field_validator("rungs")
    @classmethod
    def _rising(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError(f"{list(value)}: name each epoch once, in rising order")
        return value


def as_halvings(value: Any) -> Any:
    """One race where several may stand."""
    return (value,) if isinstance(value, dict | Halving) else value


@dataclass(frozen=True)
class Race:
    """The candidates of one block, by title and run id, in the order of the plan."""

    pair: str
    task: str
    seed: int
    candidates: tuple[tuple[str, str], ...]
    rungs: tuple[int, ...]
    keep: float

    @property
    def key(self) -> str:
        """Names this race on disk: another candidate, rung or share makes it another race."""
        runs = [run_id for _, run_id in self.candidates]
        fixed = [self.pair, self.task, self.seed, runs, list(self.rungs), self.keep]
        return f"{self.task}-s{self.seed}-{hash_json(fixed, 12)}"

    def survivors(self, n: int) -> int:
        """How many of `n` candidates go on."""
        # 0.6 * 5 is 3.0000000000000004 in no processor's favour: rounded before it is rounded up
        return max(1, math.ceil(round(self.keep * n, 9)))


def races(halvings: Iterable[Halving], cells: Iterable[Mapping[str, Any]]) -> tuple[Race, ...]:
    """Every race of a plan. `cells` are mappings with pair, task, arm, label, seed and run_id.

    Blocks with fewer than two different runs have nothing to decide and are left out.
    """
    halvings = tuple(halvings)
    found: dict[tuple[int, str, str, int], dict[str, str]] = {}
    for cell in cells:
        title = labelled(cell["arm"], cell.get("label", ""))
        for number, halving in enumerate(halvings):
            if matching(halving.arms, [title]):
                place = (number, cell["pair"], cell["task"], cell["seed"])
                found.setdefault(place, {}).setdefault(cell["run_id"], title)
    return tuple(
        Race(
            pair,
            task,
            seed,
            tuple((title, run_id) for run_id, title in runs.items()),
            halvings[number].rungs,
            halvings[number].keep,
        )
        for (number, pair, task, seed), runs in found.items()
        if len(runs) > 1
    )
