"""What a task is, and the tasks known by name.

A declaration says nothing about where the rows lie (that is `data.tasks`) and needs no heavy
import, so that plans are validated in milliseconds. `version` changes whenever the meaning of a
score changes; it is part of the run id, so old and new scores never mix.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["classification", "regression"]

# Every metric, and whether more is better (+1) or less (-1). `measure.quality` computes them.
METRIC_DIRECTION: dict[str, int] = {
    "accuracy": +1,
    "macro_f1": +1,
    "f1": +1,
    "matthews": +1,
    "pearson": +1,
    "spearman": +1,
    "rmse": -1,
    "cross_entropy": -1,
    "ece": -1,
}

CLASSIFICATION_METRICS = ("accuracy", "macro_f1", "matthews", "cross_entropy", "ece")
REGRESSION_METRICS = ("pearson", "spearman", "rmse")

ECE_BINS = 15  # equal-width bins of the confidence


@dataclass(frozen=True)
class Task:
    """A labelled text problem.

    `label_names[i]` is the canonical name of class `i`; teacher logits are permuted to this order
    by name. For regression it is empty. `reports` names the held-out splits in order: the first
    one carries the primary score, the others are reported beside it.
    """

    name: str
    kind: Kind
    texts: tuple[str, ...]
    label_names: tuple[str, ...]
    primary: str
    positive: str | None = None  # the class whose F1 is `f1`
    reports: dict[str, str] = field(default_factory=lambda: {"report": "validation"})
    label: str = "label"
    version: int = 1
    note: str = ""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of all metrics of the task, the primary one first."""
        if self.kind == "regression":
            names: tuple[str, ...] = REGRESSION_METRICS
        else:
            names = CLASSIFICATION_METRICS + (("f1",) if self.positive else ())
        return (self.primary, *(n for n in names if n != self.primary))

    @property
    def direction(self) -> int:
        return METRIC_DIRECTION[self.primary]

    @property
    def num_outputs(self) -> int:
        return 1 if self.kind == "regression" else len(self.label_names)


_SENTENCE, _PAIR = ("sentence",), ("sentence1", "sentence2")
_ENTAILS = ("entailment", "not_entailment")


def _classes(
    name: str, texts: tuple[str, ...], labels: tuple[str, ...], primary: str = "accuracy", **extra
) -> Task:
    return Task(name, "classification", texts, labels, primary, **extra)


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
        Task("stsb", "regression", _PAIR, (), "pearson"),
        _classes(
            "mnli",
            ("premise", "hypothesis"),
            ("entailment", "neutral", "contradiction"),
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
