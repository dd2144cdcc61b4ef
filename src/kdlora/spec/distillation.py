"""How a student learns from its teacher: the signals, their weights, and where they come from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from kdlora.spec.base import Strict, Strings, as_tuple
from kdlora.vocabulary.task import Kind


class Signal(Strict):
    """One term of the teacher's part of the loss."""

    weight: PositiveFloat = Field(1.0, description="factor of this term in the teacher's part")


class Tempered(Signal):
    temperature: PositiveFloat | None = Field(None, description="default: the section's")


class Kl(Tempered):
    """KL divergence of tempered probabilities, of several labels each by itself; for regression the
    squared error."""


class LogitMse(Signal):
    """Mean squared error of the logits."""


class Dkd(Tempered):
    """Decoupled KD: the target class and the other classes weighted apart (Zhao et al. 2022)."""

    alpha: NonNegativeFloat = Field(1.0, description="weight of the target class against the rest")
    beta: NonNegativeFloat = Field(8.0, description="weight of the other classes among themselves")


class Dist(Tempered):
    """Correlations of predictions instead of their values (Huang et al. 2022)."""

    beta: NonNegativeFloat = Field(1.0, description="weight of the relation between classes")
    gamma: NonNegativeFloat = Field(1.0, description="weight of the relation within a class")


class Hidden(Signal):
    """Hidden states, through a learned projector where the widths differ (Jiao et al. 2020)."""

    layers: dict[int, int] | Literal["uniform", "last"] = Field(
        "uniform",
        description="student layer: teacher layer. 0 is the embeddings' output, 1 the first "
        "layer's; -1 is the last one's",
    )

    @field_validator("layers")
    @classmethod
    def _some(cls, value: Any) -> Any:
        if not value:
            raise ValueError("no layer is named; leave it out for uniform")
        return value


Related = Literal["qq", "kk", "vv", "qk", "qv", "kv"]


class Relations(Signal):
    """Relations between the tokens' queries, keys and values (Wang et al. 2020 and 2021)."""

    pairs: Annotated[
        tuple[Related, ...],
        BeforeValidator(as_tuple, json_schema_input_type=Related | list[Related]),
    ] = Field(
        ("qq", "kk", "vv"),
        min_length=1,
        description="what is related to what: qq kk vv as in MiniLMv2, qk vv as in MiniLM",
    )
    heads: PositiveInt | None = Field(
        None, description="relation heads; default: the teacher's attention heads"
    )
    student_layer: int = Field(-1, description="counted from 1; -1 is the last")
    teacher_layer: int = Field(-1, description="counted from 1; -1 is the last")

    @field_validator("student_layer", "teacher_layer")
    @classmethod
    def _a_layer(cls, value: int) -> int:
        if value == 0:
            raise ValueError("layers are counted from 1: 0 has no queries, keys and values")
        return value


