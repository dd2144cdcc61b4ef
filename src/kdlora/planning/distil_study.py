"""The study behind `kdlora distil`: one own task, one pair, the student with and without a teacher.

The command line and the Python API say the same things by the same names; what they mean as a
study stands here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

from kdlora.errors import DataError, InputError
from kdlora.spec.check import make_study
from kdlora.spec.resolve import encoder_ref, is_sequence_classifier
from kdlora.spec.run import SCORE
from kdlora.spec.sections import FEW_ROWS
from kdlora.spec.study import Study
from kdlora.tables.formats import table_stem
from kdlora.tables.reader import is_missing, open_table
from kdlora.vocabulary.arm import GIVEN_TEACHER, TEACHER, Arm

# Arguments that are settings of a section of the study file.
_SETTINGS = {
    "epochs": "training",
    "batch_size": "training",
    "lr": "training",
    "max_length": "training",
    "windows": "training",
    "class_weights": "training",
    "focal": "training",
    "max_train": "data",
    "max_eval": "data",
    "rank": "adapter",
    "temperature": "distillation",
    "kd_weight": "distillation",
}

_READ_ROWS = 20_000  # of a file, to see whether it has so few

FileName = str | Path


@dataclass(frozen=True, kw_only=True)
class DistilArguments:
    """What a user says to `kdlora.distil`, which describes each argument, or to the command."""

    train: FileName
    student: FileName
    teacher: FileName | None = None
    hub: str | None = None
    eval: FileName | None = None
    unlabelled: FileName | Sequence[FileName] = ()
    text: str | Sequence[str] = "text"
    label: str = "label"
    label_separator: str | None = None
    labels: Mapping[str, str] | Sequence[str] = ()
    id: str | None = None
    kind: str = "auto"
    metric: str | None = None
    positive: str | None = None
    teacher_is_trained: bool | None = None
    teacher_outputs: FileName | None = None
    outputs_kind: str = "auto"
    outputs_label: str | None = None
    outputs_separator: str | None = None
    confidence: str | None = None
    hypothesis: str | None = None
    teacher_embeddings: bool = False
    adaptation: str = "lora"
    seeds: Sequence[int] = (42,)
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    max_length: int | str | None = None
    windows: str | Mapping[str, Any] | None = None
    class_weights: str | Mapping[str, float] | None = None
    focal: float | None = None
    max_train: int | None = None
    max_eval: int | None = None
    rank: int | None = None
    temperature: float | None = None
    kd_weight: float | None = None
    name: str | None = None
    keep_texts: bool = True
    sections: Mapping[str, Mapping[str, Any]] | None = None

    @classmethod
    def among(cls, values: Mapping[str, Any]) -> DistilArguments:
        """These arguments out of all the values that a function or a command was given."""
        return cls(**{one.name: values[one.name] for one in fields(cls) if one.name in values})

    @property
    def labels_are_columns(self) -> bool:
        """Whether each label has a column of its own."""
        return bool(self.labels) and not isinstance(self.labels, Mapping)

    @property
    def label_columns(self) -> Sequence[str]:
        """The columns that say the labels of a row."""
        return tuple(self.labels) if self.labels_are_columns else (self.label,)

    @property
    def teaches_without_training(self) -> bool:
        """Whether the teacher needs no label: a file, or a model that answers by entailment."""
        return self.teacher_outputs is not None or self.hypothesis is not None


def distil_study(given: DistilArguments) -> Study:
    """The study that these arguments mean. Raises InputError with all that is wrong with them."""
    if problems := list(_contradictions(given)):
        raise InputError(problems)
    stem = task_name_of(given.train if given.hub is None else given.hub)
    task: dict[str, Any] = {
        "name": stem,
        "train": str(given.train),
        "eval": None if given.eval is None else str(given.eval),
        "hub": given.hub,
        "text": given.text if isinstance(given.text, str) else tuple(given.text),
        "unlabelled": _names(given.unlabelled),
    }
    said = ("label", "label_separator", "labels", "id", "kind", "metric", "positive")
    task |= {key: getattr(given, key) for key in said}
    task["labels"] = given.labels or {}
    pair = _pair(given)
    arrives = (
        bool(pair.get("teacher_is_trained"))
        or given.teaches_without_training
        or given.teacher_embeddings
    )
    student = Arm("student", given.adaptation)
    controls = [str(student.as_full()), str(student)]
    sections = _sections(given)
    frozen = Arm("student", "frozen")  # what fits few labels best is often the encoder as it is
    if student != frozen and _takes_means(sections) and has_few_labels(given):
        controls.append(str(frozen))
    changes: dict[str, Any] = {}
    if given.teaches_without_training:  # what it says replaces labels
        task["missing_labels"] = "rest"
        if given.hub is None and not _has_labels(given.train, given.label_columns):
            controls, changes = [], {"baselines": False}  # none of them learns without labels
    return make_study(
        {
            "name": given.name or f"distil-{stem}",
            "tasks": [task],
            "pairs": [pair],
            "arms": [
                str(GIVEN_TEACHER if arrives else TEACHER),
                *controls,
                str(replace(student, distillation="kd")),
            ],
            "seeds": list(given.seeds),
            "keep_texts": given.keep_texts,
            **changes,
            **sections,
        }
    )


def _contradictions(given: DistilArguments) -> Iterator[str]:
    """Teachers that exclude each other, and settings of a file where none is given."""
    if given.teacher is None and given.teacher_outputs is None:
        yield (
            "who teaches? Give teacher (a large encoder), or teacher_outputs (a file of what "
            "another model or people said of the texts)"
        )
    if given.teacher is not None and given.teacher_outputs is not None:
        yield "teacher and teacher_outputs are two teachers: give one of them"
    if given.teacher_outputs is None:
        for name, default in (
            ("outputs_kind", "auto"),
            ("outputs_label", None),
            ("outputs_separator", None),
            ("confidence", None),
        ):
            if getattr(given, name) != default:
                yield f"{name} is of a teacher's file: give teacher_outputs"
    if given.hypothesis is not None and given.teacher is None:
        yield "hypothesis is of a teacher that answers by entailment: name it as teacher"
    if given.teacher_embeddings and given.teacher is None:
        yield "teacher_embeddings is of a teacher that is an encoder: name it as teacher"
    if given.teacher_embeddings and given.hypothesis is not None:
        yield "hypothesis and teacher_embeddings are two ways to teach: give one of them"
    if given.teacher_is_trained is not None and (
        given.teaches_without_training or given.teacher_embeddings
    ):
        yield "teacher_is_trained is of a classifier: leave it out here"


def _pair(given: DistilArguments) -> dict[str, Any]:
    """The pair of the study: who teaches, and how."""
    pair: dict[str, Any] = {"student": str(given.student)}
    if given.teacher_outputs is not None:
        outputs: dict[str, Any] = {"file": str(given.teacher_outputs), "kind": _kind(given)}
        if given.id is not None and given.id in _columns(given.teacher_outputs):
            outputs["id"] = given.id
        if outputs["kind"] == "labels":
            outputs |= {"label": given.outputs_label, "confidence": given.confidence}
            outputs["label_separator"] = given.outputs_separator
        return pair | {"teacher_outputs": outputs}
    assert given.teacher is not None
    teacher = str(given.teacher)
    if given.hypothesis is not None:
        return pair | {"teacher": {"zero_shot": teacher, "hypothesis": given.hypothesis}}
    if given.teacher_embeddings:
        return pair | {"teacher": {"embeddings": teacher}}
    trained = given.teacher_is_trained
    if trained is None:
        trained = False
        with suppress(InputError):  # told when the study is planned
            trained = is_sequence_classifier(encoder_ref(teacher, "."))
    return pair | {"teacher": teacher, "teacher_is_trained": trained}


def _kind(given: DistilArguments) -> str:
    """What a teacher's file holds, as its header tells where the user does not."""
    assert given.teacher_outputs is not None
    if given.outputs_kind != "auto":
        return given.outputs_kind
    of_labels = (given.confidence, given.outputs_label, given.outputs_separator)
    if any(said is not None for said in of_labels):
        return "labels"
    columns = _columns(given.teacher_outputs)
    if SCORE in columns:
        return "scores"
    if given.labels_are_columns:
        return "probabilities"  # one column a label
    return "labels" if given.label in columns or not columns else "probabilities"


