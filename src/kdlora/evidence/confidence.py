"""How often a model is right when it says how sure it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

BINS = 10


@dataclass(frozen=True)
class ConfidenceBins:
    """A run's report rows by confidence: counts, sums of confidence, correct answers [bins]."""

    n: tuple[int, ...]
    confidence: tuple[float, ...]
    correct: tuple[int, ...]


def confidence_bins(logits: np.ndarray, labels: np.ndarray) -> ConfidenceBins | None:
    """Rows by the confidence of the predicted class; None for outputs that are no classes.

    `logits` [n, c], `labels` [n]. Equal-width bins, closed on the right (Guo et al., 2017). Where a
    row may have several labels, `labels` [n, c], each label of each row counts by its probability,
    and as correct where the label is there.
    """
    if logits.ndim != 2 or not np.isfinite(logits).all():
        return None
    if labels.ndim == 2:
        confidence, correct = expit(logits).ravel(), labels.ravel() > 0
    elif logits.shape[1] < 2:
        return None
    else:
        shifted = logits - logits.max(axis=1, keepdims=True)
        confidence = 1 / np.exp(shifted).sum(axis=1)
        correct = logits.argmax(axis=1) == labels
    place = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)

    def count(weights: np.ndarray | None = None) -> list[float]:
        return np.bincount(place, weights=weights, minlength=BINS).tolist()

    return ConfidenceBins(
        tuple(map(int, count())), tuple(count(confidence)), tuple(map(int, count(correct * 1.0)))
    )
