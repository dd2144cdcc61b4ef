"""Named copies of an arm with changed settings, one by one or as an axis of values."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import Field, field_validator

from kdlora.spec.base import Strict
from kdlora.vocabulary.arm import Arm, labelled, parse_arm

SECTIONS = ("training", "adapter", "distillation")
_OF_PEFT = ("method", "config", "targets")  # the settings that an arm named peft has
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def _known_arm(value: str) -> str:
    return str(parse_arm(value))


class Variation(Strict):
    """An arm with some of its settings changed."""

    arm: str
    training: dict[str, Any] = {}
    adapter: dict[str, Any] = {}
    distillation: dict[str, Any] = {}

    _arm = field_validator("arm")(_known_arm)


class Ablation(Strict):
    """Axes along which an arm is varied: one at a time, or all combinations as a grid."""

    arm: str
    vary: dict[str, list[Any]] = Field(
        min_length=1,
        description="section.setting: values, such as distillation.temperature: [1, 4]",
    )
    grid: bool = Field(False, description="all combinations, not one axis at a time")

    _arm = field_validator("arm")(_known_arm)

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
    label: str = ""
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    where: str = ""

    def __str__(self) -> str:
        return labelled(str(self.arm), self.label)


def expand(
    variations: Mapping[str, Variation], ablations: Iterable[Ablation]
) -> Iterator[PlannedArm]:
    """Every labelled arm that the two sections of a study mean, in their order."""
    for label, variation in variations.items():
        changes = {s: values for s in SECTIONS if (values := getattr(variation, s))}
        yield PlannedArm(parse_arm(variation.arm), label, changes, f"variations.{label}")
    for number, ablation in enumerate(ablations):
        arm, names = parse_arm(ablation.arm), _short_names(ablation.vary)
        axes = [[(axis, value) for value in values] for axis, values in ablation.vary.items()]
        points = itertools.product(*axes) if ablation.grid else ((one,) for a in axes for one in a)
        for point in points:
            label = " ".join(f"{names[axis]}={_written(value)}" for axis, value in point)
            yield PlannedArm(arm, label, _changes(point), f"ablations.{number}.vary")


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
    found: dict[str, Any] = {}
    for name, value in values.items():
        top, *inner = name.split(".")
        if not inner:
            found[name] = value
            continue
        place = found.setdefault(top, copy.deepcopy(current.get(top)) or {})
        for part in inner[:-1]:
            place = place.setdefault(part, {})
        place[inner[-1]] = value
    return found


def variation_problems(
    arms: Iterable[PlannedArm], variations: Mapping[str, Variation]
) -> Iterator[str]:
    """What is wrong with labels, and with settings that an arm does not have."""
    for label in variations:
        if not _LABEL.fullmatch(label):
            yield (
                f"variations: '{label}' is no label: use letters, digits and . _ + -, "
                "beginning with a letter or digit"
            )
    seen: set[str] = set()
    for planned in arms:
        name = str(planned)
        if name in seen:
            yield f"{name} is named twice among variations and ablations"
        seen.add(name)
        if planned.arm.adaptation == "given":
            yield f"{name}: a given teacher is not trained, so nothing of it can vary"
        if not planned.changes:
            yield f"{name}: changes nothing; give training, adapter or distillation settings"
        unused = {
            "adapter": planned.arm.adaptation == "fft",
            "distillation": planned.arm.distillation == "none",
        }
        adapter = set(planned.changes.get("adapter", ()))
        if planned.arm.adaptation == "peft":
            idle = {name for name in adapter if name.split(".")[0] not in _OF_PEFT}
            instead = "set the arguments of its method in adapter.config"
        else:
            idle = {name for name in adapter if name.split(".")[0] in ("method", "config")}
            instead = f"name an arm such as {Arm('student', 'peft', 'kd')}"
        if idle and not unused["adapter"]:
            shown = ", ".join(f"adapter.{name}" for name in sorted(idle))
            yield f"{name}: {shown} would change nothing of {planned.arm}; {instead}"
        for section in planned.changes:
            if unused.get(section):
                yield (
                    f"{name}: {planned.arm} has no {section}, so {section} settings would change "
                    f"nothing.{_other_arm(planned.arm, section)}"
                )


def _other_arm(arm: Arm, section: str) -> str:
    if section == "distillation" and arm.role == "student":
        return f" Did you mean {replace(arm, distillation='kd')}?"
    return ""
