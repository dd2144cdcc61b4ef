"""The record of one run (schema 1): five blocks, units in every name, written once and last.

Units stand in the field names; a value is None where it could not be measured, never invented.

A folder with a `record.json` is a finished run; without one it is not, whatever else lies in it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from kdlora.errors import did_you_mean
from kdlora.files import is_inside
from kdlora.json_files import parse_json, read_json_object
from kdlora.records.environment import package_version
from kdlora.records.vocabulary_cut import Cut
from kdlora.spec.encoders import UNKNOWN_LICENCE
from kdlora.spec.fingerprint import hash_json
from kdlora.spec.run import Run, encoder_of
from kdlora.vocabulary.metric import metric
from kdlora.vocabulary.output_names import names_in
from kdlora.vocabulary.task import KINDS, TASKS, Kind, Task, class_name


def _known_kind(value: str) -> str:
    if value not in KINDS:
        raise ValueError(f"unknown kind of task '{value}'.{did_you_mean(value, KINDS)}")
    return value


KindName = Annotated[str, AfterValidator(_known_kind)]


def _inside(value: str) -> str:
    if not is_inside(value):
        raise ValueError(f"{value!r} is no path inside the folder")
    return str(PurePosixPath(value))


RelativePath = Annotated[str, AfterValidator(_inside)]


class RecordPart(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TaskFacts(RecordPart):
    """What a run's labels are and how its answers are scored: all that later uses need to know.

    The names are those of the run's own training rows, in the order of the model's outputs.
    """

    kind: KindName
    label_names: tuple[str, ...] = Field((), description="in the order of the outputs")
    positive: str | None = Field(None, description="the class whose F1 is f1")
    text_columns: tuple[str, ...] = Field(description="one text, or a pair")
    metrics: tuple[str, ...] = Field(description="the primary one first")
    direction: Literal[1, -1] = Field(description="of the primary one: 1 where more is better")

    @classmethod
    def of(cls, task: Task) -> TaskFacts:
        return cls(
            kind=task.kind.name,
            label_names=task.label_names,
            positive=task.positive,
            text_columns=task.texts,
            metrics=task.metrics,
            direction=1 if task.direction > 0 else -1,
        )


class LabelQuality(RecordPart):
    """One label of a task with several, on the report split; answers are those at probability 1/2.

    A value is None where it is undefined: without a row that has the label, or without an answer.
    """

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int
    average_precision: float | None = None

    @property
    def positives(self) -> int:
        """Rows that have the label."""
        return self.true_positive + self.false_negative

    @property
    def answers(self) -> int:
        """Rows that are answered with it."""
        return self.true_positive + self.false_positive

    @property
    def precision(self) -> float | None:
        return self.true_positive / self.answers if self.answers else None

    @property
    def recall(self) -> float | None:
        return self.true_positive / self.positives if self.positives else None


class Quality(RecordPart):
    """Every metric of the task on every split, recomputable from `predictions.parquet`."""

    primary: str
    direction: Literal[1, -1]
    splits: dict[str, dict[str, float | None]] = Field(
        description="split -> metric -> value; the splits are selection, report and further ones"
    )
    per_class_f1: dict[str, float] = {}
    confusion: list[list[int]] = Field([], description="report split; row = true class")
    per_label: dict[str, LabelQuality] = Field(
        {}, description="of a task whose rows may have several labels: each by itself"
    )
    n: dict[str, int] = Field(description="split -> rows; train too")

    @property
    def score(self) -> float | None:
        """The primary metric on the report split."""
        return self.splits["report"].get(self.primary)


class LabelAgreement(RecordPart):
    """How often student and teacher say the same of one label."""

    agreement: float
    kappa: float | None = None
    chance: float
    lower_bound: float
    upper_bound: float


class Agreement(RecordPart):
    """How often student and teacher say the same on the report split, and what was possible.

    Where rows may have several labels, the same is the same set of them; `per_label` says it of
    each label by itself.
    """

    teacher_run_id: str
    agreement: float | None = None
    kappa: float | None = None
    chance: float | None = Field(None, description="agreement expected of independent guesses")
    lower_bound: float | None = None
    upper_bound: float | None = None
    teacher_score: float | None = None
    pearson: float | None = Field(None, description="regression: correlation of the predictions")
    per_label: dict[str, LabelAgreement] = {}


class Efficiency(RecordPart):
    """What the run and its model cost. A field is None where it could not be measured."""

    trainable_params: int | None = None
    total_params: int | None = None
    size_mb: float | None = Field(None, description="merged fp32 model on disk, MB = 10^6 bytes")
    saved_mb: float | None = Field(None, description="what this run keeps (adapter or model)")
    train_s: float | None = Field(None, description="optimizer steps only; evaluation excluded")
    eval_s: float | None = None
    labelling_s: float | None = Field(None, description="teacher labelling paid by this run")
    train_examples_per_s: float | None = None
    train_tokens_per_s: float | None = None
    peak_memory_mb: float | None = None
    peak_memory_scope: str | None = None
    forward_flops: float | None = Field(None, description="one example at protocol seq_length")
    train_flops: float | None = Field(
        None,
        description="of the model's own pass at the padded lengths, optimizer excluded; the fused "
        "pass skips what the head does not read and does less",
    )
    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None
    throughput_per_s: float | None = None
    reference: str | None = Field(None, description="encoder timed interleaved with this model")
    reference_latency_p50_ms: float | None = None
    reference_throughput_per_s: float | None = None
    speedup_latency: float | None = None
    speedup_throughput: float | None = None
    energy_j: float | None = None
    energy_method: str | None = None
    gpu_utilisation_percent: float | None = None
    gpu_power_w: float | None = None
    windows_per_text: float | None = Field(
        None,
        description="where texts are read in windows: how many one of the report split takes, in "
        "the mean; times and FLOPs are those of one short text",
    )
    protocol: dict[str, Any] = Field(
        {}, description="merged, seq_length, batch sizes, threads, dtype, device, repeats"
    )


class Flag(RecordPart):
    """Something that a reader must know before believing the score."""

    name: str
    severity: Literal["info", "warning", "error"]
    detail: str


def casts_doubt(severity: str | None) -> bool:
    """Whether a flag of this severity is more than information; one without any is."""
    return severity != "info"


class Teaching(RecordPart):
    """What a distilled student really learnt from."""

    signals: list[str] = []
    teachers: int = Field(1, description="runs whose mean logits taught")
    states: Literal["cached", "computed in every step"] | None = Field(
        None, description="where the teacher's inner states came from, if any were matched"
    )
    states_mb: float | None = Field(None, description="their size on disk, if cached")
    projector_params: int | None = Field(
        None, description="trained beside the student for hidden states of another width"
    )
    unlabelled: dict[str, int] | None = Field(
        None, description="transfer texts used, and those dropped by reason"
    )
    taught_by_label: int = Field(
        0, description="labelled rows of which the teacher's file says nothing"
    )


class TeacherCalibration(RecordPart):
    """What made a teacher's answers honest, fitted on the gold labels of the selection split."""

    method: Literal["temperature", "answers", "labels"]
    n: int = Field(description="rows of the selection split that the teacher answers")
    accuracy: float = Field(description="of the teacher on them; of several labels, all of them")
    cross_entropy_before: float = Field(description="in nats, on the same rows")
    cross_entropy_after: float
    temperature: float | None = Field(None, description="the logits are divided by it")
    given_answer: list[list[float]] | None = Field(
        None,
        description="[answer][class]: probability of the class where this was answered; by method "
        "labels [label][0 or 1]: that of the label where it was not said, or was",
    )


