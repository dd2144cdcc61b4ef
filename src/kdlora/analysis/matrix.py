"""Teachers crossed with students: what each cell scores, and what is the teacher's doing.

    score of (teacher, student) = mean + teacher effect + student effect + interaction

Effects are deviations from the mean of the matrix and sum to zero. Intervals and p-values come from
one bootstrap in which the examples are drawn together for all models, and then the seeds, so what
the cells share cancels out of their differences. With one seed they speak of the trained models
that stand in the matrix, not of what another training would give.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from kdlora.analysis.choice_bootstrap import ScoreDraws, draw_scores, quantiles, two_sided_p
from kdlora.analysis.matrix_parts import (
    Contrast,
    Effect,
    Matrix,
    MatrixModel,
    Models,
    holm,
    positive_class,
    shares_of,
    split_effects,
)
from kdlora.analysis.results import finite
from kdlora.analysis.scores import UNBOUNDED, numbers
from kdlora.store.outputs import SplitOutputs

MIB = 2**20 / 1e6  # MB in a MiB
FULL = "student/fft"  # the plainly fine-tuned student, beside a control that has adapters
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
        models.add(("teacher", teacher), _teacher_runs(rows, distilled, teacher))
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
    scale = direction * (1.0 if metric in UNBOUNDED else 100.0)
    scores = {
        str(r["run_id"]): float(r["score"]) for part in models.rows.values()
        for _, r in part.iterrows()
    }  # fmt: skip
    positive = None
    if metric == "f1":
        positive = positive_class(distilled)[1]
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
        positive=positive_class(distilled)[0],
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


def _teacher_runs(rows: pd.DataFrame, distilled: pd.DataFrame, teacher: str) -> pd.DataFrame:
    """The runs that taught; else the fully fine-tuned ones of that encoder."""
    taught = set(distilled.loc[distilled["teacher"] == teacher, "teacher_run_id"].dropna())
    own = rows[rows["run_id"].isin(taught)]
    if own.empty:
        own = rows[(rows["role"] == "teacher") & (rows["teacher"] == teacher)]
        own = own[own["adaptation"].isin(["fft", "given"])]
    return own


def _control(arm: str, rows: pd.DataFrame) -> str:
    """The same student without distillation: the arm without `kd-`, else a fully fine-tuned one."""
    plain = arm.replace("/kd-", "/", 1)
    known = set(rows["arm"])
    return next((a for a in (plain, plain.split("[")[0], FULL) if a in known), plain)


def _model(
    name: tuple[str, str],
    rows: pd.DataFrame,
    drawn: ScoreDraws,
    at: Mapping[tuple[str, str], int],
    alpha: float,
) -> MatrixModel:
    """One model of the matrix as means over its seeds."""
    low, high = quantiles(None if drawn.draws is None else drawn.draws[:, at[name]], alpha)
    kind = name[0] if name[0] in ("teacher", *ALONE) else "distilled"
    size = _mean(rows, "size_mb")

    def f1_of(found: Any) -> float | None:
        label = positive_class(rows)[0]
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
