"""The finished teachers of a student: their logits, checked against their records."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from torch import nn
from transformers import PreTrainedTokenizerBase

from kdlora.data.batches import encode_once
from kdlora.data.examples import Examples, TaskData, is_labelled, joined
from kdlora.data.teacher_outputs import read_teacher_outputs
from kdlora.data.unlabelled import Unlabelled, load_unlabelled
from kdlora.distillation.soft_labels import (
    FILE,
    SoftLabels,
    mean_of,
    soft_labels,
    soft_labels_of_texts,
)
from kdlora.errors import ModelError
from kdlora.files import real_path
from kdlora.measure.calibration import calibrate_teacher, calibrated
from kdlora.measure.quality import score_split
from kdlora.models.checkpoints import Checkpoint
from kdlora.models.saved import save_trained
from kdlora.models.student_layers import keep_layers
from kdlora.recipes.embeddings import EmbeddingsLabeller
from kdlora.recipes.zero_shot import ZeroShotLabeller
from kdlora.records.leases import waited_for
from kdlora.records.record import Record, TeacherCalibration, Teaching
from kdlora.records.store import Store
from kdlora.spec.fingerprint import hash_model_folder
from kdlora.spec.run import (
    DistilledRun,
    EmbeddingsTeacherRun,
    EncoderRef,
    EncoderRun,
    FileTeacherRun,
    OutputsRef,
    ZeroShotTeacherRun,
)
from kdlora.training.forward import Forward, make_forward
from kdlora.training.inference import load_finished, load_merged, predict
from kdlora.training.precision import choose_compute
from kdlora.vocabulary.metric import metric
from kdlora.vocabulary.task import Task

# A score recomputed from cached logits may differ from the recorded one by rounding on another
# processor, never by more than this; of errors in a label's own unit it is a share.
SCORE_TOLERANCE = 0.005


class Labeller(Protocol):
    """What can be asked for logits: a model that was trained here or given, or a file of them."""

    at_hand: bool  # whether its logits need no cache

    def knows(self, rows: Examples) -> np.ndarray:
        """Which of the rows it can label, boolean [n]."""

    def label(self, rows: Examples) -> np.ndarray:
        """Logits [n, c] of rows that it knows."""


@dataclass(frozen=True, eq=False)
class TeacherSignals:
    """What a student learns from: all rows to train on, and the logits of every split.

    `train` holds the labelled rows and, behind them, those that only the teacher labels.
    """

    train: Examples
    soft: SoftLabels
    labelling_s: float
    facts: Teaching


def prepare_signals(run: DistilledRun, store: Store, data: TaskData) -> TeacherSignals:
    """Label every row a student learns from by its teacher, or by the mean of its teachers.

    Raises ModelError when a teacher is not done, or when its score recomputed from its cache is
    not the recorded one: then rows and logits do not belong together, and nothing is trained.
    """
    extra = load_unlabelled(run.unlabelled, data, split_seed=run.data.split_seed)
    found = [logits_of(run_id, store, data, extra, student=run.run_id) for run_id in run.teachers]
    soft = mean_of([labels for labels, _ in found])
    train, soft, unanswered = answered(
        joined(data.train, extra.rows if extra else None), soft, data
    )
    counts = extra.counts() if extra else None
    if counts is not None and unanswered.left_out:
        counts["used"] -= unanswered.left_out
        counts["without_an_answer"] = unanswered.left_out
    return TeacherSignals(
        train=train,
        soft=soft,
        labelling_s=sum(paid_s for _, paid_s in found),
        facts=Teaching(
            signals=list(run.kd.signals.names),
            teachers=len(found),
            unlabelled=counts,
            taught_by_label=unanswered.taught_by_label,
        ),
    )


class Unanswered(NamedTuple):
    """Rows of which the teacher says nothing."""

    taught_by_label: int  # they have labels, which teach alone
    left_out: int  # they have none, so there is nothing to learn


def answered(
    rows: Examples, soft: SoftLabels, data: TaskData
) -> tuple[Examples, SoftLabels, Unanswered]:
    """The rows of which the teacher or a label says something, with logits for all of them.

    A row that the teacher does not know but that has a label gets the logits of a teacher that is
    as good as sure of it.
    """
    known = soft.knows(rows.ids)
    if known.all():
        return rows, soft, Unanswered(0, 0)
    labelled = is_labelled(rows.labels)
    alone = rows.take(labelled & ~known)
    sure = data.task.kind.certain(alone.labels, data.task.num_outputs)
    soft = replace(
        soft,
        ids=np.concatenate([soft.ids, alone.ids]),
        logits=np.concatenate([soft.logits, sure]),
    )
    lost = int((~known & ~labelled).sum())
    return rows.take(known | labelled), soft, Unanswered(len(alone), lost)


def finished_teacher(run_id: str, store: Store) -> Record:
    """A teacher's record. Raises ModelError when it is not done."""
    teacher = store.read(run_id)
    if teacher is None or teacher.quality is None:
        raise ModelError(f"the teacher run {run_id} is not done; run it first")
    return teacher


