"""Scores by epoch: of every run, and of models as means over their runs.

Histories are rows of a run's `history.jsonl`: `epoch`, `step` and `selection`, a score by metric.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import pandas as pd

from kdlora.evidence.diagnosis import epochs_table
from kdlora.records.tidy import rows_of

Histories = Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class Evaluation:
    """A score of one run, or the mean of `runs` of a model (`run_id` is empty), in its own unit.

    `kept`: the checkpoint of this evaluation was saved; of a mean, most often of all.
    """

    arm: str
    run_id: str
    epoch: float
    score: float
    kept: bool
    runs: int = 1


def logged_histories(frame: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    """Histories of imported runs, from their scores by epoch and the epoch that was kept."""
    table = epochs_table(frame)
    found = {}
    rows = rows_of(frame.loc[table.index], "run_id", "metric", "epoch_scores")
    for row, chosen in zip(rows, table["matched_epoch"], strict=True):
        found[row["run_id"]] = [
            {"epoch": float(i), "selection": {row["metric"]: score}, "kept": i == chosen}
            for i, score in enumerate(row["epoch_scores"], start=1)
        ]
    return found


def evaluations(cells: pd.DataFrame, histories: Histories, metric: str) -> list[Evaluation]:
    """Every evaluation of the runs of `cells` that has a score, run by run."""
    return [
        Evaluation(
            run["arm"], run["run_id"], float(point["epoch"]), float(value), is_saved(point, run)
        )
        for run in rows_of(cells, "arm", "run_id", "best_step")
        for point in histories.get(run["run_id"], ())
        if _is_number(value := (point.get("selection") or {}).get(metric))
    ]


def is_saved(point: Mapping[str, Any], run: Mapping[str, Any]) -> bool:
    """Whether the checkpoint of an evaluation is the one that was saved."""
    return bool(point.get("kept", "step" in point and point["step"] == run.get("best_step")))


def mean_evaluations(found: Sequence[Evaluation]) -> list[Evaluation]:
    """One curve a model: means over its runs, kept where most of them were."""
    by_point: dict[tuple[str, float], list[Evaluation]] = {}
    for one in found:
        by_point.setdefault((one.arm, one.epoch), []).append(one)
    votes = {point: sum(one.kept for one in own) for point, own in by_point.items()}
    chosen: dict[str, tuple[str, float]] = {}
    for point, n in votes.items():  # the first of equals
        if n > votes.get(chosen.get(point[0], ("", 0.0)), 0):
            chosen[point[0]] = point
    return [
        Evaluation(
            arm, "", epoch, sum(one.score for one in own) / len(own),
            chosen.get(arm) == (arm, epoch), len({one.run_id for one in own}),
        )
        for (arm, epoch), own in by_point.items()
    ]  # fmt: skip


def typical_ends(found: Sequence[Evaluation]) -> dict[str, Evaluation]:
    """arm -> the last evaluation of the run that ended nearest to the mean of its arm's runs."""
    last: dict[tuple[str, str], Evaluation] = {}
    for one in found:
        if one.epoch > last.get((one.arm, one.run_id), one).epoch or (
            (one.arm, one.run_id) not in last
        ):
            last[one.arm, one.run_id] = one
    ends: dict[str, list[Evaluation]] = {}
    for (arm, _), one in last.items():
        ends.setdefault(arm, []).append(one)
    means = {arm: sum(one.score for one in own) / len(own) for arm, own in ends.items()}
    return {
        arm: min(own, key=lambda one, mean=means[arm]: abs(one.score - mean))  # type: ignore[misc]
        for arm, own in ends.items()
    }


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
