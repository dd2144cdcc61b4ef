"""A teacher and its student: encoders by name, or a student made of a part of another encoder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    field_validator,
    model_validator,
)

from kdlora.files import read_head
from kdlora.spec.base import Strict, Strings
from kdlora.spec.distillation import TeacherOutputs

# Encoders that come inside packages of the package index (`data.packaged` fetches them).
PACKAGED_ENCODERS = ("minilm-l6", "minilm-l3", "mpnet-base")
# What the models in these packages are called on the hub, where other programs find them.
HUB_NAMES = {
    "minilm-l6": "sentence-transformers/all-MiniLM-L6-v2",
    "minilm-l3": "sentence-transformers/paraphrase-MiniLM-L3-v2",
    "mpnet-base": "sentence-transformers/all-mpnet-base-v2",
}
# Licences, by the hub's identifiers, as the authors of these models state them there.
_LICENCES = {
    "sentence-transformers/": "apache-2.0", "bert-": "apache-2.0", "google-bert/": "apache-2.0",
    "distilbert-": "apache-2.0", "distilbert/": "apache-2.0", "albert-": "apache-2.0",
    "albert/": "apache-2.0", "google/electra-": "apache-2.0",
    "answerdotai/modernbert-": "apache-2.0", "roberta-": "mit", "facebookai/": "mit",
    "xlm-roberta-": "mit", "microsoft/deberta-": "mit", "microsoft/mpnet-": "mit",
}  # fmt: skip
UNKNOWN_LICENCE = "unknown"  # the hub's word, too
_LONGEST_HEAD = 65_536  # bytes of a README.md that are looked at


def licence_of(hub_name: str | None) -> str:
    """The licence of a model on the hub where kdlora knows it; `UNKNOWN_LICENCE` elsewhere."""
    name = (hub_name or "").lower()
    return next((v for k, v in _LICENCES.items() if name.startswith(k)), UNKNOWN_LICENCE)


def stated_licence(folder: Path) -> str:
    """What the README.md of a model's folder says in its head, as those of the hub do."""
    try:
        start = read_head(folder / "README.md", _LONGEST_HEAD)
        text = start.decode("utf-8-sig", "ignore").replace("\r\n", "\n")  # it may end in a letter
        head = text.split("---\n")[1] if text.startswith("---\n") else ""
        values = yaml.safe_load(head)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return UNKNOWN_LICENCE
    found = values.get("license") if isinstance(values, dict) else None
    return found if isinstance(found, str) and is_licence(found) else UNKNOWN_LICENCE


def is_licence(name: str) -> bool:
    """Whether a text looks like an identifier of the hub, such as cc-by-4.0."""
    return re.fullmatch(r"[a-z0-9][a-z0-9.+-]{0,59}", name) is not None


ADAPTER_CONFIG = "adapter_config.json"  # what peft saves beside an adapter's weights


class Vocabulary(Strict):
    """Which of its tokens an encoder keeps: those that texts of a kind use (`kdlora trim`)."""

    corpus: str = Field(
        min_length=1,
        description="texts of the kind that the model will read, many more than are labelled: a "
        ".txt file with a text a line, or a table",
    )
    text: Strings = Field(("text",), min_length=1, description="columns of a table")
    keep: float = Field(
        0.999, gt=0, le=1, description="share of the corpus's tokens that the kept ones cover"
    )

    @property
    def title(self) -> str:
        """As it is shown: ``vocabulary 0.999 of texts.txt``."""
        return f"vocabulary {self.keep:g} of {Path(self.corpus).name}"


