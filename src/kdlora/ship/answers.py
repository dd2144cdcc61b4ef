"""From a model's outputs to what a user reads: probabilities, the label by the threshold, values.

Light on purpose: a program that serves an ONNX model imports no more than numpy for this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kdlora.errors import ModelError, did_you_mean

if TYPE_CHECKING:
    from kdlora.ship.student import ModelCard

Texts = Sequence[list[str]]  # one list of texts, or two for pairs
Answer = dict[str, Any]


@dataclass(frozen=True)
class Predictor:
    """A model in memory, ready to be asked; `outputs` gives logits [n, c] for n texts or pairs.

    `variant` says what it runs on: ``onnx-int8``, ``onnx``, ``torch`` and so on.
    """

    card: ModelCard
    variant: str
    outputs: Callable[[Texts], np.ndarray]

    def __call__(self, texts: Texts) -> list[Answer]:
        """One answer a text: {"label", "probability", "probabilities"} or {"value"}."""
        return answers(self.outputs(texts), self.card)

    def __post_init__(self) -> None:
        calibration = self.card.calibration
        positive = calibration.positive if calibration else None
        if positive is not None and positive not in self.card.label_names:
            raise ModelError(
                f"the model's threshold is for '{positive}', which is none of its labels"
                f".{did_you_mean(positive, self.card.label_names)} Calibrate it again"
            )

    @property
    def columns(self) -> int:
        """How many texts make one input: 1, or 2 for a pair."""
        return max(len(self.card.text_columns), 1)


def answers(outputs: np.ndarray, card: ModelCard) -> list[Answer]:
    """Answers for logits [n, c], by the card's temperature and threshold where it has them."""
    if card.kind == "regression":
        return [{"value": float(value)} for value in outputs[:, 0]]
    names = card.label_names
    shares = probabilities(outputs, card)
    return [
        {
            "label": names[chosen],
            "probability": float(row[chosen]),
            "probabilities": {name: float(p) for name, p in zip(names, row, strict=True)},
        }
        for row, chosen in zip(shares, choose(shares, card).tolist(), strict=True)
    ]


def answer_columns(card: ModelCard) -> list[str]:
    """The columns of a table that a model's answers fill."""
    if card.kind == "regression":
        return ["prediction"]
    return ["prediction", "probability", *(f"p_{name}" for name in card.label_names)]


def flat(answer: Answer) -> list[Any]:
    """An answer as the cells of `answer_columns`."""
    if "value" in answer:
        return [answer["value"]]
    shares = [round(share, 6) for share in answer["probabilities"].values()]
    return [answer["label"], round(answer["probability"], 6), *shares]


def probabilities(logits: np.ndarray, card: ModelCard) -> np.ndarray:
    """softmax(logits / temperature), [n, c] float64; temperature 1 where none was fitted."""
    temperature = (card.calibration.temperature if card.calibration else None) or 1.0
    scaled = logits.astype(np.float64) / temperature
    shifted = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def choose(shares: np.ndarray, card: ModelCard) -> np.ndarray:
    """Index of the answer in each row of probabilities, [n].

    The most probable class; for two classes with a decision threshold the positive one exactly
    where its probability reaches the threshold.
    """
    calibration = card.calibration
    if calibration is None or calibration.threshold is None or shares.shape[1] != 2:
        return shares.argmax(axis=1)
    positive = card.label_names.index(calibration.positive) if calibration.positive else 1
    return at_threshold(shares, positive, calibration.threshold)


def at_threshold(shares: np.ndarray, positive: int, threshold: float) -> np.ndarray:
    """Of two classes `positive` exactly where its share [n, 2] reaches the threshold, [n]."""
    return np.where(shares[:, positive] >= threshold, positive, 1 - positive)
