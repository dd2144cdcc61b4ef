"""Which model taught: what the records of the distilled students name, asked in one place.

Shares of the teacher's score, the reference of comparisons, the drop that a recommendation allows
and the model beside which an export is timed all mean this one. Only where no student was taught
does the rule of the plan decide (`vocabulary.arm.teaching_arm`), and whoever words that says so.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from kdlora.vocabulary.arm import Arm, teaching_arm

CLEAR = 0.02  # two points: a teacher that is less above the majority has nothing to share


def gives_shares(
    teacher: np.ndarray, floor: np.ndarray, tasks: np.ndarray, *, unit: float = 1.0
) -> np.ndarray:
    """In which cells a share of the teacher's score says anything of who learnt from it.

    All arguments are [cells]. Those of a task do where the teacher's mean over them is clearly
    above that of the majority baseline, or above 0 where `floor` lacks one of them: of next to
    nothing anybody keeps 81,200 %. Scores are such that more is better; `unit` is 100 for points.
    """
    found = np.zeros(len(teacher), bool)
    for task in set(tasks.tolist()):
        rows = tasks == task
        own, least = float(teacher[rows].mean()), float(floor[rows].mean())
        least = 0.0 if math.isnan(least) else least
        found[rows] = own > 0 and own >= least + CLEAR * unit
    return found


@dataclass(frozen=True)
class TeacherModel:
    """The teacher of some runs.

    arm: None where it stands in no row: it was left out of the tables, or there is none.
    run_ids: the runs that taught, or those of the arm where nothing was taught.
    taught: whether any student names them, so that the arm is no assumption.
    """

    arm: str | None
    run_ids: tuple[str, ...]
    taught: bool


def named_teachers(rows: pd.DataFrame) -> list[tuple[str, ...]]:
    """For each row the ids of the runs that taught it: none, one, or all of an ensemble."""
    empty: Sequence[Any] = [None] * len(rows)
    single, several = rows.get("teacher_run_id", empty), rows.get("teacher_run_ids", empty)
    return [
        tuple(many) if isinstance(many, tuple | list) and many else (one,) if _known(one) else ()
        for one, many in zip(single, several, strict=True)
    ]


def _known(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def teacher_of(rows: pd.DataFrame) -> TeacherModel:
    """The teacher of the students in `rows`: those of one pair, perhaps of one task of it.

    `rows` hold the teacher's runs too. Where several arms taught, it is the one that taught most
    students (the first of them in reading order).
    """
    named = Counter(run for ids in named_teachers(rows) for run in ids)
    if named and "run_id" in rows:
        known = rows.drop_duplicates("run_id")
        arms: Counter[str] = Counter()
        for run, arm in zip(known["run_id"], known["arm"], strict=True):
            arms[str(arm)] += named.get(run, 0)
        return TeacherModel(_most(+arms), tuple(named), taught=True)
    arm = _by_plan(rows)
    own = rows.loc[rows["arm"] == arm, "run_id"] if arm and "run_id" in rows else ()
    return TeacherModel(arm, tuple(dict.fromkeys(map(str, own))), taught=False)


def teacher_arm(frame: pd.DataFrame, pair: str) -> str | None:
    """The arm of `teacher_of` for the students of a pair."""
    return teacher_of(frame[frame["pair"] == pair]).arm


def reference_arm(frame: pd.DataFrame, arms: Iterable[str] | None = None) -> str:
    """The arm that all others are held against: the one that taught in most pairs.

    It is one of `arms` (default all of the frame): where what taught is not among them, and where
    nothing was taught, the plan's rule picks one; without teachers it is the first arm, or "".
    """
    known = list(map(str, dict.fromkeys(frame["arm"].dropna() if arms is None else arms)))
    found = [teacher_of(rows) for _, rows in _by_pair(frame)]
    taught = [f for f in found if f.taught]
    pairs = Counter(f.arm for f in taught or found if f.arm in known and f.arm is not None)
    return _most(pairs) or _teacher_among(known) or next(iter(known), "")


def why_untaught(rows: pd.DataFrame) -> str:
    """Why the reference of some rows is not what taught, as the start of a sentence; "" if it is.

    Results of others seldom say which run taught their distilled students.
    """
    if any(named_teachers(rows)):
        return ""
    arms = map(str, rows["arm"].dropna().unique())
    if any(Arm.read(arm).is_distilled for arm in arms):
        return "which run taught is not recorded"
    return "no student was taught"


def _by_pair(frame: pd.DataFrame) -> Iterable[tuple[Any, pd.DataFrame]]:
    return frame.groupby("pair", sort=False, dropna=False) if "pair" in frame else [("", frame)]


def _by_plan(rows: pd.DataFrame) -> str | None:
    """What the plan let teach, else what its rule says of the arms that are there."""
    arms = list(map(str, dict.fromkeys(rows["arm"].dropna())))
    planned = rows["teacher_arm"].dropna() if "teacher_arm" in rows else pd.Series(dtype=object)
    first = next((str(arm) for arm in planned if arm in arms), None)
    return first or _teacher_among(arms)


def _teacher_among(arms: Sequence[str]) -> str | None:
    teachers = sorted((a for a in map(Arm.read, arms) if a.is_teacher), key=Arm.sort_key)
    if not teachers:
        return None
    found = str(teaching_arm(teachers, given=any(a.is_given for a in teachers)))
    return found if found in arms else str(teachers[0])


def _most(found: Counter[str]) -> str | None:
    """The most frequent, of several the first in reading order."""
    if not found:
        return None
    return min(found, key=lambda arm: (-found[arm], Arm.read(arm).sort_key()))
