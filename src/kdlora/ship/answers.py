"""From a model's outputs to what a user reads: probabilities, the label by the threshold, values.

Light on purpose: a program that serves an ONNX model imports no more than numpy for this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kdlora.errors import ModelError, did_you_mean
from kdlora.ship.stated_facts import name_problems

if TYPE_CHECKING:
    from kdlora.ship.card import ModelCard

Texts = Sequence[list[str]]  # one list of texts, or two for pairs
Answer = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a model makes of n texts or pairs: logits [n, c], and how long they are.

    `tokens` [n] are those of each input before it is cut, special tokens included; `truncated` [n]
    says which are not read to the end, `windows` [n] in how many windows a text is read.
    """

    logits: np.ndarray
    tokens: np.ndarray
    truncated: np.ndarray
    windows: np.ndarray | None = None


@dataclass(frozen=True)
class Predictor:
    """A model in memory, ready to be asked; `run` makes outputs of n texts or pairs.

    `variant` says what it runs on: ``onnx-int8``, ``onnx``, ``torch`` and so on.
    """

    card: ModelCard
    variant: str
    run: Callable[[Texts], Outputs]

    def __call__(self, texts: Texts) -> list[Answer]:
        """One answer a text: {"label", "probability", "probabilities"} or {"value"}.

        Each also has "tokens", how long the input is, and "truncated", whether that was more than
        the model reads; and "windows", how many it was read in, by a model that reads in windows.
        """
        found = self.run(texts)
        facts = {"tokens": found.tokens, "truncated": found.truncated}
        if found.windows is not None:
            facts["windows"] = found.windows
        rows = zip(*(column.tolist() for column in facts.values()), strict=True)
        return [
            {**answer, **dict(zip(facts, row, strict=True))}
            for answer, row in zip(answers(found.logits, self.card), rows, strict=True)
        ]

    def outputs(self, texts: Texts) -> np.ndarray:
        """Logits [n, c] of n texts or pairs."""
        return self.run(texts).logits

    def __post_init__(self) -> None:
        if problems := list(name_problems(self.card.label_names)):
            raise ModelError(problems, where=f"the model of task '{self.card.task}'")
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
    """Answers for outputs [n, c], by the card's temperature and threshold where it has them.

    Raises ModelError where an output is no number: such an answer would be none.
    """
    odd = np.flatnonzero(~np.isfinite(outputs).all(axis=1))
    if len(odd):
        raise ModelError(
            f"the model answers text {odd[0] + 1} of {len(outputs)} with NaN or infinity: its "
            "weights are damaged, or its numbers overflow"
        )
    names, calibration, kind = card.label_names, card.calibration, card.answers
    places: dict[str | None, int] = {name: i for i, name in enumerate(names)}
    temperature = (calibration.temperature if calibration else None) or 1.0
    shares = kind.probabilities(outputs, temperature)
    if shares is None:
        return [{"value": value} for value in kind.write(kind.decide(outputs), names)]
    chosen = kind.decide(
        shares,
        threshold=calibration.threshold if calibration else None,
        positive=places.get(calibration.positive) if calibration else None,
    )
    return [
        {
            "label": label,
            "probability": float(row[places[label]]),
            "probabilities": {name: float(p) for name, p in zip(names, row, strict=True)},
        }
        for row, label in zip(shares, kind.write(chosen, names), strict=True)
    ]


def answer_columns(card: ModelCard) -> list[str]:
    """The columns of a table that a model's answers fill."""
    shares = [] if card.answers.numeric else ["probability", *(f"p_{n}" for n in card.label_names)]
    windows = ["windows"] if card.windows else []
    return ["prediction", *shares, "tokens", "truncated", *windows]


def flat(answer: Answer) -> list[Any]:
    """An answer as the cells of `answer_columns`."""
    length = [answer["tokens"], str(answer["truncated"]).lower()]
    length += [answer["windows"]] if "windows" in answer else []
    if "value" in answer:
        return [answer["value"], *length]
    shares = [round(share, 6) for share in answer["probabilities"].values()]
    return [answer["label"], round(answer["probability"], 6), *shares, *length]
