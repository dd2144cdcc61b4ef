"""Sections of the study file that need nothing of the others: training, data and own tasks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PlainSerializer,
    PositiveFloat,
    PositiveInt,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)

from kdlora.errors import did_you_mean
from kdlora.spec.base import Strict, Strings
from kdlora.spec.distillation import Sources
from kdlora.spec.encoders import UNKNOWN_LICENCE, is_licence
from kdlora.vocabulary.metric import METRICS, metric
from kdlora.vocabulary.task import KINDS, MULTILABEL, TASKS, Kind

MIN_STEPS = 200  # of trainings that name neither epochs nor min_steps
HEAD_LR = 1e-3  # of new modules where no rate is named
LEAST_SELECTION = 100  # rows below which one checkpoint cannot be told from another
FEW_ROWS = 200  # labelled rows below which a frozen encoder is fitted and all are cross-validated
MOST_EPOCHS = 50  # to which min_steps raises


class LearningRates(Strict):
    """Peak learning rates: full fine-tuning wants a lower one than adapters and new modules."""

    fft: PositiveFloat = Field(1e-4, description="of arms that train all weights")
    peft: PositiveFloat = Field(1e-3, description="of arms with an adapter")
    head: PositiveFloat | None = Field(
        None,
        description="of modules that the encoder's files do not hold, the head above all, in every "
        f"arm. Default: {HEAD_LR:g}, but as the rest where any rate is named; name it to keep it",
    )

    @model_validator(mode="after")
    def _of_a_new_head(self) -> LearningRates:
        """Who names rates means them."""
        if not self.model_fields_set:
            object.__setattr__(self, "head", HEAD_LR)
        return self

    def of(self, *, adapted: bool) -> float:
        """The rate of all but new modules."""
        return self.peft if adapted else self.fft


def _as_rates(value: Any) -> Any:
    """One number is the rate of everything."""
    if isinstance(value, int | float | str):
        return {"fft": value, "peft": value, "head": None}
    return value


AUTO = 0  # stands for `max_length: auto`; no run has it


def _as_length(value: Any, handler: ValidatorFunctionWrapHandler) -> int:
    return AUTO if value == "auto" else int(handler(value))


def _length_told(value: int) -> int | str:
    return "auto" if value == AUTO else value


# A number of tokens, or the word auto, which a plan replaces by a number.
TextLength = Annotated[
    int,
    Field(ge=8),
    WrapValidator(
        _as_length,
        json_schema_input_type=Annotated[int, Field(ge=8)] | Literal["auto"],
    ),
    PlainSerializer(_length_told),
]


Pooling = Literal["mean", "max"]
LEAST_WINDOW = 16  # tokens: fewer leave no room for an overlap beside special tokens


class Windows(Strict):
    """Long texts are read whole: in windows of `max_length` tokens, whose logits are pooled."""

    pooling: Pooling = Field(
        "mean", description="of the logits of a text's windows, output by output"
    )
    stride: NonNegativeInt | None = Field(
        None,
        description="tokens that a window shares with the one before it, as in transformers. "
        "Default: a quarter of max_length",
    )
    max_windows: int = Field(
        16,
        ge=2,
        description="a text with more windows is read in so many, evenly spread, the first and the "
        "last among them",
    )

    @property
    def title(self) -> str:
        """How texts are read, as a table shows it."""
        return f"{self.pooling} of up to {self.max_windows}, stride {self.stride}"

    def overlap(self, max_length: int) -> int:
        """The stride of windows of so many tokens."""
        return max_length // 4 if self.stride is None else self.stride


def _as_windows(value: Any) -> Any:
    """A pooling by itself leaves the rest as it is by default."""
    return {"pooling": value} if isinstance(value, str) else value


def _as_weights(value: Any) -> Any:
    """Class names as YAML reads them, and nothing for none."""
    return (
        {_name(key): weight for key, weight in value.items()} if isinstance(value, dict) else value
    )


READING = ("max_length", "windows", "precision")  # settings of a model that is not trained, too
ClassWeights = Literal["none", "balanced"] | dict[str, PositiveFloat]


class Training(Strict):
    """How every arm is trained: the same for all of them, so that they can be compared."""

    epochs: PositiveInt = Field(3, description="passes over the training rows")
    min_steps: NonNegativeInt = Field(
        0,
        description="optimizer steps at least: where the rows are too few for them there are more "
        f"epochs, up to {MOST_EPOCHS}. Default: {MIN_STEPS}, and 0 where `epochs` is named",
    )
    count_texts: bool = Field(
        False,
        description="as many steps as if the unlabelled texts were trained on too: a control for "
        "arms that learn from them",
    )
    batch_size: PositiveInt = Field(32, description="examples per optimizer step")
    micro_batch_size: PositiveInt | None = Field(
        None, description="examples per forward pass; default batch_size. Less saves memory"
    )
    lr: Annotated[
        LearningRates,
        BeforeValidator(_as_rates, json_schema_input_type=PositiveFloat | LearningRates),
    ] = Field(
        LearningRates(),
        description="peak learning rate: one number for all, heads too, or one a kind of arm",
    )
    weight_decay: NonNegativeFloat = Field(0.01, description="of AdamW")
    warmup: float = Field(0.06, ge=0, lt=1, description="share of all steps")
    clip_norm: PositiveFloat = Field(1.0, description="largest norm of a step's gradient")
    max_length: TextLength = Field(
        128,
        description="tokens; longer texts are cut. auto: the 99th percentile of a task's texts, up "
        "to what encoder and memory allow; one number for all arms",
    )
    windows: Annotated[
        Windows | None,
        BeforeValidator(_as_windows, json_schema_input_type=Windows | Pooling | None),
    ] = Field(
        None,
        description="longer texts are read whole, in windows of max_length tokens: a mapping, or "
        "mean or max alone. Default: they are cut",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto is bf16 where the device computes it fast, else fp32"
    )
    patience: PositiveInt | None = Field(
        None, description="stop after this many evaluations without gain, counted after warm-up"
    )
    evals_per_epoch: PositiveInt = Field(
        1, description="how often an epoch the selection split is scored"
    )
    dropout: float | None = Field(
        None, ge=0, lt=1, description="the encoder's own dropout; default as its config says"
    )
    class_weights: Annotated[ClassWeights, BeforeValidator(_as_weights)] = Field(
        "none",
        description="how much a row counts in the loss of hard labels, by its class: balanced "
        "gives every class the same say; {name: weight} sets ratios, 1 where a class is not named. "
        "The teacher's term is never weighted",
    )
    focal: NonNegativeFloat = Field(
        0.0,
        description="gamma of the focal loss: a hard label counts (1 - p)^gamma times, p being the "
        "probability that the model gives it already. 0 is cross-entropy",
    )

    @model_validator(mode="after")
    def _enough_steps(self) -> Training:
        """Who names epochs means them; records from before there was a floor do so too."""
        if not {"epochs", "min_steps"} & self.model_fields_set:
            object.__setattr__(self, "min_steps", MIN_STEPS)
        return self

    @model_validator(mode="after")
    def _windows_fit(self) -> Training:
        """A window has to move on, and needs a length that is known."""
        if self.windows is None:
            return self
        if self.max_length == AUTO:
            raise ValueError(
                "windows read whole texts, and max_length is the length of a window: give a "
                "number of tokens instead of auto"
            )
        if self.max_length < LEAST_WINDOW:
            raise ValueError(
                f"windows of {self.max_length} tokens are too short: set max_length to "
                f"{LEAST_WINDOW} or more"
            )
        if self.windows.overlap(self.max_length) > self.max_length // 2:
            raise ValueError(
                f"windows.stride is {self.windows.stride}, more than half of max_length "
                f"({self.max_length}): every token would be read three times or more"
            )
        return self

    def settled(self, max_length: int) -> Training:
        """As a run has it: with a length that is a number, and windows that name their stride."""
        changes: dict[str, Any] = {"max_length": max_length}
        if self.windows is not None:
            stride = self.windows.overlap(max_length)
            changes["windows"] = self.windows.model_copy(update={"stride": stride})
        return self.model_copy(update=changes)

    @property
    def weighting(self) -> dict[str, str]:
        """What makes rows count unequally in the loss of hard labels, as it is written."""
        weights, found = self.class_weights, {}
        if isinstance(weights, dict):
            found["class_weights"] = ", ".join(f"{k} {v:g}" for k, v in sorted(weights.items()))
        elif weights != "none":
            found["class_weights"] = weights
        if self.focal:
            found["focal"] = f"{self.focal:g}"
        return found

    def of_untrained(self) -> Training:
        """What concerns a model that is not trained: how texts are cut and computed."""
        read = {name: getattr(self, name) for name in READING}
        return Training(epochs=3).model_copy(update=read)  # a copy, since the length may be auto

    def replaced(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """This section's values with some replaced; epochs by themselves are exactly so many."""
        exactly = {"min_steps": 0} if "epochs" in values else {}
        return {**self.model_dump(), **exactly, **values}