def _as_weight(value: Any) -> Any:
    """A bare number is the signal's weight."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return {"weight": value} if number else value


class Signals(Strict):
    """The terms of the teacher's part of the loss: their sum, each times its weight."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    kl: Annotated[Kl | None, BeforeValidator(_as_weight)] = None
    logit_mse: Annotated[LogitMse | None, BeforeValidator(_as_weight)] = Field(
        None, alias="logit-mse"
    )
    dkd: Annotated[Dkd | None, BeforeValidator(_as_weight)] = None
    dist: Annotated[Dist | None, BeforeValidator(_as_weight)] = None
    hidden: Annotated[Hidden | None, BeforeValidator(_as_weight)] = None
    relations: Annotated[
        Relations | None,
        BeforeValidator(_as_weight),
    ] = None

    @model_validator(mode="after")
    def _at_least_one(self) -> Self:
        if not self.names:
            raise ValueError("no signal is named; leave `signals` out for kl alone")
        return self

    @model_serializer(mode="wrap")
    def _as_written(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {k.replace("_", "-"): v for k, v in dump(self).items() if v is not None}

    @property
    def names(self) -> tuple[str, ...]:
        """The signals in use, as the study file calls them."""
        fields = type(self).model_fields
        return tuple(f.alias or n for n, f in fields.items() if getattr(self, n) is not None)

    @property
    def match_states(self) -> bool:
        """Whether the teacher's inner states are needed, and not its logits alone."""
        return self.hidden is not None or self.relations is not None


class Distillation(Strict):
    """How a student learns from its teacher (Hinton et al. 2015)."""

    temperature: PositiveFloat = Field(2.0, description="divides the logits of both")
    kd_weight: float = Field(0.5, ge=0, le=1, description="share of the teacher's term in the loss")
    signals: Signals = Field(Signals(kl=Kl()), description="what the teacher's term consists of")
    teacher_seeds: (
        Annotated[
            tuple[int, ...], BeforeValidator(as_tuple, json_schema_input_type=int | list[int])
        ]
        | Literal["all"]
    ) = Field(
        (),
        description="teach by the mean logits of the teachers of these seeds, or of all seeds of "
        "the study; default: by the teacher of the student's own seed",
    )
    unlabelled: bool = Field(True, description="learn from the unlabelled texts, if there are any")
    start: Literal["encoder", "teacher"] = Field(
        "encoder",
        description="weights to begin with: the encoder's as it comes, or the trained teacher's of "
        "the same layers, for a student made of its teacher's layers",
    )
    hidden_cache_mb: NonNegativeInt = Field(
        2000, description="teacher's states up to this size wait on disk; larger ones are computed"
    )

    @field_validator("teacher_seeds")
    @classmethod
    def _distinct(cls, value: Any) -> Any:
        if isinstance(value, tuple) and len(set(value)) < len(value):
            raise ValueError(f"{list(value)} names a seed twice")
        return value


SIGNALS: dict[str, type[Strict]] = {
    "kl": Kl,
    "logit-mse": LogitMse,
    "dkd": Dkd,
    "dist": Dist,
    "hidden": Hidden,
    "relations": Relations,
}


def signal_problems(signals: Signals, kind: Kind) -> Iterator[str]:
    """Signals that compare the probabilities of classes of which a row has exactly one."""
    if not (kind.numeric or kind.several):
        return
    why = (
        "the task is a regression: use kl or logit-mse, which then compare the predicted numbers"
        if kind.numeric
        else "here a text may have several labels or none, and no class is the target: use kl or "
        "logit-mse, which then compare each label by itself"
    )
    for name in ("dkd", "dist"):
        if getattr(signals, name) is not None:
            yield f"signal '{name}' compares class probabilities, but {why}"


REST, RECOMBINED, AUGMENTED = "rest", "recombined", "augmented"


class Texts(Strict):
    """Texts without labels, which only the teacher labels."""

    file: str = Field(
        description="CSV, TSV, JSON lines or Parquet; {data_dir} is the study's. The word rest "
        "stands for the train rows that data.max_train leaves out, without their labels; the word "
        "recombined for pairs that are made anew of the texts of the train rows in use, the word "
        "augmented for those rows with some words changed"
    )
    text: Strings = Field((), description="default: the task's text columns")
    max_rows: PositiveInt | None = Field(
        None, description="no more than so many, drawn by data.split_seed"
    )

    @property
    def is_rest(self) -> bool:
        """Whether these are train rows, and no file's."""
        return self.file == REST

    @property
    def is_recombined(self) -> bool:
        """Whether these are pairs made of the train rows' texts."""
        return self.file == RECOMBINED

    @property
    def is_augmented(self) -> bool:
        """Whether these are the train rows with some words changed."""
        return self.file == AUGMENTED

    @property
    def of_train(self) -> bool:
        """Whether they come of the train rows, and of no file."""
        return self.is_rest or self.is_recombined or self.is_augmented


def as_texts(value: Any) -> Any:
    """A path, a mapping, or a list of them."""
    items = value if isinstance(value, list | tuple) else [value]
    return tuple({"file": item} if isinstance(item, str) else item for item in items)


Sources = Annotated[
    tuple[Texts, ...],
    BeforeValidator(as_texts, json_schema_input_type=str | Texts | list[str | Texts]),
]


class TeacherOutputs(Strict):
    """A teacher that is no model here: what it said of every example, in a file."""

    file: str = Field(description="CSV, TSV, JSON lines or Parquet; {task} becomes the task's name")
    kind: Literal["probabilities", "logits", "votes", "scores", "labels"] = Field(
        description="what the columns hold; votes are counts, scores are a regression's, labels "
        "are names in one column: of a class, or of all labels that a text has"
    )
    id: str | None = Field(None, description="join by this column and the task's id column")
    text: Strings = Field((), description="join by these columns; default: the task's text columns")
    columns: dict[str, str] = Field(
        {}, description="class: column; default: each class by its name, a regression's `score`"
    )
    label: str | None = Field(
        None, description="of kind labels: the column; default: called as the task's label column"
    )
    label_separator: str | None = Field(
        None,
        min_length=1,
        description="of kind labels, where a text may have several: what stands between them, such "
        "as `|`; default: as in the task. A list in JSON needs none",
    )
    confidence: str | None = Field(
        None, description="of kind labels: a column that says how sure the answer is, 0 to 1"
    )
    calibrate: bool = Field(
        True, description="make its probabilities honest on the labels of the selection split"
    )

    @model_validator(mode="after")
    def _columns_of_its_kind(self) -> Self:
        if self.kind == "labels" and self.columns:
            raise ValueError("columns maps classes to columns, but kind labels has one: set label")
        for name in ("label", "confidence"):
            if self.kind != "labels" and getattr(self, name) is not None:
                raise ValueError(f"{name} is a column of kind labels, but kind is {self.kind}")
        if self.kind != "labels" and self.label_separator is not None:
            raise ValueError(f"label_separator is of kind labels, but kind is {self.kind}")
        return self
