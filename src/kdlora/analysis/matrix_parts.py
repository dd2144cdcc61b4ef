"""What the analysis of a matrix is made of, and the tests of single runs in it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from kdlora.analysis.example_tests import mcnemar
from kdlora.analysis.paired_tests import adjust
from kdlora.analysis.results import Result
from kdlora.store.outputs import SplitOutputs, shared_examples


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
            if len(known) != 2 or next(iter(known.values())).outputs.shape[1] < 2:
                continue
            aligned = shared_examples(known)
            if aligned:
                right = [aligned[r].outputs.argmax(1) == aligned[r].labels for r in pair]
                found.append((int(seed), mcnemar(right[0], right[1]).p))
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


def positive_class(rows: pd.DataFrame) -> tuple[str | None, int | None]:
    """The class whose F1 stands in the table: the task's own, else the rarer of the report split.

    The task's is found by its recorded F1. (None, None) where there are no classes.
    """
    for _, row in rows.iterrows():
        found = row.get("per_class_f1")
        if not isinstance(found, dict) or len(found) < 2:
            continue
        names = list(found)
        stated = row.get("report.f1")
        if stated is not None and np.isfinite(stated):
            nearest = min(range(len(names)), key=lambda i: abs(found[names[i]] - stated))
            if abs(found[names[nearest]] - stated) < 1e-9:
                return names[nearest], nearest
        confusion = row.get("confusion")
        if isinstance(confusion, list) and len(confusion) == len(names):
            rarest = int(np.argmin(np.sum(confusion, axis=1)))
            return names[rarest], rarest
    return None, None