class Data(Strict):
    """Which rows are trained on, selected on and reported on."""

    max_train: PositiveInt | None = Field(None, description="train on a stratified subset")
    selection_fraction: float = Field(
        0.1, gt=0, lt=0.5, description="share of train on which checkpoints are selected"
    )
    selection_min: PositiveInt = Field(
        500, description="rows of that split at least, where the task allows"
    )
    max_selection: PositiveInt | None = Field(
        None,
        description="rows of that split at most; default: with max_train a quarter of it, but at "
        f"least {LEAST_SELECTION}, since who has few labels selects on few; else no limit",
    )
    max_eval: PositiveInt | None = Field(
        None, description="report on a stratified subset of the eval rows, of each report split"
    )
    split_seed: int = Field(0, description="draws the selection split; the same for all arms")

    def planned(self) -> Data:
        """As new runs have it. Those planned before there was a limit had none."""
        if self.max_selection is not None or self.max_train is None:
            return self
        most = max(LEAST_SELECTION, self.max_train // 4)
        return self.model_copy(update={"max_selection": most})


def _as_names(value: Any) -> Any:
    """YAML reads 0 and true where a file has '0' and 'true'; a list names columns of labels."""
    if isinstance(value, list | tuple):
        return tuple(map(_name, value))
    if not isinstance(value, dict):
        return value
    return {_name(key): _name(name) for key, name in value.items()}


def _name(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _as_grades(value: Any) -> Any:
    """A list of names, as YAML reads them."""
    return tuple(map(_name, value)) if isinstance(value, list | tuple) else value


_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*|multilingual")


def language_codes(given: Any) -> tuple[str, ...]:
    """Languages by the hub's codes, of one or of a list. Raises ValueError for what is no code."""
    found = tuple(given) if isinstance(given, list | tuple | set | frozenset) else (given,)
    for code in found:
        if code is False:
            raise ValueError('YAML reads no as false: write "no", or nb or nn')
        if not isinstance(code, str) or not _LANGUAGE.fullmatch(code):
            raise ValueError(f"'{code}': expected a code such as en, de or multilingual")
    return found


class OwnTask(Strict):
    """Own data: files, or a data set of the hub, with text columns and a label column."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="of the task, in runs and reports"
    )
    train: str = Field(
        description="CSV, TSV, JSONL or Parquet; {data_dir} is the study's data_dir. With hub: a "
        "split"
    )
    eval: str | None = Field(
        None, description="held-out file, or split; without it 20 % of train is held out"
    )
    hub: str | None = Field(
        None,
        description="a data set of the hub, such as fancyzhx/ag_news, or a folder that holds a "
        "copy of one; name is then by default what follows the slash",
    )
    config: str | None = Field(None, description="of hub: the configuration, where it has several")
    revision: str | None = Field(
        None, description="of hub: branch, tag or commit; default: main as it is when planned"
    )
    text: Strings = Field(
        ("text",),
        description="column of the text, or the two of a pair; each may be a template of columns, "
        'such as "{title} [SEP] {body}"',
    )
    label: str = Field("label", description="column of the class or the number")
    id: str | None = Field(None, description="column of unique example ids")
    kind: Literal["auto", "classification", "regression", "multilabel"] = Field(
        "auto",
        description="auto tells classes from numbers by the labels; multilabel, where a text may "
        "have several labels or none, has to be said (see docs/several-labels.md)",
    )
    metric: str | None = Field(
        None,
        description="the primary metric; default: macro_f1, of a regression pearson, of several "
        "labels mean_average_precision",
    )
    label_separator: str | None = Field(
        None,
        min_length=1,
        description="what stands between the labels of a cell, such as `|`; the kind is then "
        "multilabel",
    )
    labels: Annotated[dict[str, str] | tuple[str, ...], BeforeValidator(_as_names)] = Field(
        {},
        description="label in the file: name of its class; equal names join classes. Or a list of "
        "columns, one a label, that hold 1 or 0; the kind is then multilabel",
    )
    positive: str | None = Field(
        None,
        description="the class that the task asks about: f1, average_precision and "
        "recall_at_precision_90 are of it",
    )
    grades: Annotated[Literal["integers"] | tuple[str, ...] | None, BeforeValidator(_as_grades)] = (
        Field(
            None,
            description="the labels are grades: integers, or class names from the lowest to the "
            "highest. Adds quadratic_weighted_kappa, and mae of classes",
        )
    )
    unlabelled: Sources = Field((), description="files of texts that only the teacher labels")
    missing_labels: Literal["error", "rest"] = Field(
        "error",
        description="what rows of the training file without a label are: an error, or texts that "
        "only the teacher labels. Then the labels there are serve to select and to report on first",
    )
    licence: str = Field(
        UNKNOWN_LICENCE,
        description="of the data, as the hub calls licences (cc-by-4.0); it goes into records and "
        "model cards, and into no run's id",
    )
    language: Strings = Field(
        (),
        description="of the texts, as the hub calls languages (en, de); it goes into model cards, "
        "and into no run's id",
    )

    @model_validator(mode="before")
    @classmethod
    def _named_by_hub(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and isinstance(values.get("hub"), str):
            last = values["hub"].rstrip("/").rpartition("/")[2]
            return {"name": last, **values}
        return values

    @model_validator(mode="after")
    def _of_the_hub(self) -> OwnTask:
        idle = [name for name in ("config", "revision") if getattr(self, name) is not None]
        if self.hub is None and idle:
            raise ValueError(f"{' and '.join(idle)} mean nothing without hub")
        return self

    @field_validator("licence")
    @classmethod
    def _as_on_the_hub(cls, value: str) -> str:
        if not is_licence(value):
            raise ValueError(f"'{value}': expected the hub's identifier, such as cc-by-4.0 or mit")
        return value

    @field_validator("language", mode="before")
    @classmethod
    def _codes(cls, value: Any) -> Any:
        return language_codes(value)

    @field_validator("text")
    @classmethod
    def _one_or_two(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not 1 <= len(value) <= 2:
            raise ValueError(f"{len(value)} text columns given, 1 or 2 expected")
        return value

    @property
    def class_names(self) -> dict[str, str]:
        """What labels of the file are called; {} where they keep their names."""
        return self.labels if isinstance(self.labels, dict) else {}

    @property
    def label_columns_are_labels(self) -> bool:
        """Whether each label has a column of its own, of 0 and 1."""
        return isinstance(self.labels, tuple)

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The columns that say a row's labels."""
        return self.labels if isinstance(self.labels, tuple) else (self.label,)

    @property
    def label_title(self) -> str:
        """Where the labels stand, as a message says it."""
        if len(self.label_columns) == 1:
            return f"column '{self.label_columns[0]}'"
        return f"columns {', '.join(self.label_columns)}"

    @model_validator(mode="after")
    def _named_classes(self) -> OwnTask:
        several = self.kind == "multilabel"
        if self.class_names and self.kind == "regression":
            raise ValueError("labels names classes, but kind is regression")
        if isinstance(self.grades, tuple):
            if self.kind == "regression":
                raise ValueError("grades names classes, but kind is regression: say integers")
            if len(set(self.grades)) < max(len(self.grades), 2):
                raise ValueError(f"grades {list(self.grades)}: expected two or more different ones")
        if len(set(self.class_names.values())) == 1 and not several:
            only = next(iter(self.class_names.values()))
            raise ValueError(f"labels joins everything in one class, '{only}'")
        given = [
            *(["label_separator"] if self.label_separator else []),
            *(["labels, a list of columns,"] if self.label_columns_are_labels else []),
        ]
        if len(given) == 2:
            raise ValueError(f"{' and '.join(given)} say the labels twice: give one of them")
        if self.grades is not None and (several or given):
            raise ValueError(
                "grades orders classes of which a text has one, but kind is multilabel"
            )
        if given and not several and self.kind != "auto":
            raise ValueError(f"{given[0]} is of kind multilabel, but kind is {self.kind}")
        if self.label_columns_are_labels and len(set(self.labels)) != len(self.labels):
            raise ValueError("labels names a column twice")
        if self.label_columns_are_labels and not self.labels:
            raise ValueError("labels is an empty list: name the columns, one a label")
        return self

    @field_validator("metric")
    @classmethod
    def _known_metric(cls, value: str | None) -> str | None:
        known = [name for name, one in METRICS.items() if one.kinds]
        if value is not None and not metric(value).kinds:
            raise ValueError(f"unknown metric '{value}'.{did_you_mean(value, known)}")
        return value


def task_name(item: str | OwnTask) -> str:
    """The name of a task as a study lists it: a known one, or one of its own."""
    return item if isinstance(item, str) else item.name


def text_columns(item: str | OwnTask) -> tuple[str, ...]:
    """The text columns of a task as a study lists it, one or two."""
    return TASKS[item].texts if isinstance(item, str) else item.text


def stated_kind(item: str | OwnTask) -> Kind | None:
    """The kind of a task as far as the study file tells."""
    if isinstance(item, str):
        return TASKS[item].kind
    if item.label_separator or item.label_columns_are_labels:
        return MULTILABEL
    return KINDS.get(item.kind)
