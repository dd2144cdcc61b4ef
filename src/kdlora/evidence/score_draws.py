"""Scores of competing models, drawn again: examples paired across all of them, then seeds.

Resampling examples gives each of them a weight (how often it was drawn), and a metric needs
nothing of the draw but weighted sums (`vocabulary.terms.Terms`): of right answers, of the cells of
the confusion matrix, of products. All draws of all models are then `weights @ values`, however
many there are. A metric that ranks the examples takes the weights themselves.

A draw answers "what would the scores have been, had the held-out examples and the seeds been
others?". The examples are the same for all models in a draw, so what they have in common cancels
out of every difference. A mean over k seeds is drawn from Student's t around it, with k - 1
degrees of freedom and one draw for all models of the same seeds: resampling two or three seeds
gives a handful of values that cover far less than they say. With one seed nothing is known of how
another would do, and the draws speak of the models that were trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kdlora.evidence.intervals import affordable
from kdlora.evidence.result import finite
from kdlora.records.predictions import SplitOutputs, shared_examples
from kdlora.vocabulary.metric import metric as metric_of
from kdlora.vocabulary.terms import AnyTerms, RankedTerms, Terms

_CHUNK = 8_000_000  # weights held at once


def resampled(
    parts: Sequence[AnyTerms], *, draws: int, rng: np.random.Generator
) -> np.ndarray:  # fmt: skip
    """Scores [draws, models] when the examples, which all models share, are resampled together."""
    sums = [part for part in parts if isinstance(part, Terms)]
    score = _of_sums(sums) if len(sums) == len(parts) else _of_ranks(parts)
    return np.concatenate([score(weights) for weights in _weights(parts[0].rows, draws, rng)])


def _numbers_of_a_draw(part: AnyTerms) -> int:
    """How many numbers a draw of a model's score goes through."""
    return part.rows * (part.scores.shape[1] if isinstance(part, RankedTerms) else 1)


def _of_sums(parts: Sequence[Terms]) -> Callable[[np.ndarray], np.ndarray]:
    """From weights [d, n] to scores [d, models], all sums at once."""
    edges = np.cumsum([0, *(part.values.shape[1] for part in parts)])
    stacked = np.concatenate([part.values for part in parts], axis=1)

    def score(weights: np.ndarray) -> np.ndarray:
        sums = weights @ stacked
        return np.stack(
            [
                part.finish(sums[:, low:high])
                for part, low, high in zip(parts, edges, edges[1:], strict=False)
            ],
            axis=1,
        )

    return score


def _of_ranks(
    parts: Sequence[AnyTerms],
) -> Callable[[np.ndarray], np.ndarray]:
    """From weights [d, n] to scores [d, models], one model after the other."""
    return lambda weights: np.stack([part.of_weights(weights) for part in parts], axis=1)


def _weights(n: int, draws: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """How often each of n examples is drawn [chunk, n]."""
    chunk = max(1, _CHUNK // n)
    for start in range(0, draws, chunk):
        size = min(chunk, draws - start)
        drawn = rng.integers(0, n, (size, n), dtype=np.int64)
        drawn += n * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(float)


def _seed_weights(k: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Weights [draws, k] that sum to 0: of scores [k] they make Student's error of their mean, and
    of two models' scores with the same seeds that of the mean difference."""
    normal = rng.standard_normal((draws, k))
    normal -= normal.mean(1, keepdims=True)
    spread = np.sqrt(rng.chisquare(k - 1, (draws, 1)) / (k - 1))
    return normal / spread / math.sqrt(k * (k - 1))


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

    def over(self, *places: int) -> str:
        """What varies in an interval of the candidates at these places, "" without draws."""
        if self.draws is None or not places:
            return ""
        seeds = [self.n_seeds[place] for place in places]
        if self.n_examples == 0:
            return "seeds only"
        if max(seeds) == 1:
            return "texts only, one seed"
        return "texts and seeds" if min(seeds) > 1 else "texts, and seeds of one of the two only"


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
    `outputs` those outputs that were stored. If any run lacks them, examples are not resampled, and
    then a candidate of a single run leaves no draws.
    """
    names = list(dict.fromkeys(run for own in runs for run in own))
    column = {name: i for i, name in enumerate(names)}
    known = {name: outputs[name] for name in names if name in outputs}
    aligned = shared_examples(known) if len(known) == len(names) else {}
    n = len(next(iter(aligned.values())).labels) if aligned else 0
    recorded = np.array([scores[name] for name in names], float)
    if n >= 2:
        parts = [
            metric_of(metric).terms(aligned[name].outputs, aligned[name].labels, positive=positive)
            for name in names
        ]
        draws = affordable(draws, sum(_numbers_of_a_draw(part) for part in parts))
        by_run = resampled(parts, draws=draws, rng=rng)
        by_run = np.where(np.isfinite(by_run), by_run, recorded)  # one class only: undefined
    else:
        by_run = np.tile(recorded, (draws, 1))
    means = np.array([recorded[[column[r] for r in own]].mean() for own in runs])
    if n < 2 and any(len(own) < 2 for own in runs):  # one run: how it varies is unknown, not nil
        return ScoreDraws(means, None, None, 0, tuple(len(own) for own in runs))
    weights: dict[tuple[int, ...], np.ndarray] = {}
    kept, varied = [], []
    for own, own_seeds in zip(runs, seeds, strict=True):
        values = by_run[:, [column[r] for r in own]]
        centre, k = values.mean(1), len(own)
        kept.append(centre)
        if k == 1:
            varied.append(centre)
            continue
        key = tuple(own_seeds)  # candidates of the same seeds are paired by seed
        if key not in weights:
            weights[key] = _seed_weights(k, len(by_run), rng)
        varied.append(centre + weights[key] @ recorded[[column[r] for r in own]])
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


def score_ends(
    values: np.ndarray | None, metric: str, alpha: float = 0.05
) -> tuple[float | None, float | None]:
    """`quantiles` of a model's score, which cannot lie beyond what its metric can be."""
    low, high = quantiles(values, alpha)
    known = metric_of(metric)
    return (
        None if low is None else max(low, known.low),
        None if high is None else min(high, known.high),
    )
