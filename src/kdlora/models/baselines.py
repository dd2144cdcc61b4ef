"""What any encoder has to beat: the majority class, and words counted by a linear model.

A TF-IDF model trains in seconds and is often within a few points of a fine-tuned encoder on single
sentences (Wang and Manning 2012), so a study without it cannot say what its encoders are worth.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import f1_score, r2_score
from sklearn.model_selection import train_test_split

from kdlora.errors import DataError, ModelError
from kdlora.json_files import read_json_object
from kdlora.vocabulary.task import CLASSIFICATION, KINDS, MULTILABEL, REGRESSION, Kind, Task

if TYPE_CHECKING:
    from kdlora.data.examples import Examples

Array = NDArray[Any]
Texts = Sequence[Sequence[str]]

MAX_FEATURES = 50_000
REGULARISATION = (0.1, 1.0, 10.0)  # inverse strengths to choose from
CHOICE_ROWS = 20_000
UNSEEN_CLASS_LOGIT = -20.0
_MANIFEST, _WEIGHTS = "baseline.json", "baseline.npz"
_VECTORISER: dict[str, Any] = {
    "ngram_range": (1, 2),
    "sublinear_tf": True,
    "token_pattern": r"(?u)\b\w+\b",
    "dtype": np.float32,
}


def majority(task: Task, train_labels: Array, n: int) -> NDArray[np.float64]:
    """Outputs of a model that ignores the text, the same for all `n` rows.

    They are those of the task's kind: log shares [n, c], whose largest is the majority class, or
    the training mean [n]. Raises DataError without training labels.
    """
    labels = np.asarray(train_labels)
    if not len(labels):
        raise DataError(f"task '{task.name}': no training labels to find the majority of")
    return task.kind.baseline(labels, task.num_outputs, n)


@dataclass(frozen=True, eq=False)
class LinearBaseline:
    """A linear model on TF-IDF features of one text or of a pair.

    `coefficients` [c, features] and `intercept` [c], float32; c is 1 for regression.
    """

    kind: Kind
    label_names: tuple[str, ...]
    n_texts: int
    vocabulary: tuple[str, ...]
    idf: NDArray[np.float32]
    coefficients: NDArray[np.float32]
    intercept: NDArray[np.float32]

    def predict(self, texts: Texts) -> NDArray[np.float64]:
        """Logits [n, c], or numbers [n]. `texts` is 1 or 2 lists of n texts."""
        if len(texts) != self.n_texts:
            raise DataError(f"{len(texts)} text columns given, {self.n_texts} expected")
        outputs = _features(self._vectoriser, texts) @ self._weights + self.intercept
        return outputs[:, 0] if self.kind.numeric else outputs

    @cached_property
    def _weights(self) -> NDArray[np.float64]:
        return self.coefficients.T.astype(np.float64)

    @cached_property
    def _vectoriser(self) -> TfidfVectorizer:
        vectoriser = TfidfVectorizer(**_VECTORISER, vocabulary=list(self.vocabulary))
        vectoriser.idf_ = self.idf
        return vectoriser

    @cached_property
    def _files(self) -> dict[str, bytes]:
        manifest = {
            "format": "kdlora tf-idf baseline 1",
            "kind": self.kind.name,
            "label_names": self.label_names,
            "n_texts": self.n_texts,
            "vocabulary": self.vocabulary,
        }
        weights = io.BytesIO()
        np.savez_compressed(
            weights, idf=self.idf, coefficients=self.coefficients, intercept=self.intercept
        )
        text = json.dumps(manifest, ensure_ascii=False, separators=(",", ":"))
        return {_MANIFEST: text.encode(), _WEIGHTS: weights.getvalue()}

    def time(
        self,
        texts: Texts,
        *,
        repeats: int = 30,
        batch: int = 32,
        clock: Callable[[], float] = time.perf_counter,
    ) -> tuple[float, float, float]:
        """(p50 ms, p95 ms, texts a second) from raw text to outputs, on some of `texts`.

        The percentiles are of one text at a time, the throughput of the median time of a batch.
        """
        n = len(texts[0])
        self.predict([column[:1] for column in texts])  # builds the vectoriser

        def seconds(start: int, size: int) -> float:
            rows = [[column[(start + i) % n] for i in range(size)] for column in texts]
            started = clock()
            self.predict(rows)
            return clock() - started

        single = [seconds(i, 1) for i in range(repeats)]
        many = [seconds(i * batch, batch) for i in range(repeats)]
        p50, p95 = np.percentile(single, [50, 95]) * 1e3
        return float(p50), float(p95), batch / float(np.median(many))

    @property
    def n_params(self) -> int:
        """Weights and intercepts of the linear model; the word statistics are not trained by it."""
        return self.coefficients.size + self.intercept.size

    @property
    def size_mb(self) -> float:
        """Size of the saved files, MB = 10^6 bytes."""
        return sum(len(content) for content in self._files.values()) / 1e6

    def save(self, folder: str | Path) -> None:
        """Write `baseline.json` and `baseline.npz`; neither can run code when it is read."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self._files.items():
            (folder / name).write_bytes(content)

    @classmethod
    def load(cls, folder: str | Path) -> LinearBaseline:
        """Read a saved baseline. Raises ModelError if the folder holds none."""
        folder = Path(folder)
        try:
            manifest = read_json_object(folder / _MANIFEST)
            with np.load(folder / _WEIGHTS, allow_pickle=False) as weights:
                return cls(
                    kind=KINDS[manifest["kind"]],
                    label_names=tuple(manifest["label_names"]),
                    n_texts=manifest["n_texts"],
                    vocabulary=tuple(manifest["vocabulary"]),
                    idf=weights["idf"],
                    coefficients=weights["coefficients"],
                    intercept=weights["intercept"],
                )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"{folder} holds no readable TF-IDF baseline ({_MANIFEST}, {_WEIGHTS}): {error}"
            ) from None


