"""Every metric: its words, direction and range, how it is shown, and how it is computed.

This module is the only place that knows a metric's facts. Tables, tests of significance, the
import of foreign results and the choice of a student all ask the same `Metric`, so a score can not
be in points on one page and a fraction on the next.

A score is computed from the `outputs` of a model and the `labels` of the same rows:

- classification: logits [n, c] and class indices [n];
- several labels: logits [n, c] and 0 or 1 for each label [n, c];
- regression: predictions [n] and target values [n].

A bootstrap resamples rows. What it needs of them `Metric.terms` gives: for nearly all metrics these
are values to be summed over the rows of a draw (right answers, squared errors, products).

Metrics of a rare class rank the rows by that class's log odds: they do not depend on where the
threshold lies. Metrics of grades need classes in their order, the lowest first.

numpy and scipy are imported where something is computed, so that a plan is made without them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from kdlora.errors import InputError
from kdlora.vocabulary import label_metrics
from kdlora.vocabulary.terms import AnyTerms, RankedTerms, RecallTerms, Terms

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Array = NDArray[Any]

POINTS = "points"  # hundredths of a score, the unit of metrics that are shown times 100
PERCENT = "%"
ECE_BINS = 15
_ROUNDING = 1e-9  # of a score that is exactly 1

_OfCounts = Callable[["Floats", int | None], "Floats"]
_OfPositive = Callable[["Floats", "Array"], RankedTerms | RecallTerms]
_MakeTerms = Callable[["Floats", "Array"], Terms]
_MakeLabelTerms = Callable[["Floats", "Array"], Terms | RankedTerms]


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        title: in words, inside a sentence.
        kinds: kinds of task that it scores; none for one that is known from imported results only.
        direction: +1 where more is better, -1 where less is.
        low, high: the values that it can take.
        in_points: shown times 100, in points.
        is_correlation: undefined for constant outputs; a model that knows nothing scores 0.
        needs_positive: scores one class, which the task names.
        graded_kinds: kinds of task of which only those with grades have it.
        is_smooth: whether leaving out one row changes it little, as the jackknife needs.
        has_floor: whether the score of a model that ignores the text is a bar to pass.
        hub_name: what the `evaluate` library and the model hub call it, where that differs.
        is_known: False for a name that nobody described: nothing is taken for granted then, but
            that more is better.
    """

    name: str
    title: str
    kinds: tuple[str, ...] = ()
    direction: int = 1
    low: float = -math.inf
    high: float = math.inf
    in_points: bool = False
    is_correlation: bool = False
    needs_positive: bool = False
    graded_kinds: tuple[str, ...] = ()
    is_smooth: bool = True
    has_floor: bool = True
    hub_name: str = ""
    is_known: bool = True
    of_confusion: _OfCounts | None = None
    of_positive: _OfPositive | None = None  # ranks the rows by the positive class's log odds
    make_terms: _MakeTerms | None = None
    of_labels: _MakeLabelTerms | None = None  # where a row may have several labels

    @property
    def factor(self) -> float:
        """What a score is multiplied by where it is shown."""
        return 100.0 if self.in_points else 1.0

    @property
    def upward(self) -> float:
        """What a score is multiplied by to be in `unit` with more being better."""
        return self.direction * self.factor

    @property
    def decimals(self) -> int:
        """How many of them a score has where it is shown."""
        return 1 if self.in_points else 3

    def shown(self, score: float) -> float:
        """The number that a table shows for a score. Two scores of one number are alike."""
        return round(score * self.factor, self.decimals)

    @property
    def unit(self) -> str:
        """The unit of a score that was multiplied by `factor`: points, or the metric itself."""
        return POINTS if self.in_points else self.name or "score"

    def directed(self, direction: int) -> Metric:
        """This metric, with the direction that a study's results state for it."""
        return replace(self, direction=direction)

    def is_above(self, score: float, other: float) -> bool:
        """Whether a score is better than another, both as they are shown."""
        return self.direction * (self.shown(score) - self.shown(other)) > 0

    @property
    def drop_unit(self) -> str:
        """The unit of every drop and of every limit of a drop.

        A point is a small loss because the best score is 100. An error has no such end: 1 may be
        next to nothing or more than all of it, so its drops are in per cent of the reference.
        """
        return POINTS if self.in_points else PERCENT

    def drop(self, score: float | Floats, reference: float | Floats) -> Floats:
        """How much worse a score is than a reference, in `drop_unit`; below 0 it is better."""
        import numpy as np

        lost = 100 * self.direction * (np.asarray(reference) - score)
        if self.in_points:
            return lost
        with np.errstate(divide="ignore", invalid="ignore"):  # any loss of a score of 0 is endless
            return np.where(lost == 0, 0.0, lost / np.abs(reference))

    def worst_allowed(self, reference: float | Floats, max_drop: float) -> Floats:
        """The worst score whose drop from a reference is at most `max_drop`, in `drop_unit`."""
        import numpy as np

        whole = 1.0 if self.in_points else np.abs(reference)
        return np.asarray(reference - self.direction * max_drop / 100 * whole)

    @property
    def is_computable(self) -> bool:
        made = (self.of_confusion, self.of_positive, self.make_terms, self.of_labels)
        return any(one is not None for one in made)

    def score(self, outputs: Array, labels: Array, *, positive: int | None = None) -> float | None:
        """The score on all rows, at least one; None where it is undefined.

        `positive` is the class that a metric of one class scores. Raises InputError for a metric
        that cannot be computed from outputs, and where that class is missing.
        """
        self._check(positive)
        if self.is_correlation:
            return correlation(_one_output(outputs), labels, by_rank=self.name == "spearman")
        if self.of_confusion is not None and not label_metrics.holds_several(labels):
            counts = confusion_counts(outputs.argmax(axis=1), labels, outputs.shape[1])
            value = float(self.of_confusion(counts, positive))
        else:
            value = self.terms(outputs, labels, positive=positive).score
        return value if math.isfinite(value) else None

    def terms(self, outputs: Array, labels: Array, *, positive: int | None = None) -> AnyTerms:
        """What a bootstrap of this metric needs of the rows.

        Spearman's correlation takes its ranks from all rows, once. Raises InputError as `score`.
        """
        import numpy as np

        self._check(positive)
        values = np.asarray(outputs, dtype=np.float64)
        if label_metrics.holds_several(labels):
            assert self.of_labels is not None, f"{self.name} is of one label a row"
            return self.of_labels(values, np.asarray(labels))
        if self.of_positive is not None:
            return self.of_positive(_log_odds(values, positive), np.asarray(labels) == positive)
        if self.of_confusion is None:
            assert self.make_terms is not None, f"{self.name} is of several labels a row"
            return self.make_terms(values, np.asarray(labels))
        size = max(values.shape[1], int(np.max(labels, initial=0)) + 1)
        cells = np.zeros((len(labels), size * size))
        cells[np.arange(len(labels)), np.asarray(labels, int) * size + values.argmax(1)] = 1
        of_confusion = self.of_confusion

        def finish(sums: Floats) -> Floats:
            return of_confusion(sums.reshape(*sums.shape[:-1], size, size), positive)

        return Terms(cells, finish)

    def possible(self, score: Any) -> Any:
        """Whether a finite number can be a score of this metric, but for rounding; or each of an
        array's."""
        return (self.low - _ROUNDING <= score) & (score <= self.high + _ROUNDING)

    def _check(self, positive: int | None) -> None:
        if not self.is_computable:
            computable = ", ".join(name for name, one in METRICS.items() if one.is_computable)
            raise InputError(f"unknown metric '{self.name}': expected one of {computable}")
        if self.needs_positive and positive is None:
            raise InputError(f"{self.name} needs the positive class; its task names none")


