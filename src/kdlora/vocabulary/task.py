"""What a task is, what kinds of tasks there are, and the tasks known by name.

A declaration says nothing about where the rows lie (that is `data.tasks`) and needs no heavy
import, so that plans are validated in milliseconds: numpy and torch are imported where arrays and
tensors are at hand already. `version` changes whenever the meaning of a score changes; it is part
of the run id, so old and new scores never mix.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from kdlora.vocabulary.metric import metric, metrics_of

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

NO_LABEL = -1  # the class of a row that only the teacher labels; a number is NaN there
_AS_GOOD_AS_NONE = 1e-6  # the probability of a class that a label rules out
_INTEGRAL = re.compile(r"[+-]?\d+\.0*")


def class_name(value: Any) -> str:
    """A label as its class is called: trimmed, and 1.0 is 1, as pandas writes integers."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = str(value).strip()
    return text.partition(".")[0] if _INTEGRAL.fullmatch(text) else text


def as_number(value: Any) -> float | None:
    """A label or text as a number, None if it is none. Truth values are classes, not numbers."""
    if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


@dataclass(frozen=True)
class Kind(ABC):
    """What the labels of a task are, and so how they are read, learnt, answered and guessed.

    Whatever differs between kinds of tasks is a method or a fact here. Labels are arrays [n] (or
    tensors [b]), outputs [n, c] with c the task's `num_outputs`; where a row may have several
    labels, they are [n, c] (or [b, c]).
    """

    name: ClassVar[str]
    numeric: ClassVar[bool]  # whether an answer is a number; else it is a class
    several: ClassVar[bool] = False  # whether a row may have several labels, or none
    default_metric: ClassVar[str]
    problem_type: ClassVar[str]  # what transformers calls it in a model's config
    teacher_files: ClassVar[tuple[str, ...]]  # what a file may hold that teaches such a task
    weighs_classes: ClassVar[bool] = False  # whether its hard loss may weigh classes and be focal

    def __str__(self) -> str:
        return self.name

    @abstractmethod
    def names(self, written: Sequence[Any]) -> tuple[str, ...]:
        """The classes of labels as a file has them, in the order of the outputs; () for numbers."""

    @abstractmethod
    def decode(self, written: Sequence[Any], names: Sequence[str]) -> NDArray[Any]:
        """Labels as a file has them to labels [n]. Raises ValueError for what is no label."""

    @abstractmethod
    def write(self, answers: NDArray[Any], names: Sequence[str]) -> list[Any]:
        """The way back: answers [n] of `decide` (or labels) as a user reads them."""

    @abstractmethod
    def valid(self, labels: NDArray[Any], n_outputs: int) -> NDArray[np.bool_]:
        """Which of the numbers [n] are labels of a task with so many outputs."""

    def counts(self, labels: NDArray[Any], names: Sequence[str]) -> dict[str, int]:
        """In how many of the rows each class or label is; {} for numbers."""
        import numpy as np

        found = np.bincount(labels, minlength=len(names))
        return {name: int(n) for name, n in zip(names, found, strict=True)}

    @abstractmethod
    def unlabelled(self, n: int, n_outputs: int) -> NDArray[Any]:
        """The labels [n] of rows of which nobody said any."""

    @abstractmethod
    def certain(self, labels: NDArray[Any], n_outputs: int) -> NDArray[np.float32]:
        """Outputs [n, c] of a model that is as good as sure of these labels [n]."""

    @abstractmethod
    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """What hard labels [b] say against logits [b, c], per row [b].

        It is zero, and has no gradient, where a row has no label.
        """

    @abstractmethod
    def probabilities(
        self, outputs: NDArray[Any], temperature: float = 1.0
    ) -> NDArray[np.float64] | None:
        """What a user reads beside the answer, [n, c]; None for numbers."""

    @abstractmethod
    def decide(
        self,
        scores: NDArray[Any],
        *,
        threshold: float | NDArray[Any] | None = None,
        positive: int | None = None,
    ) -> NDArray[Any]:
        """The answers [n] to outputs or probabilities [n, c].

        With a `threshold`, which needs probabilities of two classes, the class `positive` (default
        the second) is answered exactly where its probability reaches the threshold. A
        `threshold` [c] has one for each class.
        """

    def right(self, outputs: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.bool_]:
        """Which rows [n] are answered exactly as their labels say."""
        import numpy as np

        return np.equal(self.decide(outputs), labels)

    @abstractmethod
    def baseline(self, labels: NDArray[Any], n_outputs: int, n: int) -> NDArray[np.float64]:
        """Outputs of a model that ignores the text and knows training labels, alike in n rows."""