def train_tfidf(task: Task, train: Examples, *, seed: int) -> LinearBaseline:
    """Fit logistic regression (ridge for regression) on TF-IDF features of words and word pairs.

    Where a row may have several labels there is one regression a label, against the rest.

    A pair of texts is both vectors, their product, their absolute difference and their cosine:
    the last carries most of what a linear model can see of similarity. The regularisation is
    chosen by macro-F1 (R² for regression) on a fifth of the training rows that `seed` draws.
    Raises DataError if there are no rows or no words.
    """
    labels = np.asarray(train.labels)
    if not len(labels):
        raise DataError(f"task '{task.name}': no rows to train the TF-IDF baseline on")
    vectoriser = TfidfVectorizer(
        **_VECTORISER, max_features=MAX_FEATURES, min_df=2 if len(labels) >= 1000 else 1
    )
    try:
        vectoriser.fit([text for column in train.texts for text in column])
    except ValueError:  # scikit-learn's word for an empty vocabulary
        raise DataError(f"task '{task.name}': the training texts hold no words") from None
    features = _features(vectoriser, train.texts)
    strength = choose_regularisation(task, features, labels, seed)
    coefficients, intercept = LINEAR_MODELS[task.kind].fit(task, features, labels, strength)
    return LinearBaseline(
        kind=task.kind,
        label_names=task.label_names,
        n_texts=len(train.texts),
        vocabulary=tuple(str(word) for word in vectoriser.get_feature_names_out()),
        idf=vectoriser.idf_.astype(np.float32),
        coefficients=coefficients.astype(np.float32),
        intercept=intercept.astype(np.float32),
    )


def _features(vectoriser: TfidfVectorizer, texts: Texts) -> sparse.csr_matrix:
    """[n, features], float64, of float32 vectors, so that a saved model repeats them exactly."""
    sides = [vectoriser.transform(column) for column in texts]
    if len(sides) == 1:
        return sides[0].astype(np.float64)
    a, b = sides
    product = a.multiply(b)
    cosine = sparse.csr_matrix(np.asarray(product.sum(axis=1)).reshape(-1, 1))
    return sparse.hstack([a, b, product, abs(a - b), cosine]).tocsr().astype(np.float64)


