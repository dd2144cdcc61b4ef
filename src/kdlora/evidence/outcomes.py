"""From the tidy frame to what a report states: means over seeds, shared blocks, paired gains.

A *cell* is one row of the frame (pair, task, arm, seed). A *block* is a task and a seed of a pair;
it is *shared* when every trained arm has a score in it, but for those with few cells (`sparse`),
which stand apart. Averages over tasks use shared blocks only, so that no arm gains by missing a
hard one. Flagged cells take part like any other and are marked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from kdlora.evidence.sparse import sparse_arms, too_few
from kdlora.evidence.teacher import gives_shares, teacher_arm
from kdlora.records.tidy import (
    groups,
    mean,
    metric_of,
    metrics_of,
    names,
    numeric,
    places,
    scored,
)
from kdlora.vocabulary.arm import MAJORITY
from kdlora.vocabulary.metric import metric
from kdlora.vocabulary.quantity import directions

# What is known of a cell when scores and costs are put together.
COSTS = ("trainable_params", "total_params", "size_mb", "train_s", "peak_memory_mb", "train_flops",
         "forward_flops", "latency_p50_ms", "latency_p95_ms", "throughput_per_s",
         "speedup_latency", "energy_j", "inference_s")  # fmt: skip
# Those shown at a glance, and which way each is better.
SUMMARY_COSTS = directions(
    ("size_mb", "latency_p50_ms", "speedup_latency", "trainable_params", "train_s")
)
_CELL = ("pair", "task", "seed", "arm", "role", "run_id", "score", "selection_score", "flagged")


def in_blocks(frame: pd.DataFrame) -> pd.DataFrame:
    """Scored cells, those of seedless arms repeated in every seed of their pair and task."""
    place = ["pair", "task"]
    data = scored(frame)
    free = data["any_seed"]
    data = data[[*_CELL, *COSTS]]
    data["raced"] = _raced(frame, data)
    seeds = frame.loc[~frame["any_seed"], [*place, "seed"]].drop_duplicates()
    repeated = data[free].drop(columns="seed").merge(seeds, on=place)
    seeded = pd.MultiIndex.from_frame(seeds[place])
    alone = data[free & ~pd.MultiIndex.from_frame(data[place]).isin(seeded)]
    parts = [part for part in (data[~free], repeated, alone) if len(part)]
    return pd.concat(parts, ignore_index=True) if parts else data


def _raced(frame: pd.DataFrame, cells: pd.DataFrame) -> np.ndarray:
    """Whether a cell is of an arm that an early decision ended elsewhere in its pair."""
    place = ["pair", "arm"]
    stopped = pd.MultiIndex.from_frame(frame.loc[frame["status"] == "stopped", place])
    return pd.MultiIndex.from_frame(cells[place]).isin(stopped)


def shared_blocks(
    cells: pd.DataFrame, pair: str, tasks: Sequence[str], teacher: str | None = None
) -> list[tuple[str, int]]:
    """The (task, seed) blocks in which every trained arm that has any score has one.

    Arms that were stopped early somewhere are not asked for, nor those with few cells (the teacher
    always is). There are none where they are less than half of what each arm has: a mean over them
    would lose more than it compares. `cells` are those of `in_blocks`.
    """
    own = cells[(cells["pair"] == pair) & (cells["role"] != "baseline") & ~cells["raced"]]
    own = own[~own["arm"].isin(sparse_arms(own[own["task"].isin(tasks)], never=(teacher,)))]
    arms, averaged = set(own["arm"]), own[own["task"].isin(tasks)]
    present = averaged.groupby(["task", "seed"], sort=False)["arm"].agg(set)
    blocks = [block for block, found in present.items() if found == arms]
    return [] if too_few(len(blocks), averaged, arms) else blocks  # type: ignore[return-value]


@dataclass(frozen=True)
class Spread:
    """Mean, range and count of a score over runs; `flagged` are the run ids to doubt, `unflagged`
    the mean without them (None where nothing is left, or nothing is flagged)."""

    mean: float
    low: float
    high: float
    n: int
    flagged: tuple[str, ...] = ()
    unflagged: float | None = None


def spreads(frame: pd.DataFrame) -> dict[tuple[str, str, str], Spread]:
    """(pair, task, arm) -> the spread of its score over all runs that have one."""
    cells = scored(frame)
    score, flagged = cells["score"].to_numpy(float), cells["flagged"].to_numpy(bool)
    runs = cells["run_id"].to_numpy()
    return {
        key: _spread(score[rows], flagged[rows], runs[rows])
        for key, rows in places(cells, "pair", "task", "arm")
    }


def _spread(score: np.ndarray, flagged: np.ndarray, runs: np.ndarray) -> Spread:
    doubtful, sound = runs[flagged], score[~flagged]
    rest = mean(sound) if len(doubtful) and len(sound) else None
    ends = float(score.min()), float(score.max())
    return Spread(mean(score), *ends, len(score), tuple(dict.fromkeys(doubtful)), rest)


def means_by_group(
    spreads: Mapping[tuple[str, str, str], Spread], pair: str, groups: Mapping[str, str]
) -> dict[str, dict[str, tuple[float, int]]]:
    """Group -> task -> the mean of its arms' means on a pair, and how many arms these are.

    `groups` says to which group an arm belongs; arms that it does not name are left out.
    """
    values: dict[str, dict[str, list[float]]] = {}
    for arm, group in groups.items():
        for (p, task, name), found in spreads.items():
            if (p, name) == (pair, arm):
                values.setdefault(group, {}).setdefault(task, []).append(found.mean)
    return {
        group: {task: (sum(own) / len(own), len(own)) for task, own in by_task.items()}
        for group, by_task in values.items()
    }


def metric_means(
    frame: pd.DataFrame,
) -> tuple[list[str], dict[tuple[str, str, str], dict[str, float]]]:
    """The metrics of the report split that any run has, and (pair, task, arm) -> their means over
    its done runs. What no run of a model has is absent.
    """
    known = [c for c in map(str, frame) if c.startswith(REPORTED) and frame[c].notna().any()]
    done, found = frame[frame["status"] == "done"], {}
    once = done.drop_duplicates(["pair", "task", "arm", "run_id"])
    values = {c.removeprefix(REPORTED): numeric(once, c).to_numpy() for c in known}
    for key, rows in places(once, "pair", "task", "arm"):
        means = {name: mean(own[rows]) for name, own in values.items()}
        found[key] = {name: value for name, value in means.items() if not math.isnan(value)}
    return [column.removeprefix(REPORTED) for column in known], found


REPORTED = "report."  # before the name of a metric: its column


def class_f1_means(
    frame: pd.DataFrame,
) -> dict[tuple[str, str], dict[str, dict[str, float]]]:
    """(pair, task) -> class -> arm -> the mean of its F1 over the done runs that have one."""
    done = frame[frame["status"] == "done"].drop_duplicates(["pair", "run_id"])
    done = done[done["per_class_f1"].map(bool).astype(bool)]
    found: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for key, cells in groups(done, "pair", "task"):
        labels = next(filter(None, cells["label_names"]), ())
        by_class = found.setdefault(key, {label: {} for label in labels})
        for arm, runs in groups(cells, "arm"):
            for label in labels:
                told = pd.Series([scores.get(label) for scores in runs["per_class_f1"]])
                found_mean = mean(pd.to_numeric(told, errors="coerce").to_numpy(float))
                if math.isfinite(found_mean):
                    by_class[label][arm] = found_mean
    return found


def _run_ids(cells: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    return {arm: tuple(dict.fromkeys(own["run_id"])) for arm, own in groups(cells, "arm")}


@dataclass(frozen=True)
class WithoutFlags:
    """Means of an arm and of the teacher over the `blocks` in which no run of theirs is flagged,
    and the share of the two; None where there is no such block, or no share. `share_tasks` as in
    `Outcome`."""

    blocks: int
    score: float | None = None
    teacher: float | None = None
    retained: float | None = None
    share_tasks: int = 0


@dataclass(frozen=True)
class Outcome:
    """An arm of a pair over `tasks`: what it scores and what it costs, in stored units.

    `without_flags` is there where a run of the arm or of the teacher is flagged in these blocks.
    `retained` and `above_floor` are shares of the teacher's score and of the teacher's gain over
    the majority baseline, in the same blocks; None where such a share has no meaning. They are of
    the means over those `share_tasks` of the `tasks` on which one has. `resumed` are the runs that
    were interrupted and went on: their training time is no whole one.
    """

    arm: str
    blocks: int
    score: Spread
    selection: float
    retained: float | None
    above_floor: float | None
    costs: dict[str, float]
    tasks: tuple[str, ...] = ()
    resumed: tuple[str, ...] = ()
    without_flags: WithoutFlags | None = None
    share_tasks: int = 0


def outcomes(
    frame: pd.DataFrame, cells: pd.DataFrame, pair: str, blocks: Sequence[tuple[str, int]]
) -> list[Outcome]:
    """All arms of a pair over the given blocks, from teacher to baselines.

    Means are over seeds within a task, then over tasks; speed-ups are averaged geometrically.
    """
    here = pd.MultiIndex.from_frame(cells[["task", "seed"]])
    wanted = pd.MultiIndex.from_tuples(list(blocks), names=["task", "seed"])
    own = cells[(cells["pair"] == pair) & here.isin(wanted)]
    own = own.assign(
        speedup_latency=np.log(own["speedup_latency"].where(own["speedup_latency"] > 0))
    )
    means = own.groupby(["arm", "task"])[[*COSTS, "selection_score"]].mean()
    means = means.groupby("arm").mean()
    means["speedup_latency"] = np.exp(means["speedup_latency"])
    scores = own.pivot_table(index=["task", "seed"], columns="arm", values="score", sort=False)
    tasks = dict.fromkeys(task for task, _ in blocks)
    metrics = metrics_of(frame)
    countable = [task for task in tasks if metric(metrics[task][0]).in_points]
    countable = [task for task in countable if metrics[task][1] > 0]
    runs, doubtful = _run_ids(own), _run_ids(own[own["flagged"]])
    broken = resumed_runs(frame)
    empty = pd.Series(np.nan, index=scores.index)
    taught = str(teacher_arm(frame, pair))
    teacher = scores.get(taught, empty)
    floor = scores.get(str(MAJORITY), empty)
    found = []
    for arm in (a for a in names(frame, "arm", pair=pair) if a in scores):
        own_scores = scores[arm]
        told = _shares(own_scores, teacher, floor, countable)
        known = own_scores.dropna()
        spread = _over_seeds(known, len(runs[arm]), doubtful.get(arm, ()))
        costs = {name: float(means[name][arm]) for name in COSTS}
        selection = float(means["selection_score"][arm])
        doubts = {name: _flagged_blocks(own, name) for name in (arm, taught)}
        doubtful_blocks = doubts[arm] | doubts[taught]
        without = _without_flags(own_scores, teacher, floor, doubtful_blocks, countable)
        found.append(
            Outcome(
                arm,
                len(known),
                spread,
                selection,
                told.retained,
                told.above_floor,
                costs,
                tuple(tasks),
                tuple(run for run in runs[arm] if run in broken),
                without,
                told.tasks,
            )
        )
    return found


def resumed_runs(frame: pd.DataFrame) -> set[str]:
    """Runs that were interrupted and went on from a checkpoint, as far as records say."""
    if "resumed" not in frame:
        return set()
    times = pd.to_numeric(frame["resumed"], errors="coerce")
    return set(frame.loc[times > 0, "run_id"])


def _flagged_blocks(cells: pd.DataFrame, arm: str) -> set[tuple[str, int]]:
    rows = cells[cells["flagged"].astype(bool) & (cells["arm"] == arm)]
    return set(zip(rows["task"], rows["seed"], strict=True))


def _without_flags(
    own: pd.Series,
    teacher: pd.Series,
    floor: pd.Series,
    doubtful: set[tuple[str, int]],
    countable: Sequence[str],
) -> WithoutFlags | None:
    """Over the blocks that both have and in which neither is flagged; None without a flag."""
    if not doubtful:
        return None
    common = own.notna() & teacher.notna() & ~own.index.isin(list(doubtful))
    if not common.any():
        return WithoutFlags(0)
    ours, theirs = over_tasks(own[common]), over_tasks(teacher[common])
    told = _shares(own[common], teacher[common], floor[common], countable)
    return WithoutFlags(int(common.sum()), ours, theirs, told.retained, told.tasks)


class _Shares(NamedTuple):
    retained: float | None = None
    above_floor: float | None = None
    tasks: int = 0


def _shares(
    own: pd.Series, teacher: pd.Series, floor: pd.Series, countable: Sequence[str]
) -> _Shares:
    """Share of the teacher's score and of its gain over the floor, in blocks that have both.

    `countable` are the tasks on which more is better and 0 is nothing.
    """
    tasks = own.index.get_level_values("task")
    common = own.notna() & teacher.notna() & tasks.isin(countable)
    own, teacher, floor, tasks = own[common], teacher[common], floor[common], tasks[common]
    told = gives_shares(teacher.to_numpy(), floor.to_numpy(), tasks.to_numpy())
    if not told.any():
        return _Shares()
    ours, theirs = over_tasks(own[told]), over_tasks(teacher[told])
    least = math.nan if floor[told].isna().any() else over_tasks(floor[told])
    above = None if math.isnan(least) else (ours - least) / (theirs - least)
    return _Shares(ours / theirs, above, tasks[told].nunique())


def over_tasks(scores: pd.Series) -> float:
    """Mean over tasks of the mean over seeds of scores indexed by (task, seed)."""
    return float(scores.groupby(level="task").mean().mean())


def _over_seeds(scores: pd.Series, n: int, flagged: tuple[str, ...]) -> Spread:
    """The range is over seeds, and NaN where seeds cover different tasks."""
    by_seed = scores.groupby(level="seed").mean()
    complete = len(scores) == len(by_seed) * scores.index.get_level_values("task").nunique()
    low, high = (by_seed.min(), by_seed.max()) if complete else (math.nan, math.nan)
    return Spread(over_tasks(scores), float(low), float(high), n, flagged)


def averaged_tasks(frame: pd.DataFrame) -> list[str]:
    """The tasks that a summary is over: the only one, else all that are scored in points."""
    tasks = names(frame, "task")
    if len(tasks) == 1:
        return tasks
    metrics = metrics_of(frame)
    return [task for task in tasks if metric(metrics[task][0]).in_points]


def outcome_metric(frame: pd.DataFrame) -> tuple[str, int]:
    """Metric and direction of the summary: the only task's, else any in points."""
    tasks = averaged_tasks(frame)
    return metric_of(frame, tasks[0]) if tasks else ("", 1)