def model_of(teacher: Record) -> EncoderRun:
    """The run of a teacher that is a model. Raises ModelError where it is a file of outputs."""
    if isinstance(teacher.run, EncoderRun):
        return teacher.run
    raise ModelError(f"the teacher run {teacher.run_id} is no encoder: it has no model to load")


class ModelTeacher:
    """A teacher that is a model, trained here or given; it labels by the path that scored it.

    The model is loaded at the first call, so that a cache costs nothing.
    """

    at_hand = False

    def __init__(self, run: EncoderRun, store: Store, task: Task) -> None:
        self.run, self.store, self.task = run, store, task
        training = run.training
        self.compute = choose_compute(training.precision, max_length=training.max_length)

    def knows(self, rows: Examples) -> np.ndarray:
        return np.ones(len(rows), dtype=bool)

    def label(self, rows: Examples) -> np.ndarray:
        model, tokenizer, forward = self._loaded
        training = self.run.training
        texts = encode_once(
            tokenizer,
            rows,
            max_length=training.max_length,
            windows=training.windows,
            folder=self.store.tokens,
        )
        return predict(model, texts, self.compute, forward=forward)

    @cached_property
    def _loaded(self) -> tuple[nn.Module, PreTrainedTokenizerBase, Forward]:
        folder = self.store.folder(self.run.run_id)
        model, tokenizer = load_finished(self.run, folder, self.task, self.compute)
        return model, tokenizer, make_forward(model, self.compute)


class FileTeacher:
    """A teacher that is a file of its outputs; it knows the rows that the file answers."""

    at_hand = True

    def __init__(
        self, outputs: OutputsRef, task: Task, calibration: TeacherCalibration | None = None
    ) -> None:
        self.table = read_teacher_outputs(outputs, task)
        self.calibration = calibration

    def knows(self, rows: Examples) -> np.ndarray:
        return self.table.find(rows) >= 0

    def label(self, rows: Examples) -> np.ndarray:
        return calibrated(self.table.logits[self.table.find(rows)], self.calibration)


def calibrated_file(run: FileTeacherRun, data: TaskData) -> FileTeacher:
    """The teacher of a file, calibrated if it asks to be."""
    teacher = FileTeacher(run.outputs, data.task)
    if run.outputs.calibrate and not data.task.kind.numeric:
        alone = run.outputs.kind == "labels" and run.outputs.confidence is None
        teacher.calibration = calibration_on_gold(teacher, data, answers_alone=alone)
    return teacher


def calibration_on_gold(
    teacher: Labeller, data: TaskData, *, answers_alone: bool
) -> TeacherCalibration | None:
    """How a teacher's logits become honest on the labels of the selection split, and of no other.

    `answers_alone`: it says classes without any probability.
    """
    gold = data.selection.take(teacher.knows(data.selection))
    return calibrate_teacher(
        data.task.kind, teacher.label(gold), gold.labels, answers_alone=answers_alone
    )


def teacher_of(record: Record, store: Store, task: Task) -> Labeller:
    """The teacher that a record is of."""
    if isinstance(record.run, FileTeacherRun):
        return FileTeacher(record.run.outputs, task, record.facts.calibration)
    if isinstance(record.run, ZeroShotTeacherRun):
        return ZeroShotLabeller(record.run, task, record.facts.calibration)
    if isinstance(record.run, EmbeddingsTeacherRun):
        return EmbeddingsLabeller(record.run, task, store.folder(record.run_id))
    return ModelTeacher(model_of(record), store, task)


