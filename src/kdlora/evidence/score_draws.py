"""Scores of competing models, drawn again: examples paired across all of them, then seeds.

Resampling examples gives each of them a weight (how often it was drawn), and each metric here needs
nothing of the draw but weighted sums: of right answers, of the cells of the confusion matrix, of
products. All draws of all models are then `weights @ summands`, however many there are.

A draw answers "what would the scores have been, had the held-out examples and the seeds been
others?". The examples are the same for all models in a draw, so what they have in common cancels
out of every difference. The spread of a mean over k seeds is widened by sqrt(k / (k - 1)), for the
bootstrap divides by k where the variance needs k - 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax
from scipy.stats import rankdata

from kdlora.errors import InputError
from kdlora.evidence.intervals import affordable
from kdlora.evidence.prediction_tests import confusion_metric
from kdlora.evidence.result import finite
from kdlora.records.predictions import SplitOutputs, shared_examples
from kdlora.vocabulary.task import ECE_BINS

Finish = Callable[[np.ndarray], np.ndarray]
METRICS = (
    "accuracy", "macro_f1", "f1", "matthews", "cross_entropy", "ece", "pearson", "spearman", "rmse",
)  # fmt: skip
_CHUNK = 8_000_000  # weights held at once


@dataclass(frozen=True)
class Summands:
    """`values` [n, k] of the examples; `finish` turns their sums [..., k] into scores [...]."""

    values: np.ndarray
    finish: Finish

    @property
    def score(self) -> float:
        """On the examples as they are."""
        return float(self.finish(self.values.sum(0)))


def summands(
    metric: str, outputs: np.ndarray, labels: np.ndarray, *, positive: int | None = None
) -> Summands:
    """What `metric` needs of outputs [n, c] and labels [n] (class indices or values).

    `positive` is the class of `f1`; `f1_<class index>` names it in the metric itself. Spearman's
    correlation takes its ranks from the whole sample. A score is NaN where it is undefined. Raises
    InputError for a metric that is not known.
    """
    outputs = np.asarray(outputs, float)
    if outputs.ndim == 1:
        outputs = outputs[:, None]
    if metric.startswith("f1_"):
        metric, positive = "f1", int(metric.removeprefix("f1_"))
    if metric == "f1" and positive is None:
        raise InputError("f1 needs the positive class; its task names none")
    one = np.ones(len(labels))
    if metric in ("accuracy", "macro_f1", "f1", "matthews"):
        return _confusion(metric, outputs, np.asarray(labels, int), positive)
    if metric == "cross_entropy":
        loss = -log_softmax(outputs, axis=1)[np.arange(len(labels)), np.asarray(labels, int)]
        return Summands(np.stack([loss, one], 1), lambda s: s[..., 0] / s[..., 1])
    if metric == "ece":
        return _calibration(outputs, np.asarray(labels, int))
    if metric == "rmse":
        square = (outputs[:, 0] - np.asarray(labels, float)) ** 2
        return Summands(np.stack([square, one], 1), lambda s: np.sqrt(s[..., 0] / s[..., 1]))
    if metric in ("pearson", "spearman"):
        x, y = outputs[:, 0], np.asarray(labels, float)
        if metric == "spearman":
            x, y = rankdata(x), rankdata(y)
        x, y = x - x.mean(), y - y.mean()  # for the sake of precision
        return Summands(np.stack([x, y, x * x, y * y, x * y, one], 1), _correlation)
    raise InputError(f"unknown metric '{metric}': one of {', '.join(METRICS)}")


def _confusion(
    metric: str, outputs: np.ndarray, labels: np.ndarray, positive: int | None
) -> Summands:
    size = max(outputs.shape[1], int(labels.max(initial=0)) + 1)
    counts = np.zeros((len(labels), size * size))
    counts[np.arange(len(labels)), labels * size + outputs.argmax(1)] = 1

    def finish(sums: np.ndarray) -> np.ndarray:
        table = sums.reshape(*sums.shape[:-1], size, size)
        if metric != "f1":
            return np.asarray(confusion_metric(table, metric))
        hit = table[..., positive, positive]
        total = table[..., positive, :].sum(-1) + table[..., :, positive].sum(-1)
        return np.where(total > 0, 2 * hit / np.where(total > 0, total, 1), np.nan)

    return Summands(counts, finish)


def _calibration(outputs: np.ndarray, labels: np.ndarray) -> Summands:
    """As `measure.quality.expected_calibration_error`: gaps summed by bin of the confidence."""
    confidence = np.exp(log_softmax(outputs, axis=1)).max(axis=1)
    gap = (outputs.argmax(axis=1) == labels) - confidence
    at = np.clip(np.ceil(confidence * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
    values = np.zeros((len(labels), ECE_BINS + 1))
    values[np.arange(len(labels)), at] = gap
    values[:, -1] = 1
    return Summands(values, lambda s: np.abs(s[..., :-1]).sum(-1) / s[..., -1])


def _correlation(sums: np.ndarray) -> np.ndarray:
    x, y, xx, yy, xy, n = np.moveaxis(sums, -1, 0)
    a, b = xx - x * x / n, yy - y * y / n
    good = (a > 1e-12) & (b > 1e-12)
    bottom = np.sqrt(np.where(good, a * b, 1))
    return np.where(good, (xy - x * y / n) / bottom, np.nan)


def resampled(
    parts: list[Summands], *, draws: int, rng: np.random.Generator
) -> np.ndarray:  # fmt: skip
    """Scores [draws, models] when the examples, which all models share, are resampled together."""
    n = len(parts[0].values)
    edges = np.cumsum([0, *(part.values.shape[1] for part in parts)])
    stacked = np.concatenate([part.values for part in parts], axis=1)
    blocks = []
    for weights in _weights(n, draws, rng):
        sums = weights @ stacked
        blocks.append(
            np.stack(
                [
                    part.finish(sums[:, low:high])
                    for part, low, high in zip(parts, edges, edges[1:], strict=False)
                ],
                axis=1,
            )
        )
    return np.concatenate(blocks)


def _weights(n: int, draws: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """How often each of n examples is drawn [chunk, n]."""
    chunk = max(1, _CHUNK // n)
    for start in range(0, draws, chunk):
        size = min(chunk, draws - start)
        drawn = rng.integers(0, n, (size, n), dtype=np.int64)
        drawn += n * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(float)


@dataclass(frozen=True)
class ScoreDraws:
    """Scores of candidates, in the metric's own unit.

    scores [candidates]: means over seeds. draws [draws, candidates], or None where nothing could
    be resampled. by_examples [draws, candidates]: the same with the seeds kept as they are.
    n_examples: 0 where predictions were missing, so that only seeds vary.
    """

    scores: np.ndarray
    draws: np.ndarray | None
    by_examples: np.ndarray | None
    n_examples: int
    n_seeds: tuple[int, ...]


def draw_scores(
    runs: Sequence[Sequence[str]],
    seeds: Sequence[Sequence[int]],
    scores: Mapping[str, float],
    outputs: Mapping[str, SplitOutputs],
    metric: str,
    *,
    rng: np.random.Generator,
    draws: int = 4_000,
    positive: int | None = None,
) -> ScoreDraws:
    """Draw the mean scores of candidates.

    `runs` and `seeds` list each candidate's runs; `scores` holds the recorded score of every run,
    `outputs` those outputs that were stored. If any run lacks them, examples are not resampled.
    """
    names = list(dict.fromkeys(run for own in runs for run in own))
    column = {name: i for i, name in enumerate(names)}
    known = {name: outputs[name] for name in names if name in outputs}
    aligned = shared_examples(known) if len(known) == len(names) else {}
    n = len(next(iter(aligned.values())).labels) if aligned else 0
    recorded = np.array([scores[name] for name in names], float)
    if n >= 2:
        draws = affordable(draws, n * len(names))
        parts = [
            summands(metric, aligned[name].outputs, aligned[name].labels, positive=positive)
            for name in names
        ]
        by_run = resampled(parts, draws=draws, rng=rng)
        by_run = np.where(np.isfinite(by_run), by_run, recorded)  # one class only: undefined
    else:
        by_run = np.tile(recorded, (draws, 1))
    means = np.array([recorded[[column[r] for r in own]].mean() for own in runs])
    several = any(len(own) > 1 for own in runs)
    if n < 2 and not several:
        return ScoreDraws(means, None, None, 0, tuple(len(own) for own in runs))
    picks: dict[tuple[int, ...], np.ndarray] = {}
    kept, varied = [], []
    for own, own_seeds in zip(runs, seeds, strict=True):
        values = by_run[:, [column[r] for r in own]]
        centre, k = values.mean(1), len(own)
        kept.append(centre)
        if k == 1:
            varied.append(centre)
            continue
        key = tuple(own_seeds)  # candidates of the same seeds are paired by seed
        if key not in picks:
            picks[key] = rng.integers(0, k, (len(by_run), k))
        mean = np.take_along_axis(values, picks[key], axis=1).mean(1)
        varied.append(centre + math.sqrt(k / (k - 1)) * (mean - centre))
    by_examples = np.stack(kept, 1) if n >= 2 else None
    return ScoreDraws(
        means, np.stack(varied, 1), by_examples, n, tuple(len(own) for own in runs)
    )  # fmt: skip


def quantiles(values: np.ndarray | None, alpha: float = 0.05) -> tuple[float | None, float | None]:
    """The percentile interval of draws, or two Nones."""
    if values is None:
        return None, None
    low, high = np.quantile(values, [alpha / 2, 1 - alpha / 2])
    return finite(low), finite(high)


def two_sided_p(values: np.ndarray) -> float:
    """Bootstrap p-value of "the difference is zero": twice the smaller tail, never quite 0."""
    below, above = (np.sum(values <= 0) + 1), (np.sum(values >= 0) + 1)
    return float(min(1.0, 2 * min(below, above) / (len(values) + 1)))
