"""From a model's outputs to what a user reads: probabilities, the label by the threshold, values.

Light on purpose: a program that serves an ONNX model imports no more than numpy for this.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kdlora.data.stated_facts import name_problems
from kdlora.errors import ModelError, did_you_mean
from kdlora.vocabulary.task import MULTILABEL

if TYPE_CHECKING:
    from kdlora.ship.card import Calibration, ModelCard
    from kdlora.vocabulary.task import Kind

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

        Where a text may have several labels it is {"labels", "probabilities"}. A model that may
        withhold answers adds "withheld" to all of them: why there is none, "label" being None then,
        or None.

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
        named = self.card.calibration.thresholds if self.card.calibration else None
        if named is not None and set(named) != set(self.card.label_names):
            raise ModelError(
                f"the model's thresholds are for {', '.join(named)}, its labels are "
                f"{', '.join(self.card.label_names)}. Calibrate it again"
            )
        if problems := list(name_problems(self.card.label_names)):
            raise ModelError(problems, where=f"the model of task '{self.card.task}'")
        calibration = self.card.calibration
        for name in calibration.classes if calibration else ():
            if name not in self.card.label_names:
                raise ModelError(
                    f"the model's threshold is for '{name}', which is none of its labels"
                    f".{did_you_mean(name, self.card.label_names)} Calibrate it again"
                )

    @property
    def columns(self) -> int:
        """How many texts make one input: 1, or 2 for a pair."""
        return max(len(self.card.text_columns), 1)


@dataclass(frozen=True, eq=False)
class Decided:
    """What becomes of logits by a model's calibration.

    shares: [n, c] probabilities; chosen: [n] the answers; confidence: [n] their probabilities;
    given: [n] whether they are, or are withheld.
    """

    shares: np.ndarray
    chosen: np.ndarray
    confidence: np.ndarray
    given: np.ndarray


def decide(
    outputs: np.ndarray, names: Sequence[str], calibration: Calibration | None, kind: Kind
) -> Decided:
    """The classes that outputs [n, c] are answered with, by the calibration where there is one."""
    temperature = (calibration.temperature if calibration else None) or 1.0
    shares = kind.probabilities(outputs, temperature)
    assert shares is not None, "numbers have no probabilities"
    threshold: float | np.ndarray | None = None
    positive = None
    if calibration is not None and calibration.thresholds is not None:
        threshold = np.array([calibration.thresholds[name] for name in names])
    elif calibration is not None and calibration.positive is not None:
        threshold, positive = calibration.threshold, list(names).index(calibration.positive)
    chosen = kind.decide(shares, threshold=threshold, positive=positive)
    confidence = np.take_along_axis(shares, chosen[:, None], axis=1)[:, 0]
    abstention = calibration.abstention if calibration else None
    given = np.full(len(shares), True) if abstention is None else confidence > abstention.cut
    return Decided(shares, chosen, confidence, given)


def decide_labels(
    outputs: np.ndarray, names: Sequence[str], calibration: Calibration | None
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [n, c] of several labels a text, and which of them are answered [n, c]."""
    shares = MULTILABEL.probabilities(
        outputs, (calibration.temperature if calibration else None) or 1.0
    )
    if calibration is None or calibration.thresholds is None:
        return shares, MULTILABEL.decide(outputs)
    cuts = np.array([calibration.thresholds[name] for name in names])
    return shares, MULTILABEL.decide(shares, threshold=cuts)


def answers(outputs: np.ndarray, card: ModelCard) -> list[Answer]:
    """Answers for outputs [n, c], by the card's calibration where it has one.

    Raises ModelError where an output is no number: such an answer would be none.
    """
    odd = np.flatnonzero(~np.isfinite(outputs).all(axis=1))
    if len(odd):
        raise ModelError(
            f"the model answers text {odd[0] + 1} of {len(outputs)} with NaN or infinity: its "
            "weights are damaged, or its numbers overflow"
        )
    names, kind = card.label_names, card.answers
    if kind.numeric:
        return [{"value": value} for value in kind.write(kind.decide(outputs), names)]
    if kind.several:
        shares, chosen = decide_labels(outputs, names, card.calibration)
        return [
            {"labels": labels, "probabilities": _by_name(names, row)}
            for row, labels in zip(shares, kind.write(chosen, names), strict=True)
        ]
    decided = decide(outputs, names, card.calibration, kind)
    found = [
        {
            "label": label,
            "probability": float(confidence),
            "probabilities": _by_name(names, row),
        }
        for row, label, confidence in zip(
            decided.shares, kind.write(decided.chosen, names), decided.confidence, strict=True
        )
    ]
    abstention = card.calibration.abstention if card.calibration else None
    if abstention is not None:
        for answer, given in zip(found, decided.given.tolist(), strict=True):
            answer["withheld"] = None if given else abstention.reason(answer["probability"])
            answer["label"] = answer["label"] if given else None
    return found


def _by_name(names: Sequence[str], row: np.ndarray) -> dict[str, float]:
    return {name: float(p) for name, p in zip(names, row, strict=True)}


def answer_columns(card: ModelCard) -> list[str]:
    """The columns of a table that a model's answers fill, the same for every row.

    A model that may withhold answers has `withheld` besides: the reason, `prediction` being empty
    then, or nothing.
    """
    shares = [] if card.answers.numeric else [f"p_{name}" for name in card.label_names]
    if shares and not card.answers.several:
        shares.insert(0, "probability")
    withheld = ["withheld"] if card.calibration and card.calibration.abstention else []
    windows = ["windows"] if card.windows else []
    return ["prediction", *shares, *withheld, "tokens", "truncated", *windows]


def flat(answer: Answer) -> list[Any]:
    """An answer as the cells of `answer_columns`."""
    length = [answer["tokens"], str(answer["truncated"]).lower()]
    length += [answer["windows"]] if "windows" in answer else []
    if "value" in answer:
        return [answer["value"], *length]
    shares = [round(share, 6) for share in answer["probabilities"].values()]
    if "labels" in answer:  # as a study reads them back
        return [json.dumps(answer["labels"], ensure_ascii=False), *shares, *length]
    withheld = [answer["withheld"]] if "withheld" in answer else []
    return [answer["label"], round(answer["probability"], 6), *shares, *withheld, *length]