def confusion_counts(predicted: Array, labels: Array, classes: int) -> Floats:
    """Counts [c, c] of rows, by true class (down) and predicted class (across)."""
    import numpy as np

    cells = np.asarray(labels, int) * classes + predicted
    counts = np.bincount(cells, minlength=classes * classes).reshape(classes, classes)
    return counts.astype(np.float64)


def f1_by_class(counts: Floats) -> Floats:
    """F1 [..., c] of every class from counts [..., c, c]; NaN for one that never occurs."""
    import numpy as np

    hit = np.diagonal(counts, axis1=-2, axis2=-1)
    total = counts.sum(-1) + counts.sum(-2)
    return np.where(total > 0, 2 * hit / np.where(total > 0, total, 1), np.nan)


def correlation(a: Array, b: Array, *, by_rank: bool = False) -> float | None:
    """Pearson's (by rank: Spearman's) correlation of two [n]; None where it is undefined.

    Values that differ by no more than float32 rounding are constant: correlating that noise
    would make up a score for a collapsed model.
    """
    from scipy.stats import pearsonr, spearmanr

    if len(a) < 2 or _is_constant(a) or _is_constant(b):
        return None
    return float((spearmanr if by_rank else pearsonr)(a, b).statistic)


def expected_calibration_error(logits: Array, labels: Array, bins: int = ECE_BINS) -> float:
    """Mean gap between confidence and accuracy over equal-width bins of the confidence.

    The confidence is the largest softmax probability and the bins are closed on the right, as in
    Guo et al. 2017, "On Calibration of Modern Neural Networks". `logits` [n, c], `labels` [n].
    """
    import numpy as np

    return _calibration(np.asarray(logits, dtype=np.float64), np.asarray(labels), bins).score