@dataclass(frozen=True)
class Classification(Kind):
    """Each row has exactly one of at least two classes; labels are their places in the names."""

    name = "classification"
    numeric = False
    default_metric = "macro_f1"
    problem_type = "single_label_classification"
    teacher_files = ("probabilities", "logits", "votes", "labels")
    weighs_classes = True

    def names(self, written: Sequence[Any]) -> tuple[str, ...]:
        """In numerical order if all are numbers, else in alphabetical order."""
        names = {class_name(value) for value in written}
        numbers = {name: as_number(name) for name in names}
        if all(x is not None and math.isfinite(x) for x in numbers.values()):
            return tuple(sorted(names, key=lambda name: (numbers[name], name)))
        return tuple(sorted(names))

    def decode(self, written: Sequence[Any], names: Sequence[str]) -> NDArray[Any]:
        import numpy as np

        place = {name: i for i, name in enumerate(names)}
        classes = [class_name(value) for value in written]
        if unknown := sorted({name for name in classes if name not in place}):
            raise ValueError(f"labels {', '.join(unknown)}, expected {', '.join(names)}")
        return np.array([place[name] for name in classes], dtype=np.int64)

    def write(self, answers: NDArray[Any], names: Sequence[str]) -> list[Any]:
        return [names[i] for i in answers.tolist()]

    def valid(self, labels: NDArray[Any], n_outputs: int) -> NDArray[np.bool_]:
        import numpy as np

        return np.isin(labels, np.arange(n_outputs))

    def unlabelled(self, n: int, n_outputs: int) -> NDArray[Any]:
        import numpy as np

        return np.full(n, NO_LABEL)

    def certain(self, labels: NDArray[Any], n_outputs: int) -> NDArray[np.float32]:
        import numpy as np

        shares = np.where(np.arange(n_outputs) == labels[:, None], 1.0, _AS_GOOD_AS_NONE)
        return np.log(shares).astype(np.float32)

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(logits, labels, ignore_index=NO_LABEL, reduction="none")

    def probabilities(
        self, outputs: NDArray[Any], temperature: float = 1.0
    ) -> NDArray[np.float64] | None:
        """softmax(outputs / temperature)."""
        import numpy as np

        scaled = outputs.astype(np.float64) / temperature
        shifted = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return shifted / shifted.sum(axis=1, keepdims=True)

    def decide(
        self,
        scores: NDArray[Any],
        *,
        threshold: float | NDArray[Any] | None = None,
        positive: int | None = None,
    ) -> NDArray[Any]:
        """With a threshold for each class, that whose probability exceeds its own by most times.

        Of two classes with thresholds 1 - t and t that is one threshold t of the second.
        """
        import numpy as np

        if threshold is not None and np.ndim(threshold):
            return np.asarray((scores / np.asarray(threshold)).argmax(axis=1))
        if threshold is None or scores.shape[1] != 2:
            return np.asarray(scores.argmax(axis=1))
        chosen = 1 if positive is None else positive
        return np.where(scores[:, chosen] >= threshold, chosen, 1 - chosen)

    def baseline(self, labels: NDArray[Any], n_outputs: int, n: int) -> NDArray[np.float64]:
        """Log shares of the classes, one row added to each so that they are finite."""
        import numpy as np

        counts = np.bincount(labels.astype(np.int64), minlength=n_outputs) + 1.0
        return np.tile(np.log(counts / counts.sum()), (n, 1))


