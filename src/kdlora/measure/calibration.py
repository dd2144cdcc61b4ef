"""Probabilities made honest on labelled rows: by a temperature, or by what was true of an answer.

Temperature scaling (Guo et al. 2017, "On Calibration of Modern Neural Networks") divides the logits
by one number that minimises the cross-entropy; answers stay the same. A teacher that gives classes
alone has no logits to scale: there the labels tell how often each answer was which class (Dawid and
Skene 1979, "Maximum likelihood estimation of observer error-rates").
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logit

from kdlora.records.record import TeacherCalibration
from kdlora.vocabulary.metric import metric
from kdlora.vocabulary.task import Kind

LEAST, MOST = 0.05, 20.0  # temperatures that are looked at
LEAST_ROWS = 20  # labelled rows on which a teacher is calibrated; fewer tell nothing
_PSEUDO_ANSWERS = 10.0  # a class's counts are drawn towards the overall accuracy by so many


def cross_entropy(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """Mean negative log-likelihood in nats of labels [n] under logits [n, c] / temperature.

    Of labels [n, c], of which a row may have several, it is the mean over rows and labels.
    """
    return metric("cross_entropy").terms(logits / temperature, labels).score


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature with the least cross-entropy on logits [n, c] and labels [n].

    Between 0.05 and 20: logits that separate all rows would drive it to 0.
    """
    values = np.asarray(logits, float)

    def loss(log_t: float) -> float:
        return cross_entropy(values, labels, math.exp(log_t))

    found = minimize_scalar(loss, bounds=(math.log(LEAST), math.log(MOST)), method="bounded",
                            options={"xatol": 1e-5})  # fmt: skip
    return float(math.exp(found.x))


def fit_answers(answers: np.ndarray, labels: np.ndarray, n_classes: int) -> NDArray[np.float64]:
    """The probability of each class given each answer, [answer, class], from [n] and [n].

    Counts are few, so each answer's are drawn towards what the accuracy over all answers says.
    """
    right = (np.sum(answers == labels) + 1) / (len(labels) + 2)
    prior = np.full((n_classes, n_classes), (1 - right) / (n_classes - 1))
    np.fill_diagonal(prior, right)
    pairs = np.bincount(answers * n_classes + labels, minlength=n_classes**2)
    counts = pairs.reshape(n_classes, n_classes) + _PSEUDO_ANSWERS * prior
    return np.asarray(counts / counts.sum(axis=1, keepdims=True))


def fit_label_answers(said: np.ndarray, labels: np.ndarray) -> NDArray[np.float64]:
    """The probability of each label where it was not said, and where it was, [label, 2].

    said, labels: [n, c], 0 or 1. Counts are few, so each label's are drawn towards what is true of
    all labels together.
    """
    found = []
    for answered in (said == 0, said == 1):
        hits, n = (answered & (labels == 1)).sum(axis=0), answered.sum(axis=0)
        overall = (hits.sum() + 1) / (n.sum() + 2)
        found.append((hits + _PSEUDO_ANSWERS * overall) / (n + _PSEUDO_ANSWERS))
    return np.stack(found, axis=1)


def calibrate_teacher(
    kind: Kind, logits: np.ndarray, labels: np.ndarray, *, answers_alone: bool
) -> TeacherCalibration | None:
    """How a teacher's logits [n, c] become honest on gold labels [n]; None on too few of them.

    `answers_alone`: the teacher said classes without any probability. Of several labels a text,
    labels are [n, c].
    """
    if len(labels) < LEAST_ROWS:
        return None
    answers, given = kind.decide(logits), None
    if answers_alone and kind.several:
        given = fit_label_answers(answers, labels).tolist()
    elif answers_alone:
        given = fit_answers(answers, labels, logits.shape[1]).tolist()
    found = TeacherCalibration(
        method="temperature" if given is None else "labels" if kind.several else "answers",
        n=len(labels),
        accuracy=float(kind.right(logits, labels).mean()),
        cross_entropy_before=cross_entropy(logits, labels),
        cross_entropy_after=0.0,
        temperature=fit_temperature(logits, labels) if given is None else None,
        given_answer=given,
    )
    after = cross_entropy(calibrated(logits, found), labels)
    return found.model_copy(update={"cross_entropy_after": after})


def calibrated(logits: np.ndarray, found: TeacherCalibration | None) -> NDArray[np.float32]:
    """A teacher's logits [n, c] as its calibration makes them; as they are without one."""
    if found is None:
        return np.asarray(logits, dtype=np.float32)
    if found.given_answer is None:
        return (logits / found.temperature).astype(np.float32)
    given = np.asarray(found.given_answer)
    if found.method == "labels":
        shares = np.where(logits > 0, given[:, 1], given[:, 0])
        return logit(shares).astype(np.float32)
    return np.log(given)[logits.argmax(axis=1)].astype(np.float32)
