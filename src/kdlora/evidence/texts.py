"""Texts as a sample: what each held-out text adds to a difference, and the error of drawing texts.

A score of n texts has n pseudo-values, n s - (n - 1) s_i, where s_i is the score without text i
(the jackknife, Tukey 1958). Their mean is the score but for its bias, and their spread gives its
error as if texts were drawn anew, for any metric that is made of sums. Differences of the same
texts are paired: what both models find hard cancels out.

Spearman's ranks change with every text that is left out, so its pseudo-values are those of its
influence function instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import rankdata

from kdlora.evidence.estimator import Design, Estimate, TextVariance, clustered, satterthwaite
from kdlora.records.predictions import SplitOutputs
from kdlora.vocabulary.metric import Metric
from kdlora.vocabulary.metric import metric as metric_of
from kdlora.vocabulary.terms import AnyTerms, RankedTerms, Terms

_CHUNK = 4_000_000  # numbers held at once
SAME_SCORE = 0.05  # points; records and predictions that differ by more are not of one run
MIN_TEXTS = 20


@dataclass(frozen=True)
class TextScores:
    """A run's texts: ids [n] and pseudo-values [n] in the metric's own unit; their score."""

    ids: np.ndarray
    values: np.ndarray
    score: float


def pseudo_values(terms: AnyTerms, *, of_confusion: bool = False) -> np.ndarray:
    """Jackknife pseudo-values [n] of a score of n texts; NaN where it is undefined.

    `of_confusion`: each text is one cell of a confusion matrix, so that those in one are alike.
    """
    if isinstance(terms, RankedTerms):
        return terms.rows * terms.score - (terms.rows - 1) * terms.without_each()
    assert isinstance(terms, Terms), "a score that jumps has no pseudo-values"
    rows, place = terms.values, np.arange(len(terms.values))
    if of_confusion:
        _, first, place = np.unique(rows.argmax(1), return_index=True, return_inverse=True)
        rows = rows[first]
    total, n = terms.values.sum(0), len(terms.values)
    step = max(1, _CHUNK // rows.shape[1])
    without = [terms.finish(total - rows[i : i + step]) for i in range(0, len(rows), step)]
    return (n * terms.score - (n - 1) * np.concatenate(without))[place]


def _spearman_values(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Pseudo-values [n] of Spearman's correlation from its influence function.

    It is the correlation of the grades F(x), G(y); a text counts in the mean of their product and
    in both grades.
    """
    n = len(labels)
    x, y = rankdata(outputs) / n, rankdata(labels) / n

    def above(of: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Mean of `weight` over the texts at or above each one by `of`."""
        values, place = np.unique(of, return_inverse=True)
        sums = np.bincount(place, weights=weight, minlength=len(values))
        return (np.cumsum(sums[::-1])[::-1] - sums / 2)[place] / n

    parts = x * y + above(x, y) + above(y, x)
    return np.corrcoef(x, y)[0, 1] + (parts - parts.mean()) / (np.std(x) * np.std(y))


@dataclass
class StoredTexts:
    """The report texts of runs, as far as their predictions are stored; each is scored once."""

    outputs: Mapping[str, SplitOutputs]
    _known: dict[tuple[str, str, int | None], TextScores | None] = field(default_factory=dict)

    def scores(self, run: str, metric: str, positive: int | None) -> TextScores | None:
        """None where the run stored none, or where they do not allow this metric."""
        key = (run, metric, positive)
        if key not in self._known:
            split = self.outputs.get(run)
            self._known[key] = (
                None if split is None else text_scores(split, metric_of(metric), positive)
            )
        return self._known[key]


def text_scores(split: SplitOutputs, metric: Metric, positive: int | None) -> TextScores | None:
    """The texts of one run by one metric; None where they do not allow it."""
    if not metric.is_computable or (metric.needs_positive and positive is None):
        return None
    if not metric.is_smooth:
        return None
    if len(split.labels) < MIN_TEXTS or len(np.unique(split.ids)) != len(split.ids):
        return None
    if split.kind.name not in metric.kinds:
        return None
    terms = metric.terms(split.outputs, split.labels, positive=positive)
    with np.errstate(all="ignore"):
        values = (
            _spearman_values(np.ravel(split.outputs), split.labels)
            if metric.name == "spearman"
            else pseudo_values(
                terms, of_confusion=metric.of_confusion is not None and not split.kind.several
            )
        )
    if not np.isfinite(values).all():
        return None
    return TextScores(split.ids, values, terms.score)


@dataclass(frozen=True)
class TextDifferences:
    """Differences of pseudo-values of the runs that have them, in the unit of their comparison.

    rows: a mask [runs] of the matched runs; by_task: [runs of the task, texts] of those, task by
    task; unit: what one text that one of two models has right is worth, times its n (0: unknown);
    single: whether every difference is of one run and one other.
    """

    rows: np.ndarray
    by_task: tuple[np.ndarray, ...]
    unit: float
    single: bool = True

    @property
    def n_texts(self) -> int:
        return sum(values.shape[1] for values in self.by_task)


@dataclass(frozen=True)
class PairedRuns:
    """What texts are needed for: two matched sides, each a run or a weighted sum of some, and how
    their scores were made."""

    task: str
    runs_a: tuple[tuple[str, float], ...]
    runs_b: tuple[tuple[str, float], ...]
    score_a: float
    score_b: float
    metric: str
    positive: int | None


Weighted = list[tuple[float, TextScores]]  # the sum is a difference of two sides


def text_differences(runs: list[PairedRuns], texts: StoredTexts) -> TextDifferences | str:
    """The texts of matched runs [n], sorted by task; or why there are none."""
    rows, units = np.zeros(len(runs), bool), set()
    found: dict[str, list[tuple[PairedRuns, Weighted]]] = {}
    single = True
    for i, run in enumerate(runs):
        sides = _sides(run, texts)
        if sides is None:
            continue
        rows[i] = True
        found.setdefault(run.task, []).append((run, sides))
        single = single and len(sides) == 2
        worth = metric_of(run.metric).factor * sum(abs(weight) for weight, _ in sides) / 2
        units.add(round(worth, 9) if run.metric == "accuracy" else 0.0)
    jumps = [one for run in runs if not (one := metric_of(run.metric)).is_smooth]
    if jumps:
        return f"{jumps[0].title} jumps where one text is left out, so texts give it no error"
    if not found:
        return "no predictions on the report split are stored for both sides"
    made = []
    for own in found.values():
        aligned = _aligned(own)
        if aligned is None:
            return "the runs of a task do not share their report texts"
        made.append(aligned)
    return TextDifferences(rows, tuple(made), units.pop() if len(units) == 1 else 0.0, single)


def _sides(run: PairedRuns, texts: StoredTexts) -> Weighted | None:
    """Both sides' texts, where they give the scores that were compared."""
    metric = metric_of(run.metric)
    turn = metric.direction * metric.factor
    found: Weighted = []
    for sign, side, score in ((1, run.runs_a, run.score_a), (-1, run.runs_b, run.score_b)):
        own = [(weight, texts.scores(name, run.metric, run.positive)) for name, weight in side]
        known = [(weight, one) for weight, one in own if one is not None]
        if len(known) < len(own):
            return None
        total = sum(weight for weight, _ in known)
        off = turn * sum(weight * one.score for weight, one in known) - score
        if abs(off) > SAME_SCORE * metric.factor / 100 * total:
            return None
        found += [(sign * weight, one) for weight, one in known]
    return found


def _aligned(runs: list[tuple[PairedRuns, Weighted]]) -> np.ndarray | None:
    """Differences [runs, texts] on the texts that all of them have; None if they are too few."""
    metric = metric_of(runs[0][0].metric)
    every = [one for _, sides in runs for _, one in sides]
    first = every[0].ids
    place: dict[int, list[int]] = {}  # of each TextScores, where the shared texts are
    if not all(one.ids is first or np.array_equal(one.ids, first) for one in every):
        shared = sorted(set(first).intersection(*(one.ids for one in every)))
        if len(shared) < MIN_TEXTS:
            return None
        for one in every:
            at = {text: i for i, text in enumerate(one.ids)}
            place[id(one)] = [at[text] for text in shared]
    values = [
        sum(weight * (one.values[place[id(one)]] if place else one.values) for weight, one in sides)
        for _, sides in runs
    ]
    return metric.direction * metric.factor * np.stack(values)


def on_trained_models(differences: np.ndarray, design: Design, texts: TextDifferences) -> Estimate:
    """The mean over tasks of the mean over these runs [n], for texts as a sample of texts.

    Two texts are added, one on which the models differ, as likely in favour of either, and one on
    which they do not: the interval of Agresti & Min 2005, which also covers where the models
    hardly differ.
    """
    nesting = design.nesting
    mean = nesting.task_means(differences).mean(-1)
    weights, task = nesting.weights(), nesting.task_of_run()
    centres, variances, df = [], [], []
    for t, values in enumerate(texts.by_task):
        own = weights[task == t]
        n = values.shape[1]
        each = own @ values
        each = each - each.mean() + own @ differences[task == t]
        one = (texts.unit or np.abs(values - values.mean(1, keepdims=True)).max()) * np.sqrt(
            (own**2).sum()
        )
        centre = each.sum() / (n + 2)
        centres.append(centre)
        variances.append((((each**2).sum() + one**2) / (n + 2) - centre**2) / (n + 2))
        df.append(n - 1.0)
    parts = np.array(variances) / len(variances) ** 2
    total = float(parts.sum())
    if total <= 1e-20:
        return Estimate(mean, np.array(np.nan), np.array(np.nan))
    return Estimate(
        mean,
        np.sqrt(total),
        satterthwaite(parts, np.array(df)),
        centre=np.mean(centres),
    )


def text_variance(design: Design, by_task: tuple[np.ndarray, ...]) -> TextVariance:
    """Variances of the mean over tasks that come of texts: `by_task` holds runs x texts each."""
    nesting = design.nesting
    weights, task = nesting.weights() / nesting.n_tasks, nesting.task_of_run()
    matrix = clustered(design.joined).matrix
    alone = in_seeds = 0.0
    for t, values in enumerate(by_task):
        own, n = task == t, values.shape[1]
        each = weights[own] @ values
        centred = values - values.mean(1, keepdims=True)
        twice = ((matrix[:, own] @ centred) ** 2).sum() / n**2
        in_seeds += float(twice)
        alone += max(0.0, float(each.var(ddof=1)) / n - float(twice))
    return TextVariance(alone, in_seeds)
