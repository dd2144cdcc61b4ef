"""What predictions show of single models: how sure they are, what they take for what, and how often
a student says what its teacher says. Nothing of it is tested here (`prediction_tests` does).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from kdlora.evidence.abstention import RiskCoverage, mean_curve, risk_coverage
from kdlora.records.tidy import groups
from kdlora.vocabulary.task import Kind

BINS = 10
AGREEMENT = ("agreement", "agreement_lower", "agreement_upper", "agreement_chance")


@dataclass(frozen=True)
class ConfidenceBins:
    """A run's report rows by confidence: counts, sums of confidence, correct answers [bins].

    `curve` is what is wrong where only the surest rows are answered; None where rows may have
    several labels, of which each is an answer of its own.
    """

    n: tuple[int, ...]
    confidence: tuple[float, ...]
    correct: tuple[int, ...]
    curve: RiskCoverage | None = None


def confidence_bins(
    kind: Kind, logits: np.ndarray, labels: np.ndarray
) -> ConfidenceBins | None:  # fmt: skip
    """Rows by the confidence of the predicted class; None for numbers, which have no classes.

    `logits` [n, c], `labels` [n]. Equal-width bins, closed on the right (Guo et al., 2017). Where a
    row may have several labels, `labels` [n, c], each label of each row counts by its probability,
    and as correct where the label is there.
    """
    if kind.numeric or not np.isfinite(logits).all():
        return None
    shares = kind.probabilities(logits)
    assert shares is not None
    if kind.several:
        confidence, correct = shares.ravel(), labels.ravel() > 0
    else:
        confidence, correct = shares.max(axis=1), kind.right(logits, labels)
    place = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)

    def count(weights: np.ndarray | None = None) -> list[float]:
        return np.bincount(place, weights=weights, minlength=BINS).tolist()

    return ConfidenceBins(
        tuple(map(int, count())),
        tuple(count(confidence)),
        tuple(map(int, count(correct * 1.0))),
        None if kind.several else risk_coverage(confidence, correct),
    )


@dataclass(frozen=True)
class ReliabilityPoint:
    """One bin of a model: its rows, their mean confidence, and the share that is right."""

    n: int
    confidence: float
    correct: float


def reliability(bins: Sequence[ConfidenceBins]) -> list[ReliabilityPoint]:
    """The bins of several runs added up, without empty ones."""
    n, confidence, correct = (
        np.sum([getattr(one, name) for one in bins], axis=0)
        for name in ("n", "confidence", "correct")
    )
    return [
        ReliabilityPoint(int(n[k]), float(confidence[k] / n[k]), float(correct[k] / n[k]))
        for k in np.flatnonzero(n)
    ]


@dataclass(frozen=True)
class Confusion:
    """Rows by true and predicted class, `counts[true][predicted]`, over all runs of a model."""

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    def rows(self, true: int) -> int:
        """Rows of a true class."""
        return sum(self.counts[true])

    def share(self, true: int, predicted: int) -> float:
        """Of the rows of a true class; NaN where there are none."""
        total = self.rows(true)
        return self.counts[true][predicted] / total if total else math.nan

    def precision(self, label: int) -> float:
        """The share of the rows answered with a class that are of it; NaN where none is."""
        said = sum(row[label] for row in self.counts)
        return self.counts[label][label] / said if said else math.nan


def risk_curves(
    frame: pd.DataFrame, bins: Mapping[str, ConfidenceBins]
) -> dict[tuple[str, str, str], tuple[RiskCoverage, int]]:
    """(pair, task, arm) -> the mean curve of its runs, and how many they are. `frame` is tidy."""
    found = {}
    for key, cells in groups(frame[frame["run_id"].isin(set(bins))], "pair", "task", "arm"):
        curves = [curve for r in dict.fromkeys(cells["run_id"]) if (curve := bins[r].curve)]
        if curves:
            found[key] = mean_curve(curves), len(curves)
    return found


def confusions(frame: pd.DataFrame) -> dict[tuple[str, str, str], Confusion]:
    """(pair, task, arm) -> the confusion matrices of its runs, added up. `frame` is tidy."""
    if "confusion" not in frame:
        return {}
    done = frame[frame["status"] == "done"].drop_duplicates(["pair", "run_id"])
    found = {}
    for key, cells in groups(done, "pair", "task", "arm"):
        known = [np.asarray(m) for m in cells["confusion"] if _is_matrix(m)]
        if not known or len({m.shape for m in known}) > 1:
            continue
        counts = np.sum(known, axis=0).astype(int)
        named = (tuple(n) for n in cells["label_names"] if len(n) == len(counts))
        labels = next(named, tuple(f"class {i}" for i in range(len(counts))))
        found[key] = Confusion(labels, tuple(map(tuple, counts.tolist())))
    return found


def _is_matrix(value: Any) -> bool:
    return isinstance(value, list | tuple | np.ndarray) and len(value) > 1


def agreement_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """The done runs whose agreement with their teacher is known, each once a pair."""
    known = frame[(frame["status"] == "done") & frame["agreement"].notna()]
    return known.drop_duplicates(["pair", "run_id"])


def mean_agreement(rows: pd.DataFrame) -> dict[tuple[str, str], Mapping[str, float]]:
    """(pair, arm) -> the means of `AGREEMENT` over the runs of one task."""
    return {
        key: {name: float(own[name].mean()) for name in AGREEMENT}
        for key, own in groups(rows, "pair", "arm")
    }


@dataclass(frozen=True)
class LabelResult:
    """One label of a model, where a text may have several: counts over all its runs' report rows.

    average_precision, agreement and kappa (with the teacher) are means over the runs; None where
    none has any.
    """

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int
    average_precision: float | None
    agreement: float | None
    kappa: float | None

    @property
    def precision(self) -> float | None:
        return _ratio(self.true_positive, self.true_positive + self.false_positive)

    @property
    def recall(self) -> float | None:
        return _ratio(self.true_positive, self.true_positive + self.false_negative)

    @property
    def f1(self) -> float | None:
        hit = 2 * self.true_positive
        return _ratio(hit, hit + self.false_positive + self.false_negative)


def label_results(frame: pd.DataFrame) -> dict[tuple[str, str, str], dict[str, LabelResult]]:
    """(pair, task, arm) -> label -> how it is found. `frame` is tidy; {} without such a task."""
    done = frame[frame["status"] == "done"].drop_duplicates(["pair", "run_id"])
    done = done[done["per_label"].map(bool).astype(bool)]
    found = {}
    for key, cells in groups(done, "pair", "task", "arm"):
        runs, shared = list(cells["per_label"]), list(cells["agreement_per_label"])
        found[key] = {
            label: LabelResult(
                **{
                    name: sum(int(run[label][name]) for run in runs if label in run)
                    for name in _LABEL_COUNTS
                },
                average_precision=_mean_of(runs, label, "average_precision"),
                agreement=_mean_of(shared, label, "agreement"),
                kappa=_mean_of(shared, label, "kappa"),
            )
            for label in next(filter(None, cells["label_names"]), ())
        }
    return found


_LABEL_COUNTS = ("true_positive", "false_positive", "false_negative", "true_negative")


def _mean_of(runs: Sequence[Mapping[str, Any]], label: str, name: str) -> float | None:
    values = [run[label][name] for run in runs if label in run]
    known = [float(value) for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
