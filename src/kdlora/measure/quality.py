"""How good the outputs of a model are on labelled rows.

Everything here is a pure function of arrays, so that every number of a record can be recomputed
from its `predictions.parquet`. A value is None where it is undefined, never NaN:

- a correlation with constant predictions or constant labels, or of fewer than two rows;
- the F1 of a class that occurs neither in the labels nor in the predictions;
- every metric of an empty split, or where an output is not finite.

How a metric is computed is said in `vocabulary.metric`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdlora.errors import DataError
from kdlora.records.record import LabelQuality, Quality
from kdlora.vocabulary.label_metrics import answered
from kdlora.vocabulary.metric import confusion_counts, f1_by_class, metric
from kdlora.vocabulary.task import Task
from kdlora.vocabulary.terms import RankedTerms

Array = NDArray[Any]


def score_split(task: Task, outputs: Array, labels: Array) -> dict[str, float | None]:
    """Every metric of the task on one split.

    `outputs` are logits [n, c], or numbers [n] or [n, 1]; `labels` [n] hold class indices or target
    values, or 0 and 1 for each label [n, c]. Cross-entropy is in nats. Raises DataError if they do
    not fit.
    """
    values, truth = checked(task, outputs, labels)
    if not len(truth) or not np.isfinite(values).all():
        return dict.fromkeys(task.metrics)
    positive = (
        _positive_class(task) if any(metric(m).needs_positive for m in task.metrics) else None
    )
    return {name: metric(name).score(values, truth, positive=positive) for name in task.metrics}


def per_class_f1(task: Task, outputs: Array, labels: Array) -> dict[str, float]:
    """F1 of every class that occurs in the labels or the predictions; {} without classes."""
    values, truth = checked(task, outputs, labels)
    if not _is_countable(task, values):
        return {}
    if task.kind.several:
        found = per_label(task, outputs, labels)
        totals = {n: one.positives + one.answers for n, one in found.items()}
        return {n: 2 * found[n].true_positive / total for n, total in totals.items() if total}
    scores = f1_by_class(confusion_counts(task.kind.decide(values), truth, task.num_outputs))
    pairs = zip(task.label_names, scores.tolist(), strict=True)
    return {name: score for name, score in pairs if not math.isnan(score)}


def confusion(task: Task, outputs: Array, labels: Array) -> list[list[int]]:
    """Counts [c][c], row = true class, column = predicted class.

    [] without classes, and where a row may have several: `per_label` counts each of them.
    """
    values, truth = checked(task, outputs, labels)
    if not _is_countable(task, values) or task.kind.several:
        return []
    counts = confusion_counts(task.kind.decide(values), truth, task.num_outputs)
    return [[int(n) for n in row] for row in counts]


def per_label(task: Task, outputs: Array, labels: Array) -> dict[str, LabelQuality]:
    """Each label by itself; {} where a row has exactly one class, or a number."""
    values, truth = checked(task, outputs, labels)
    if not task.kind.several or not _is_countable(task, values):
        return {}
    said, there = answered(values), truth > 0
    found = {}
    for i, name in enumerate(task.label_names):
        precision = RankedTerms(values[:, [i]], there[:, [i]]).score
        s, t = said[:, i], there[:, i]
        found[name] = LabelQuality(
            true_positive=int((s & t).sum()),
            false_positive=int((s & ~t).sum()),
            false_negative=int((~s & t).sum()),
            true_negative=int((~s & ~t).sum()),
            average_precision=None if math.isnan(precision) else precision,
        )
    return found


def count_predictions(task: Task, outputs: Array) -> dict[str, int] | None:
    """How often each class is predicted; None without classes or for outputs not finite."""
    values = np.asarray(outputs, dtype=np.float64)
    if not task.label_names or not np.isfinite(values).all():
        return None
    return task.kind.counts(task.kind.decide(values), task.label_names)


def quality(
    task: Task, outputs: dict[str, Array], labels: dict[str, Array], *, n_train: int
) -> Quality:
    """The quality block of a record from outputs and labels by split; "report" must be there."""
    if outputs.keys() != labels.keys() or "report" not in outputs:
        raise DataError(
            f"outputs of the splits {sorted(outputs)} and labels of {sorted(labels)}: "
            "both must hold the same splits, 'report' among them"
        )
    return Quality(
        primary=task.primary,
        direction=1 if task.direction > 0 else -1,
        splits={name: score_split(task, outputs[name], labels[name]) for name in outputs},
        per_class_f1=per_class_f1(task, outputs["report"], labels["report"]),
        confusion=confusion(task, outputs["report"], labels["report"]),
        per_label=per_label(task, outputs["report"], labels["report"]),
        n={"train": n_train, **{name: len(values) for name, values in labels.items()}},
    )


def better(a: float | None, b: float | None, direction: int) -> bool:
    """Whether score `a` is strictly better than `b`; None and NaN are worse than any number."""
    if a is None or math.isnan(a):
        return False
    if b is None or math.isnan(b):
        return True
    return (a - b) * direction > 0


def floor_score(task: Task, train_labels: Array, labels: Array) -> float | None:
    """What a model that ignores the text scores on `labels` under the primary metric.

    It answers with the class shares (so the majority class), each label's rate, or the mean of the
    training labels.
    A correlation is undefined for it; the floor of a correlation is 0, that of no relation.
    None for ECE, on which knowing nothing but the class shares is nearly perfect, and for no rows.
    """
    from kdlora.models.baselines import majority

    if not metric(task.primary).has_floor or not len(labels):
        return None
    if metric(task.primary).is_correlation:
        return 0.0
    return score_split(task, majority(task, train_labels, len(labels)), labels)[task.primary]


def checked(task: Task, outputs: Array, labels: Array) -> tuple[NDArray[np.float64], Array]:
    """Outputs as float64 [n, c] (numbers: [n]) and labels; DataError if they do not fit."""
    values, truth = np.asarray(outputs, dtype=np.float64), np.asarray(labels)
    numeric = task.kind.numeric
    if numeric and values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    problems = []
    expected = "[n] or [n, 1]" if numeric else f"[n, {task.num_outputs}]"
    if values.ndim != (1 if numeric else 2) or values.shape[1:] != (
        () if numeric else (task.num_outputs,)
    ):
        problems.append(f"outputs have shape {list(values.shape)}, expected {expected}")
    fits = truth.ndim == 1 + task.kind.several
    if not fits or (values.ndim and len(values) != len(truth)):
        problems.append(f"labels have shape {list(truth.shape)}, outputs {list(values.shape)}")
    elif task.kind.several and truth.shape[1] != task.num_outputs:
        problems.append(f"labels have shape {list(truth.shape)}, expected {expected}")
    strange = truth[:0] if numeric or not fits else truth[~task.kind.valid(truth, task.num_outputs)]
    if len(strange):
        shown = sorted({str(x) for x in strange.ravel()})[:5]
        wanted = (
            "0 or 1 for each label"
            if task.kind.several
            else f"class indices 0 to {task.num_outputs - 1}"
        )
        problems.append(f"labels hold {', '.join(shown)}, expected {wanted}")
    if problems:
        raise DataError(problems, where=f"task '{task.name}'")
    return values, truth.astype(np.float64 if numeric else np.int64)


def _is_countable(task: Task, values: NDArray[np.float64]) -> bool:
    return bool(task.label_names) and bool(len(values)) and bool(np.isfinite(values).all())


def _positive_class(task: Task) -> int:
    if task.positive not in task.label_names:
        raise DataError(
            f"a metric of one class needs the positive one: one of {', '.join(task.label_names)}",
            where=f"task '{task.name}'",
        )
    return task.label_names.index(task.positive)
