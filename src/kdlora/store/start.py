"""A student that starts from what its teacher learned, not from the encoder as it came."""

from __future__ import annotations

from pathlib import Path

from kdlora.models.checkpoints import Checkpoint
from kdlora.models.layers import keep_layers
from kdlora.models.saved import save_trained
from kdlora.spec.fingerprint import hash_model_folder
from kdlora.spec.run import EncoderRef, Run
from kdlora.spec.tasks import Task
from kdlora.store.store import Store
from kdlora.store.teacher import finished_teacher
from kdlora.training.inference import load_merged


def start_from_teacher(run: Run, store: Store, task: Task, folder: Path) -> EncoderRef:
    """The student's layers of its finished teacher, head included, saved as a model in `folder`.

    DistilBERT and PKD begin like this (Sanh et al. 2019; Sun et al. 2019). With several teachers
    it is the first. What is there from an interrupted run is used again. Raises ModelError when
    the teacher is not done.
    """
    assert run.encoder is not None
    assert run.teacher_run_id is not None
    if not folder.is_dir():
        teacher = finished_teacher(run.teacher_run_id, store)
        model, tokenizer = load_merged(teacher.run, store.folder(teacher.run_id), task)
        whole = Checkpoint(model, frozenset())
        kept = keep_layers(whole, run.encoder.layers, where=run.encoder.title, seed=0)
        save_trained(kept.model, tokenizer, folder)
    return EncoderRef(
        name=run.encoder.title,
        source="folder",
        path=str(folder.resolve()),
        fingerprint=hash_model_folder(folder),
    )
