"""What each step of the way to a small model changes: differences paired by task and seed.

Distillation, the smaller encoder and the adapter are told apart, each as one arm minus the arm
that differs from it in nothing else. Nothing is tested here; the differences are described.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from kdlora.evidence.outcomes import (
    Outcome,
    OutcomeApart,
    Spread,
    all_outcomes,
    averaged_tasks,
    blocks_by_pair,
    in_blocks,
    outcomes_apart,
    spreads,
)
from kdlora.evidence.result import Mark
from kdlora.evidence.students import StudentRanking, rank_students
from kdlora.evidence.teacher import teacher_arm
from kdlora.records.tidy import StudyFrame, mean, metrics_of, names, places, tidy
from kdlora.vocabulary.arm import Arm
from kdlora.vocabulary.metric import metric as facts_of


@dataclass(frozen=True)
class PairedArms:
    """`arm` against `base`, and what the difference isolates."""

    effect: str
    arm: str
    base: str


@dataclass(frozen=True)
class Gain:
    """Paired differences in the metric's own unit, positive where `arm` is better than `base`.

    For one task `values` holds a difference per seed; for the average over tasks (`task` is None)
    one per task and seed, and `mean` is the mean of the task means. `unflagged` is the same mean
    over the pairs in which no run is flagged, None where there is no such pair.
    """

    pair: str
    task: str | None
    comparison: PairedArms
    metric: str
    mean: float
    unflagged: float | None
    values: tuple[float, ...]
    seeds: tuple[int, ...]
    tasks: tuple[str, ...]
    flagged: tuple[str, ...]

    @property
    def above_zero(self) -> int:
        return sum(value > 0 for value in self.values)

    @property
    def lowest(self) -> float:
        return min(self.values)

    @property
    def highest(self) -> float:
        return max(self.values)


DISTILLATION = "distillation"
SMALLER = "smaller encoder"
ADAPTER = "adapter"
VARIATION = "changed settings"
WHOLE = "all together"
RUNNER_UP = "first student against the next"


def comparisons(arms: Sequence[str], teacher: str | None) -> list[PairedArms]:
    """The pairs of arms among `arms` that differ in one thing, and the whole way at the end."""
    found = [
        PairedArms(DISTILLATION, arm, base)
        for arm in arms
        if Arm.read(arm).is_distilled
        for base in map(str, Arm.read(arm).controls())
        if base in arms
    ]
    for arm in arms:
        one = Arm.read(arm)
        if one.label and str(one.plain) in arms:
            found.append(PairedArms(VARIATION, arm, str(one.plain)))
        if one.is_student and not one.is_distilled:
            full = str(one.as_teacher())  # a teacher that was given may be of any make
            if full in arms:
                found.append(PairedArms(SMALLER, arm, full))
        full = str(one.as_full())
        trained = one.is_student or (one.is_teacher and not one.is_given)
        if trained and arm != full and full in arms:
            found.append(PairedArms(ADAPTER, arm, full))
    found += [
        PairedArms(WHOLE, arm, teacher) for arm in arms if Arm.read(arm).is_distilled and teacher
    ]
    order = (DISTILLATION, SMALLER, ADAPTER, VARIATION, WHOLE)
    return sorted(found, key=lambda c: order.index(c.effect))


@dataclass(frozen=True)
class PairScores:
    """The scored blocks of one pair: `scores` [(task, seed), arms], `flagged` rows of its cells."""

    pair: str
    scores: pd.DataFrame
    flagged: pd.DataFrame
    metrics: dict[str, tuple[str, int]]

    @classmethod
    def of(cls, frame: pd.DataFrame, cells: pd.DataFrame, pair: str) -> PairScores:
        """From a tidy frame and its cells of `in_blocks`."""
        own = cells[cells["pair"] == pair]
        scores = own.pivot_table(index=["task", "seed"], columns="arm", values="score", sort=False)
        metrics = metrics_of(frame)
        flagged = own.loc[own["flagged"], ["task", "seed", "arm", "run_id"]]
        return cls(pair, scores, flagged, metrics)


def differences(pair: PairScores, comparison: PairedArms) -> list[Gain]:
    """One comparison within one pair: a gain a task, and their average if there are several.

    The average is over tasks scored in points. Blocks of which the other half is missing are left
    out, as the counts show.
    """
    sides = [comparison.arm, comparison.base]
    if not set(sides) <= set(pair.scores.columns):
        return []
    paired = pair.scores[sides].dropna()
    doubtful = pair.flagged[pair.flagged["arm"].isin(sides)]
    flagged = list(zip(*(doubtful[name] for name in ("task", "seed", "run_id")), strict=True))
    cells = paired.index.to_frame(index=False)
    by_task, seeds = dict(places(cells, "task")), cells["seed"].to_numpy()
    gained = (paired[comparison.arm] - paired[comparison.base]).to_numpy()
    found = []
    for task, (metric, direction) in pair.metrics.items():
        if task not in by_task:
            continue
        rows = by_task[task][np.argsort(seeds[by_task[task]], kind="stable")]
        values, own = gained[rows] * direction, seeds[rows].tolist()
        used = [(run, seed) for of, seed, run in flagged if of == task and seed in own]
        doubtful_seeds = {seed for _, seed in used}
        healthy = values[[seed not in doubtful_seeds for seed in own]]
        found.append(
            Gain(
                pair=pair.pair,
                task=task,
                comparison=comparison,
                metric=metric,
                mean=mean(values),
                unflagged=mean(healthy) if len(healthy) else None,
                values=tuple(float(v) for v in values),
                seeds=tuple(int(s) for s in own),
                tasks=(task,),
                flagged=tuple(dict.fromkeys(run for run, _ in used)),
            )
        )
    average = _average([gain for gain in found if facts_of(gain.metric).in_points])
    return found + ([average] if average else [])


def _average(parts: list[Gain]) -> Gain | None:
    if len(parts) < 2:
        return None
    healthy = [part.unflagged for part in parts if part.unflagged is not None]
    return Gain(
        pair=parts[0].pair,
        task=None,
        comparison=parts[0].comparison,
        metric="accuracy",  # any metric in points: the unit is all that counts
        mean=sum(part.mean for part in parts) / len(parts),
        unflagged=sum(healthy) / len(healthy) if healthy else None,
        values=tuple(value for part in parts for value in part.values),
        seeds=tuple(sorted({seed for part in parts for seed in part.seeds})),
        tasks=tuple(part.task for part in parts if part.task),
        flagged=tuple(dict.fromkeys(run for part in parts for run in part.flagged)),
    )


def ranked(
    rankings: Mapping[str, StudentRanking], outcomes: Sequence[Outcome], pair: str
) -> tuple[list[Outcome], str]:
    """The students of a pair over all tasks of `rankings`, first choice first, and the split whose
    score ordered them: with one task the order is that of its ranking, else that of the mean.

    A student that is ranked in some of the tasks only, or has no outcome, is not among them.
    """
    by_arm = {outcome.arm: outcome for outcome in outcomes}
    ranked_in = [(found, found.of_pair(pair)) for found in rankings.values()]
    orders = [(found, students) for found, students in ranked_in if students]
    scores: dict[str, list[float]] = {}
    for found, students in orders:
        for one in students:
            scores.setdefault(one.arm, []).append(found.direction * one.score)
    arms = [arm for arm, found in scores.items() if len(found) == len(orders)]
    arms.sort(key=lambda arm: -sum(scores[arm]) / len(orders))  # stable: ties keep their order
    split = min((found.split for found, _ in orders), default="")
    return [by_arm[arm] for arm in arms if arm in by_arm], split


@dataclass(frozen=True)
class Facts:
    """Everything that tables, sentences and charts are made from, computed once.

    `frame` is tidy, `cells` are those of `in_blocks`, `outcomes` and `students` are per pair over
    its shared `blocks`, but arms with few cells are `apart`; `spreads` per (pair, task, arm) over
    all runs. `marks` of the tables' columns are there where the study was tested too: (table, pair,
    column) -> arm -> mark. `rankings` say which student of a task is the one to ship; `students`
    follow them.
    """

    frame: pd.DataFrame
    cells: pd.DataFrame
    spreads: dict[tuple[str, str, str], Spread]
    blocks: dict[str, list[tuple[str, int]]]
    outcomes: dict[str, list[Outcome]]
    apart: dict[str, list[OutcomeApart]]
    rankings: dict[str, StudentRanking]
    students: dict[str, tuple[list[Outcome], str]]
    gains: list[Gain]
    marks: dict[tuple[str, str, str], dict[str, Mark]] = field(default_factory=dict)

    def overall(self, pair: str, effect: str | None = None) -> list[Gain]:
        """A pair's gains over all its tasks: averages, or where there is one task, that task's."""
        own = [gain for gain in self.gains if gain.pair == pair]
        averaged = {gain.comparison for gain in own if gain.task is None}
        tasks = Counter(gain.comparison for gain in own if gain.task is not None)
        return [
            gain
            for gain in own
            if effect in (None, gain.comparison.effect)
            and (
                gain.task is None
                or (gain.comparison not in averaged and tasks[gain.comparison] == 1)
            )
        ]


def describe(frame: StudyFrame | pd.DataFrame) -> Facts:
    """The means, shares, costs and paired differences of a study; nothing of it is tested.

    Raises InputError as `tidy` does.
    """
    data = tidy(frame)
    cells = in_blocks(data)
    outcomes = all_outcomes(data, cells)
    rankings = {task: rank_students(data, task) for task in names(data, "task")}
    averaged = {task: rankings[task] for task in averaged_tasks(data)}
    students = {pair: ranked(averaged, found, pair) for pair, found in outcomes.items()}
    gains: list[Gain] = []
    for pair in names(data, "pair"):
        wanted = comparisons(names(data, "arm", pair=pair), teacher_arm(data, pair))
        first = [outcome.arm for outcome in students.get(pair, ([], ""))[0][:2]]
        known = [{comparison.arm, comparison.base} for comparison in wanted]
        if len(first) == 2 and set(first) not in known:
            wanted.append(PairedArms(RUNNER_UP, *first))
        scores = PairScores.of(data, cells, pair)
        gains += [gain for c in wanted for gain in differences(scores, c)]
    blocks, apart = blocks_by_pair(data, cells), outcomes_apart(data, cells, outcomes)
    found = spreads(data)
    return Facts(data, cells, found, blocks, outcomes, apart, rankings, students, gains)
