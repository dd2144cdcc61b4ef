"""The finished teachers of a student: their logits, checked against their records."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from torch import nn
from transformers import PreTrainedTokenizerBase

from kdlora.data.batches import encode_once
from kdlora.data.examples import Examples, TaskData
from kdlora.data.teacher_outputs import read_teacher_outputs
from kdlora.data.unlabelled import Unlabelled, joined, load_unlabelled
from kdlora.distillation.soft_labels import (
    FILE,
    SoftLabels,
    mean_of,
    soft_labels,
    soft_labels_of_texts,
)
from kdlora.errors import ModelError
from kdlora.measure.quality import score_split
from kdlora.models.checkpoints import Checkpoint
from kdlora.models.saved import save_trained
from kdlora.models.student_layers import keep_layers
from kdlora.records.leases import waited_for
from kdlora.records.record import Record, Teaching
from kdlora.records.store import Store
from kdlora.spec.fingerprint import hash_model_folder
from kdlora.spec.run import DistilledRun, EncoderRef, EncoderRun, FileTeacherRun, OutputsRef
from kdlora.training.forward import Forward, make_forward
from kdlora.training.inference import load_finished, load_merged, predict
from kdlora.training.precision import choose_compute
from kdlora.vocabulary.task import Task

# A score recomputed from cached logits may differ from the recorded one by rounding on another
# processor, never by more than this.
SCORE_TOLERANCE = 0.005


@dataclass(frozen=True, eq=False)
class Lessons:
    """What a student learns from: all rows to train on, and the logits of every split.

    `train` holds the labelled rows and, behind them, those that only the teacher labels.
    """

    train: Examples
    soft: SoftLabels
    labelling_s: float
    facts: Teaching


def prepare_lessons(run: DistilledRun, store: Store, data: TaskData) -> Lessons:
    """Label every row a student learns from by its teacher, or by the mean of its teachers.

    Raises ModelError when a teacher is not done, or when its score recomputed from its cache is
    not the recorded one: then rows and logits do not belong together, and nothing is trained.
    """
    extra = load_unlabelled(run.unlabelled, data, split_seed=run.data.split_seed)
    start = time.perf_counter()
    found = [_logits_of(run_id, store, data, extra) for run_id in run.teachers]
    all_cached = all(cached for _, cached in found)
    return Lessons(
        train=joined(data.train, extra.rows if extra else None),
        soft=mean_of([labels for labels, _ in found]),
        labelling_s=0.0 if all_cached else time.perf_counter() - start,
        facts=Teaching(
            signals=list(run.kd.signals.names),
            teachers=len(found),
            unlabelled=extra.counts() if extra else None,
        ),
    )


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


def outputs_as_labels(
    ref: OutputsRef, data: TaskData, run_id: str, *, extra: Examples | None = None
) -> SoftLabels:
    """The logits that a teacher's file holds of the rows of all splits, and of all of `extra`.

    Raises DataError if it lacks rows that are trained on.
    """
    table = read_teacher_outputs(ref, data.task)
    table.require(data.train, "train")
    parts = list(data.splits().values())
    if extra is not None:
        table.require(extra, "unlabelled")
        parts.append(extra)
    rows = np.concatenate([table.find(part) for part in parts])
    ids = np.concatenate([part.ids for part in parts])[rows >= 0]
    logits = table.logits[rows[rows >= 0]]
    return SoftLabels(ids, logits, run_id, data.task.label_names, data.fingerprint)


def _logits_of(
    run_id: str, store: Store, data: TaskData, extra: Unlabelled | None
) -> tuple[SoftLabels, bool]:
    """A teacher's checked logits, and whether all of them were there already."""
    teacher, folder = finished_teacher(run_id, store), store.folder(run_id)
    if isinstance(teacher.run, FileTeacherRun):
        rows = extra.rows if extra else None
        soft = outputs_as_labels(teacher.run.outputs, data, run_id, extra=rows)
        _check(teacher, soft, data, folder)
        return soft, True
    label = _labeller(model_of(teacher), store, data.task)

    def alone() -> AbstractContextManager[object]:
        """Processes that share the folder label a teacher's texts once, whoever is first."""
        place = folder / "labelling"
        place.mkdir(exist_ok=True)
        return waited_for(place)

    soft, cached = soft_labels(
        folder,
        teacher_run_id=run_id,
        teacher_checksum=teacher.checksum,
        data=data,
        label=label,
        alone=alone,
    )
    _check(teacher, soft, data, folder)
    if extra is not None:
        further, known = soft_labels_of_texts(
            folder,
            teacher_run_id=run_id,
            task=data.task,
            rows=extra.rows,
            fingerprint=extra.fingerprint,
            teacher_checksum=teacher.checksum,
            label=label,
            alone=alone,
        )
        soft, cached = soft.joined(further), cached and known
    return soft, cached


def _check(teacher: Record, soft: SoftLabels, data: TaskData, folder: Path) -> None:
    assert teacher.quality is not None
    for split in ("selection", "report"):
        part = data.split(split)
        part = part.take(soft.knows(part.ids))
        found = score_split(data.task, soft.take(part.ids), part.labels)[data.task.primary]
        recorded = teacher.quality.splits[split][data.task.primary]
        if not _same(found, recorded):
            raise ModelError(
                f"teacher {teacher.run_id}: its cached logits score {found} on the {split} split, "
                f"its record says {recorded}. The cache and the data do not belong together; "
                f"delete {folder / FILE} and run again"
            )


def _same(found: float | None, recorded: float | None) -> bool:
    if found is None or recorded is None:
        return found is recorded
    return abs(found - recorded) <= SCORE_TOLERANCE


def _labeller(teacher: EncoderRun, store: Store, task: Task) -> Callable[[Examples], np.ndarray]:
    """A function from examples to the teacher's logits, by the path that scored the teacher.

    The model is loaded at the first call, so that a cache costs nothing.
    """
    max_length = teacher.training.max_length
    compute = choose_compute(teacher.training.precision, max_length=max_length)

    @cache
    def ready() -> tuple[nn.Module, PreTrainedTokenizerBase, Forward]:
        folder = store.folder(teacher.run_id)
        model, tokenizer = load_finished(teacher, folder, task, compute)
        return model, tokenizer, make_forward(model, compute)

    def label(part: Examples) -> np.ndarray:
        model, tokenizer, forward = ready()
        texts = encode_once(tokenizer, part, max_length=max_length, folder=store.tokens)
        return predict(model, texts, compute, forward=forward)

    return label


def start_from_teacher(run: DistilledRun, store: Store, task: Task, folder: Path) -> EncoderRef:
    """The student's layers of its finished teacher, head included, saved as a model in `folder`.

    DistilBERT and PKD begin like this (Sanh et al. 2019; Sun et al. 2019). With several teachers
    it is the first. What is there from an interrupted run is used again. Raises ModelError when
    the teacher is not done.
    """
    if not folder.is_dir():
        teacher = finished_teacher(run.teacher_run_id, store)
        model, tokenizer = load_merged(model_of(teacher), store.folder(teacher.run_id), task)
        whole = Checkpoint(model, frozenset())
        kept = keep_layers(whole, run.encoder.layers, where=run.encoder.title, seed=0)
        save_trained(kept.model, tokenizer, folder)
    return EncoderRef(
        name=run.encoder.title,
        source="folder",
        path=str(folder.resolve()),
        fingerprint=hash_model_folder(folder),
    )
