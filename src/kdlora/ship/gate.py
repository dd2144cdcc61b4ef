"""The accuracy gate: a smaller model ships only if its score on the report split is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kdlora.measure.quality import Array, checked, score_split
from kdlora.records.artefact import Trial
from kdlora.ship.quantize import Settings, quantize
from kdlora.vocabulary.metric import PERCENT, POINTS, Metric, metric
from kdlora.vocabulary.task import Task

# What may be lost unless it is said: points, or per cent of a score that is not shown in points.
MAX_DROP = {POINTS: 0.5, PERCENT: 1.0}
_ROUNDING = 1e-9  # a drop of exactly what is allowed passes


@dataclass(frozen=True)
class Verdict:
    """What became of the fp32 student's answers in another form."""

    score: float | None
    drop_points: float | None
    agreement: float | None
    max_abs_difference: float
    passed: bool


@dataclass(frozen=True, eq=False)
class Gate:
    """Labels [n] and the fp32 student's outputs [n, c] on the report split.

    A drop is in the `drop_unit` of the task's primary metric: in points, or for one that is not
    shown so (such as the RMSE) in per cent of the fp32 student's score. It is positive where the
    score got worse. `max_drop` is what may be lost; None means half a point, or 1 %.
    """

    task: Task
    labels: Array
    reference: Array
    max_drop: float | None = None

    @property
    def metric(self) -> Metric:
        return metric(self.task.primary)

    @property
    def allowed(self) -> float:
        """The largest drop that passes, in the metric's `drop_unit`."""
        return MAX_DROP[self.metric.drop_unit] if self.max_drop is None else self.max_drop

    @cached_property
    def score(self) -> float | None:
        """The fp32 student's own score."""
        return self._score(self.reference)

    def judge(self, outputs: Array) -> Verdict:
        """Compare outputs [n, c] of the same rows. What has no score does not pass."""
        score, before = self._score(outputs), self.score
        drop = None
        if score is not None and before is not None:
            drop = float(self.metric.drop(score, before))
        agreement = None
        if self.task.label_names:
            kind = self.task.kind
            agreement = float(np.mean(kind.right(outputs, kind.decide(self.reference))))
        return Verdict(
            score=score,
            drop_points=drop,
            agreement=agreement,
            max_abs_difference=float(np.abs(outputs - self.reference).max(initial=0.0)),
            passed=drop is not None and drop <= self.allowed + _ROUNDING,
        )

    def _score(self, outputs: Array) -> float | None:
        values, _ = checked(self.task, outputs, self.labels)
        return score_split(self.task, values, self.labels)[self.task.primary]


@dataclass(frozen=True)
class Chosen:
    """The outcome of `search`: what lies at the target, and everything that was tried."""

    verdict: Verdict
    trials: list[Trial]


def search(
    source: Path,
    target: Path,
    settings: Iterable[Settings],
    *,
    gate: Gate,
    outputs_of: Callable[[Path], np.ndarray],
    on_trial: Callable[[Trial], Any] = lambda trial: None,
) -> Chosen:
    """Quantise `source` to `target` with one setting after the other until the gate lets it pass.

    If none does, the one that lost least is at the target, and its verdict says that it failed.
    """
    trials: list[Trial] = []
    best: tuple[float, int, Verdict] | None = None
    attempt = target.with_name(f"{target.stem}.attempt.onnx")
    try:
        for number, setting in enumerate(settings):
            quantize(source, attempt, setting)
            verdict = gate.judge(outputs_of(attempt))
            trial = Trial(
                settings=str(setting),
                score=verdict.score,
                drop_points=verdict.drop_points,
                size_mb=attempt.stat().st_size / 1e6,
            )
            trials.append(trial)
            on_trial(trial)
            lost = np.inf if verdict.drop_points is None else verdict.drop_points
            if best is None or lost < best[0]:
                best = (lost, number, verdict)
                attempt.replace(target)
            if verdict.passed:
                break
    finally:
        attempt.unlink(missing_ok=True)
    if best is None:
        raise ValueError("no settings to try")
    _, number, verdict = best
    trials[number] = trials[number].model_copy(update={"chosen": True})
    return Chosen(verdict, trials)