def _accuracy(counts: Floats, positive: int | None) -> Floats:
    import numpy as np

    with np.errstate(invalid="ignore"):
        return np.diagonal(counts, axis1=-2, axis2=-1).sum(-1) / counts.sum((-2, -1))


def _macro_f1(counts: Floats, positive: int | None) -> Floats:
    """Mean F1 of the classes that occur among the labels or the predictions."""
    import numpy as np

    scores = f1_by_class(counts)
    known = np.isfinite(scores)
    with np.errstate(invalid="ignore"):
        return np.where(known, scores, 0.0).sum(-1) / known.sum(-1)


def _f1(counts: Floats, positive: int | None) -> Floats:
    assert positive is not None
    return f1_by_class(counts)[..., positive]


def _balanced_accuracy(counts: Floats, positive: int | None) -> Floats:
    """Mean recall of the classes that occur among the labels (Brodersen et al. 2010)."""
    import numpy as np

    rows = counts.sum(-1)
    there = rows > 0
    recall = np.diagonal(counts, axis1=-2, axis2=-1) / np.where(there, rows, 1)
    with np.errstate(invalid="ignore"):
        return recall.sum(-1) / there.sum(-1)


def _matthews(counts: Floats, positive: int | None) -> Floats:
    """0 where all labels or all predictions are of one class.

    That is a convention (Matthews 1975; Chicco and Jurman 2020).
    """
    import numpy as np

    hit = np.diagonal(counts, axis1=-2, axis2=-1).sum(-1)
    true, predicted, n = counts.sum(-1), counts.sum(-2), counts.sum((-2, -1))
    covariance = hit * n - (true * predicted).sum(-1)
    spread = (n**2 - (true**2).sum(-1)) * (n**2 - (predicted**2).sum(-1))
    return np.where(spread > 0, covariance / np.sqrt(np.where(spread > 0, spread, 1)), 0.0)


def _log_odds(outputs: Floats, positive: int | None) -> Floats:
    """log p / (1 - p) [n] of one class of logits [n, c]: it tells apart what rounds to p = 1."""
    import numpy as np
    from scipy.special import logsumexp

    assert positive is not None
    others = np.delete(outputs, positive, axis=1)
    return np.asarray(outputs[:, positive] - logsumexp(others, axis=1))


