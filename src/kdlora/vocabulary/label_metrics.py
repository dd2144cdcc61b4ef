"""How answers are scored where a row may have several labels: `outputs` and `labels` are [n, c].

An output above 0 (a probability above a half) answers with its label. Every function gives what a
bootstrap needs of the rows; `vocabulary.metric` says what the metrics are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kdlora.vocabulary.terms import RankedTerms, Terms

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Array = NDArray[Any]


def holds_several(labels: Array) -> bool:
    """Whether labels, [n] or [n, c], are of a task whose rows may have several, as the shape tells.

    For stored numbers; where the task is known, its kind tells.
    """
    import numpy as np

    return np.ndim(labels) == 2


def answered(outputs: Floats) -> NDArray[np.bool_]:
    """Which labels [n, c] the outputs [n, c] answer with: those whose probability is above 1/2."""
    import numpy as np

    return np.asarray(outputs) > 0


def macro_f1(outputs: Floats, labels: Array) -> Terms:
    """Mean F1 of the labels that occur among the labels or the answers."""
    import numpy as np

    size = outputs.shape[1]

    def finish(sums: Floats) -> Floats:
        scores = f1(sums[..., :size], sums[..., size:])
        known = np.isfinite(scores)
        with np.errstate(invalid="ignore"):
            return np.where(known, scores, 0.0).sum(-1) / known.sum(-1)

    hit, total = _hits(outputs, labels)
    return Terms(np.concatenate([hit, total], axis=1), finish)


def micro_f1(outputs: Floats, labels: Array) -> Terms:
    """F1 of all answers of all labels together."""
    import numpy as np

    hit, total = _hits(outputs, labels)
    values = np.stack([hit.sum(1), total.sum(1)], axis=1)
    return Terms(values, lambda sums: f1(sums[..., 0], sums[..., 1]))


def f1(hit: Floats, total: Floats) -> Floats:
    """F1 from right answers and the sum of answers and labels; NaN where there is neither."""
    import numpy as np

    return np.where(total > 0, 2 * hit / np.where(total > 0, total, 1), np.nan)


def subset_accuracy(outputs: Floats, labels: Array) -> Terms:
    """The share of rows that are answered with exactly their labels."""
    import numpy as np

    right = (answered(outputs) == (labels > 0)).all(axis=1).astype(np.float64)
    return _mean_over_rows(right)


def cross_entropy(outputs: Floats, labels: Array) -> Terms:
    """The binary cross-entropy in nats, mean over the labels."""
    import numpy as np

    return _mean_over_rows((np.logaddexp(0, outputs) - (labels > 0) * outputs).mean(axis=1))


def calibration(outputs: Floats, labels: Array, bins: int) -> Terms:
    """Gaps between a label's probability and how often it is there, all labels together.

    They are summed by equal-width bins of the probability, closed on the right.
    """
    import numpy as np
    from scipy.special import expit

    shares = expit(outputs)
    at = np.clip(np.ceil(shares * bins).astype(int) - 1, 0, bins - 1)
    gap = ((labels > 0) - shares) / outputs.shape[1]
    rows = np.repeat(np.arange(len(labels)), outputs.shape[1])
    values = np.zeros((len(labels), bins + 1))
    np.add.at(values, (rows, at.ravel()), gap.ravel())
    values[:, -1] = 1
    return Terms(values, lambda s: np.abs(s[..., :-1]).sum(-1) / s[..., -1])


def mean_average_precision(outputs: Floats, labels: Array) -> RankedTerms:
    """Average precision of each label, mean over the labels that some row has."""
    return RankedTerms(outputs, labels > 0)


def _hits(outputs: Floats, labels: Array) -> tuple[Floats, Floats]:
    """Right answers [n, c], and answers plus labels [n, c]."""
    import numpy as np

    said, there = answered(outputs), labels > 0
    return (said & there).astype(np.float64), said.astype(np.float64) + there


def _mean_over_rows(values: Floats) -> Terms:
    import numpy as np

    columns = np.stack([values, np.ones(len(values))]).T
    return Terms(columns, lambda s: s[..., 0] / s[..., 1])