Features = Any  # [n, features], sparse or dense
Linear = tuple[
    NDArray[np.float64], NDArray[np.float64]
]  # coefficients [c, features], intercept [c]


def _fit_ridge(task: Task, features: Features, labels: Array, strength: float) -> Linear:
    ridge = Ridge(alpha=1 / strength, solver="sparse_cg", max_iter=2000)
    ridge.fit(features, labels.astype(np.float64))
    return ridge.coef_.reshape(1, -1), np.atleast_1d(ridge.intercept_)


def _fit_logistic(task: Task, features: Features, labels: Array, strength: float) -> Linear:
    """One row per class of the task; a class without a row is never answered."""
    coefficients = np.zeros((task.num_outputs, features.shape[1]))
    intercept = np.full(task.num_outputs, UNSEEN_CLASS_LOGIT)
    seen = np.unique(labels.astype(np.int64))
    if len(seen) == 1:
        intercept[seen] = 0.0
        return coefficients, intercept
    model = LogisticRegression(C=strength, max_iter=1000).fit(features, labels)
    w, b = model.coef_, model.intercept_
    if len(seen) == 2:  # one decision value: half of it for, half against
        w, b = np.vstack([-w, w]) / 2, np.concatenate([-b, b]) / 2
    coefficients[seen], intercept[seen] = w, b
    return coefficients, intercept


def _fit_labels(task: Task, features: Features, labels: Array, strength: float) -> Linear:
    """One against the rest: a logistic regression a label, which knows nothing of the others."""
    coefficients = np.zeros((task.num_outputs, features.shape[1]))
    intercept = np.zeros(task.num_outputs)
    for i, own in enumerate(labels.T):
        if len(np.unique(own)) == 1:
            intercept[i] = UNSEEN_CLASS_LOGIT * (-1 if own[0] else 1)
            continue
        model = LogisticRegression(C=strength, max_iter=1000).fit(features, own)
        coefficients[i], intercept[i] = model.coef_[0], model.intercept_[0]
    return coefficients, intercept


@dataclass(frozen=True)
class LinearModel:
    """How a kind of task is fitted, and what its regularisation is chosen by (more is better)."""

    fit: Callable[[Task, Features, Array, float], Linear]
    score: Callable[[Array, Array], float]  # truth [n], answers [n]


LINEAR_MODELS: dict[Kind, LinearModel] = {
    CLASSIFICATION: LinearModel(
        _fit_logistic, lambda truth, answers: float(f1_score(truth, answers, average="macro"))
    ),
    REGRESSION: LinearModel(_fit_ridge, lambda truth, answers: float(r2_score(truth, answers))),
    MULTILABEL: LinearModel(
        _fit_labels,
        lambda truth, answers: float(f1_score(truth, answers, average="macro", zero_division=0)),
    ),
}


def choose_regularisation(
    task: Task,
    features: Features,
    labels: Array,
    seed: int,
    *,
    strengths: Sequence[float] = REGULARISATION,
) -> float:
    """The best inverse strength on a fifth of the rows that `seed` draws, fitted on the others."""
    rows = np.random.default_rng(seed).permutation(len(labels))[:CHOICE_ROWS]
    if len(rows) < 50:
        return 1.0
    fit_rows, score_rows = train_test_split(rows, test_size=0.2, random_state=seed)
    truth, linear = labels[score_rows], LINEAR_MODELS[task.kind]

    def score(strength: float) -> float:
        coefficients, intercept = linear.fit(task, features[fit_rows], labels[fit_rows], strength)
        outputs = features[score_rows] @ coefficients.T + intercept
        return linear.score(truth, task.kind.decide(outputs))

    return max(strengths, key=score)
