"""Short forms of large studies: a matrix of encoders, lists of adapter sizes, and exclusions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from kdlora.spec.base import Strict, Strings, as_tuple
from kdlora.spec.encoders import MadeStudent, Pair
from kdlora.spec.variations import PlannedArm
from kdlora.vocabulary.arm import PEFT_VARIANTS, matching


def _as_some(value: Any) -> Any:
    """One encoder where several may stand; a mapping is a student made of a part of one."""
    return (value,) if isinstance(value, str | dict | MadeStudent) else value


class PairMatrix(Strict):
    """Every teacher beside every student: each combination is a pair of its own."""

    teachers: Strings = Field(
        min_length=1, description="encoders that teach, each trained once for all students"
    )
    students: Annotated[
        tuple[str | MadeStudent, ...],
        BeforeValidator(
            _as_some, json_schema_input_type=str | MadeStudent | list[str | MadeStudent]
        ),
    ] = Field(min_length=1, description="encoders that learn, each from every teacher")
    teachers_are_trained: bool = Field(
        False, description="the teachers are already fine-tuned on this task: score, don't train"
    )

    def pairs(self) -> list[Pair]:
        """All combinations, teacher by teacher."""
        trained = self.teachers_are_trained
        return [
            Pair(teacher=teacher, student=student, teacher_is_trained=trained)
            for teacher in self.teachers
            for student in self.students
        ]


_Numbers = Annotated[
    tuple[int, ...], BeforeValidator(as_tuple, json_schema_input_type=int | list[int])
]


class ExcludedCells(Strict):
    """Places of the study's table that are left out: those that agree with all that is named."""

    pair: Strings = Field((), description="names of pairs; default: any")
    task: Strings = Field((), description="names of tasks; default: any")
    arm: Strings = Field(
        (), description="arms, labelled arms, or patterns such as student/kd-*; default: any"
    )
    seed: _Numbers = Field((), description="seeds; default: any")

    @model_validator(mode="after")
    def _of_something(self) -> ExcludedCells:
        if not (self.pair or self.task or self.arm or self.seed):
            raise ValueError("names nothing: give some of pair, task, arm and seed")
        return self

    def within(self, pair: str, task: str, seed: int) -> bool:
        """Whether it concerns a block at all; which of its arms, `arm` says."""
        return (
            (not self.pair or pair in self.pair)
            and (not self.task or task in self.task)
            and (not self.seed or seed in self.seed)
        )


def as_exclusions(value: Any) -> Any:
    """One exclusion where several may stand."""
    return (value,) if isinstance(value, dict | ExcludedCells) else value


@dataclass(frozen=True)
class Exclusions:
    """All exclusions of a study, asked block by block."""

    entries: tuple[ExcludedCells, ...]

    def of_block(self, pair: str, task: str, seed: int, titles: Sequence[str]) -> frozenset[str]:
        """The titles among `titles` that this block leaves out."""
        left_out: set[str] = set()
        for entry in self.entries:
            if entry.within(pair, task, seed):
                left_out.update(_matching(entry.arm, tuple(titles)) if entry.arm else titles)
        return frozenset(left_out)


@lru_cache(maxsize=256)
def _matching(patterns: tuple[str, ...], titles: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(matching(patterns, titles))


def sized_arms(
    arms: Iterable[PlannedArm],
    sizes: Mapping[str, Sequence[int]],
    own_size: Mapping[str, int | None],
    overrides: Mapping[str, Mapping[str, Any]],
) -> Iterator[PlannedArm]:
    """The labelled copies that `ranks` or `budgets` make of every PEFT arm without a label.

    Args:
        sizes: "rank" or "budget" -> the values named.
        own_size: the same keys -> the value that the arm itself has, which needs no copy.
        overrides: the study's, by arm; an arm that sets its own size there keeps it.
    """
    for planned in arms:
        own = overrides.get(str(planned.arm.plain), {}).get("adapter", {})
        fixed = isinstance(own, Mapping) and bool({"rank", "budget"} & set(own))
        if planned.arm.label or planned.arm.adaptation not in PEFT_VARIANTS or fixed:
            continue
        for name, values in sizes.items():
            for value in values:
                if value != own_size.get(name):
                    arm = planned.arm.with_label(f"{name}={value}")
                    yield PlannedArm(arm, {"adapter": {name: value}}, f"{name}s")
