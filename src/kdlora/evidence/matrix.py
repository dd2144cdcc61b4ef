"""Teachers crossed with students: what each cell scores, and what is the teacher's doing.

    score of (teacher, student) = mean + teacher effect + student effect + interaction

Effects are deviations from the mean of the matrix and sum to zero. An effect and a difference are
weighted sums of the models' scores, matched by seed and judged as every other comparison is
(`evidence.compare`): with three seeds they hold for other seeds and texts, with fewer for the
trained models that stand in the matrix, on texts like these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from kdlora.evidence.claim import Claim
from kdlora.evidence.compare import compare_matched
from kdlora.evidence.comparison import Comparison
from kdlora.evidence.pairing import Matched, matched_sums
from kdlora.evidence.prediction_tests import mcnemar
from kdlora.evidence.result import Result, Rules, finite
from kdlora.evidence.score_draws import ScoreDraws, draw_scores, score_ends
from kdlora.evidence.scores import numbers, usable_runs
from kdlora.evidence.teacher import teacher_of
from kdlora.records.frame import positive_class, positive_place
from kdlora.records.predictions import SplitOutputs, shared_examples
from kdlora.records.tidy import StudyFrame, groups
from kdlora.records.tidy import metric_of as task_metric
from kdlora.vocabulary.arm import Arm
from kdlora.vocabulary.metric import metric as metric_of

Model = tuple[str, str]  # (teacher, student) of a cell; ("teacher", its name) and the like
Sum = tuple[tuple[Model, float], ...]  # models with their weights


@dataclass(frozen=True)
class MatrixModel(Result):
    """A teacher, a student trained alone or a cell, as means over seeds.

    kind: teacher; vanilla (alone, adapted as the cells are); full (alone, fully fine-tuned);
    distilled.

    score with its interval is the primary metric on the report split, in its own unit; `speedup`
    is against the cell's own teacher, timed side by side. Sizes: MB = 10^6 bytes, MiB = 2^20.
    """

    kind: str
    teacher: str
    student: str
    run_ids: tuple[str, ...]
    seeds: tuple[int, ...]
    score: float
    low: float | None
    high: float | None
    accuracy: float | None
    macro_f1: float | None
    positive_f1: float | None
    size_mb: float | None
    size_mib: float | None
    latency_p50_ms: float | None
    speedup: float | None
    agreement: float | None
    kappa: float | None
    chance: float | None
    lower: float | None
    upper: float | None


@dataclass(frozen=True)
class Effect(Result):
    """A deviation from the mean of the matrix, in the unit of comparisons, more being better.

    The interval is that of the widest claim that the seeds allow.
    """

    kind: str
    name: str
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Contrast(Result):
    """a minus b, more being better, judged together with those of its kind.

    kind: teacher or student (averaged over the other), interaction (a difference of differences),
    same student (two teachers), distillation (against the student alone, adapted alike), full
    (against the student alone, fully fine-tuned), teacher's own (against the teacher).
    mcnemar: exact p of the accuracies of single runs, by seed; not corrected.
    """

    kind: str
    a: str
    b: str
    comparison: Comparison = field(repr=False)
    mcnemar: tuple[tuple[int, float | None], ...] = ()

    @property
    def claim(self) -> Claim:
        """The widest claim that the seeds allow: it carries the verdict."""
        return self.comparison.claim

    @property
    def difference(self) -> float:
        """Over the seeds that both sides have; NaN where they share none."""
        return next(iter(self.comparison.by_task.values()), float("nan"))


@dataclass(frozen=True)
class Matrix(Result):
    """Teachers x students of one distilled arm; `shares` of the sum of squares between cells."""

    task: str
    arm: str
    control: str
    metric: str
    direction: int
    positive: str | None
    teachers: tuple[str, ...]
    students: tuple[str, ...]
    models: tuple[MatrixModel, ...]
    mean: Effect
    effects: tuple[Effect, ...]
    shares: dict[str, float]
    contrasts: tuple[Contrast, ...]
    n_examples: int
    n_seeds: int

    def cell(self, teacher: str, student: str) -> MatrixModel:
        found = (m for m in self.models if (m.teacher, m.student) == (teacher, student))
        return next(m for m in found if m.kind == "distilled")

    def largest(self, kind: str) -> Contrast:
        """The contrast with the largest difference; one whose sides share no seed comes last."""
        return max(self.of(kind), key=lambda c: float(np.nan_to_num(abs(c.difference), nan=-1.0)))

    def of(self, kind: str) -> list[Contrast]:
        return [c for c in self.contrasts if c.kind == kind]


def split_effects(cube: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """[d, teachers, students] -> mean [d], teacher [d, t], student [d, s], interaction [d, t, s].

    The two-way decomposition without replication: their sum is the table again.
    """
    mean = cube.mean((1, 2))
    teacher = cube.mean(2) - mean[:, None]
    student = cube.mean(1) - mean[:, None]
    rest = cube - mean[:, None, None] - teacher[:, :, None] - student[:, None, :]
    return mean, teacher, student, rest


def shares_of(table: np.ndarray) -> dict[str, float]:
    """Shares of the sum of squares between cells; {} where all cells are equal."""
    _, teacher, student, rest = split_effects(table[None])
    n_teachers, n_students = table.shape
    squares = {
        "teacher": n_students * float((teacher**2).sum()),
        "student": n_teachers * float((student**2).sum()),
        "interaction": float((rest**2).sum()),
    }
    total = sum(squares.values())
    return {name: value / total for name, value in squares.items()} if total > 1e-12 else {}


def class_shown(rows: pd.DataFrame) -> str | None:
    """The class whose F1 the table shows: the one the task asks about, else the rarest class.

    Which is rarest the report split tells. None where there are no classes.
    """
    if (asked := positive_class(rows)) is not None:
        return asked
    for row in rows.to_dict("records"):
        names, confusion = row.get("label_names"), row.get("confusion")
        if not isinstance(names, tuple) or len(names) < 2:
            continue
        if isinstance(confusion, list) and len(confusion) == len(names):
            return str(names[int(np.argmin(np.sum(confusion, axis=1)))])
    return None


MIB = 2**20 / 1e6  # MB in a MiB
# The plainly fine-tuned student, beside a control that has adapters.
FULL = str(Arm("student", "fft"))
ALONE = ("vanilla", "full")


def crossed(frame: pd.DataFrame) -> list[tuple[str, str]]:
    """(task, distilled arm) of which at least 2 teachers x 2 students are all there."""
    found = []
    distilled = _distilled(frame)
    for (task, arm), rows in groups(distilled, "task", "arm", columns=("teacher", "student")):
        teachers, students = rows["teacher"].unique(), rows["student"].unique()
        cells = rows[["teacher", "student"]].drop_duplicates()
        if min(len(teachers), len(students)) >= 2 and len(cells) == len(teachers) * len(students):
            found.append((str(task), str(arm)))
    return found


SEED, MOST = 0, 3  # MOST matrices of a study: tasks times distilled arms
RULES = Rules(draws=2_000, permutations=0)


def study_matrices(study: StudyFrame) -> tuple[Matrix, ...]:
    """The matrices of a study, with its stored predictions, as its report shows them."""
    return tuple(
        analyse_matrix(study, task, arm, rng=np.random.default_rng(SEED), rules=RULES)
        for task, arm in crossed(study.table)[:MOST]
    )


def _done(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[(frame["status"] == "done") & np.isfinite(numbers(frame["score"]))]


def _distilled(frame: pd.DataFrame) -> pd.DataFrame:
    if not {"status", "score", "teacher", "student", "distillation"} <= set(frame):
        return frame.iloc[:0].assign(task="", arm="", teacher="", student="")
    rows = _done(frame)
    rows = rows[(rows["role"] == "student") & (rows["distillation"] == "kd")]
    return rows[rows["teacher"].notna() & rows["student"].notna()]


def analyse_matrix(
    frame: StudyFrame | pd.DataFrame,
    task: str,
    arm: str,
    *,
    rng: np.random.Generator,
    rules: Rules | None = None,
) -> Matrix:
    """The matrix of a distilled arm on a task, which `crossed` has named.

    Without stored predictions only seeds are a sample, and with fewer than three there are no
    intervals. `rules.draws` is of the models' own scores.
    """
    rules = rules or Rules(permutations=0)
    study = StudyFrame.of(frame)
    usable, notes = usable_runs(study.where(study.table["task"].eq(task)))
    rows = usable.assign(seed=study.table.loc[usable.index, "seed"])  # a number for every run
    distilled = rows[rows["arm"] == arm]
    teachers = [str(t) for t in dict.fromkeys(distilled["teacher"])]
    students = [str(s) for s in dict.fromkeys(distilled["student"])]
    metric, direction = task_metric(distilled, task)
    shown = class_shown(distilled)
    control = _control(arm, rows)
    models = dict(_models(rows, arm, control, teachers, students))
    drawn = _drawn_scores(models, study.outputs, metric, rng, rules.draws)
    at = {name: i for i, name in enumerate(models)}
    scale = direction * metric_of(metric).factor
    table = scale * np.array([[drawn.scores[at[t, s]] for s in students] for t in teachers])
    judge = _Judge(study, models, notes, rng, rules)
    ends = score_ends(None if drawn.draws is None else _mean_cell(drawn, at), metric, rules.alpha)
    low, high = sorted(scale * end for end in ends if end is not None) or (None, None)
    return Matrix(
        task=task,
        arm=arm,
        control=control,
        metric=metric,
        direction=direction,
        positive=shown,
        teachers=tuple(teachers),
        students=tuple(students),
        models=tuple(
            _model(name, own, drawn, at, rules.alpha, shown) for name, own in models.items()
        ),
        mean=Effect("mean", "", float(table.mean()), low, high),
        effects=tuple(_effects(table, teachers, students, judge)),
        shares=shares_of(table),
        contrasts=tuple(_contrasts(teachers, students, judge)),
        n_examples=drawn.n_examples,
        n_seeds=int(min(len(models[t, s]) for t in teachers for s in students)),
    )


def _models(
    rows: pd.DataFrame, arm: str, control: str, teachers: Sequence[str], students: Sequence[str]
) -> Iterable[tuple[Model, pd.DataFrame]]:
    """The runs behind each model that has any, by seed; one shared by several pairs counts once."""
    found: list[tuple[Model, pd.DataFrame]] = [
        (("teacher", teacher), _teacher_runs(rows, teacher)) for teacher in teachers
    ]
    for student in students:
        own = rows[rows["student"] == student]
        found.append((("vanilla", student), own[own["arm"] == control]))
        if control != FULL:
            found.append((("full", student), own[own["arm"] == FULL]))
    cells = rows[rows["arm"] == arm]
    for teacher in teachers:
        for student in students:
            here = (cells["teacher"] == teacher) & (cells["student"] == student)
            found.append(((teacher, student), cells[here]))
    for name, own in found:
        if len(own):
            yield name, own.drop_duplicates("run_id").sort_values("seed", kind="stable")


def _drawn_scores(
    models: Mapping[Model, pd.DataFrame],
    outputs: Mapping[str, SplitOutputs],
    metric: str,
    rng: np.random.Generator,
    draws: int,
) -> ScoreDraws:
    runs = pd.concat(models.values())
    positive = None
    if metric_of(metric).needs_positive:
        positive = positive_place(runs)
        outputs = outputs if positive is not None else {}
    return draw_scores(
        [tuple(own["run_id"].astype(str)) for own in models.values()],
        [tuple(own["seed"].astype(int)) for own in models.values()],
        dict(zip(runs["run_id"].astype(str), runs["score"].astype(float), strict=True)),
        outputs, metric, rng=rng, draws=draws, positive=positive,
    )  # fmt: skip


def _mean_cell(drawn: ScoreDraws, at: Mapping[Model, int]) -> np.ndarray:
    assert drawn.draws is not None
    cells = [i for name, i in at.items() if name[0] not in ("teacher", *ALONE)]
    return drawn.draws[:, cells].mean(1)


def _teacher_runs(rows: pd.DataFrame, teacher: str) -> pd.DataFrame:
    """The runs of an encoder that taught."""
    own = rows[rows["teacher"] == teacher]
    return own[own["run_id"].isin(teacher_of(own).run_ids) & (own["role"] == "teacher")]


def _control(arm: str, rows: pd.DataFrame) -> str:
    """The first of its controls that has a run, else the one that it lacks."""
    names = list(map(str, Arm.read(arm).serving_controls()))
    known = set(rows["arm"])
    return next((name for name in names if name in known), names[0])


def _model(
    name: tuple[str, str],
    rows: pd.DataFrame,
    drawn: ScoreDraws,
    at: Mapping[tuple[str, str], int],
    alpha: float,
    shown: str | None,
) -> MatrixModel:
    """One model of the matrix as means over its seeds; `shown` is the class of `positive_f1`."""
    draws = None if drawn.draws is None else drawn.draws[:, at[name]]
    low, high = score_ends(draws, str(rows["metric"].iloc[0]), alpha)
    kind = name[0] if name[0] in ("teacher", *ALONE) else "distilled"
    size = _mean(rows, "size_mb")

    def f1_of(found: Any) -> float | None:
        return found.get(shown) if isinstance(found, dict) and shown else None

    return MatrixModel(
        kind=kind,
        teacher=name[1] if kind == "teacher" else "" if kind in ALONE else name[0],
        student="" if kind == "teacher" else name[1],
        run_ids=tuple(rows["run_id"].astype(str)),
        seeds=tuple(int(s) for s in rows["seed"]),
        score=float(drawn.scores[at[name]]),
        low=low,
        high=high,
        accuracy=_mean(rows, "report.accuracy"),
        macro_f1=_mean(rows, "report.macro_f1"),
        positive_f1=_average([f1_of(found) for found in rows.get("per_class_f1", ())]),
        size_mb=size,
        size_mib=None if size is None else size / MIB,
        latency_p50_ms=_mean(rows, "latency_p50_ms"),
        speedup=_mean(rows, "speedup_latency") if kind == "distilled" else None,
        agreement=_mean(rows, "agreement"),
        kappa=_mean(rows, "kappa"),
        chance=_mean(rows, "agreement_chance"),
        lower=_mean(rows, "agreement_lower"),
        upper=_mean(rows, "agreement_upper"),
    )


def _mean(rows: pd.DataFrame, column: str) -> float | None:
    return _average(list(numbers(rows[column]))) if column in rows else None


def _average(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None and np.isfinite(v)]
    return finite(np.mean(known)) if known else None


class _Judge:
    """Judges weighted sums of the models of a matrix as comparisons of one question."""

    def __init__(
        self,
        study: StudyFrame,
        models: Mapping[Model, pd.DataFrame],
        notes: Iterable[str],
        rng: np.random.Generator,
        rules: Rules,
    ) -> None:
        self.study, self.models, self.notes = study, models, tuple(notes)
        self.rng, self.rules = rng, rules

    def matched(self, a: str, b: str, blocks: Mapping[str, Sum]) -> Matched:
        """The sums of all blocks by seed; positive weights are side a."""
        rows = {
            block: [(self.models[name], weight) for name, weight in terms if weight]
            for block, terms in blocks.items()
        }
        return matched_sums(a, b, rows, notes=self.notes)

    def compare(self, matched: Sequence[Matched]) -> tuple[Comparison, ...]:
        return compare_matched(self.study, matched, rng=self.rng, rules=self.rules)

    def mcnemar(self, a: Model, b: Model) -> tuple[tuple[int, float | None], ...]:
        """The exact test of each seed of which both stored their class predictions."""
        outputs = self.study.outputs
        first, second = (
            dict(zip(self.models[n]["seed"].astype(int), self.models[n]["run_id"], strict=True))
            for n in (a, b)
        )
        found: list[tuple[int, float | None]] = []
        for seed in first:
            pair = [first[seed], second.get(seed)]
            known = {r: outputs[r] for r in pair if r in outputs}
            if len(known) != 2 or next(iter(known.values())).kind.numeric:
                continue
            aligned = shared_examples(known)
            if aligned:
                a_right, b_right = (aligned[r].right for r in pair)
                found.append((int(seed), mcnemar(a_right, b_right).p))
        return tuple(found)


def _effects(
    table: np.ndarray, teachers: Sequence[str], students: Sequence[str], judge: _Judge
) -> list[Effect]:
    """Deviations from the mean: of teachers, of students, and of each cell beyond."""
    _, of_teacher, of_student, rest = (part[0] for part in split_effects(table[None]))
    named: list[tuple[str, str, float, dict[str, Sum]]] = []
    for i, teacher in enumerate(teachers):
        named.append(("teacher", teacher, of_teacher[i], {
            student: _deviation([(t, student) for t in teachers], i) for student in students
        }))  # fmt: skip
    for j, student in enumerate(students):
        named.append(("student", student, of_student[j], {
            teacher: _deviation([(teacher, s) for s in students], j) for teacher in teachers
        }))  # fmt: skip
    for i, teacher in enumerate(teachers):
        for j, student in enumerate(students):
            weights = np.outer(
                np.eye(len(teachers))[i] - 1 / len(teachers),
                np.eye(len(students))[j] - 1 / len(students),
            )
            terms = tuple(
                ((t, s), float(weights[x, y]))
                for x, t in enumerate(teachers)
                for y, s in enumerate(students)
            )
            name = f"{teacher} x {student}"
            named.append(("interaction", name, rest[i, j], {name: terms}))
    found = judge.compare([judge.matched(n, "the mean", blocks) for _, n, _, blocks in named])
    return [
        Effect(kind, name, float(value), c.claim.low, c.claim.high)
        for (kind, name, value, _), c in zip(named, found, strict=True)
    ]


def _deviation(models: Sequence[Model], place: int) -> Sum:
    """One of the models less the mean of all of them."""
    n = len(models)
    return tuple((name, float(i == place) - 1 / n) for i, name in enumerate(models))


def _contrasts(
    teachers: Sequence[str], students: Sequence[str], judge: _Judge
) -> list[Contrast]:  # fmt: skip
    """All questions about the matrix; each kind of question is corrected for itself."""
    asked: dict[str, list[Matched]] = {}
    for one, other in combinations(teachers, 2):
        blocks = {s: (((one, s), 1.0), ((other, s), -1.0)) for s in students}
        asked.setdefault("teacher", []).append(judge.matched(one, other, blocks))
    for one, other in combinations(students, 2):
        blocks = {t: (((t, one), 1.0), ((t, other), -1.0)) for t in teachers}
        asked.setdefault("student", []).append(judge.matched(one, other, blocks))
    for one, other in combinations(teachers, 2):
        for x, y in combinations(students, 2):
            terms = (((one, x), 1.0), ((other, x), -1.0), ((one, y), -1.0), ((other, y), 1.0))
            a, b = f"{one} over {other} for {x}", f"for {y}"
            asked.setdefault("interaction", []).append(judge.matched(a, b, {a: terms}))
    pairs: dict[tuple[str, str, str], tuple[Model, Model]] = {}
    for student in students:
        wanted = [
            ("same student", (one, student), (other, student))
            for one, other in combinations(teachers, 2)
        ]
        for teacher in teachers:
            cell = (teacher, student)
            wanted.append(("distillation", cell, ("vanilla", student)))
            wanted.append(("full", cell, ("full", student)))
            wanted.append(("teacher's own", cell, ("teacher", teacher)))
        for kind, first, second in wanted:
            if first in judge.models and second in judge.models:
                a, b = " to ".join(first), " to ".join(second)
                pairs[kind, a, b] = first, second
                blocks = {student: ((first, 1.0), (second, -1.0))}
                asked.setdefault(kind, []).append(judge.matched(a, b, blocks))
    found = []
    for kind, matched in asked.items():
        for m, c in zip(matched, judge.compare(matched), strict=True):
            models = pairs.get((kind, m.a, m.b))
            exact = judge.mcnemar(*models) if models else ()
            found.append(Contrast(kind, m.a, m.b, c, exact))
    return found
