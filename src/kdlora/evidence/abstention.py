"""Answers withheld: from which confidence on a model is as accurate as it has to be.

A model that may withhold an answer is judged by two numbers: the accuracy of the answers it gives,
and their share, the coverage (El-Yaniv and Wiener 2010, "On the foundations of noise-free selective
classification"). `choose_cut` picks the confidence from which on the accuracy reaches an aim, so
that it does so on other texts of the same kind as well: not by the accuracy seen, but by a lower
bound of it that allows for having looked at several cuts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95  # how sure the aim is reached
# Shares of the rows that are tried, a fixed list: what is tried must not depend on the labels.
COVERAGES = tuple(k / 20 for k in range(20, 0, -1))


@dataclass(frozen=True)
class AnswerCut:
    """From which confidence on a model answers, and how right it then was on n rows.

    Answers of a confidence above `cut` are given; `cut` 0 gives all. `lower` is the lower bound of
    the accuracy of those given.
    """

    cut: float
    n: int
    answered: int
    accuracy: float
    lower: float

    @property
    def coverage(self) -> float:
        """The share of rows that are answered."""
        return self.answered / self.n


def lower_bound(right: int, n: int, *, alpha: float) -> float:
    """A one-sided lower bound of a share, of `right` among n, wrong with probability <= alpha.

    It is exact for every n (Clopper and Pearson 1934).
    """
    return float(stats.beta.ppf(alpha, right, n - right + 1)) if right else 0.0


def try_cuts(confidence: np.ndarray, right: np.ndarray, *, level: float = LEVEL) -> list[AnswerCut]:
    """What each of `COVERAGES` gives on rows of a confidence [n] and whether they are right [n].

    A cut is the confidence of the first row left out, and only rows above it are counted: given
    that value they are as independent as fresh ones, so each bound holds. All of them hold
    together with probability `level`, by Bonferroni's correction for the number of cuts; that is
    what allows one of them to be chosen (Angelopoulos et al. 2021, "Learn then test: calibrating
    predictive algorithms to achieve risk control").
    """
    confidence, right = np.asarray(confidence, float), np.asarray(right, bool)
    order = np.argsort(-confidence, kind="stable")
    sorted_confidence, n = confidence[order], len(order)
    hits = np.concatenate([[0], np.cumsum(right[order])])
    found = []
    for coverage in COVERAGES:
        most = round(n * coverage)
        cut = sorted_confidence[most] if most < n else 0.0
        answered = int(np.searchsorted(-sorted_confidence, -cut, side="left"))
        if answered:
            hit = int(hits[answered])
            lower = lower_bound(hit, answered, alpha=(1 - level) / len(COVERAGES))
            found.append(AnswerCut(float(cut), n, answered, hit / answered, lower))
    return found


def choose_cut(
    confidence: np.ndarray, right: np.ndarray, *, aim: float, level: float = LEVEL
) -> AnswerCut | None:
    """The cut that answers most rows while the accuracy's lower bound reaches `aim`.

    `confidence` [n] and `right` [n] are of rows that the model was not trained on. None where no
    cut reaches it: then the model is not good enough, or the rows are too few to tell.
    """
    return next((c for c in try_cuts(confidence, right, level=level) if c.lower >= aim), None)


def rows_needed(aim: float, *, level: float = LEVEL) -> int:
    """How many rows must be answered, all of them rightly, before any cut can reach `aim`."""
    return int(np.ceil(np.log((1 - level) / len(COVERAGES)) / np.log(aim)))


def answered_at(confidence: np.ndarray, right: np.ndarray, cut: float) -> tuple[int, float | None]:
    """How many rows are answered by a cut, and their accuracy; None where none is."""
    given = np.asarray(confidence) > cut
    return int(given.sum()), float(np.mean(right[given])) if given.any() else None


@dataclass(frozen=True)
class RiskCoverage:
    """The share of wrong answers [k] where only the surest share of rows [k] is answered.

    `area` under the curve is the mean risk over all coverages (Geifman, Uziel and El-Yaniv 2019,
    "Bias-reduced uncertainty estimation for deep neural classifiers"), less being better.
    """

    coverage: tuple[float, ...]
    risk: tuple[float, ...]
    area: float


def risk_coverage(confidence: np.ndarray, right: np.ndarray) -> RiskCoverage:
    """The curve at `COVERAGES` of rows of a confidence [n] and whether they are right [n].

    Rows of equal confidence count as if they were shuffled.
    """
    confidence, wrong = np.asarray(confidence, float), 1.0 - np.asarray(right, float)
    _, place, counts = np.unique(-confidence, return_inverse=True, return_counts=True)
    errors = (np.bincount(place, weights=wrong) / counts)[np.sort(place)]
    risk = np.cumsum(errors) / np.arange(1, len(errors) + 1)
    at = [max(round(len(risk) * coverage), 1) - 1 for coverage in COVERAGES]
    return RiskCoverage(COVERAGES, tuple(risk[at].tolist()), float(risk.mean()))


def mean_curve(curves: Sequence[RiskCoverage]) -> RiskCoverage:
    """The mean of curves at the same coverages, at least one."""
    risk = np.mean([curve.risk for curve in curves], axis=0).tolist()
    area = float(np.mean([curve.area for curve in curves]))
    return RiskCoverage(curves[0].coverage, tuple(risk), area)
