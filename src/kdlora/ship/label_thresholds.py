"""Where a text may have several labels: the probability from which each of them is answered.

A half is best by F1 only for a label that half of the texts have: a rare one is then hardly ever
answered. What is best is read off the selection split alone. For a label with few texts there it
is mostly chance, so it is drawn towards the threshold that is best for all labels together.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logit

from kdlora.measure.calibration import cross_entropy
from kdlora.records.predictions import SplitOutputs
from kdlora.ship.card import Fit
from kdlora.vocabulary.metric import metric as metric_of

METRICS = ("macro-f1", "micro-f1", "subset-accuracy")  # what thresholds may maximise
PSEUDO_TEXTS = 20.0  # a label's own threshold counts half where so many texts have the label
_CANDIDATES = 200
_LEAST = 1e-6  # of a probability whose log odds are taken


def choose_label_thresholds(
    shares: np.ndarray, labels: np.ndarray, *, metric: str
) -> np.ndarray:  # fmt: skip
    """Thresholds [c] for probabilities [n, c] and labels [n, c], best by one of `METRICS`.

    By macro-f1, whose parts are the labels' own F1, each label has its own: the mean, in log odds,
    of what is best for it and of what is best for all with one threshold, the first weighted by
    p / (p + 20) with p texts that have the label. The other metrics take all answers together:
    there one threshold serves all labels.
    """
    shares = np.clip(np.asarray(shares, float), _LEAST, 1 - _LEAST)
    common = _common(shares, labels, metric)
    if metric != "macro-f1":
        return np.full(shares.shape[1], common)
    positives = (labels > 0).sum(axis=0)
    own = np.array([_best_f1(p, t, common) for p, t in zip(shares.T, labels.T, strict=True)])
    weight = positives / (positives + PSEUDO_TEXTS)
    return expit(weight * logit(own) + (1 - weight) * logit(common))


def _common(shares: np.ndarray, labels: np.ndarray, metric: str) -> float:
    """The one threshold that is best for all labels; of equally good ones the nearest to 1/2."""
    values = np.unique(shares)
    cuts = (values[1:] + values[:-1]) / 2
    places = np.linspace(0, len(cuts) - 1, min(len(cuts), _CANDIDATES)).astype(int)
    cuts = np.concatenate([[0.5], cuts[places]])
    outputs = logit(shares)
    found = [metric_of(_name(metric)).score(outputs - logit(cut), labels) for cut in cuts]
    return best_cut(cuts, np.array([-1.0 if score is None else score for score in found]), 0.5)


def _best_f1(shares: np.ndarray, labels: np.ndarray, common: float) -> float:
    """The threshold of one label that is best by its F1, the common one where no text has it."""
    if not labels.any():
        return common
    values = np.unique(shares)
    cuts = np.concatenate([[common], (values[1:] + values[:-1]) / 2])
    said = len(shares) - np.searchsorted(np.sort(shares), cuts, side="left")
    own = np.sort(shares[labels > 0])
    hit = len(own) - np.searchsorted(own, cuts, side="left")
    return best_cut(cuts, 2 * hit / np.maximum(said + len(own), 1), common)


def best_cut(cuts: np.ndarray, scores: np.ndarray, near: float) -> float:
    """The cut with the highest score; of equally good ones the nearest to `near`."""
    best = np.flatnonzero(scores >= np.nanmax(scores) - 1e-12)
    return float(cuts[best[np.argmin(np.abs(cuts[best] - near))]])


def measure_label_fit(
    own: SplitOutputs,
    *,
    temperature: float = 1.0,
    thresholds: np.ndarray | None = None,
    metric: str | None = None,
) -> Fit:
    """Cross-entropy and calibration error a label, and the scores of the answers on one split."""
    logits = own.outputs / temperature
    cuts = np.full(logits.shape[1], 0.5) if thresholds is None else thresholds
    moved = logits - logit(np.clip(cuts, _LEAST, 1 - _LEAST))
    accuracy = metric_of("subset_accuracy").score(moved, own.labels)
    assert accuracy is not None
    return Fit(
        n=len(own.labels),
        nll=cross_entropy(logits, own.labels),
        ece=metric_of("ece").score(logits, own.labels) or 0.0,
        accuracy=accuracy,
        score=metric_of(_name(metric)).score(moved, own.labels) if metric else None,
    )


def _name(metric: str) -> str:
    return metric.replace("-", "_")
