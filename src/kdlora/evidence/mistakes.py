"""Where a study's student is wrong: its surest mistakes, labels to doubt, and slices.

One model a task: the student that ranks first, in its best run, beside the model that taught it.
Where a text may have several labels, each of them is an answer of its own, right or wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from kdlora.errors import InputError
from kdlora.evidence.label_errors import suspected_labels
from kdlora.evidence.result import Result, Rules
from kdlora.evidence.slices import SliceScore, judged, slice_scores
from kdlora.evidence.students import rank_students, why_no_student
from kdlora.evidence.teacher import named_teachers, teacher_of
from kdlora.records.predictions import SplitOutputs
from kdlora.records.rows import TaskRows
from kdlora.records.tidy import StudyFrame, tidy
from kdlora.vocabulary.task import KINDS

SUREST = 30  # mistakes of which it is said how many look like wrong labels
MOST_LABELS = 20  # of a task whose texts may have several, up to which each makes slices
OUT_OF_FOLD = "train"  # the split whose probabilities come of cross-validation


@dataclass(frozen=True)
class RowOfInterest(Result):
    """A row of a task: by which split and id it is found, and its texts where they are kept."""

    split: str
    example_id: str
    number: int | None
    text: str | None


@dataclass(frozen=True)
class Mistake(Result):
    """A report row that the student answers wrong, and what its teacher says.

    Classes are places in `TaskMistakes.label_names`; confidences are probabilities of the answer.
    suspected: whether the label itself may be wrong; None where that was not asked. about: where a
    text may have several labels, the place of the one that is meant; label and answers are then 1
    where it is there, else 0.
    """

    row: RowOfInterest
    label: int
    answer: int
    confidence: float
    teacher_answer: int | None
    teacher_confidence: float | None
    suspected: bool | None
    about: int | None = None


@dataclass(frozen=True)
class SuspectedLabel(Result):
    """A row whose label may be wrong: the class that is likelier, and both probabilities.

    about: as of a `Mistake`.
    """

    row: RowOfInterest
    label: int
    likely: int
    label_probability: float
    likely_probability: float
    about: int | None = None


@dataclass(frozen=True)
class TaskMistakes(Result):
    """One student on its task's report split.

    n, wrong: report rows, and those that it answers wrong (0 where answers are numbers). Of
    several labels a text, it is right where all of them are.
    judge_right: share of the report rows on which the teacher, who judges held-out labels, is
    right; None where there is no teacher and the student judges its own. folds_right: the same of
    what judges training labels, on training rows. checked:
    rows of each split whose labels were held against out-of-sample probabilities; not_checked: why
    none were. mistakes: the surest first; suspects: the likeliest first, split by split.
    """

    task: str
    arm: str
    run_id: str
    teacher_arm: str | None
    label_names: tuple[str, ...]
    is_regression: bool
    n: int
    wrong: int
    judge_right: float | None = None
    folds_right: float | None = None
    several: bool = False
    mistakes: tuple[Mistake, ...] = ()
    checked: dict[str, int] = field(default_factory=dict)
    not_checked: str = ""
    suspects: tuple[SuspectedLabel, ...] = ()
    slices: tuple[SliceScore, ...] = ()

    def named(self, answer: int, about: int | None) -> str:
        """A label or an answer of a mistake or a suspicion, as a reader sees it."""
        if about is None:
            return self.label_names[answer]
        return self.label_names[about] if answer else f"not {self.label_names[about]}"

    @property
    def surest(self) -> tuple[Mistake, ...]:
        """The mistakes that a reader should look at first."""
        return self.mistakes[:SUREST]

    @property
    def surest_suspected(self) -> int:
        """How many of the surest mistakes look like wrong labels."""
        return sum(bool(one.suspected) for one in self.surest)

    def suspected(self, split: str) -> int:
        """How many labels of a split may be wrong."""
        return sum(one.row.split == split for one in self.suspects)

    @property
    def worse(self) -> tuple[SliceScore, ...]:
        """The slices that are told apart as worse than the rest, the surest first."""
        found = [one for one in self.slices if one.verdict == "worse"]
        return tuple(sorted(found, key=lambda one: one.p_adjusted or 0.0))

    @property
    def tested(self) -> int:
        """Slices with rows enough for a test."""
        return sum(one.p is not None for one in self.slices)


@dataclass(frozen=True)
class Answers:
    """What a study's runs answered: outputs by run id on a split, and the rows of a task.

    out_of_fold: outputs on training rows, each by a model that was fitted without it.
    """

    report: Mapping[str, SplitOutputs]
    selection: Mapping[str, SplitOutputs]
    out_of_fold: Mapping[str, SplitOutputs]
    rows: Callable[[str], TaskRows | None]


def gather_mistakes(
    frame: pd.DataFrame | StudyFrame, answers: Answers, rules: Rules | None = None
) -> list[TaskMistakes]:
    """The mistakes of the first student of every task that stored its predictions.

    The slices of all tasks are one family of tests.
    """
    rules, frame = rules or Rules(), tidy(frame)
    tasks = dict.fromkeys(map(str, frame["task"]))
    found = [one for task in tasks if (one := _of_task(frame, task, answers, rules)) is not None]
    slices = judged([one.slices for one in found], rules)
    return [replace(one, slices=tuple(own)) for one, own in zip(found, slices, strict=True)]


def lacking_mistakes(
    frame: pd.DataFrame | StudyFrame, found: Sequence[TaskMistakes]
) -> dict[str, str]:
    """Why the other tasks have no mistakes to show, as a part of a sentence, by task."""
    frame, shown = tidy(frame), {one.task for one in found}
    lacking = {}
    for task in dict.fromkeys(map(str, frame["task"])):
        students = frame[(frame["task"] == task) & (frame["role"] == "student")]
        if task in shown:
            continue
        if students.empty:
            lacking[task] = "the study has no student of it"
        elif rank_students(frame, task).first is None:
            lacking[task] = why_no_student(students)
        else:
            lacking[task] = "its first student has stored no predictions"
    return lacking


def _of_task(frame: pd.DataFrame, task: str, answers: Answers, rules: Rules) -> TaskMistakes | None:
    first = rank_students(frame, task).first
    outputs = answers.report.get(first.ship) if first is not None else None
    if first is None or outputs is None:
        return None
    cells = frame[(frame["task"] == task) & frame["pair"].isin(first.pairs)]
    own = cells[cells["run_id"] == first.ship]
    kind = KINDS.get(str(own["task_kind"].iloc[0]) if "task_kind" in own else "")
    if kind is None:
        return None
    teacher, teacher_run = _teacher(cells, own)
    labels = own["label_names"].iloc[0] if "label_names" in own else ()
    names = tuple(map(str, labels)) if isinstance(labels, tuple | list) else ()
    rows = answers.rows(task)
    one = TaskMistakes(
        task, first.arm, first.ship, teacher, names, kind.numeric, len(outputs.ids), 0,
        several=kind.several,
    )  # fmt: skip
    if one.is_regression:
        errors = np.abs(np.ravel(outputs.outputs) - outputs.labels)
        columns = _slices_of(outputs, rows, {})
        return replace(one, slices=tuple(slice_scores(columns, errors, is_error=True, rules=rules)))
    right = outputs.right
    columns = _slices_of(outputs, rows, _label_slices(one, outputs))
    slices = slice_scores(columns, right * 1.0, is_error=False, rules=rules)
    one = replace(one, wrong=int((~right).sum()), slices=tuple(slices))
    beside = answers.report.get(teacher_run) if teacher_run else None
    folded = _folded(frame, task, answers)
    judge = first.ship if beside is None or teacher_run is None else teacher_run
    try:
        one = _with_suspects(one, judge, folded, answers, rows)
    except InputError as lacking:
        one = replace(one, not_checked=str(lacking))
    if beside is not None:
        one = replace(one, judge_right=float(beside.right.mean()))
    if folded is not None:
        one = replace(one, folds_right=float(folded.right.mean()))
    return replace(one, mistakes=_mistakes(one, outputs, beside, rows))


def _label_slices(one: TaskMistakes, outputs: SplitOutputs) -> dict[str, list[str]]:
    """What the labels of the report rows sort them by: their class, or each of a few labels."""
    if not one.several:
        return {"class": [one.label_names[i] for i in outputs.labels.astype(int)]}
    if len(one.label_names) > MOST_LABELS:
        return {}
    columns = zip(one.label_names, outputs.labels.T.tolist(), strict=True)
    return {f"label {name}": ["yes" if x else "no" for x in column] for name, column in columns}


def _questions(outputs: SplitOutputs) -> Iterator[tuple[int | None, np.ndarray, np.ndarray]]:
    """What the rows are asked: labels [n], probabilities [n, c], and which label it is about.

    One question of all classes; or, where a row may have several labels, one of each label, whose
    classes are that it is not there (0) and that it is (1).
    """
    kind = outputs.kind
    shares = kind.probabilities(outputs.outputs)
    assert shares is not None
    if not kind.several:
        yield None, outputs.labels.astype(int), shares
        return
    for place in range(shares.shape[1]):
        there = shares[:, place]
        yield place, outputs.labels[:, place].astype(int), np.stack([1 - there, there], axis=1)


def _teacher(cells: pd.DataFrame, own: pd.DataFrame) -> tuple[str | None, str | None]:
    """The arm and the run of the model that taught the student, or would have taught it."""
    named = next((ids for ids in named_teachers(own) if ids), ())
    taught = teacher_of(cells)
    run = next(iter(named or taught.run_ids), None)
    arms = cells.loc[cells["run_id"] == run, "arm"]
    return (str(arms.iloc[0]) if len(arms) else taught.arm), run


def _slices_of(
    outputs: SplitOutputs, rows: TaskRows | None, classes: dict[str, list[str]]
) -> dict[str, Sequence[object]]:
    """What sorts the report rows: their class, length, script and the columns of their file."""
    columns: dict[str, Sequence[object]] = {**classes}
    if rows is None:
        return columns
    own = rows.at("report", outputs.ids.tolist())
    if own["tokens"].notna().all():
        columns["length in tokens"] = own["tokens"].tolist()
    columns["script"] = own["script"].tolist()
    return columns | {name: own[rows.column(name)].tolist() for name in rows.columns}


def _folded(frame: pd.DataFrame, task: str, answers: Answers) -> SplitOutputs | None:
    """Training rows, each answered by a model that was fitted without it."""
    baselines = frame[(frame["task"] == task) & (frame["role"] == "baseline")]
    found = (answers.out_of_fold.get(run) for run in dict.fromkeys(baselines["run_id"]))
    return next((one for one in found if one is not None), None)


def _with_suspects(
    one: TaskMistakes,
    judge: str,
    folded: SplitOutputs | None,
    answers: Answers,
    rows: TaskRows | None,
) -> TaskMistakes:
    """Labels that may be wrong: held-out ones by the judge, training ones by folds."""
    asked = {
        "report": answers.report.get(judge),
        "selection": answers.selection.get(judge),
        OUT_OF_FOLD: folded,
    }
    known = {split: outputs for split, outputs in asked.items() if outputs is not None}
    suspects = [s for split, outputs in known.items() for s in _suspects(split, outputs, rows)]
    checked = {split: len(outputs.ids) for split, outputs in known.items()}
    return replace(one, suspects=tuple(suspects), checked=checked)


def count_suspects(outputs: SplitOutputs) -> int:
    """How many labels of these rows may be wrong, by a model that has not seen them.

    Raises InputError where cleanlab is not installed.
    """
    return sum(len(suspected_labels(labels, shares)) for _, labels, shares in _questions(outputs))


def _suspects(split: str, outputs: SplitOutputs, rows: TaskRows | None) -> list[SuspectedLabel]:
    """The labels of a split that may be wrong, the likeliest first, label by label."""
    found = []
    for about, labels, probabilities in _questions(outputs):
        places = suspected_labels(labels, probabilities)
        interest = _rows_of_interest(split, outputs.ids[places], rows)
        for row, place in zip(interest, places.tolist(), strict=True):
            label, values = int(labels[place]), probabilities[place]
            likely = int(np.where(np.arange(len(values)) == label, -1.0, values).argmax())
            both = float(values[label]), float(values[likely])
            found.append(SuspectedLabel(row, label, likely, *both, about))
    if outputs.kind.several:
        found.sort(key=lambda one: one.label_probability)
    return found


def _mistakes(
    one: TaskMistakes, own: SplitOutputs, beside: SplitOutputs | None, rows: TaskRows | None
) -> tuple[Mistake, ...]:
    """The wrong answers, the surest first."""
    asked = "report" in one.checked
    suspected = {(s.row.example_id, s.about) for s in one.suspects if s.row.split == "report"}
    taught = {} if beside is None else {about: shares for about, _, shares in _questions(beside)}
    known = {} if beside is None else {example: i for i, example in enumerate(beside.ids)}
    decided = own.kind.decide(own.outputs)
    wrong: list[tuple[int, int, int, float, int | None]] = []
    for about, labels, shares in _questions(own):
        answers = decided if about is None else decided[:, about]
        for i in np.flatnonzero(answers != labels).tolist():
            wrong.append((i, int(labels[i]), int(answers[i]), float(shares[i, answers[i]]), about))
    wrong.sort(key=lambda found: -found[3])
    ids = own.ids[[i for i, *_ in wrong]] if wrong else own.ids[:0]
    found = []
    for row, (i, label, answer, sure, about) in zip(
        _rows_of_interest("report", ids, rows), wrong, strict=True
    ):
        example = own.ids[i]
        said = taught[about][known[example]] if example in known else None
        found.append(
            Mistake(
                row,
                label,
                answer,
                sure,
                None if said is None else int(said.argmax()),
                None if said is None else float(said.max()),
                (row.example_id, about) in suspected if asked else None,
                about,
            )
        )
    return tuple(found)


def _rows_of_interest(split: str, ids: np.ndarray, rows: TaskRows | None) -> list[RowOfInterest]:
    if rows is None:
        return [RowOfInterest(split, str(one), None, None) for one in ids]
    known = rows.at(split, list(ids))
    return [
        RowOfInterest(
            split,
            str(example),
            None if pd.isna(row["number"]) else int(row["number"]),
            rows.text(row),
        )
        for example, (_, row) in zip(ids, known.iterrows(), strict=True)
    ]