class TeacherFileFacts(RecordPart):
    """What was read of a file that teaches."""

    read: int = Field(description="rows of the file")
    left_out: dict[str, int] = Field({}, description="reason -> rows that teach nothing")
    no_class: dict[str, int] = Field(
        {}, description="the commonest answers that are no class -> rows"
    )
    partly: int = Field(0, description="rows that name unknown labels beside others, which teach")


class CrossValidation(RecordPart):
    """All labelled rows of a small task, each answered by a head that was fitted without it."""

    folds: int
    rows: int
    right: int = Field(description="rows that are answered right")
    metrics: dict[str, float | None]


class TrainingFacts(RecordPart):
    """What the loop really did, which may differ from what was asked for."""

    steps: int = 0
    planned_steps: int = 0
    epochs: float = 0.0
    planned_epochs: float | None = Field(None, description="as asked for, or as min_steps raised")
    best_step: int = 0
    warmup_steps: int = 0
    stopped: Literal["completed", "patience", "nonfinite", "not trained"] = "completed"
    micro_batch_size: int | None = None
    out_of_memory_retries: int = 0
    nonfinite_steps: int = 0
    resumed: int = 0
    precision: str | None = None
    precision_reason: str | None = None
    attention: str | None = None
    device: str | None = None
    new_modules: list[str] = []
    modules_to_save: list[str] = []
    targets: list[str] = []
    adapter_rank: int | None = Field(None, description="as set, or as a budget allowed")
    adapter_params: int | None = Field(None, description="trained in the adapter, head excluded")
    adapter_norm: float | None = Field(None, description="Frobenius norm of the merged update")
    rank_pattern: dict[str, int] | None = None
    vocabulary: Cut | None = Field(None, description="of an encoder that keeps some of its tokens")
    class_weights: dict[str, float] | None = Field(
        None, description="of a row in the loss of hard labels, by its class; absent: all count 1"
    )
    target_mean: float | None = Field(
        None, description="a regression was trained on (label - target_mean) / target_scale"
    )
    target_scale: float | None = None
    teaching: Teaching | None = None
    head_sees: Literal["mean", "first token"] | None = Field(
        None, description="what the only layer that was fitted reads; of frozen encoders"
    )
    head_strength: float | None = Field(None, description="its inverse regularisation")
    cross_validation: CrossValidation | None = Field(None, description="of frozen encoders")
    teacher_file: TeacherFileFacts | None = Field(None, description="of a teacher that is a file")
    calibration: TeacherCalibration | None = Field(
        None,
        description="of a teacher that is a file or answers by entailment; absent where it was not "
        "asked for, or with too few gold labels",
    )


