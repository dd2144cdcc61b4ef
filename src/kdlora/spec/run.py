"""One run, fully resolved: what a worker needs to know and what its record states.

There are eight kinds, each with the fields that it really has: `TrainedRun`, `DistilledRun`,
`GivenTeacherRun`, `ZeroShotTeacherRun`, `EmbeddingsTeacherRun`, `FileTeacherRun`, `BaselineRun`
and, one of these, `EmbeddingsRun`. Code asks ``isinstance``, or matches on the class; `EncoderRun`
stands for the three that are models of the task.

`run_id` hashes only the fields that affect the run. A teacher's id does not know its students, a
full fine-tuning does not know the adapter's rank, and a setting of the report changes no id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, TypeAdapter, computed_field, model_validator

from kdlora.spec.adapter import Adapter
from kdlora.spec.base import Strict
from kdlora.spec.distillation import Distillation, TeacherOutputs, Texts
from kdlora.spec.encoders import (
    HUB_NAMES,
    Vocabulary,
    ZeroShot,
    encoder_title,
    licence_of,
    stated_licence,
)
from kdlora.spec.fingerprint import canonical_json, hash_json, hash_text
from kdlora.spec.sections import Data, OwnTask, Training
from kdlora.vocabulary.arm import Arm


def seed_for(seed: int, purpose: str) -> int:
    """A seed below 2^31 for one purpose ("init", "order", "dropout") of a run."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{purpose}".encode()).digest()[:4], "big") >> 1


_ID_LENGTH = 12  # hexadecimal digits
RUN_VERSION = 1  # raised when the same fields come to mean another computation

# Fields that the first version hashed for every kind of run: null where a kind has no such field.
_IN_EVERY_ID = ("lr", "adapter", "kd", "teacher_run_id")

# Fields that came after the first records, by section. At their default they are no part of the
# id: what was done before they existed stays done.
NEW_FIELDS: dict[str, tuple[str, ...]] = {
    "": ("teacher_run_ids", "unlabelled", "target", "head_lr", "counted"),
    "training": ("min_steps", "count_texts", "windows", "class_weights", "focal"),
    "data": ("max_selection", "max_eval"),
    "kd": ("signals", "hidden_cache_mb", "start"),
    "encoder": ("layers", "vocabulary"),
    "embeddings": ("vocabulary",),
    "entailment": ("vocabulary",),
    "task.own": (
        "labels",
        "missing_labels",
        "grades",
        "hub",
        "config",
        "revision",
        "label_separator",
    ),
    "adapter": ("budget", "method", "config"),
    "outputs": ("label", "label_separator", "confidence", "calibrate"),
}


class TaskRef(Strict):
    """Which task, at which version, from which rows.

    `source` is "hub", "folder", "files" or "package"; `fingerprint` is the hash of local files
    and empty where the source itself is pinned (a package's version).
    """

    name: str
    version: int
    source: Literal["hub", "folder", "files", "package"]
    fingerprint: str = ""
    folder: str | None = None
    own: OwnTask | None = None


class VocabularyRef(Vocabulary):
    """Kept tokens as planned: `corpus` is absolute, `fingerprint` the hash of what it holds."""

    fingerprint: str


class EncoderRef(Strict):
    """A model by the name the user gave; `path` is set when that name is a local folder.

    `layers` and `vocabulary` are what is kept of it, None means all.
    """

    name: str
    source: Literal["package", "folder", "hub"]
    fingerprint: str = ""
    path: str | None = None
    layers: tuple[int, ...] | None = None
    vocabulary: VocabularyRef | None = None

    @property
    def title(self) -> str:
        """The model as it is shown: ``big``, or ``big[0,2,4]``."""
        return encoder_title(self.name, self.layers, self.vocabulary)

    @property
    def hub_name(self) -> str | None:
        """What the model is called on the hub, where that is known."""
        if self.source == "package":
            return HUB_NAMES.get(self.name)
        return self.name if self.source == "hub" else None

    @property
    def licence(self) -> str:
        """Its licence, by the hub's identifiers, as the hub or its own folder states it."""
        if self.source == "folder" and self.path is not None:
            return stated_licence(Path(self.path))
        return licence_of(self.hub_name)


class TextsRef(Texts):
    """Unlabelled texts as planned: `file` is absolute, `fingerprint` the hash of what it holds."""

    fingerprint: str


SCORE = "score"  # what a regression's only output is called in a teacher's file


class OutputsRef(TeacherOutputs):
    """A teacher's outputs as planned: `file` is absolute and of this task."""

    fingerprint: str
    calibrate: bool = False  # what a run means that was planned before there was a calibration

    def answer_columns(self, classes: Sequence[str]) -> list[str]:
        """The columns of the file that hold what the teacher says; without classes, of a number."""
        if self.kind == "labels":
            return [name for name in (self.label, self.confidence) if name is not None]
        return [self.columns.get(name, name) for name in classes or (SCORE,)]


