"""Early decisions: which arms race one another, when the slower half stops, and in which blocks.

Successive halving (Jamieson and Talwalkar 2016, "Non-stochastic best arm identification and
hyperparameter optimization"): all candidates train up to a rung, the better share goes on. Every
candidate keeps its full schedule, so one that survives is the run it would have been anyway.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, PositiveInt, field_validator

from kdlora.errors import did_you_mean
from kdlora.spec.base import Strict, as_tuple
from kdlora.spec.fingerprint import hash_json
from kdlora.vocabulary.arm import labelled, matching, teaching_arm

if TYPE_CHECKING:
    from kdlora.spec.study import Study


class Halving(Strict):
    """Arms of which only the better ones are trained to the end, block by block."""

    arms: Annotated[
        tuple[str, ...], BeforeValidator(as_tuple, json_schema_input_type=str | list[str])
    ] = Field(
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


def halving_problems(study: Study) -> Iterator[str]:
    """Races that cannot be run: nobody in them, or someone who must not stop."""
    arms = {str(planned): planned for planned in study.planned_arms()}
    titles = list(arms)
    taken: dict[str, int] = {}
    for number, halving in enumerate(study.halving):
        place = "halving" if len(study.halving) == 1 else f"halving.{number}"
        for pattern in halving.arms:
            if not matching([pattern], titles):
                yield f"{place}: '{pattern}' names no arm.{did_you_mean(pattern, titles)}"
        candidates = matching(halving.arms, titles)
        if len(candidates) == 1:
            yield f"{place}: {candidates[0]} has nobody to race: name two arms or more"
        too_short: dict[int, list[str]] = {}
        for title in candidates:
            if taken.setdefault(title, number) != number:
                yield f"{place}: {title} races already in halving.{taken[title]}"
            if title == str(teaching_arm(study.arms)) and any(
                planned.arm.distillation == "kd" for planned in arms.values()
            ):
                yield f"{place}: {title} teaches the students, so it cannot be stopped"
            if arms[title].arm.adaptation == "given":
                yield f"{place}: {title} is not trained, so nothing of it can be stopped"
                continue
            epochs = study.section(arms[title], "training").epochs
            if halving.rungs[-1] >= epochs:
                too_short.setdefault(epochs, []).append(title)
        for epochs, late in too_short.items():
            yield (
                f"{place}: rung {halving.rungs[-1]} is no early decision for runs of {epochs} "
                f"epoch{'s' * (epochs != 1)} ({', '.join(late)}): name epochs before the last"
            )
        roles = {arms[title].arm.role for title in candidates}
        if len(roles) > 1:
            yield f"{place}: teachers and students do not race: name arms of one role"
