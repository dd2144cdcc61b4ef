"""What a resampled score needs of the rows: sums over them, or their order by a model's scores.

A bootstrap gives each row a weight (how often it was drawn). Most metrics are functions of weighted
sums (`Terms`); a metric that ranks the rows, such as average precision, needs all weights at once
(`RankedTerms`, `RecallTerms`). numpy is imported where something is computed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Array = NDArray[Any]

Finish = Callable[["Floats"], "Floats"]


@dataclass(frozen=True)
class Terms:
    """What is summed over rows: `values` [n, k]; `finish` turns sums [..., k] into scores [...]."""

    values: Floats
    finish: Finish

    @property
    def rows(self) -> int:
        return len(self.values)

    @property
    def score(self) -> float:
        """On the rows as they are; NaN where it is undefined."""
        return float(self.finish(self.values.sum(0)))

    def of_weights(self, weights: Floats) -> Floats:
        """Scores [d] where the rows count as often as `weights` [d, n] says."""
        return self.finish(weights @ self.values)


@dataclass(frozen=True)
class _Ranking:
    """One label's rows from the highest score to the lowest; equal scores stand as one.

    order: [n] rows; hits: [p] places of the rows that have the label; first, last: [n] the first
    and the last place of the rows that share a place's score.
    """

    order: Array
    hits: Array
    first: Array
    last: Array


@dataclass(frozen=True)
class _ScoredRows(ABC):
    """Rows by a model's scores, [n, ...], and `truth` of the same shape: who is one."""

    scores: Floats
    truth: Array

    @property
    def rows(self) -> int:
        return len(self.scores)

    @property
    def score(self) -> float:
        """On the rows as they are; NaN where no row has what is looked for."""
        import numpy as np

        return float(self.of_weights(np.ones((1, self.rows)))[0])

    @abstractmethod
    def of_weights(self, weights: Floats) -> Floats:
        """Scores [d] where the rows count as often as `weights` [d, n] says."""


@dataclass(frozen=True)
class RankedTerms(_ScoredRows):
    """Mean average precision of rows ranked by scores [n, c], where `truth` [n, c] says who is one.

    Average precision is the mean, over the rows that have the label, of the share that has it among
    the rows with no lower score (Manning, Raghavan and Schütze 2008, "Introduction to Information
    Retrieval", ch. 8); no interpolation. The mean is over the labels that some row has, NaN if none
    has any.
    """

    def of_weights(self, weights: Floats) -> Floats:
        """Mean average precision [d] where the rows count as often as `weights` [d, n] says."""
        return _mean(self.by_label(weights))

    def by_label(self, weights: Floats) -> Floats:
        """Average precision [d, c] of each label; NaN where no row that counts has it."""
        import numpy as np

        found = np.full((len(weights), self.scores.shape[1]), np.nan)
        for label, ranking in enumerate(self._rankings):
            places = ranking.hits
            if not len(places):
                continue
            sorted_weights = weights[:, ranking.order]
            seen = np.cumsum(sorted_weights, axis=1)[:, ranking.last[places]]
            gained = sorted_weights[:, places]
            # hits up to the last row of an equal score: the last hit before that row's end
            upto = np.searchsorted(places, ranking.last[places], side="right") - 1
            hits = np.cumsum(gained, axis=1)
            total = hits[:, -1]
            summed = (gained * hits[:, upto] / np.where(seen > 0, seen, 1)).sum(1)
            found[:, label] = np.where(total > 0, summed / np.where(total > 0, total, 1), np.nan)
        return found

    def without_each(self) -> Floats:
        """The score [n] without each row, in O(n) a label but for sorting."""
        import numpy as np

        return _mean(np.stack([_without_each(one, self.rows) for one in self._rankings], axis=1))

    @cached_property
    def _rankings(self) -> tuple[_Ranking, ...]:
        return tuple(self._ranked())

    def _ranked(self) -> Iterator[_Ranking]:
        import numpy as np

        for values, truth in zip(self.scores.T, self.truth.T, strict=True):
            order = np.argsort(-values, kind="stable")
            _, group, counts = np.unique(-values[order], return_inverse=True, return_counts=True)
            ends = np.cumsum(counts)
            last = (ends - 1)[group]
            yield _Ranking(order, np.flatnonzero(truth[order] > 0), (ends - counts)[group], last)


@dataclass(frozen=True)
class RecallTerms(_ScoredRows):
    """The most of the rows with `truth` [n] that any threshold on `scores` [n] finds.

    Among the rows at or above it, at least a share of `precision` must have it. 0 where no
    threshold reaches that, NaN where no row has it.
    """

    precision: float

    def of_weights(self, weights: Floats) -> Floats:
        """Recall [d] where the rows count as often as `weights` [d, n] says."""
        import numpy as np

        order = np.argsort(-self.scores, kind="stable")
        ends = np.flatnonzero(np.diff(self.scores[order], append=np.inf))  # of equal scores
        seen = np.cumsum(weights[:, order], axis=1)[:, ends]
        hits = np.cumsum(weights[:, order] * self.truth[order], axis=1)[:, ends]
        reached = (seen > 0) & (hits >= self.precision * seen - 1e-9)
        total = hits[:, -1]
        found = np.where(reached, hits, 0.0).max(axis=1, initial=0.0)
        return np.where(total > 0, found / np.where(total > 0, total, 1), np.nan)


# What a bootstrap may be given: rows, a score, and scores of weights.
AnyTerms = Terms | RankedTerms | RecallTerms


def _without_each(ranking: _Ranking, n: int) -> Floats:
    """A label's average precision [n] without each row.

    Rows that rank above the one left out keep their precision, hits / seen; for the others both
    lose it: (hits - 1 or hits) / (seen - 1).
    """
    import numpy as np

    has = np.zeros(n)
    has[ranking.hits] = 1
    seen = ranking.last + 1.0
    hits = np.cumsum(has)[ranking.last]
    rest = np.where(seen > 1, seen - 1, 1)
    above = _before(has * hits / seen)[ranking.first]
    alone = has * (seen > 1)  # a row that stands alone at the top has nothing to lose
    shared, one = alone * hits / rest, alone / rest
    below = _from(shared)[ranking.first] - has * _from(one)[ranking.first] - has * (shared - one)
    left = has.sum() - has
    scores = np.where(left > 0, (above + below) / np.where(left > 0, left, 1), np.nan)
    found = np.empty(n)
    found[ranking.order] = scores
    return found


def _before(values: Floats) -> Floats:
    """Sums [n + 1] of all values before each place."""
    import numpy as np

    return np.concatenate([[0.0], np.cumsum(values)])


def _from(values: Floats) -> Floats:
    """Sums [n] of all values from each place on."""
    import numpy as np

    return np.cumsum(values[::-1])[::-1]


def _mean(by_label: Floats) -> Floats:
    """Mean [...] over the labels [..., c] that are not NaN; NaN where all are."""
    import numpy as np

    known = np.isfinite(by_label)
    with np.errstate(invalid="ignore"):
        return np.where(known, by_label, 0.0).sum(-1) / known.sum(-1)