class BaseRun(Strict):
    """What every run has. `version` to `data` are part of the id, `pair` and `label` are not."""

    version: int = RUN_VERSION
    task: TaskRef
    role: Literal["teacher", "student", "baseline"]
    adaptation: str
    distillation: Literal["none", "kd"] = "none"
    seed: int
    data: Data
    pair: str = ""
    label: str = Field("", description="of a varied arm: student/kd-lora[label]")

    @model_validator(mode="before")
    @classmethod
    def _of_this_kind(cls, values: Any) -> Any:
        """Drop the id, which is computed and never believed, and empty fields of other kinds.

        Every run of the first version was written with the fields of all kinds.
        """
        if not isinstance(values, Mapping):
            return values
        empty = {key for key, value in values.items() if value is None or value in ((), [])}
        foreign = empty - cls.model_fields.keys()
        return {key: value for key, value in values.items() if key not in foreign | {"run_id"}}

    @property
    def arm(self) -> str:
        """The plain arm as text."""
        return str(Arm(self.role, self.adaptation, self.distillation))

    @property
    def title(self) -> str:
        """The arm with its label."""
        return str(Arm(self.role, self.adaptation, self.distillation, self.label))

    @computed_field  # type: ignore[prop-decorator]
    @cached_property
    def run_id(self) -> str:
        """A readable prefix and a hash of everything that affects the result."""
        return f"{self.id_prefix}-s{self.seed}-{hash_json(self.identity(), _ID_LENGTH)}"

    @property
    def id_prefix(self) -> str:
        """The readable part of the id, before the seed."""
        return f"{self.task.name}-{Arm(self.role, self.adaptation, self.distillation).slug}"

    @property
    def teachers(self) -> tuple[str, ...]:
        """Ids of the runs that must be done before this one."""
        return ()

    def identity(self) -> dict[str, Any]:
        """The fields that the id hashes: paths give way to fingerprints of what lies there."""
        values = self._hashed()
        _drop_new_defaults(self, values)
        return values

    def _hashed(self) -> dict[str, Any]:
        """The fields of the id, those that came later at their default too."""
        values = self.model_dump(
            mode="json",
            exclude={"run_id", "pair", "label", "reference", "task", "encoder", "training"},
        )
        task = self.task.model_dump(mode="json", exclude={"folder", "own"})
        if self.task.own is not None:
            task["own"] = _hashed_rows(self.task.own)
        return {**dict.fromkeys(_IN_EVERY_ID), **values, "task": task}


class BaselineRun(BaseRun):
    """What an encoder has to beat: the majority class, or TF-IDF with a linear model."""

    role: Literal["baseline"] = "baseline"
    distillation: Literal["none"] = "none"


class EmbeddingsRun(BaselineRun):
    """A linear model on the embeddings of a student's encoder as it comes.

    `training` says how texts are cut and computed.
    """

    adaptation: Literal["embeddings"] = "embeddings"
    encoder: EncoderRef
    training: Training

    def _hashed(self) -> dict[str, Any]:
        values = super()._hashed()
        values["encoder"] = hashed_encoder(self.encoder)
        values["training"] = self.training.model_dump(mode="json", exclude={"lr"})
        return values


class FileTeacherRun(BaseRun):
    """A teacher that is a file of outputs: they are scored, and taught from."""

    role: Literal["teacher"] = "teacher"
    adaptation: Literal["given"] = "given"
    distillation: Literal["none"] = "none"
    outputs: OutputsRef

    def _hashed(self) -> dict[str, Any]:
        values = super()._hashed()
        del values["outputs"]["file"]
        return values


class ZeroShotTeacherRun(BaseRun):
    """A teacher that answers by entailment: scored, never trained. It has no head for the task."""

    role: Literal["teacher"] = "teacher"
    adaptation: Literal["given"] = "given"
    distillation: Literal["none"] = "none"
    entailment: EncoderRef
    zero_shot: ZeroShot
    training: Training  # how texts are cut and computed

    def _hashed(self) -> dict[str, Any]:
        values = super()._hashed()
        values["entailment"] = hashed_encoder(self.entailment)
        read = {"max_length", "precision", "windows"}
        values["training"] = self.training.model_dump(mode="json", include=read)
        return values


class EmbeddingsTeacherRun(BaseRun):
    """A teacher that is a linear model on the embeddings of an encoder as it comes.

    It is fitted on the labels within a second, and scored; no seed changes it.
    """

    role: Literal["teacher"] = "teacher"
    adaptation: Literal["given"] = "given"
    distillation: Literal["none"] = "none"
    embeddings: EncoderRef
    training: Training  # how texts are cut and computed

    @property
    def encoder(self) -> EncoderRef:
        """Called as that of the baseline, which is the same model."""
        return self.embeddings

    def _hashed(self) -> dict[str, Any]:
        values = super()._hashed()
        values["embeddings"] = hashed_encoder(self.embeddings)
        read = {"max_length", "precision", "windows"}
        values["training"] = self.training.model_dump(mode="json", include=read)
        return values


