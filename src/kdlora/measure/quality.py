"""How good the outputs of a model are on labelled rows.

Everything here is a pure function of arrays, so that every number of a record can be recomputed
from its `predictions.parquet`. A value is None where it is undefined, never NaN:

- a correlation with constant predictions or constant labels, or of fewer than two rows;
- the F1 of a class that occurs neither in the labels nor in the predictions;
- every metric of an empty split, or where an output is not finite.

The Matthews correlation of constant predictions is 0 by convention (Matthews 1975; Chicco and
Jurman 2020).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import confusion_matrix, f1_score, matthews_corrcoef

from kdlora.errors import DataError
from kdlora.records.record import Quality
from kdlora.vocabulary.task import ECE_BINS, Task

Array = NDArray[Any]


def score_split(task: Task, outputs: Array, labels: Array) -> dict[str, float | None]:
    """Every metric of the task on one split.

    `outputs` are logits [n, c], or numbers [n] or [n, 1]; `labels` [n] hold
    class indices or target values. Cross-entropy is in nats. Raises DataError if they do not fit.
    """
    values, truth = checked(task, outputs, labels)
    if not len(truth) or not np.isfinite(values).all():
        return dict.fromkeys(task.metrics)
    if task.kind.numeric:
        scores = _regression_scores(values, truth)
    else:
        scores = _classification_scores(task, values, truth)
    return {name: scores[name] for name in task.metrics}


def per_class_f1(task: Task, outputs: Array, labels: Array) -> dict[str, float]:
    """F1 of every class that occurs in the labels or the predictions; {} without classes."""
    values, truth = checked(task, outputs, labels)
    if not _is_countable(task, values):
        return {}
    return _per_class_f1(task, task.kind.decide(values), truth)


def confusion(task: Task, outputs: Array, labels: Array) -> list[list[int]]:
    """Counts [c][c], row = true class, column = predicted class; [] without classes."""
    values, truth = checked(task, outputs, labels)
    if not _is_countable(task, values):
        return []
    classes = range(task.num_outputs)
    counts: list[list[int]] = confusion_matrix(
        truth, task.kind.decide(values), labels=list(classes)
    ).tolist()
    return counts


def count_predictions(task: Task, outputs: Array) -> dict[str, int] | None:
    """How often each class is predicted; None without classes or for outputs not finite."""
    values = np.asarray(outputs, dtype=np.float64)
    if not task.label_names or not np.isfinite(values).all():
        return None
    counts = np.bincount(task.kind.decide(values), minlength=task.num_outputs)
    return dict(zip(task.label_names, counts.tolist(), strict=True))


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

    It answers with the class shares (so the majority class) or the mean of the training labels.
    A correlation is undefined for it; the floor of a correlation is 0, that of no relation.
    None for ECE, on which knowing nothing but the class shares is nearly perfect, and for no rows.
    """
    from kdlora.models.baselines import majority

    if task.primary == "ece" or not len(labels):
        return None
    if task.primary in ("pearson", "spearman"):
        return 0.0
    return score_split(task, majority(task, train_labels, len(labels)), labels)[task.primary]


def expected_calibration_error(logits: Array, labels: Array, bins: int = ECE_BINS) -> float:
    """Mean gap between confidence and accuracy over equal-width bins of the confidence.

    The confidence is the largest softmax probability and the bins are closed on the right, as in
    Guo et al. 2017, "On Calibration of Modern Neural Networks". `logits` [n, c], `labels` [n].
    """
    confidence = np.exp(log_softmax(np.asarray(logits, np.float64), axis=1)).max(axis=1)
    correct = np.asarray(logits).argmax(axis=1) == labels
    bin_of = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(bin_of, weights=correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def checked(task: Task, outputs: Array, labels: Array) -> tuple[NDArray[np.float64], Array]:
    """Outputs as float64 [n, c] (numbers: [n]) and labels [n]; DataError if they do not fit."""
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
    if truth.ndim != 1 or (values.ndim and len(values) != len(truth)):
        problems.append(f"labels have shape {list(truth.shape)}, outputs {list(values.shape)}")
    strange = truth[:0] if numeric else truth[~task.kind.valid(truth, task.num_outputs)]
    if len(strange):
        shown = sorted({str(x) for x in strange})[:5]
        problems.append(
            f"labels hold {', '.join(shown)}, expected class indices 0 to {task.num_outputs - 1}"
        )
    if problems:
        raise DataError(problems, where=f"task '{task.name}'")
    return values, truth.astype(np.float64 if numeric else np.int64)


def _is_countable(task: Task, values: NDArray[np.float64]) -> bool:
    return bool(task.label_names) and bool(len(values)) and bool(np.isfinite(values).all())


def _per_class_f1(task: Task, predicted: Array, truth: Array) -> dict[str, float]:
    classes = list(range(task.num_outputs))
    scores = f1_score(truth, predicted, labels=classes, average=None, zero_division=np.nan)
    pairs = zip(task.label_names, scores, strict=True)
    return {name: float(score) for name, score in pairs if not np.isnan(score)}


def _classification_scores(
    task: Task, logits: NDArray[np.float64], truth: Array
) -> dict[str, float | None]:
    predicted = logits.argmax(axis=1)
    by_class = _per_class_f1(task, predicted, truth)
    log_probabilities = log_softmax(logits, axis=1)
    scores: dict[str, float | None] = {
        "accuracy": float(np.mean(predicted == truth)),
        "macro_f1": float(np.mean(list(by_class.values()))),
        # scikit-learn answers 0 too where only one class occurs, but warns about it
        "matthews": float(matthews_corrcoef(truth, predicted)) if len(by_class) > 1 else 0.0,
        "cross_entropy": float(-log_probabilities[np.arange(len(truth)), truth].mean()),
        "ece": expected_calibration_error(logits, truth),
    }
    if "f1" in task.metrics:
        if task.positive not in task.label_names:
            raise DataError(
                f"metric f1 needs the positive class: one of {', '.join(task.label_names)}",
                where=f"task '{task.name}'",
            )
        scores["f1"] = by_class.get(task.positive)
    return scores


def _regression_scores(
    values: NDArray[np.float64], truth: NDArray[np.float64]
) -> dict[str, float | None]:
    return {
        "pearson": correlation(values, truth),
        "spearman": correlation(values, truth, by_rank=True),
        "rmse": float(np.sqrt(np.mean((values - truth) ** 2))),
    }


def correlation(a: Array, b: Array, *, by_rank: bool = False) -> float | None:
    """Pearson's (by rank: Spearman's) correlation of two [n]; None where it is undefined.

    Values that differ by no more than float32 rounding are constant: correlating that noise
    would make up a score for a collapsed model.
    """
    if len(a) < 2 or _is_constant(a) or _is_constant(b):
        return None
    return float((spearmanr if by_rank else pearsonr)(a, b).statistic)


def _is_constant(values: Array) -> bool:
    tolerance = 8 * np.finfo(np.float32).eps * np.abs(values).max()
    return bool(np.ptp(values) <= tolerance)