def _average_precision(odds: Floats, hits: Array) -> RankedTerms:
    return RankedTerms(odds[:, None], hits[:, None])


def _recall_at(percent: int) -> _OfPositive:
    return lambda odds, hits: RecallTerms(odds, hits, percent / 100)


def _answers(outputs: Floats) -> Floats:
    """Grades [n] of logits [n, c], or numbers [n] as they are."""
    if outputs.ndim == 2 and outputs.shape[1] > 1:
        return outputs.argmax(axis=1).astype(float)
    return _one_output(outputs)


def _absolute_error(outputs: Floats, labels: Array) -> Terms:
    import numpy as np

    error = np.abs(_answers(outputs) - np.asarray(labels, float))
    return Terms(_columns(error, np.ones(len(labels))), lambda s: s[..., 0] / s[..., 1])


def _weighted_kappa(outputs: Floats, labels: Array) -> Terms:
    """Cohen's kappa with quadratic weights (Cohen 1968), of grades.

    Numbers are rounded to the nearest grade of the labels first. Both the disagreement and the one
    that independent answers would have are mean squares, so sums of moments are enough.
    """
    import numpy as np

    y = np.asarray(labels, float)
    x = _answers(outputs)
    if outputs.ndim == 1 or outputs.shape[1] == 1:
        x = np.clip(np.round(x), y.min(), y.max())
    shift = y.mean()  # for the sake of precision
    x, y = x - shift, y - shift
    return Terms(_columns(x, y, (x - y) ** 2, x * x, y * y, np.ones(len(y))), _kappa_of_sums)


def _kappa_of_sums(sums: Floats) -> Floats:
    import numpy as np

    x, y, gap, xx, yy, n = np.moveaxis(sums, -1, 0)
    by_chance = xx / n + yy / n - 2 * x * y / n**2
    good = by_chance > 1e-12
    return np.where(good, 1 - gap / n / np.where(good, by_chance, 1), np.nan)


def _cross_entropy(outputs: Floats, labels: Array) -> Terms:
    import numpy as np
    from scipy.special import log_softmax

    loss = -log_softmax(outputs, axis=1)[np.arange(len(labels)), np.asarray(labels, int)]
    return Terms(_columns(loss, np.ones(len(labels))), lambda s: s[..., 0] / s[..., 1])


def _rmse(outputs: Floats, labels: Array) -> Terms:
    import numpy as np

    square = (_one_output(outputs) - np.asarray(labels, float)) ** 2
    return Terms(_columns(square, np.ones(len(labels))), lambda s: np.sqrt(s[..., 0] / s[..., 1]))


def _calibration(outputs: Floats, labels: Array, bins: int = ECE_BINS) -> Terms:
    """Gaps between confidence and right answers, summed by bin of the confidence."""
    import numpy as np
    from scipy.special import log_softmax

    confidence = np.exp(log_softmax(outputs, axis=1)).max(axis=1)
    gap = (outputs.argmax(axis=1) == labels) - confidence
    at = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    values = np.zeros((len(labels), bins + 1))
    values[np.arange(len(labels)), at] = gap
    values[:, -1] = 1
    return Terms(values, lambda s: np.abs(s[..., :-1]).sum(-1) / s[..., -1])


def _pearson(outputs: Floats, labels: Array) -> Terms:
    import numpy as np

    x, y = _one_output(outputs), np.asarray(labels, float)
    x, y = x - x.mean(), y - y.mean()  # for the sake of precision
    return Terms(_columns(x, y, x * x, y * y, x * y, np.ones(len(y))), _correlation_of_sums)


def _spearman(outputs: Floats, labels: Array) -> Terms:
    from scipy.stats import rankdata

    return _pearson(rankdata(_one_output(outputs)), rankdata(labels))


def _correlation_of_sums(sums: Floats) -> Floats:
    import numpy as np

    x, y, xx, yy, xy, n = np.moveaxis(sums, -1, 0)
    a, b = xx - x * x / n, yy - y * y / n
    good = (a > 1e-12) & (b > 1e-12)
    bottom = np.sqrt(np.where(good, a * b, 1))
    return np.where(good, (xy - x * y / n) / bottom, np.nan)


