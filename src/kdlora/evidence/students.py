"""Which student comes first: one order for the report, for what is saved and for what is shipped.

By the mean score on the selection split, over the seeds of each student; the report split chooses
nothing. Equal scores are decided by latency, then size, then the reading order of the arms. Runs
with an error flag take no part, and are named. Results from elsewhere that know no selection score
are ordered by the reported one, and `split` says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from kdlora.evidence.scores import numbers
from kdlora.records.tidy import metric_of, places
from kdlora.vocabulary.arm import Arm
from kdlora.vocabulary.metric import metric

FLAGGED_THEN = (  # what to do of runs with an error flag
    "the report says what each means; change the settings or the data that they tell of, or do "
    "such runs again with `kdlora run --retry-flagged`"
)
ALIKE = 1.02  # costs within this factor of the least of their group are taken as equal


@dataclass(frozen=True)
class RankedStudent:
    """A student of one task as all its sound runs; `ship` is the one with the best score.

    score: mean over the runs, in the metric's own unit. pairs: those in which these runs stand;
    more than one where the runs do not depend on the teacher.
    """

    arm: str
    pairs: tuple[str, ...]
    run_ids: tuple[str, ...]
    score: float
    ship: str


@dataclass(frozen=True)
class StudentRanking:
    """The students of a task, first choice first.

    split: whose score ordered them, selection or report. left_out: arm -> its runs that carry an
    error flag; an arm of which no run is sound stands in `left_out` alone.
    """

    task: str
    direction: int
    split: str
    students: tuple[RankedStudent, ...]
    left_out: dict[str, tuple[str, ...]]

    @property
    def first(self) -> RankedStudent | None:
        return self.students[0] if self.students else None

    def of_pair(self, pair: str) -> list[RankedStudent]:
        """The students that stand in a pair, in the same order."""
        return [one for one in self.students if pair in one.pairs]


def bands(values: Sequence[float | None]) -> np.ndarray:
    """Dense ranks, 0 the least; values within `ALIKE` share one, unknown ones come last."""
    known = np.array([np.inf if v is None or np.isnan(v) else v for v in values], float)
    ranks = np.zeros(len(known), int)
    rank, start = -1, -np.inf
    for i in np.argsort(known, kind="stable"):
        if rank < 0 or known[i] > start * ALIKE:
            rank, start = rank + 1, known[i]
        ranks[i] = rank
    return ranks


def with_error(rows: pd.DataFrame) -> np.ndarray:
    """Which runs carry an error flag [rows], whatever they score."""
    if "flag_severities" not in rows:
        return np.zeros(len(rows), bool)
    found = rows["flag_severities"]
    return np.array([isinstance(f, tuple | list) and "error" in f for f in found], bool)


def rank_students(frame: pd.DataFrame, task: str) -> StudentRanking:
    """Order the students of a task over all its pairs; the rows of `frame` have pair and seed."""
    done = frame[(frame["task"] == task) & (frame["status"] == "done")]
    bad = with_error(done)
    sound = done[~bad]
    students = sound[sound["role"] == "student"]
    split, scores = "selection", _scores(students, "selection_score")
    if not np.isfinite(scores).any():
        split, scores = "report", _scores(students, "score")
    known = students[["arm", "pair", "seed", "run_id"]].assign(ranked_by=scores)
    known = known[np.isfinite(scores)]
    direction = metric_of(frame, task)[1]
    flagged = done[bad & (done["role"] == "student").to_numpy()]
    left_out = {
        str(arm): tuple(dict.fromkeys(rows["run_id"]))
        for arm, rows in flagged.groupby("arm", sort=False)
    }
    models = _models(known, direction)
    latency, size = _costs(sound, models)

    def place(i: int) -> tuple[object, ...]:
        one = models[i]
        arm = Arm.read(one.arm).sort_key()
        return (-direction * one.score, latency[i], size[i], arm, one.pairs)

    order = sorted(range(len(models)), key=place)
    return StudentRanking(task, direction, split, tuple(models[i] for i in order), left_out)


def why_no_student(rows: pd.DataFrame) -> str:
    """Why none of these runs of students can be chosen, as a part of a sentence."""
    done = rows[rows["status"] == "done"]
    if done.empty:
        return "no run of a student is done; `kdlora status` says what became of each"
    if not with_error(done).all():
        return "no run of a student without an error flag has a score on the selection split"
    pairs = zip(done["flags"], done["flag_severities"], strict=True)
    flags = [n for own, levels in pairs for n, level in zip(own, levels, strict=False)
             if level == "error"]  # fmt: skip
    return (
        "every run of a student that is done carries an error flag "
        f"({', '.join(dict.fromkeys(flags))}); {FLAGGED_THEN}"
    )


@dataclass(frozen=True)
class BetterBaseline:
    """A baseline that a student is not above on the report split, as scores are shown.

    Both scores in stored units; `is_level` where one number is shown for the two.
    """

    arm: str
    score: float
    student_score: float
    metric: str

    @property
    def is_level(self) -> bool:
        shown = metric(self.metric).shown
        return shown(self.score) == shown(self.student_score)


def better_baseline(frame: pd.DataFrame, run_id: str) -> BetterBaseline | None:
    """The best baseline of a student's task, if the student's run is not above it.

    Nobody should be told to try such a student: a model that costs nothing answers as well.
    """
    own = frame[frame["run_id"] == run_id]
    if own.empty or not np.isfinite(score := float(_scores(own, "score")[0])):
        return None
    task = str(own["task"].iloc[0])
    name, direction = metric_of(frame, task)
    rows = frame[(frame["task"] == task) & (frame["role"] == "baseline")]
    rows = rows.assign(known=_scores(rows, "score"))
    means = rows[np.isfinite(rows["known"])].groupby("arm", sort=False)["known"].mean()
    if means.empty:
        return None
    best = (direction * means).idxmax()
    found = BetterBaseline(str(best), float(means[best]), score, name)
    return None if metric(name).directed(direction).is_above(score, found.score) else found


def _scores(rows: pd.DataFrame, column: str) -> np.ndarray:
    return numbers(rows[column]) if column in rows else np.full(len(rows), np.nan)


def _models(rows: pd.DataFrame, direction: int) -> list[RankedStudent]:
    """One for each arm and pair; what pairs share comes once."""
    pairs: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    found: dict[tuple[str, tuple[str, ...]], RankedStudent] = {}
    rows = rows.drop_duplicates(["arm", "pair", "run_id"])
    rows = rows.sort_values(["seed", "run_id"], kind="stable")
    runs, ranked_by = rows["run_id"].to_numpy(), rows["ranked_by"].to_numpy(float)
    for (arm, pair), own in places(rows, "arm", "pair"):
        scores = ranked_by[own]
        key = (str(arm), tuple(map(str, runs[own])))
        pairs.setdefault(key, []).append(str(pair))
        ship = key[1][int(np.argmax(direction * scores))]
        found[key] = RankedStudent(key[0], (), key[1], float(scores.mean()), ship)
    return [replace(one, pairs=tuple(sorted(pairs[key]))) for key, one in found.items()]


def _costs(rows: pd.DataFrame, models: Sequence[RankedStudent]) -> tuple[np.ndarray, np.ndarray]:
    """The bands of the models' latency and size, medians over runs.

    Latency is that of all runs of the encoder: whatever its weights, it is as fast.
    """
    once = rows.drop_duplicates("run_id")
    latency, size = _scores(once, "latency_p95_ms"), _scores(once, "size_mb")
    encoders = once["encoder"].to_numpy() if "encoder" in once else np.full(len(once), None)
    at = {str(run): i for i, run in enumerate(once["run_id"])}
    by_encoder: dict[str, float | None] = {}
    latencies: list[float | None] = []
    sizes: list[float | None] = []
    for one in models:
        own = sorted(at[run] for run in one.run_ids)
        encoder = encoders[own[0]]
        if isinstance(encoder, str) and encoder not in by_encoder:
            by_encoder[encoder] = _median(latency[encoders == encoder])
        told = isinstance(encoder, str)
        latencies.append(by_encoder[encoder] if told else _median(latency[own]))
        sizes.append(_median(size[own]))
    return bands(latencies), bands(sizes)


def _median(values: np.ndarray) -> float | None:
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else None
