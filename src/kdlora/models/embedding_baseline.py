"""What a student's encoder knows before any training: its embeddings under a linear model.

The mean of an encoder's last hidden states over the tokens of a text is a usual sentence embedding
(Reimers and Gurevych 2019, "Sentence-BERT"), and a linear model on it costs seconds. A fine-tuned
encoder that is no better has learnt nothing that was not there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdlora.data.examples import Examples
from kdlora.data.splits import FOLDS, folds_of
from kdlora.errors import DataError, ModelError
from kdlora.json_files import read_json_object
from kdlora.models.baselines import CHOICE_ROWS, LINEAR_MODELS, choose_regularisation
from kdlora.vocabulary.task import KINDS, Kind, Task

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)  # inverse regularisation to choose from
_TINY = 1e-8
_ARRAYS = ("mean", "spread", "coefficients", "intercept")

Embed = Callable[[Sequence[str]], NDArray[np.float32]]  # n texts -> [n, d]


@dataclass(frozen=True, eq=False)
class EmbeddingBaseline:
    """A linear model on standardised features of embeddings.

    `mean` and `spread` [features] are those of the training rows, `coefficients` [c, features],
    `intercept` [c]; c is 1 for regression. `strength` is the inverse regularisation.
    """

    kind: Kind
    label_names: tuple[str, ...]
    mean: NDArray[np.float64]
    spread: NDArray[np.float64]
    coefficients: NDArray[np.float64]
    intercept: NDArray[np.float64]
    strength: float

    def predict(self, texts: Sequence[Sequence[str]], embed: Embed) -> NDArray[np.float64]:
        """Logits [n, c], or numbers [n], of one or two columns of n texts."""
        features = (features_of(self.kind, texts, embed) - self.mean) / self.spread
        outputs = features @ self.coefficients.T + self.intercept
        return outputs[:, 0] if self.kind.numeric else outputs

    @property
    def n_params(self) -> int:
        """Weights and intercepts of the linear model."""
        return self.coefficients.size + self.intercept.size

    def save(self, folder: Path) -> None:
        """Write `baseline.json` and `baseline.npz`; the encoder is the run's."""
        folder.mkdir(parents=True, exist_ok=True)
        about: dict[str, Any] = {"format": "kdlora embedding baseline 1", "kind": self.kind.name}
        about |= {"label_names": self.label_names, "strength": self.strength}
        (folder / "baseline.json").write_text(json.dumps(about), encoding="utf-8")
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        np.savez_compressed(folder / "baseline.npz", **arrays)

    @classmethod
    def load(cls, folder: Path) -> EmbeddingBaseline:
        """Read what `save` wrote. Raises ModelError if the folder holds none."""
        try:
            about = read_json_object(folder / "baseline.json")
            with np.load(folder / "baseline.npz", allow_pickle=False) as weights:
                return cls(
                    kind=KINDS[about["kind"]],
                    label_names=tuple(about["label_names"]),
                    strength=about["strength"],
                    **{name: weights[name] for name in _ARRAYS},
                )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{folder} holds no readable embedding baseline: {error}") from None


def features_of(kind: Kind, texts: Sequence[Sequence[str]], embed: Embed) -> NDArray[np.float64]:
    """What the linear model sees, [n, features].

    One text is its embedding. Two are both, their absolute difference, their product and their
    cosine; where the answer is a number it is the cosine alone, as for similarity.
    """
    sides = [embed(column).astype(np.float64) for column in texts]
    if len(sides) == 1:
        return sides[0]
    a, b = (side / np.maximum(np.linalg.norm(side, axis=1, keepdims=True), _TINY) for side in sides)
    cosine = (a * b).sum(axis=1, keepdims=True)
    return cosine if kind.numeric else np.hstack([a, b, np.abs(a - b), a * b, cosine])


def train_embeddings(
    task: Task, features: NDArray[np.float64], labels: NDArray[Any], *, seed: int
) -> EmbeddingBaseline:
    """Fit logistic regression (ridge for regression) on features [n, f] of the training rows.

    The regularisation is chosen as that of the TF-IDF baseline. Raises DataError without rows.
    """
    if not len(labels):
        raise DataError(f"task '{task.name}': no rows to train the embedding baseline on")
    mean, spread = features.mean(axis=0), np.maximum(features.std(axis=0), _TINY)
    features = (features - mean) / spread
    strength = choose_regularisation(task, features, labels, seed, strengths=STRENGTHS)
    coefficients, intercept = LINEAR_MODELS[task.kind].fit(task, features, labels, strength)
    return EmbeddingBaseline(
        task.kind, task.label_names, mean, spread, coefficients, intercept, strength
    )


def out_of_fold(
    task: Task, features: NDArray[np.float64], train: Examples, *, strength: float, seed: int
) -> NDArray[np.float64]:
    """Outputs [n, c] on the training rows, each by a model that was fitted without it.

    Rows with the same texts are left out together, so that no text answers for itself.
    """
    rng = np.random.default_rng(seed)
    fold = folds_of(task.kind, train.labels, train.texts, rng=rng)
    outputs = np.zeros((len(train), task.num_outputs))
    for number in range(FOLDS):
        left = fold == number
        others = rng.permutation(np.flatnonzero(~left))[:CHOICE_ROWS]
        mean = features[others].mean(axis=0)
        spread = np.maximum(features[others].std(axis=0), _TINY)
        coefficients, intercept = LINEAR_MODELS[task.kind].fit(
            task, (features[others] - mean) / spread, train.labels[others], strength
        )
        outputs[left] = (features[left] - mean) / spread @ coefficients.T + intercept
    return outputs