class MadeStudent(Strict):
    """A student made of another encoder: of some of its layers, of some of its tokens, or both.

    With `layers` it is the embeddings, these layers in their order, and the pooler.
    """

    model_config = ConfigDict(
        validate_by_name=True, validate_by_alias=True, serialize_by_alias=True
    )

    source: str = Field(
        alias="from", min_length=1, description="teacher, or an encoder's name or folder"
    )
    layers: tuple[NonNegativeInt, ...] | None = Field(
        None, min_length=1, description="numbers of the layers to keep; the first is 0"
    )
    vocabulary: Vocabulary | None = Field(
        None, description="the tokens to keep, by how often texts of a kind use them"
    )

    @field_validator("layers")
    @classmethod
    def _rising(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and list(value) != sorted(set(value)):
            raise ValueError(f"{list(value)}: name each layer once, in rising order")
        return value

    @model_validator(mode="after")
    def _of_a_part(self) -> MadeStudent:
        if self.layers is None and self.vocabulary is None:
            raise ValueError("says nothing of what is kept: give layers, vocabulary or both")
        return self


def encoder_title(
    name: str, layers: Sequence[int] | None, vocabulary: Vocabulary | None = None
) -> str:
    """An encoder's name, followed by the layers and the tokens that are kept of it."""
    kept = [] if layers is None else [",".join(map(str, layers))]
    kept += [] if vocabulary is None else [vocabulary.title]
    return f"{name}[{'; '.join(kept)}]" if kept else name


class ZeroShot(Strict):
    """How a classifier of entailment answers a task that it never saw (Yin et al. 2019).

    Each class makes a sentence; the one that the text entails most is the answer.
    """

    hypothesis: str = Field(
        "This text is about {}.", description="a sentence in which {} stands for the class"
    )
    labels: dict[str, str] = Field(
        {}, description="class: the words for it in the sentence; default: its name"
    )

    @field_validator("hypothesis")
    @classmethod
    def _of_a_class(cls, value: str) -> str:
        if value.count("{}") != 1:
            raise ValueError(
                f"'{value}': {{}} must stand in it once, such as: This text is about {{}}."
            )
        return value

    def sentences(self, classes: Sequence[str]) -> list[str]:
        """The hypothesis of each class."""
        words = [self.labels.get(name, name.replace("_", " ")) for name in classes]
        return [self.hypothesis.replace("{}", word) for word in words]


class ZeroShotTeacher(ZeroShot):
    """A teacher that answers by entailment, as a pair names it."""

    zero_shot: str = Field(description="a classifier of entailment: a folder or a model of the hub")


class EmbeddingsTeacher(Strict):
    """A linear model on an encoder's embeddings, as a pair names it."""

    embeddings: str = Field(description="an encoder: packaged, a folder, or a model of the hub")


def _model_of(value: Any) -> Any:
    """The name of a teacher; `Pair` keeps what else is said of it."""
    if isinstance(value, EmbeddingsTeacher):
        return value.embeddings
    return value.zero_shot if isinstance(value, ZeroShotTeacher) else value


class Pair(Strict):
    """A teacher encoder and the student encoder that learns from it."""

    name: str = Field("", description="default: teacher--student")
    teacher: Annotated[
        str,
        BeforeValidator(
            _model_of, json_schema_input_type=str | ZeroShotTeacher | EmbeddingsTeacher
        ),
    ] = Field(
        description="a packaged encoder, a folder, or a model of the hub; or {zero_shot: MODEL, "
        "hypothesis: ..., labels: ...} for one that answers by entailment, or {embeddings: "
        "ENCODER} for a linear model on its embeddings"
    )
    student: str | MadeStudent = Field(
        description="the same, or a part of another encoder: its layers, its vocabulary"
    )
    teacher_is_trained: bool = Field(
        False, description="the teacher is already fine-tuned on this task: score it, don't train"
    )
    teacher_outputs: TeacherOutputs | None = Field(
        None, description="the teacher is no model here: its outputs are read from a file"
    )

    zero_shot: ZeroShot | None = Field(
        None,
        description="how the teacher answers by entailment; set by `teacher: {zero_shot: ...}`",
    )
    teacher_embeddings: bool = Field(
        False,
        description="the teacher is a linear model on the embeddings of its encoder as it comes, "
        "fitted on the labels; set by `teacher: {embeddings: ...}`",
    )

    @property
    def arrives_trained(self) -> bool:
        """Whether the teacher is scored and never trained."""
        return self.teacher_is_trained or self.teacher_has_no_head

    @property
    def teacher_has_no_head(self) -> bool:
        """Whether the teacher is no classifier of the task: a file, entailment, or embeddings.

        It has no inner states of the student's texts, and no student is timed against it.
        """
        others = self.teacher_outputs is not None or self.zero_shot is not None
        return others or self.teacher_embeddings

    @model_validator(mode="after")
    def _one_teacher(self) -> Pair:
        ways = {
            "teacher_outputs": self.teacher_outputs is not None,
            "teacher_is_trained": self.teacher_is_trained,
            "zero_shot": self.zero_shot is not None,
            "embeddings": self.teacher_embeddings,
        }
        if sum(ways.values()) > 1:
            named = " or ".join(name for name, chosen in ways.items() if chosen)
            raise ValueError(f"give {named}, not both")
        made = isinstance(self.student, MadeStudent) and self.student.source == "teacher"
        if self.teacher_outputs is not None and made:
            raise ValueError(
                "student: a teacher that is no model here has no layers to take; name an encoder "
                "in `from`"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        told = value.get("teacher") if isinstance(value, dict) else None
        if isinstance(told, dict) and "zero_shot" in told:
            rest = {key: words for key, words in told.items() if key != "zero_shot"}
            value = {**value, "teacher": told["zero_shot"], "zero_shot": rest}
        elif isinstance(told, dict) and "embeddings" in told:
            if others := sorted(set(told) - {"embeddings"}):
                raise ValueError(
                    f"teacher: {', '.join(others)} does not go with embeddings: give "
                    "{embeddings: ENCODER} alone"
                )
            value = {**value, "teacher": told["embeddings"], "teacher_embeddings": True}
        outputs = value.get("teacher_outputs") if isinstance(value, dict) else None
        if isinstance(outputs, dict) and not value.get("teacher"):
            value = {**value, "teacher": Path(str(outputs.get("file", ""))).name}
        if isinstance(value, dict) and not value.get("name"):
            teacher, student = value.get("teacher", ""), value.get("student", "")
            if isinstance(student, MadeStudent):
                student = student.model_dump()
            if isinstance(student, dict):
                student = _name_of_made(student)
            ends = (Path(str(name).rstrip("/")).name for name in (teacher, student))
            value = {**value, "name": "--".join(ends)}
        return value

    @property
    def student_encoder(self) -> str:
        """The name of the encoder that the student is, or is made from."""
        if isinstance(self.student, str):
            return self.student
        return self.teacher if self.student.source == "teacher" else self.student.source

    @property
    def student_layers(self) -> tuple[int, ...] | None:
        """The layers that the student keeps of its encoder; None means all."""
        return self.student.layers if isinstance(self.student, MadeStudent) else None

    @property
    def student_vocabulary(self) -> Vocabulary | None:
        """The tokens that the student keeps of its encoder; None means all."""
        return self.student.vocabulary if isinstance(self.student, MadeStudent) else None

    @property
    def student_title(self) -> str:
        """The student as it is shown: ``small``, or ``big[0,2,4]``."""
        return encoder_title(self.student_encoder, self.student_layers, self.student_vocabulary)


def _name_of_made(student: dict[str, Any]) -> str:
    """A made student in the name of its pair, as far as it is well written."""
    source = str(student.get("from", student.get("source", "")))
    name, layers, vocabulary = Path(source).name, student.get("layers"), student.get("vocabulary")
    if layers is not None or vocabulary is None:
        kept = "-".join(map(str, layers)) if isinstance(layers, list | tuple) else ""
        name += f"-layers-{kept}"
    if isinstance(vocabulary, dict):
        vocabulary = vocabulary.get("keep", Vocabulary.model_fields["keep"].default)
        name += f"-vocabulary-{vocabulary}"
    return name
