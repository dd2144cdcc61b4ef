"""The finished teacher of a student: its logits, checked against its record."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from kdlora.data.batches import encode
from kdlora.data.examples import Examples, TaskData
from kdlora.distillation.soft_labels import FILE, SoftLabels, soft_labels
from kdlora.errors import ModelError
from kdlora.measure.quality import score_split
from kdlora.spec.run import Run
from kdlora.spec.tasks import Task
from kdlora.store.store import Store
from kdlora.training.inference import load_finished, predict
from kdlora.training.precision import choose_compute

# A score recomputed from cached logits may differ from the recorded one by rounding on another
# processor, never by more than this.
SCORE_TOLERANCE = 0.005


def teacher_labels(run: Run, store: Store, data: TaskData) -> tuple[SoftLabels, float]:
    """The logits of a student's teacher on every split, and the seconds that they cost now.

    Raises ModelError when the teacher is not done, or when its score recomputed from the cache
    is not the recorded one: then rows and logits do not belong together, and nothing is trained.
    """
    assert run.teacher_run_id is not None
    teacher = store.read(run.teacher_run_id)
    if teacher is None or teacher.quality is None:
        raise ModelError(f"the teacher run {run.teacher_run_id} is not done; run it first")
    folder = store.folder(run.teacher_run_id)
    start = time.perf_counter()
    soft, cached = soft_labels(
        folder,
        teacher_run_id=teacher.run_id,
        data=data,
        label=_labeller(teacher.run, folder, data.task),
    )
    for split in ("selection", "report"):
        part = data.split(split)
        found = score_split(data.task, soft.take(part.ids), part.labels)[data.task.primary]
        recorded = teacher.quality.splits[split][data.task.primary]
        if not _same(found, recorded):
            raise ModelError(
                f"teacher {teacher.run_id}: its cached logits score {found} on the {split} split, "
                f"its record says {recorded}. The cache and the data do not belong together; "
                f"delete {folder / FILE} and run again"
            )
    return soft, 0.0 if cached else time.perf_counter() - start


def _same(found: float | None, recorded: float | None) -> bool:
    if found is None or recorded is None:
        return found is recorded
    return abs(found - recorded) <= SCORE_TOLERANCE


def _labeller(teacher: Run, folder: Path, task: Task) -> Callable[[Examples], np.ndarray]:
    """A function from examples to the teacher's logits, by the path that scored the teacher.

    The model is loaded at the first call, so that a cache costs nothing.
    """
    assert teacher.training is not None
    max_length = teacher.training.max_length
    compute = choose_compute(teacher.training.precision, max_length=max_length)
    loaded: list = []

    def label(part: Examples) -> np.ndarray:
        if not loaded:
            loaded.extend(load_finished(teacher, folder, task, compute))
        model, tokenizer = loaded
        return predict(model, encode(tokenizer, part.texts, max_length=max_length), compute)

    return label