def _one_output(outputs: Floats) -> Floats:
    """Predictions [n], also where a regression's come as [n, 1]."""
    return outputs[:, 0] if outputs.ndim == 2 else outputs


def _columns(*columns: Floats) -> Floats:
    """Columns [n] beside each other [n, k], each of them contiguous: they are summed pairwise."""
    import numpy as np

    return np.stack(columns).T


def _is_constant(values: Array) -> bool:
    import numpy as np

    tolerance = 8 * np.finfo(np.float32).eps * np.abs(values).max()
    return bool(np.ptp(values) <= tolerance)


_CLASSES, _LABELS, _VALUES = ("classification",), ("multilabel",), ("regression",)
_BOTH = _CLASSES + _LABELS
_GRADES = _CLASSES + _VALUES


def _share(name: str, title: str, kinds: tuple[str, ...] = _CLASSES, **facts: Any) -> Metric:
    """A metric of classes between 0 and 1, more being better."""
    return Metric(name, title, kinds, 1, 0.0, 1.0, in_points=True, **facts)


def _label_calibration(outputs: Floats, labels: Array) -> Terms:
    return label_metrics.calibration(outputs, labels, ECE_BINS)


def _correlation(name: str, title: str, make_terms: _MakeTerms) -> Metric:
    return Metric(name, title, _VALUES, 1, -1.0, 1.0, in_points=True, is_correlation=True,
                  make_terms=make_terms)  # fmt: skip


def _error(name: str, title: str, kinds: tuple[str, ...] = (), **facts: Any) -> Metric:
    """A metric from 0 without an upper end, less being better."""
    return Metric(name, title, kinds, -1, 0.0, **facts)


_RECALL_AT = re.compile(r"recall_at_precision_([1-9]\d?)")


def _recall_at_precision(percent: int) -> Metric:
    name, title = f"recall_at_precision_{percent}", f"recall at {percent} % precision"
    ranking = _recall_at(percent)
    return _share(name, title, needs_positive=True, is_smooth=False, of_positive=ranking)


# In the order in which records and reports list them.
METRICS: dict[str, Metric] = {
    one.name: one
    for one in (
        _share("accuracy", "accuracy", of_confusion=_accuracy),
        _share("mean_average_precision", "mean average precision", _LABELS,
               of_labels=label_metrics.mean_average_precision),
        _share("macro_f1", "macro-F1", _BOTH, hub_name="f1", of_confusion=_macro_f1,
               of_labels=label_metrics.macro_f1),
        _share("micro_f1", "micro-F1", _LABELS, hub_name="f1", of_labels=label_metrics.micro_f1),
        _share("subset_accuracy", "subset accuracy", _LABELS, hub_name="accuracy",
               of_labels=label_metrics.subset_accuracy),
        Metric("matthews", "Matthews correlation", _CLASSES, 1, -1.0, 1.0, in_points=True,
               hub_name="matthews_correlation", of_confusion=_matthews),
        # in nats
        _error("cross_entropy", "cross-entropy", _BOTH, make_terms=_cross_entropy,
               of_labels=label_metrics.cross_entropy),
        # knowing nothing but the class shares is nearly perfectly calibrated
        Metric("ece", "calibration error", _BOTH, -1, 0.0, 1.0, has_floor=False,
               make_terms=_calibration, of_labels=_label_calibration),
        _share("f1", "F1", needs_positive=True, of_confusion=_f1),
        _share("balanced_accuracy", "balanced accuracy", of_confusion=_balanced_accuracy),
        _share("average_precision", "average precision", needs_positive=True,
               of_positive=_average_precision),
        _recall_at_precision(90),
        _correlation("pearson", "Pearson correlation", _pearson),
        _correlation("spearman", "Spearman correlation", _spearman),
        _error("rmse", "root mean square error", _VALUES, make_terms=_rmse),
        Metric("quadratic_weighted_kappa", "quadratic weighted kappa", _GRADES, 1, -1.0, 1.0,
               in_points=True, graded_kinds=_GRADES, make_terms=_weighted_kappa),
        _error("mae", "mean absolute error", _GRADES, graded_kinds=_CLASSES,
               make_terms=_absolute_error),
        # known from imported results only
        _error("mse", "mean square error"),
        _error("loss", "loss"),
        _error("perplexity", "perplexity"),
    )
}  # fmt: skip