def _columns(file: FileName) -> list[str]:
    """The columns of a file; none of one that cannot be read, which the plan tells."""
    with suppress(DataError):
        return open_table(Path(file)).columns
    return []


def has_few_labels(given: DistilArguments) -> bool:
    """Whether a file has so few labelled rows that a frozen encoder should stand beside.

    Beside a separator an empty cell says that the text has none of the labels.
    """
    says_none = bool(given.label_separator) and not given.teaches_without_training
    with suppress(DataError):
        table = open_table(Path(given.train))
        rows = (row for _, row in table.rows(list(given.label_columns)))
        known = sum(
            1 for row in islice(rows, _READ_ROWS) if says_none or not all(map(is_missing, row))
        )
        return known < FEW_ROWS
    return False


def _has_labels(file: FileName, columns: Sequence[str]) -> bool:
    """Whether any row of a file has a label in these columns."""
    with suppress(DataError):
        table = open_table(Path(file))
        there = [name for name in columns if name in table.columns]
        return (
            any(not all(map(is_missing, row)) for _, row in table.rows(there)) if there else False
        )
    return True  # what is wrong with it is told when the study is planned


def _sections(given: DistilArguments) -> dict[str, dict[str, Any]]:
    """The sections as they were given, and in them the settings that were given by their names."""
    found = {section: dict(values) for section, values in (given.sections or {}).items()}
    for name, section in _SETTINGS.items():
        if (value := getattr(given, name)) is not None:
            found.setdefault(section, {})[name] = value
    return found


def _takes_means(sections: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a frozen encoder can read the texts: its head is fitted to the mean of windows."""
    windows = sections.get("training", {}).get("windows")
    pooling = windows.get("pooling", "mean") if isinstance(windows, Mapping) else windows
    return pooling in (None, "mean")


def _names(files: FileName | Sequence[FileName]) -> tuple[str, ...]:
    return (str(files),) if isinstance(files, str | Path) else tuple(map(str, files))


def task_name_of(file: FileName) -> str:
    """A task's name after its file, safe in paths and ids."""
    stem = table_stem(Path(file))
    kept = "".join(c if c.isalnum() or c in "-_" else "-" for c in stem).strip("-_")
    return kept or "task"