def blocks_by_pair(frame: pd.DataFrame, cells: pd.DataFrame) -> dict[str, list[tuple[str, int]]]:
    """Pair -> the blocks of the averaged tasks that its trained arms share."""
    tasks = averaged_tasks(frame)
    return {
        pair: shared_blocks(cells, pair, tasks, teacher_arm(frame, pair))
        for pair in names(frame, "pair")
    }


def all_outcomes(frame: pd.DataFrame, cells: pd.DataFrame) -> dict[str, list[Outcome]]:
    """Per pair, the arms that have all its shared blocks of the averaged tasks, over those.

    A pair without a shared block is absent; so is a baseline whose metric is undefined somewhere.
    """
    return {
        pair: [o for o in outcomes(frame, cells, pair, found) if o.blocks == len(found)]
        for pair, found in blocks_by_pair(frame, cells).items()
        if found
    }


@dataclass(frozen=True)
class OutcomeApart:
    """An arm that has no place among the others, and the teacher over the blocks of both."""

    own: Outcome
    teacher: Outcome


def outcomes_apart(
    frame: pd.DataFrame, cells: pd.DataFrame, among: Mapping[str, Sequence[Outcome]]
) -> dict[str, list[OutcomeApart]]:
    """Pair -> the trained arms that are not `among` its outcomes, where they share a block with
    the teacher. Arms that were stopped early somewhere are none of them."""
    found: dict[str, list[OutcomeApart]] = {}
    averaged = cells["task"].isin(averaged_tasks(frame))
    for pair in names(frame, "pair"):
        teacher = teacher_arm(frame, pair)
        known = {o.arm for o in among.get(pair, ())}
        own = cells[averaged & (cells["pair"] == pair) & (cells["role"] != "baseline")]
        blocks = {
            arm: set(zip(rows["task"], rows["seed"], strict=True))
            for arm, rows in groups(own, "arm")
        }
        raced = set(own.loc[own["raced"], "arm"])
        for arm in names(own, "arm"):
            both = sorted(blocks[arm] & blocks.get(teacher, set()))
            if arm == teacher or arm in known or arm in raced or not both:
                continue
            needed = cells["arm"].isin([arm, str(teacher), str(MAJORITY)])
            by_arm = {o.arm: o for o in outcomes(frame, cells[needed], pair, both)}
            found.setdefault(pair, []).append(OutcomeApart(by_arm[arm], by_arm[str(teacher)]))
    return found