@dataclass(frozen=True)
class Regression(Kind):
    """Each row has a number; the only output is that number."""

    name = "regression"
    numeric = True
    default_metric = "pearson"
    problem_type = "regression"
    teacher_files = ("scores",)

    def names(self, written: Sequence[Any]) -> tuple[str, ...]:
        return ()

    def decode(self, written: Sequence[Any], names: Sequence[str]) -> NDArray[Any]:
        import numpy as np

        numbers = [as_number(value) for value in written]
        if None in numbers:
            raise ValueError(f"label {written[numbers.index(None)]}, expected a number")
        return np.array(numbers, dtype=np.float32)

    def write(self, answers: NDArray[Any], names: Sequence[str]) -> list[Any]:
        return [float(value) for value in answers]

    def valid(self, labels: NDArray[Any], n_outputs: int) -> NDArray[np.bool_]:
        import numpy as np

        return np.isfinite(labels)

    def counts(self, labels: NDArray[Any], names: Sequence[str]) -> dict[str, int]:
        return {}

    def unlabelled(self, n: int, n_outputs: int) -> NDArray[Any]:
        import numpy as np

        return np.full(n, np.nan, np.float32)

    def certain(self, labels: NDArray[Any], n_outputs: int) -> NDArray[np.float32]:
        import numpy as np

        return labels.astype(np.float32)[:, None]

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The squared error."""
        import torch

        known = ~labels.isnan()
        gap = logits.squeeze(-1) - labels.nan_to_num().to(logits.dtype)
        return torch.where(known, gap, torch.zeros_like(gap)).square()

    def probabilities(
        self, outputs: NDArray[Any], temperature: float = 1.0
    ) -> NDArray[np.float64] | None:
        return None

    def decide(
        self,
        scores: NDArray[Any],
        *,
        threshold: float | NDArray[Any] | None = None,
        positive: int | None = None,
    ) -> NDArray[Any]:
        return scores[:, 0] if scores.ndim == 2 else scores

    def baseline(self, labels: NDArray[Any], n_outputs: int, n: int) -> NDArray[np.float64]:
        """The mean of the training labels."""
        import numpy as np

        return np.full(n, labels.astype(np.float64).mean())


@dataclass(frozen=True)
class Multilabel(Kind):
    """Each row has any number of labels, or none; labels [n, c] are 0 or 1, in their order.

    Every label is a question of its own, answered by the sigmoid of its output: "binary relevance"
    (Tsoumakas and Katakis 2007, "Multi-label classification: an overview"). A row of which nobody
    said a label is all `NO_LABEL`.
    """

    name = "multilabel"
    numeric = False
    several = True
    default_metric = "mean_average_precision"
    problem_type = "multi_label_classification"
    teacher_files = ("probabilities", "logits", "labels")

    def names(self, written: Sequence[Any]) -> tuple[str, ...]:
        """In numerical order if all are numbers, else in alphabetical order."""
        return CLASSIFICATION.names([label for row in written for label in row])

    def decode(self, written: Sequence[Any], names: Sequence[str]) -> NDArray[Any]:
        """Rows, each a sequence of its labels, to labels [n, c]."""
        import numpy as np

        place = {name: i for i, name in enumerate(names)}
        rows = [[class_name(label) for label in row] for row in written]
        if unknown := sorted({name for row in rows for name in row if name not in place}):
            raise ValueError(f"labels {', '.join(unknown)}, expected {', '.join(names)}")
        found = np.zeros((len(rows), len(names)), dtype=np.int64)
        for i, row in enumerate(rows):
            found[i, [place[name] for name in row]] = 1
        return found

    def write(self, answers: NDArray[Any], names: Sequence[str]) -> list[Any]:
        return [[n for n, said in zip(names, row, strict=True) if said] for row in answers.tolist()]

    def valid(self, labels: NDArray[Any], n_outputs: int) -> NDArray[np.bool_]:
        import numpy as np

        return np.all(np.isin(labels, (0, 1)), axis=1)

    def counts(self, labels: NDArray[Any], names: Sequence[str]) -> dict[str, int]:
        return {name: int(n) for name, n in zip(names, (labels > 0).sum(axis=0), strict=True)}

    def unlabelled(self, n: int, n_outputs: int) -> NDArray[Any]:
        import numpy as np

        return np.full((n, n_outputs), NO_LABEL)

    def certain(self, labels: NDArray[Any], n_outputs: int) -> NDArray[np.float32]:
        import numpy as np

        sure = np.log((1 - _AS_GOOD_AS_NONE) / _AS_GOOD_AS_NONE)
        return np.where(labels > 0, sure, -sure).astype(np.float32)

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The binary cross-entropy, mean over the labels."""
        from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

        known = labels.ne(NO_LABEL)
        each = cross_entropy(logits, labels.clamp(min=0).to(logits.dtype), reduction="none")
        return each.where(known, each.new_zeros(())).mean(dim=-1)

    def probabilities(self, outputs: NDArray[Any], temperature: float = 1.0) -> NDArray[np.float64]:
        """sigmoid(outputs / temperature), a label each."""
        import numpy as np

        scaled = outputs.astype(np.float64) / temperature
        return np.exp(-np.logaddexp(0, -scaled))

    def decide(
        self,
        scores: NDArray[Any],
        *,
        threshold: float | NDArray[Any] | None = None,
        positive: int | None = None,
    ) -> NDArray[Any]:
        """0 or 1 [n, c]: the labels whose output is above 0.

        With a `threshold`, one or one a label [c], `scores` are probabilities, and a label is
        answered exactly where its probability reaches it.
        """
        import numpy as np

        said = scores > 0 if threshold is None else scores >= np.asarray(threshold)
        return said.astype(np.int64)

    def right(self, outputs: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.bool_]:
        import numpy as np

        return np.all(self.decide(outputs) == labels, axis=1)

    def baseline(self, labels: NDArray[Any], n_outputs: int, n: int) -> NDArray[np.float64]:
        """The log odds of each label's rate, half a row added to either side."""
        import numpy as np

        there = labels.sum(axis=0) + 0.5
        return np.tile(np.log(there / (len(labels) + 1 - there)), (n, 1))