def labels_at_hand(
    teacher: Labeller, data: TaskData, run_id: str, extra: Examples | None = None
) -> SoftLabels:
    """The logits of all rows that the teacher knows, of the splits and of `extra`."""
    parts = [*data.splits().values(), *([extra] if extra is not None else [])]
    known = [part.take(teacher.knows(part)) for part in parts]
    return SoftLabels(
        np.concatenate([part.ids for part in known]),
        np.concatenate([teacher.label(part) for part in known]),
        run_id,
        data.task.label_names,
        data.fingerprint,
    )


def logits_of(
    run_id: str, store: Store, data: TaskData, extra: Unlabelled | None, *, student: str
) -> tuple[SoftLabels, float]:
    """A teacher's checked logits, and the seconds that the student's run paid for them.

    What another run paid is none; what this one paid before it was interrupted is kept.
    """
    record, folder = finished_teacher(run_id, store), store.folder(run_id)
    teacher = teacher_of(record, store, data.task)
    if teacher.at_hand:
        if isinstance(teacher, FileTeacher):
            teacher.table.require_some(joined(data.train, extra.rows if extra else None))
        soft = labels_at_hand(teacher, data, run_id, extra.rows if extra else None)
        check_scores(record, soft, data, folder)
        return soft, 0.0

    def alone(what: str) -> AbstractContextManager[object]:
        """Processes that share the folder label a teacher's rows once, whoever is first.

        Who needs the splits alone does not wait for another one's texts without labels.
        """
        place = folder / f"labelling{what}"
        place.mkdir(exist_ok=True)
        return waited_for(place)

    soft, _ = soft_labels(
        folder,
        teacher_run_id=run_id,
        teacher_checksum=record.checksum,
        data=data,
        label=teacher.label,
        made_by=student,
        alone=partial(alone, ""),
    )
    paid_s = soft.paid_by(student)
    check_scores(record, soft, data, folder)
    if extra is not None:
        further, _ = soft_labels_of_texts(
            folder,
            teacher_run_id=run_id,
            task=data.task,
            extra=extra,
            teacher_checksum=record.checksum,
            label=teacher.label,
            made_by=student,
            alone=partial(alone, "-texts"),
        )
        paid_s += further.paid_by(student)
        soft = soft.joined(further)
    return soft, paid_s


def check_scores(teacher: Record, soft: SoftLabels, data: TaskData, folder: Path) -> None:
    assert teacher.quality is not None
    primary = data.task.primary
    for split in ("selection", "report"):
        part = data.split(split)
        part = part.take(soft.knows(part.ids))
        found = score_split(data.task, soft.take(part.ids), part.labels)[primary]
        recorded = teacher.quality.splits[split][primary]
        if not _same(found, recorded, bounded=math.isfinite(metric(primary).high)):
            raise ModelError(
                f"teacher {teacher.run_id}: its cached logits score {found} on the {split} split, "
                f"its record says {recorded}. The cache and the data do not belong together; "
                f"delete {folder / FILE} and run again"
            )


def _same(found: float | None, recorded: float | None, *, bounded: bool) -> bool:
    if found is None or recorded is None:
        return found is recorded
    return abs(found - recorded) <= SCORE_TOLERANCE * (1.0 if bounded else abs(recorded))


def start_from_teacher(run: DistilledRun, store: Store, task: Task, folder: Path) -> EncoderRef:
    """The student's layers of its finished teacher, head included, saved as a model in `folder`.

    DistilBERT and PKD begin like this (Sanh et al. 2019; Sun et al. 2019). With several teachers
    it is the first. What is there from an interrupted run is made again: it may be damaged. Raises
    ModelError when the teacher is not done.
    """
    teacher = finished_teacher(run.teacher_run_id, store)
    model, tokenizer = load_merged(model_of(teacher), store.folder(teacher.run_id), task)
    whole = Checkpoint(model, frozenset())
    kept = keep_layers(whole, run.encoder.layers, where=run.encoder.title, seed=0)
    save_trained(kept.model, tokenizer, folder)
    return EncoderRef(
        name=run.encoder.title,
        source="folder",
        path=str(real_path(folder)),
        fingerprint=hash_model_folder(folder),
    )