SCHEMA = 1


# What a frame says of a run without a result. "stopped": an early decision ended it.
NOT_DONE = ("missing", "failed", "stopped")


class Record(RecordPart):
    """Everything known of one run. `checksum` is over all other fields."""

    schema_version: int = Field(SCHEMA, alias="schema")
    run_id: str
    status: Literal["done", "failed"] = "done"
    error: str | None = None
    run: Run
    task: TaskFacts | None = Field(None, description="absent where the run failed early")
    facts: TrainingFacts = TrainingFacts()
    quality: Quality | None = None
    agreement: Agreement | None = None
    efficiency: Efficiency = Efficiency()
    health: list[Flag] = []
    environment: dict[str, Any] = {}
    started_at: str = ""
    finished_at: str = ""
    licences: dict[str, str] = Field(
        {}, description="of the encoder and of the data, 'unknown' where nobody stated one"
    )
    files: dict[RelativePath, str] = Field(
        {}, description="SHA-256 of what lies beside it and is read back, by its path in the folder"
    )
    checksum: str = ""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    @property
    def doubts(self) -> list[Flag]:
        """The flags that are more than information: a record with any is flagged."""
        return [flag for flag in self.health if casts_doubt(flag.severity)]

    def sealed(self) -> Record:
        return self.model_copy(update={"checksum": self.expected_checksum()})

    def expected_checksum(self) -> str:
        return checksum(self.model_dump(mode="json", by_alias=True))


def checksum(values: dict[str, Any]) -> str:
    """The checksum of a record as it is written, over all but the checksum itself."""
    return hash_json({k: v for k, v in values.items() if k != "checksum"}, 32)


class DamagedRecord(ValueError):
    """Bytes that are no record as it was written."""


class OtherVersion(ValueError):
    """A whole record that only another version understands; says which versions those are."""


def read_record(content: bytes) -> Record:
    """The record in the bytes of a file.

    Fields that a later version added are left out; anything else that is not understood, of bytes
    that are as they were written, raises OtherVersion. All other bytes raise DamagedRecord.
    """
    try:
        values = parse_json(content)
    except ValueError as error:  # of the decoder, too
        raise DamagedRecord(str(error)) from None
    # The sum is over what was written: fields that records have gained since are in it, and those
    # that this version would fill in are not.
    if not isinstance(values, dict) or values.get("checksum") != checksum(values):
        raise DamagedRecord("no record with a checksum that fits")
    if values.get("schema", SCHEMA) != SCHEMA:
        raise OtherVersion(_versions(values, "another schema"))
    try:
        return Record.model_validate(values)
    except ValidationError as error:
        first = error
    try:
        return Record.model_validate(_without_added(values, first))
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise OtherVersion(_versions(values, f"{place}: {problem['msg']}")) from None