def metric(name: object) -> Metric:
    """The metric of a name. Never raises: an unknown one is not in points and says so.

    ``recall_at_precision_80`` is known for every whole per cent from 1 to 99.
    "mean of A and B" is what benchmarks such as GLUE print for two metrics at once: it is in
    points where both are. What is no text, such as the NaN of an empty cell, names no metric.
    """
    return _named(name if isinstance(name, str) else "")


@lru_cache(maxsize=1024)
def _named(name: str) -> Metric:
    if name in METRICS:
        return METRICS[name]
    if at := _RECALL_AT.fullmatch(name):
        return _recall_at_precision(int(at[1]))
    parts = [METRICS.get(part) for part in name.removeprefix("mean of ").split(" and ")]
    known = [part for part in parts if part is not None]
    if name.startswith("mean of ") and len(known) == len(parts):
        first = known[0]
        if all((k.direction, k.in_points) == (first.direction, first.in_points) for k in known):
            return Metric(
                name,
                f"mean of {' and '.join(k.title for k in known)}",
                direction=first.direction,
                low=sum(k.low for k in known) / len(known),
                high=sum(k.high for k in known) / len(known),
                in_points=first.in_points,
            )
    return Metric(name, name or "score", is_known=False)


# Short for a metric in the heads of tables and in the logs of trackers, letters only.
_SHORT = {
    "acc": "accuracy",
    "matchedaccuracy": "accuracy",
    "f1macro": "macro_f1",
    "f1micro": "micro_f1",
    "map": "mean_average_precision",
    "mcc": "matthews",
    "matthewscorr": "matthews",
    "pearsonr": "pearson",
    "pear": "pearson",
    "pcc": "pearson",
    "spearmanr": "spearman",
    "spear": "spearman",
    "balancedacc": "balanced_accuracy",
    "prauc": "average_precision",
    "auprc": "average_precision",
    "qwk": "quadratic_weighted_kappa",
}


def decimals_in(unit: str) -> int:
    """How many a number of a comparison has: it is in points, or in a metric's own unit."""
    return 1 if unit == POINTS else metric(unit).decimals


# Logged beside the scores, and none themselves where somebody looks for a score.
_LOSSES = ("loss", "perplexity", "cross_entropy", "ece")


@lru_cache(maxsize=4096)
def metric_called(text: str) -> str | None:
    """The score that people mean by a name such as "MCC" or "Macro-F1"; None for any other."""
    letters = _letters(text)
    names = {_letters(one.hub_name): one.name for one in METRICS.values() if one.hub_name}
    names |= {_letters(name): name for name in METRICS}  # "f1" is F1, whatever the hub calls it
    found = _SHORT.get(letters) or names.get(letters)
    return None if found in _LOSSES else found


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def metric_of_column(column: str) -> Metric | None:
    """The known metric of a column such as ``report.accuracy``; None for any other column."""
    split, dot, name = column.partition(".")
    found = metric(name)
    return found if dot and found.is_known and split.startswith(("report", "selection")) else None


def metrics_of(kind: str, *, positive: bool = False, graded: bool = False) -> tuple[str, ...]:
    """Names of the metrics of a kind of task, in order.

    `positive`: the task names a positive class; `graded`: its labels are grades.
    """
    return tuple(
        one.name
        for one in METRICS.values()
        if kind in one.kinds
        and (positive or not one.needs_positive)
        and (graded or kind not in one.graded_kinds)
    )
