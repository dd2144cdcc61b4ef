"""What a recommendation is made of; `recommend` fills it, texts and reports read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kdlora.choice.candidates import Baseline, ModelForm
from kdlora.choice.constraints import Constraints
from kdlora.evidence.result import Result
from kdlora.vocabulary.metric import Metric, metric


@dataclass(frozen=True)
class Step(Result):
    """Something to do, why, and the command if there is one. `seeds` or `examples`: how many."""

    kind: str
    text: str
    command: str = ""
    seeds: int | None = None
    examples: int | None = None


@dataclass(frozen=True)
class BrokenLimit(Result):
    """A constraint that a candidate does not keep; `excess` is relative to the limit."""

    constraint: str
    limit: float | str
    value: float | str | None
    excess: float


@dataclass(frozen=True)
class JudgedForm(Result):
    """A candidate under the constraints.

    drop: below the best teacher, in the metric's `drop_unit`. difference, more being better, in
    points or the metric's own unit: to the choice, with its interval.
    score_over, difference_over: what varies in the interval, such as "texts only, one seed".
    """

    candidate: ModelForm
    broken: tuple[BrokenLimit, ...]
    score_low: float | None
    score_high: float | None
    drop: float | None
    drop_low: float | None = None
    drop_high: float | None = None
    p_meets: float | None = None
    p_best: float | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    score_over: str = ""
    difference_over: str = ""

    @property
    def fits(self) -> bool:
        return not self.broken

    @property
    def may_be_as_good(self) -> bool:
        """Whether the interval of its difference to the choice holds zero."""
        low, high = self.difference_low, self.difference_high
        return low is not None and high is not None and low <= 0 <= high


@dataclass(frozen=True)
class LimitEffect(Result):
    """What one constraint excludes, and how many candidates fit if it alone were lifted."""

    constraint: str
    limit: float | str
    excluded: tuple[str, ...]
    fit_without: int


@dataclass(frozen=True)
class EasedLimit(Result):
    """How far one constraint alone would have to be eased so that something fits."""

    constraint: str
    limit: float | str
    needed: float | str | None
    candidate: str | None


@dataclass(frozen=True)
class Recommendation(Result):
    """The choice for one task. `certainty` is clear, likely, undecided, unknown or nothing fits.

    `not_told_apart` are the runners-up that may be as good: at a cost like the choice's where a
    cost is preferred, with an interval of the difference that holds zero.
    """

    task: str
    metric: str
    direction: int
    profile: str | None
    constraints: Constraints
    reference: ModelForm | None
    length: int | None
    choice: JudgedForm | None
    runners_up: tuple[JudgedForm, ...]
    nearest: tuple[JudgedForm, ...]
    exclusions: tuple[LimitEffect, ...]
    eased: tuple[EasedLimit, ...]
    probability: float | None
    certainty: str
    next_steps: tuple[Step, ...]
    notes: tuple[str, ...]
    n_candidates: int
    n_fitting: int
    n_examples: int
    draws: int
    considered: tuple[JudgedForm, ...]
    baseline: Baseline | None = None
    not_told_apart: tuple[JudgedForm, ...] = ()

    @property
    def scored_by(self) -> Metric:
        return metric(self.metric).directed(self.direction)

    @property
    def drops_from(self) -> ModelForm:
        """What drops are counted from: the best teacher, else the best candidate."""
        return self.reference or self._best

    @property
    def beats_baseline(self) -> bool:
        """Whether the choice, or else the best of all, is above all baselines.

        On the selection split, which chooses, as scores are shown.
        """
        if self.baseline is None:
            return True
        chosen = self._best if self.choice is None else self.choice.candidate
        return self.scored_by.is_above(chosen.score, self.baseline.score)

    @property
    def _best(self) -> ModelForm:
        found = [judged.candidate for judged in self.considered]
        return max(found, key=lambda one: self.direction * one.score)

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"drop_unit": self.scored_by.drop_unit}


@dataclass(frozen=True)
class Choices(Result):
    """Recommendations task by task; `lacking` says in one sentence, task by task, why a task that
    was asked for has none, `part` which part of the study was chosen from where not all of it."""

    found: tuple[Recommendation, ...]
    lacking: dict[str, str]
    part: str = ""