def _without_added(values: dict[str, Any], error: ValidationError) -> dict[str, Any]:
    """A record without the fields that this version does not know."""
    left: dict[str, Any] = copy.deepcopy(values)
    for problem in error.errors():
        if problem["type"] != "extra_forbidden":
            continue
        *way, last = problem["loc"]
        node: Any = left
        for part in way:  # the names of a union's members are in it, and in no dictionary
            inside = isinstance(node, dict) and part in node
            if inside or (isinstance(node, list) and isinstance(part, int)):
                node = node[part]
        if isinstance(node, dict):
            node.pop(str(last), None)
    return left


def _versions(values: dict[str, Any], why: str) -> str:
    """Who wrote a record, and who cannot read it."""
    environment = values.get("environment")
    versions = environment.get("versions") if isinstance(environment, dict) else None
    theirs = versions.get("kdlora") if isinstance(versions, dict) else None
    return (
        f"kdlora {theirs or 'of another version'} (schema {values.get('schema')} of records), "
        f"which kdlora {package_version('kdlora')} (schema {SCHEMA}) does not understand ({why})"
    )


def task_facts(record: Record, folder: Path) -> TaskFacts | None:
    """What the labels of a run are; `folder` is the run's own.

    Records say it themselves. For one that was written before they did, it is found in what was
    stored beside it: the known task, the study file's words in the run, the scores, and the names
    that the run's model or another one of the same rows carries. None where nothing tells.
    """
    if record.task is not None:
        return record.task
    run, quality = record.run, record.quality
    if run.task.own is None:
        task = TASKS.get(run.task.name)
        fits = task is not None and task.version == run.task.version
        return TaskFacts.of(task) if task is not None and fits else None
    if quality is None:
        return None
    own, scored = run.task.own, (quality.primary, *quality.splits["report"])
    kind = next((KINDS[name] for name in metric(quality.primary).kinds), None)
    names = next(_told_names(record, kind, folder), None) if kind else None
    if kind is None or names is None:
        return None
    positive = None if own.positive is None else class_name(own.positive)
    return TaskFacts(
        kind=kind.name,
        label_names=names,
        positive=positive if positive in names else None,
        text_columns=own.text,
        metrics=tuple(dict.fromkeys(scored)),
        direction=quality.direction,
    )


def _told_names(record: Record, kind: Kind, folder: Path) -> Iterator[tuple[str, ...]]:
    """The classes as each place tells them that names all of them, the surest first."""
    assert record.quality is not None
    own, counts = record.run.task.own, record.quality.confusion
    if kind.numeric:
        yield ()
        return
    stated = kind.names(list(own.class_names.values())) if own is not None else ()
    for names in (stated, tuple(record.quality.per_class_f1)):
        if names and len(names) == len(counts):
            yield names
    beside = sorted(folder.parent.glob(f"{record.run.task.name}-*"))
    for other in (folder, *(path for path in beside if _same_rows(path, record.run))):
        names = _model_names(other / "model")
        if names and len(names) == (len(counts) or len(names)):
            yield names


def _same_rows(folder: Path, run: Run) -> bool:
    """Whether the run of a folder was trained on the same rows."""
    task = (_read(folder / "spec.json") or {}).get("task")
    return isinstance(task, dict) and (
        (task.get("name"), task.get("fingerprint")) == (run.task.name, run.task.fingerprint)
    )


def _model_names(folder: Path) -> tuple[str, ...]:
    """The outputs of a saved model, by kdlora's note on an adapter, a baseline's or the config."""
    for name, key in (("kdlora.json", "labels"), ("baseline.json", "label_names")):
        found = (_read(folder / name) or {}).get(key)
        if isinstance(found, list) and found:
            return tuple(str(label) for label in found)
    return names_in(_read(folder / "config.json") or {})


def licences_of(run: Run) -> dict[str, str]:
    """The licences of what a run is made from, as far as they are stated."""
    encoder, own = encoder_of(run), run.task.own
    found = {"data": own.licence if own is not None else UNKNOWN_LICENCE}
    return {"encoder": encoder.licence, **found} if encoder is not None else found


def recorded_licences(record: Record) -> dict[str, str]:
    """The same as a record has them; one from before it had any is as good as its run."""
    return record.licences or licences_of(record.run)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return read_json_object(path)
    except (OSError, ValueError):
        return None