class EncoderRun(BaseRun):
    """What all runs of an encoder have. `training` says at least how texts are cut and computed."""

    role: Literal["teacher", "student"]
    encoder: EncoderRef
    training: Training
    reference: EncoderRef | None = Field(
        None, description="timed beside this run's model; no part of the id"
    )

    def _hashed(self) -> dict[str, Any]:
        values = super()._hashed()
        values["encoder"] = hashed_encoder(self.encoder)
        values["training"] = self.training.model_dump(mode="json", exclude={"lr"})
        return values


class GivenTeacherRun(EncoderRun):
    """A teacher that arrives fine-tuned: scored, never trained."""

    role: Literal["teacher"] = "teacher"
    adaptation: Literal["given"] = "given"
    distillation: Literal["none"] = "none"


class TrainedRun(EncoderRun):
    """A training on labels. `adapter` is None where all weights are fine-tuned."""

    lr: float
    head_lr: float | None = Field(None, description="of new modules; None: as the rest")
    adapter: Adapter | None = None
    counted: tuple[TextsRef, ...] = Field(
        (), description="texts that are not learnt from, and yet count for the number of steps"
    )
    target: Literal["standardised"] | None = Field(
        None,
        description="what labels are trained on where the study file says that they are numbers; "
        "None is older than that, or classes, or the data say it: then the record tells",
    )

    def _hashed(self) -> dict[str, Any]:
        values = super()._hashed()
        for source in values["counted"]:
            del source["file"]
        return values


class DistilledRun(TrainedRun):
    """A training of a student that learns from one teacher, or from several as an ensemble."""

    role: Literal["student"] = "student"
    distillation: Literal["kd"] = "kd"
    kd: Distillation
    teacher_run_id: str
    teacher_run_ids: tuple[str, ...] = Field((), description="all of an ensemble's, in order")
    unlabelled: tuple[TextsRef, ...] = ()

    @property
    def teachers(self) -> tuple[str, ...]:
        return self.teacher_run_ids or (self.teacher_run_id,)

    def _hashed(self) -> dict[str, Any]:
        values = super()._hashed()
        # what other fields say already, or what changes nothing
        silent = {"teacher_seeds", "unlabelled"}
        silent |= set() if self.kd.signals.match_states else {"hidden_cache_mb"}
        values["kd"] = {k: v for k, v in values["kd"].items() if k not in silent}
        for source in values["unlabelled"]:
            del source["file"]
        return values


_UNSEEN = ("unlabelled", "licence", "language")  # what no labelled row depends on


def _hashed_rows(own: OwnTask) -> dict[str, Any]:
    """Files are known by what they hold; a data set of the hub by its name and revision."""
    if own.hub is None:
        return own.model_dump(mode="json", exclude={"train", "eval", *_UNSEEN})
    exclude = {*_UNSEEN} | ({"hub"} if Path(own.hub).is_absolute() else set())
    return own.model_dump(mode="json", exclude=exclude)


def hashed_encoder(encoder: EncoderRef) -> dict[str, Any]:
    """A folder is known by what it holds, not by where it lies."""
    exclude: dict[str, Any] = {"path": True, "vocabulary": {"corpus"}}
    if encoder.source == "folder":
        exclude["name"] = True
    return encoder.model_dump(mode="json", exclude=exclude)


def encoder_of(run: BaseRun) -> EncoderRef | None:
    """The encoder of a run; None where there is none."""
    return run.encoder if isinstance(run, EncoderRun) else None


def reader_of(run: BaseRun) -> EncoderRef | None:
    """The encoder that a run's texts are cut for; None of a baseline and of a file."""
    if isinstance(run, ZeroShotTeacherRun):
        return run.entailment
    return run.encoder if isinstance(run, EmbeddingsTeacherRun) else encoder_of(run)


def adapter_of(run: BaseRun) -> Adapter | None:
    """The adapter's settings of a run; None where all weights train, or none."""
    return run.adapter if isinstance(run, TrainedRun) else None


def _kind_of(values: Any) -> str:
    """Which kind of run a dumped one is, by the fields that the first version has already."""
    if isinstance(values, BaseRun):
        return type(values).__name__
    found = values if isinstance(values, Mapping) else {}
    if found.get("role") == "baseline":
        kind: type[BaseRun] = EmbeddingsRun if found.get("encoder") else BaselineRun
    elif found.get("outputs"):
        kind = FileTeacherRun
    elif found.get("zero_shot"):
        kind = ZeroShotTeacherRun
    elif found.get("embeddings"):
        kind = EmbeddingsTeacherRun
    elif found.get("adaptation") == "given":
        kind = GivenTeacherRun
    else:
        kind = DistilledRun if found.get("distillation") == "kd" else TrainedRun
    return kind.__name__


