"""What a deployment asks for: limits, what is preferred among what keeps them, and profiles."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from kdlora.errors import InputError, Problems, did_you_mean
from kdlora.evidence.result import Result
from kdlora.spec.encoders import is_licence
from kdlora.vocabulary.metric import Metric

PREFERENCES = ("score", "latency", "size")
ROLES = ("any", "student")
RUNTIMES = ("any", "torch", "onnx")
QUANTIZATIONS = ("none", "int8", "int4")


@dataclass(frozen=True)
class Constraints(Result):
    """Limits of a choice; None is no limit.

    max_size_mb: MB (10^6 bytes) on disk. max_latency_ms: for one text, at the percentile `latency`.
    min_score: of the task's metric on the selection split, in its own unit (0.82); for a metric of
    which less is better, the most that is allowed. max_drop: lost at most against the
    teacher, in points; in per cent of the teacher's score where the metric is not shown in points
    (`Metric.drop_unit`). prefer: what is best among
    those that keep all limits; ties in cost are broken by the score, ties in score by latency.
    role: student leaves the teachers out. min_coverage: share of the selection split that is
    answered at least, where unsure answers are withheld so that those given have the `accuracy`.
    licence: those that the encoder may have, none is no
    limit; "unknown" is one like any other, so what nobody states is left out unless it is named.
    """

    max_size_mb: float | None = None
    max_latency_ms: float | None = None
    min_score: float | None = None
    max_drop: float | None = None
    runtime: str = "any"
    quantize: tuple[str, ...] = QUANTIZATIONS
    prefer: str = "score"
    latency: str = "p95"
    role: str = "any"
    min_coverage: float | None = None
    accuracy: float = 0.95
    licence: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        problems = [
            f"{name} is {value:g}; expected a number above 0"
            for name in ("max_size_mb", "max_latency_ms")
            if (value := getattr(self, name)) is not None and not value > 0
        ]
        if self.max_drop is not None and not self.max_drop >= 0:
            problems.append(
                f"max_drop is {self.max_drop:g}; expected points or per cent, 0 or more"
            )
        if self.min_score is not None and not math.isfinite(self.min_score):
            problems.append(f"min_score is {self.min_score}; expected a score such as 0.82")
        for name in ("min_coverage", "accuracy"):
            share = getattr(self, name)
            if share is not None and not 0 < share < 1:
                problems.append(f"{name} is {share:g}; expected a share below 1, such as 0.9")
        for name, known in (("prefer", PREFERENCES), ("runtime", RUNTIMES), ("role", ROLES),
                            ("latency", ("p50", "p95"))):  # fmt: skip
            if getattr(self, name) not in known:
                hint = did_you_mean(str(getattr(self, name)), known)
                problems.append(f"unknown {name} '{getattr(self, name)}'.{hint}")
        for given in self.quantize:
            if given not in QUANTIZATIONS:
                problems.append(f"unknown quantize '{given}'.{did_you_mean(given, QUANTIZATIONS)}")
        if not self.quantize:
            problems.append(f"quantize is empty; expected some of {', '.join(QUANTIZATIONS)}")
        for given in self.licence:
            if not is_licence(given):
                problems.append(f"licence '{given}'; expected the hub's identifiers (apache-2.0)")
        if problems:
            raise InputError(problems, where="constraints")

    def changed(self, **values: Any) -> Constraints:
        """With these instead, where they are not None."""
        return replace(self, **{k: v for k, v in values.items() if v is not None})

    def limits(self) -> dict[str, Any]:
        """The constraints that are set, by name."""
        blank = Constraints()
        return {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name not in ("prefer", "latency", "accuracy")
            and getattr(self, f.name) != getattr(blank, f.name)
        }


def worst_scores(constraints: Constraints, scored_by: Metric, reference: Any) -> dict[str, Any]:
    """Limit of the score -> the worst score that keeps it, where drops are from `reference`.

    Scores in the metric's own unit: a number, or an array where the reference is one.
    """
    found: dict[str, Any] = {}
    if constraints.min_score is not None:
        found["min_score"] = constraints.min_score
    if constraints.max_drop is not None:
        found["max_drop"] = scored_by.worst_allowed(reference, constraints.max_drop)
    return found


@dataclass(frozen=True)
class Profile:
    """Constraints with a name, and why they are so."""

    constraints: Constraints
    why: str


# The one student of a study: the report names it first, and it is what is saved.
DEFAULT = Constraints(role="student", runtime="torch")

PROFILES = {
    "student": Profile(
        DEFAULT,
        "no limits: the student with the best score as it is saved, which the report names first",
    ),
    "server": Profile(
        Constraints(max_drop=1.0, prefer="latency"),
        "disk is cheap and requests wait: the fastest within 1 point of the teacher (of an "
        "error, within 1 %)",
    ),
    "mobile": Profile(
        Constraints(max_size_mb=70.0, max_drop=3.0, runtime="onnx"),
        "the download counts: the best score of at most 70 MB that needs no PyTorch, within "
        "3 points of the teacher (of an error, within 3 %)",
    ),
    "edge": Profile(
        Constraints(max_size_mb=25.0, max_latency_ms=25.0, max_drop=5.0, runtime="onnx",
                    prefer="size"),
        "memory and processor are small: the smallest of at most 25 MB and 25 ms a text, within "
        "5 points of the teacher (of an error, within 5 %)",
    ),
    "max-quality": Profile(
        Constraints(quantize=("none",)),
        "nothing is dearer than a wrong answer: the best score, not quantised",
    ),
}  # fmt: skip


def asked_for(name: str | None, **limits: Any) -> list[tuple[str | None, Constraints]]:
    """The profile of this name with `limits` of its own, else the limits alone, else all profiles.

    Raises InputError for a name or a limit that is not known.
    """
    known = [f.name for f in fields(Constraints)]
    problems = Problems()
    problems.add(
        *(f"unknown limit '{x}'.{did_you_mean(x, known)}" for x in limits if x not in known)
    )
    limits = {x: value for x, value in limits.items() if x in known}
    own = Constraints()
    with problems.caught():
        own = own if name is None else profile(name).constraints
    with problems.caught():
        own = own.changed(**limits)
    problems.raise_any()
    if name is not None or any(value is not None for value in limits.values()):
        return [(name, own)]
    return [(name, one.constraints) for name, one in PROFILES.items()]


def profile(name: str) -> Profile:
    """Raises InputError for a name that is not known."""
    if name not in PROFILES:
        raise InputError(f"unknown profile '{name}'.{did_you_mean(name, PROFILES)}")
    return PROFILES[name]
