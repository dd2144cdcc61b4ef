"""Teachers crossed with students: what each cell scores, and what is the teacher's doing.

    score of (teacher, student) = mean + teacher effect + student effect + interaction

Effects are deviations from the mean of the matrix and sum to zero. Intervals and p-values come from
draws in which the examples are resampled together for all models, and the seeds vary, so what
the cells share cancels out of their differences. With one seed they speak of the trained models
that stand in the matrix, not of what another training would give.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from kdlora.evidence.paired_tests import adjust
from kdlora.evidence.prediction_tests import mcnemar
from kdlora.evidence.result import Result, finite
from kdlora.evidence.score_draws import ScoreDraws, draw_scores, quantiles, score_ends, two_sided_p
from kdlora.evidence.scores import numbers
from kdlora.evidence.teacher import teacher_of
from kdlora.records.frame import positive_place
from kdlora.records.predictions import SplitOutputs, shared_examples
from kdlora.vocabulary.arm import Arm
from kdlora.vocabulary.metric import metric as metric_of


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
    """A deviation from the mean of the matrix in points, more being better."""

    kind: str
    name: str
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Contrast(Result):
    """a minus b in points, more being better.

    kind: teacher or student (averaged over the other), interaction, same student (two teachers),
    distillation (against the student alone, adapted alike), full (against the student alone, fully
    fine-tuned), teacher's own (against the teacher).
    p: two-sided, of the bootstrap; p_holm: Holm over its kind. mcnemar: exact p by seed, of the
    accuracies of single runs; mcnemar_holm: Holm over its kind and seeds.
    """

    kind: str
    a: str
    b: str
    difference: float
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None = None
    mcnemar: tuple[tuple[int, float | None], ...] = ()
    mcnemar_holm: tuple[tuple[int, float | None], ...] = ()


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
    draws: int

    def cell(self, teacher: str, student: str) -> MatrixModel:
        found = (m for m in self.models if (m.teacher, m.student) == (teacher, student))
        return next(m for m in found if m.kind == "distilled")

    def of(self, kind: str) -> list[Contrast]:
        return [c for c in self.contrasts if c.kind == kind]


class Models:
    """The runs behind each model of a matrix, a row a seed."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], pd.DataFrame] = {}

    def add(self, name: tuple[str, str], rows: pd.DataFrame) -> None:
        """Add a model if it has any run; a run shared by several pairs counts once."""
        if len(rows):
            once = rows.drop_duplicates("run_id")
            self.rows[name] = once.sort_values("seed", kind="stable")

    def with_mcnemar(
        self,
        contrast: Contrast,
        a: tuple[str, str],
        b: tuple[str, str],
        outputs: Mapping[str, SplitOutputs],
    ) -> Contrast:
        """Add the exact test of each seed of which both stored their class predictions."""
        first, second = (
            dict(zip(self.rows[n]["seed"].astype(int), self.rows[n]["run_id"], strict=True))
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
        return replace(contrast, mcnemar=tuple(found))


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


def holm(contrasts: Sequence[Contrast]) -> list[Contrast]:
    """Correct the p-values within each kind (Holm 1979)."""
    kinds: dict[str, list[int]] = defaultdict(list)
    for i, contrast in enumerate(contrasts):
        kinds[contrast.kind].append(i)
    made = list(contrasts)
    for places in kinds.values():
        tested = [i for i in places if made[i].p is not None]
        for i, p in zip(tested, _holm([made[i].p for i in tested]), strict=True):
            made[i] = replace(made[i], p_holm=p)
        single = [(i, k) for i in places for k, (_, p) in enumerate(made[i].mcnemar)
                  if p is not None]  # fmt: skip
        corrected = dict(
            zip(single, _holm([made[i].mcnemar[k][1] for i, k in single]), strict=True)
        )
        for i in places:
            made[i] = replace(
                made[i],
                mcnemar_holm=tuple(
                    (seed, corrected.get((i, k))) for k, (seed, _) in enumerate(made[i].mcnemar)
                ),
            )
    return made


def _holm(values: Sequence[float | None]) -> list[float]:
    return [float(p) for p in adjust(np.array(values, float), "holm")]


def positive_class(rows: pd.DataFrame) -> str | None:
    """The class whose F1 stands in the table: the task's own, else the rarer of the report split.

    None where there are no classes.
    """
    for row in rows.to_dict("records"):
        names, confusion = row.get("label_names"), row.get("confusion")
        if not isinstance(names, tuple) or len(names) < 2:
            continue
        if row.get("positive_class") in names:
            return str(row["positive_class"])
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
    for (task, arm), rows in _distilled(frame).groupby(["task", "arm"], sort=False):
        teachers, students = rows["teacher"].unique(), rows["student"].unique()
        cells = rows[["teacher", "student"]].drop_duplicates()
        if min(len(teachers), len(students)) >= 2 and len(cells) == len(teachers) * len(students):
            found.append((str(task), str(arm)))
    return found


def _done(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[(frame["status"] == "done") & np.isfinite(numbers(frame["score"]))]


def _distilled(frame: pd.DataFrame) -> pd.DataFrame:
    if not {"status", "score", "teacher", "student", "distillation"} <= set(frame):
        return frame.iloc[:0].assign(task="", arm="", teacher="", student="")
    rows = _done(frame)
    rows = rows[(rows["role"] == "student") & (rows["distillation"] == "kd")]
    return rows[rows["teacher"].notna() & rows["student"].notna()]


def analyse_matrix(
    frame: pd.DataFrame,
    task: str,
    arm: str,
    outputs: Mapping[str, SplitOutputs],
    *,
    rng: np.random.Generator,
    draws: int = 4_000,
    alpha: float = 0.05,
) -> Matrix:
    """The matrix of a distilled arm on a task, which `crossed` has named.

    `outputs` are those of the *report* split by run id. Without them only seeds vary, and with one
    seed there are no intervals.
    """
    rows = _done(frame)
    rows = rows[rows["task"] == task]
    distilled = rows[rows["arm"] == arm]
    teachers = [str(t) for t in dict.fromkeys(distilled["teacher"])]
    students = [str(s) for s in dict.fromkeys(distilled["student"])]
    metric, direction = str(distilled["metric"].iloc[0]), int(distilled["direction"].iloc[0])
    models = Models()
    for teacher in teachers:
        models.add(("teacher", teacher), _teacher_runs(rows, teacher))
    control = _control(arm, rows)
    for student in students:
        own = rows[(rows["student"] == student) & (rows["arm"] == control)]
        models.add(("vanilla", student), own)
        if control != FULL:
            full = rows[(rows["student"] == student) & (rows["arm"] == FULL)]
            models.add(("full", student), full)
    for teacher in teachers:
        for student in students:
            here = (distilled["teacher"] == teacher) & (distilled["student"] == student)
            models.add((teacher, student), distilled[here])
    names = list(models.rows)
    scale = direction * metric_of(metric).factor
    scores = {
        str(r["run_id"]): float(r["score"]) for part in models.rows.values()
        for _, r in part.iterrows()
    }  # fmt: skip
    positive = None
    if metric_of(metric).needs_positive:
        positive = positive_place(distilled)
        outputs = outputs if positive is not None else {}
    drawn = draw_scores(
        [tuple(models.rows[n]["run_id"].astype(str)) for n in names],
        [tuple(models.rows[n]["seed"].astype(int)) for n in names],
        scores, outputs, metric, rng=rng, draws=draws, positive=positive,
    )  # fmt: skip
    at = {name: i for i, name in enumerate(names)}
    table = scale * np.array([[drawn.scores[at[t, s]] for s in students] for t in teachers])
    cube = None
    if drawn.draws is not None:
        cube = scale * np.stack(
            [np.stack([drawn.draws[:, at[t, s]] for s in students], -1) for t in teachers], 1
        )
    judge = _Judge(drawn, at, models, outputs, scale, alpha)
    return Matrix(
        task=task,
        arm=arm,
        control=control,
        metric=metric,
        direction=direction,
        positive=positive_class(distilled),
        teachers=tuple(teachers),
        students=tuple(students),
        models=tuple(_model(name, models.rows[name], drawn, at, alpha) for name in names),
        mean=Effect("mean", "", float(table.mean()), *_ends(cube, lambda c: c.mean((1, 2)), alpha)),
        effects=tuple(_effects(table, cube, teachers, students, alpha)),
        shares=shares_of(table),
        contrasts=tuple(_contrasts(table, cube, teachers, students, judge, alpha)),
        n_examples=drawn.n_examples,
        n_seeds=int(min(len(models.rows[t, s]) for t in teachers for s in students)),
        draws=0 if drawn.draws is None else len(drawn.draws),
    )


def _teacher_runs(rows: pd.DataFrame, teacher: str) -> pd.DataFrame:
    """The runs of an encoder that taught."""
    own = rows[rows["teacher"] == teacher]
    return own[own["run_id"].isin(teacher_of(own).run_ids) & (own["role"] == "teacher")]


def _control(arm: str, rows: pd.DataFrame) -> str:
    """The same student trained without a teacher, else the fully fine-tuned one."""
    alone = Arm.read(arm).undistilled()
    known = set(rows["arm"])
    return next((a for a in (str(alone), str(alone.plain), FULL) if a in known), str(alone))


def _model(
    name: tuple[str, str],
    rows: pd.DataFrame,
    drawn: ScoreDraws,
    at: Mapping[tuple[str, str], int],
    alpha: float,
) -> MatrixModel:
    """One model of the matrix as means over its seeds."""
    draws = None if drawn.draws is None else drawn.draws[:, at[name]]
    low, high = score_ends(draws, str(rows["metric"].iloc[0]), alpha)
    kind = name[0] if name[0] in ("teacher", *ALONE) else "distilled"
    size = _mean(rows, "size_mb")

    def f1_of(found: Any) -> float | None:
        label = positive_class(rows)
        return found.get(label) if isinstance(found, dict) and label else None

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


def _ends(
    cube: np.ndarray | None, of: Any, alpha: float
) -> tuple[float | None, float | None]:  # fmt: skip
    return quantiles(None if cube is None else of(cube), alpha)


def _effects(
    table: np.ndarray,
    cube: np.ndarray | None,
    teachers: Sequence[str],
    students: Sequence[str],
    alpha: float,
) -> list[Effect]:
    """Deviations from the mean, in points: of teachers, of students, and of each cell beyond."""
    own = split_effects(table[None])
    many = split_effects(cube) if cube is not None else None
    found = []
    for i, name in enumerate(teachers):
        ends = quantiles(None if many is None else many[1][:, i], alpha)
        found.append(Effect("teacher", name, float(own[1][0, i]), *ends))
    for j, name in enumerate(students):
        ends = quantiles(None if many is None else many[2][:, j], alpha)
        found.append(Effect("student", name, float(own[2][0, j]), *ends))
    for i, teacher in enumerate(teachers):
        for j, student in enumerate(students):
            ends = quantiles(None if many is None else many[3][:, i, j], alpha)
            name = f"{teacher} x {student}"
            found.append(Effect("interaction", name, float(own[3][0, i, j]), *ends))
    return found


def _contrasts(
    table: np.ndarray,
    cube: np.ndarray | None,
    teachers: Sequence[str],
    students: Sequence[str],
    judge: _Judge,
    alpha: float,
) -> list[Contrast]:
    """All questions about the matrix; p-values are corrected within each kind of question."""
    found: list[Contrast | None] = []
    means, columns = table.mean(1), table.mean(0)
    for i, j in combinations(range(len(teachers)), 2):
        drawn = None if cube is None else cube[:, i].mean(1) - cube[:, j].mean(1)
        found.append(
            _contrast("teacher", teachers[i], teachers[j], means[i] - means[j], drawn, alpha)
        )
    for i, j in combinations(range(len(students)), 2):
        drawn = None if cube is None else (cube[:, :, i] - cube[:, :, j]).mean(1)
        found.append(
            _contrast("student", students[i], students[j], columns[i] - columns[j], drawn, alpha)
        )
    for a, b in combinations(range(len(teachers)), 2):
        for x, y in combinations(range(len(students)), 2):
            value = table[a, x] - table[b, x] - table[a, y] + table[b, y]
            drawn = None
            if cube is not None:
                drawn = cube[:, a, x] - cube[:, b, x] - cube[:, a, y] + cube[:, b, y]
            first = f"{teachers[a]} over {teachers[b]} for {students[x]}"
            found.append(_contrast("interaction", first, f"for {students[y]}", value, drawn, alpha))
    for student in students:
        for one, other in combinations(teachers, 2):
            found.append(judge.compare("same student", (one, student), (other, student)))
        for teacher in teachers:
            cell = (teacher, student)
            found.append(judge.compare("distillation", cell, ("vanilla", student)))
            found.append(judge.compare("full", cell, ("full", student)))
            found.append(judge.compare("teacher's own", cell, ("teacher", teacher)))
    return holm([c for c in found if c is not None])


def _contrast(
    kind: str, a: str, b: str, value: float, drawn: np.ndarray | None, alpha: float
) -> Contrast:
    p = None if drawn is None else two_sided_p(drawn)
    return Contrast(kind, a, b, float(value), *quantiles(drawn, alpha), p)


class _Judge:
    """Compares two models of the matrix on the same examples."""

    def __init__(
        self,
        drawn: ScoreDraws,
        at: Mapping[tuple[str, str], int],
        models: Models,
        outputs: Mapping[str, SplitOutputs],
        scale: float,
        alpha: float,
    ) -> None:
        self.drawn, self.at, self.models, self.outputs = drawn, at, models, outputs
        self.scale, self.alpha = scale, alpha

    def compare(self, kind: str, a: tuple[str, str], b: tuple[str, str]) -> Contrast | None:
        """a minus b in points, with McNemar's exact test of each seed that both have."""
        if a not in self.at or b not in self.at:
            return None
        i, j = self.at[a], self.at[b]
        value = self.scale * float(self.drawn.scores[i] - self.drawn.scores[j])
        drawn = None
        if self.drawn.draws is not None:
            drawn = self.scale * (self.drawn.draws[:, i] - self.drawn.draws[:, j])
        made = _contrast(kind, " to ".join(a), " to ".join(b), value, drawn, self.alpha)
        return self.models.with_mcnemar(made, a, b, self.outputs)
