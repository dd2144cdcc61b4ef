"""Named copies of an arm with changed settings, one by one or as an axis of values."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import AfterValidator, Field, field_validator

from kdlora.spec.base import Strict
from kdlora.vocabulary.arm import Arm

SECTIONS = ("training", "adapter", "distillation")


def _known_arm(value: str) -> str:
    return str(Arm.parse(value, plain=True))


ArmName = Annotated[str, AfterValidator(_known_arm)]  # an arm without a label, as `arms` lists it


class Variation(Strict):
    """An arm with some of its settings changed."""

    arm: ArmName = Field(description="the arm that is varied, which need not be among arms")
    training: dict[str, Any] = Field({}, description="settings of `training` that differ")
    adapter: dict[str, Any] = Field({}, description="settings of `adapter` that differ")
    distillation: dict[str, Any] = Field({}, description="settings of `distillation` that differ")


class Ablation(Strict):
    """Axes along which an arm is varied: one at a time, or all combinations as a grid."""

    arm: ArmName = Field(description="the arm that is varied, which need not be among arms")
    vary: dict[str, list[Any]] = Field(
        min_length=1,
        description="section.setting: values, such as distillation.temperature: [1, 4]",
    )
    grid: bool = Field(False, description="all combinations, not one axis at a time")

    @field_validator("vary")
    @classmethod
    def _some_values(cls, vary: dict[str, list[Any]]) -> dict[str, list[Any]]:
        problems = [f"{axis}: names no value" for axis, values in vary.items() if not values]
        for axis in vary:
            section, dot, name = axis.partition(".")
            if section not in SECTIONS or not dot or not name:
                problems.append(
                    f"'{axis}': write section.setting, such as distillation.temperature; the "
                    f"sections are {', '.join(SECTIONS)}"
                )
        if problems:
            raise ValueError("; ".join(problems))
        return vary


@dataclass(frozen=True)
class PlannedArm:
    """An arm, or a labelled copy of it with `changes` (section -> setting -> value).

    A dotted setting such as ``options.init_r`` changes one key and keeps its neighbours. `where`
    is the place in the study file.
    """

    arm: Arm
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    where: str = ""

    def __str__(self) -> str:
        return str(self.arm)


def expand(
    variations: Mapping[str, Variation], ablations: Iterable[Ablation]
) -> Iterator[PlannedArm]:
    """Every labelled arm that the two sections of a study mean, in their order."""
    for label, variation in variations.items():
        changes = {s: values for s in SECTIONS if (values := getattr(variation, s))}
        arm = Arm.parse(variation.arm).with_label(label)
        yield PlannedArm(arm, changes, f"variations.{label}")
    for number, ablation in enumerate(ablations):
        arm, names = Arm.parse(ablation.arm), _short_names(ablation.vary)
        axes = [[(axis, value) for value in values] for axis, values in ablation.vary.items()]
        points = itertools.product(*axes) if ablation.grid else ((one,) for a in axes for one in a)
        for point in points:
            label = " ".join(f"{names[axis]}={_written(value)}" for axis, value in point)
            yield PlannedArm(arm.with_label(label), _changes(point), f"ablations.{number}.vary")


def _short_names(axes: Iterable[str]) -> dict[str, str]:
    """An axis's name without its section, or all of it where two are then alike."""
    ends = {axis: axis.partition(".")[2] for axis in axes}
    twice = {end for end in ends.values() if list(ends.values()).count(end) > 1}
    return {axis: axis if end in twice else end for axis, end in ends.items()}


def _written(value: Any) -> str:
    """A value as it stands in a label: without brackets, commas and blanks."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return "+".join(map(_written, value))
    if isinstance(value, dict):
        return "+".join(f"{k}:{_written(v)}" for k, v in value.items())
    return re.sub(r"[\s,\[\]]+", "_", str(value))


def _changes(point: Iterable[tuple[str, Any]]) -> dict[str, dict[str, Any]]:
    changes: dict[str, dict[str, Any]] = {}
    for axis, value in point:
        section, _, setting = axis.partition(".")
        changes.setdefault(section, {})[setting] = value
    return changes


def spread(values: Mapping[str, Any], current: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted settings as whole ones: what `current` has beside them is kept."""
    whole: dict[str, Any] = {}
    for name, value in values.items():
        top, *inner = name.split(".")
        if not inner:
            whole[name] = value
            continue
        within = whole.setdefault(top, copy.deepcopy(current.get(top)) or {})
        for part in inner[:-1]:
            within = within.setdefault(part, {})
        within[inner[-1]] = value
    return whole