# One training, or one scoring of what is not trained: one of eight kinds.
Run = Annotated[
    Annotated[BaselineRun, Tag("BaselineRun")]
    | Annotated[EmbeddingsRun, Tag("EmbeddingsRun")]
    | Annotated[FileTeacherRun, Tag("FileTeacherRun")]
    | Annotated[ZeroShotTeacherRun, Tag("ZeroShotTeacherRun")]
    | Annotated[EmbeddingsTeacherRun, Tag("EmbeddingsTeacherRun")]
    | Annotated[GivenTeacherRun, Tag("GivenTeacherRun")]
    | Annotated[TrainedRun, Tag("TrainedRun")]
    | Annotated[DistilledRun, Tag("DistilledRun")],
    Discriminator(_kind_of),
]
_RUN: TypeAdapter[Run] = TypeAdapter(Run)


def read_run(values: Mapping[str, Any] | str | bytes) -> Run:
    """A run from its dump, as a mapping or as JSON. Raises pydantic's ValidationError."""
    if isinstance(values, str | bytes):
        return _RUN.validate_json(values)
    return _RUN.validate_python(values)


class Siblings:
    """Copies of a run that differ in seed and teachers, at a tenth of the cost of a new one.

    What a large plan consists of: all but these fields is dumped and validated once. Runs that
    differ in nothing that affects the result (`pair`, `reference`) may share the dumped `parts`.
    """

    def __init__(self, make: Callable[[], Run], parts: Parts | None = None) -> None:
        self._make = make
        self._run: Run | None = None
        self.parts = parts or _parts(self._template())

    def run_id(self, seed: int, teachers: tuple[str, ...] = ()) -> str:
        """What the sibling's `Run.run_id` is: the canonical JSON is put together from its parts."""
        prefix, before, between, after = self.parts
        ids = f'"{teachers[0]}"' if teachers else "null"
        if len(teachers) > 1:
            ids += f',"teacher_run_ids":{canonical_json(teachers)}'
        text = f"{before}{seed}{between}{ids}{after}"
        return f"{prefix}-s{seed}-{hash_text(text, _ID_LENGTH)}"

    def run(self, seed: int, teachers: tuple[str, ...], run_id: str) -> Run:
        """The run that its class would make of the same fields, its `run_id` being known."""
        template = self._template()
        changed: dict[str, Any] = {"seed": seed, "run_id": run_id}
        if teachers:
            changed["teacher_run_id"] = teachers[0]
            changed["teacher_run_ids"] = teachers if len(teachers) > 1 else ()
        made = type(template).__new__(type(template))
        # Fields set are shared, not copied: they would be most of the memory of a large plan.
        # Filled, not replaced: instances then share one table of keys.
        values = made.__dict__
        for name, value in template.__dict__.items():
            values[name] = value
        for name, value in changed.items():
            values[name] = value
        for name, value in (
            ("__pydantic_fields_set__", template.model_fields_set),
            ("__pydantic_extra__", None),
            ("__pydantic_private__", None),
        ):
            object.__setattr__(made, name, value)
        return made

    def _template(self) -> Run:
        if self._run is None:
            self._run = self._make()
        return self._run


# An id's prefix, and the canonical JSON before the seed, between seed and teachers, and after them.
Parts = tuple[str, str, str, str]
PENDING = ""  # stands for the teacher in the run of which siblings are made
_SEED, _TEACHERS = "\0seed", "\0teachers"  # stand for values in it, and for nothing else


def _parts(run: Run) -> Parts:
    values = {**run.identity(), "seed": _SEED, "teacher_run_id": _TEACHERS}
    values.pop("teacher_run_ids", None)
    before, rest = canonical_json(values).split(canonical_json(_SEED))
    between, after = rest.split(canonical_json(_TEACHERS))
    return run.id_prefix, before, between, after


def _drop_new_defaults(run: BaseRun, values: dict[str, Any]) -> None:
    """Remove the fields of `NEW_FIELDS` that are at their default from a dumped run."""
    for section, names in NEW_FIELDS.items():
        model: Any = run
        dumped: Any = values
        for part in section.split(".") if section else ():
            model = model and getattr(model, part, None)
            dumped = (dumped or {}).get(part)
        for name in names if dumped else ():
            there = model is not None and name in dumped
            owner: type[Strict] = type(model)
            if there and getattr(model, name) == _default(owner, name):
                del dumped[name]


@cache
def _default(model: type[Strict], name: str) -> Any:
    return model.model_fields[name].get_default(call_default_factory=True)