CLASSIFICATION, REGRESSION, MULTILABEL = Classification(), Regression(), Multilabel()
KINDS: dict[str, Kind] = {kind.name: kind for kind in (CLASSIFICATION, REGRESSION, MULTILABEL)}


@dataclass(frozen=True)
class Task:
    """A labelled text problem.

    `label_names[i]` is the canonical name of class `i`; teacher logits are permuted to this order
    by name. Where answers are numbers it is empty. `reports` names the held-out splits in order:
    the first one carries the primary score, the others are reported beside it.
    """

    name: str
    kind: Kind
    texts: tuple[str, ...]
    label_names: tuple[str, ...]
    primary: str
    positive: str | None = None  # the class whose F1 is `f1`
    graded: bool = False  # whether the classes, in their order, or the numbers are grades
    reports: dict[str, str] = field(default_factory=lambda: {"report": "validation"})
    label: str = "label"
    version: int = 1
    note: str = ""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of all metrics of the task, the primary one first."""
        names = metrics_of(self.kind.name, positive=bool(self.positive), graded=self.graded)
        return (self.primary, *(n for n in names if n != self.primary))

    @property
    def direction(self) -> int:
        return metric(self.primary).direction

    @property
    def num_outputs(self) -> int:
        return max(len(self.label_names), 1)


_SENTENCE, _PAIR = ("sentence",), ("sentence1", "sentence2")
_ENTAILS = ("entailment", "not_entailment")


def _classes(
    name: str,
    texts: tuple[str, ...],
    labels: tuple[str, ...],
    primary: str = "accuracy",
    *,
    positive: str | None = None,
    note: str = "",
) -> Task:
    return Task(name, CLASSIFICATION, texts, labels, primary, positive=positive, note=note)


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        _classes("cola", _SENTENCE, ("unacceptable", "acceptable"), "matthews"),
        _classes("sst2", _SENTENCE, ("negative", "positive")),
        _classes(
            "mrpc", _PAIR, ("not_equivalent", "equivalent"), "accuracy", positive="equivalent"
        ),
        _classes(
            "qqp",
            ("question1", "question2"),
            ("not_duplicate", "duplicate"),
            positive="duplicate",
        ),
        Task("stsb", REGRESSION, _PAIR, (), "pearson"),
        Task(
            "mnli",
            CLASSIFICATION,
            ("premise", "hypothesis"),
            ("entailment", "neutral", "contradiction"),
            "accuracy",
            reports={"report": "validation_matched", "report_mismatched": "validation_mismatched"},
        ),
        _classes("qnli", ("question", "sentence"), _ENTAILS),
        _classes("rte", _PAIR, _ENTAILS),
        _classes(
            "wnli",
            _PAIR,
            ("not_entailment", "entailment"),
            note="71 rows built to mislead a classifier; it tells methods apart by luck",
        ),
        _classes("hate", _SENTENCE, ("hate", "offensive", "neither"), "macro_f1"),
        _classes(
            "movie-reviews",
            ("text",),
            ("negative", "positive"),
            note="overlaps with SST-2's validation split: never train on it to report SST-2",
        ),
    )
}

GLUE = ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli")
