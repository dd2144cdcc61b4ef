"""Short forms of large studies: a matrix of encoders, lists of adapter sizes, and exclusions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from kdlora.errors import did_you_mean
from kdlora.spec.base import Strict, as_tuple
from kdlora.spec.encoders import Layers, Pair
from kdlora.spec.sections import task_name
from kdlora.spec.variations import PlannedArm
from kdlora.vocabulary.arm import BASELINES, GIVEN_TEACHER, PEFT_VARIANTS, Arm, matching

if TYPE_CHECKING:
    from kdlora.spec.study import Study

BASELINE_ARMS = tuple(str(Arm("baseline", name)) for name in BASELINES)


def _as_some(value: Any) -> Any:
    """One encoder where several may stand; a mapping is a student made of layers."""
    return (value,) if isinstance(value, str | dict | Layers) else value


class Matrix(Strict):
    """Every teacher beside every student: each combination is a pair of its own."""

    teachers: Annotated[
        tuple[str, ...], BeforeValidator(as_tuple, json_schema_input_type=str | list[str])
    ] = Field(min_length=1, description="encoders that teach, each trained once for all students")
    students: Annotated[
        tuple[str | Layers, ...],
        BeforeValidator(_as_some, json_schema_input_type=str | Layers | list[str | Layers]),
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


_Names = Annotated[
    tuple[str, ...], BeforeValidator(as_tuple, json_schema_input_type=str | list[str])
]
_Numbers = Annotated[
    tuple[int, ...], BeforeValidator(as_tuple, json_schema_input_type=int | list[int])
]


class Exclusion(Strict):
    """Places of the study's table that are left out: those that agree with all that is named."""

    pair: _Names = Field((), description="names of pairs; default: any")
    task: _Names = Field((), description="names of tasks; default: any")
    arm: _Names = Field(
        (), description="arms, labelled arms, or patterns such as student/kd-*; default: any"
    )
    seed: _Numbers = Field((), description="seeds; default: any")

    @model_validator(mode="after")
    def _of_something(self) -> Exclusion:
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
    return (value,) if isinstance(value, dict | Exclusion) else value


@dataclass(frozen=True)
class Exclusions:
    """All exclusions of a study, asked block by block."""

    entries: tuple[Exclusion, ...]

    def of_block(self, pair: str, task: str, seed: int, titles: Sequence[str]) -> frozenset[str]:
        """The titles among `titles` that this block leaves out."""
        found: set[str] = set()
        for entry in self.entries:
            if entry.within(pair, task, seed):
                found.update(_matching(entry.arm, tuple(titles)) if entry.arm else titles)
        return frozenset(found)


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
        own = overrides.get(str(planned.arm), {}).get("adapter", {})
        fixed = isinstance(own, Mapping) and bool({"rank", "budget"} & set(own))
        if planned.label or planned.arm.adaptation not in PEFT_VARIANTS or fixed:
            continue
        for name, values in sizes.items():
            for value in values:
                if value != own_size.get(name):
                    yield PlannedArm(
                        planned.arm, f"{name}={value}", {"adapter": {name: value}}, f"{name}s"
                    )


def size_problems(study: Study) -> Iterator[str]:
    """Lists of ranks or budgets that contradict each other or the adapter section."""
    if study.ranks and study.budgets:
        yield "ranks and budgets: an adapter's size is one of both, so give one list"
        return
    for name in ("rank", "budget"):
        values = getattr(study, f"{name}s")
        if len(set(values)) < len(values):
            yield f"{name}s: {list(values)} names one twice"
        other = "budget" if name == "rank" else "rank"
        given = getattr(study.adapter, other) if other in study.adapter.model_fields_set else None
        if values and given is not None:
            yield f"{name}s: the adapter's size is set by {other} {given} already: leave it out"
        own = getattr(study.adapter, name)
        stated = name in study.adapter.model_fields_set
        if values and stated and own is not None and own not in values:
            yield (
                f"{name}s: adapter.{name} is {own}, which is not among {list(values)}: add it, or "
                f"leave adapter.{name} out for {values[0]}"
            )


def exclusion_problems(study: Study) -> Iterator[str]:
    """Exclusions that name what the study does not have, or that leave nothing of it."""
    titles = [str(planned) for planned in study.planned_arms()]
    known: dict[str, list[Any]] = {
        "pair": [pair.name for pair in study.pairs],
        "task": [task_name(task) for task in study.tasks],
        "seed": list(study.seeds),
    }
    for number, entry in enumerate(study.exclude):
        place = f"exclude.{number}"
        for what, names in known.items():
            for name in getattr(entry, what):
                if name not in names:
                    hint = did_you_mean(str(name), map(str, names))
                    yield f"{place}: no {what} '{name}' in this study.{hint}"
        arms = [*titles, *BASELINE_ARMS] if study.baselines else list(titles)
        if any(p.teacher_is_trained or p.teacher_outputs for p in study.pairs):
            arms.append(str(GIVEN_TEACHER))
        for pattern in entry.arm:
            if not matching([pattern], arms):
                yield f"{place}: '{pattern}' names no arm.{did_you_mean(pattern, arms)}"
    exclusions = Exclusions(study.exclude)
    if study.exclude and all(
        exclusions.of_block(pair, task, seed, titles) >= set(titles)
        for pair in known["pair"]
        for task in known["task"]
        for seed in known["seed"]
    ):
        yield "exclude: nothing is left of the study"
