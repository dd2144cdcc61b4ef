"""A teacher's logits, computed once per teacher run and looked up by example id.

Ids are content hashes, so neither the order of rows, nor the student's tokenizer, nor a subset of
the data can misalign a student's example and its teacher's signal. Raw logits are stored, never
tempered ones.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from kdlora.data.examples import Examples, TaskData
from kdlora.errors import ModelError

FILE = "soft_labels.safetensors"


@dataclass(frozen=True)
class SoftLabels:
    """Logits [n, c] of n examples, in the task's canonical order of classes."""

    ids: np.ndarray  # [n] '<U16'
    logits: np.ndarray  # [n, c] float32
    teacher_run_id: str
    label_names: tuple[str, ...]
    data_fingerprint: str

    def take(self, ids: np.ndarray) -> np.ndarray:
        """Logits [m, c] for the given ids. Raises ModelError if the teacher never saw one."""
        order = np.argsort(self.ids)
        at = np.searchsorted(self.ids, ids, sorter=order)
        rows = order[np.minimum(at, len(order) - 1)]
        unknown = self.ids[rows] != ids
        if unknown.any():
            raise ModelError(
                f"{int(unknown.sum())} of {len(ids)} examples have no soft label of teacher "
                f"{self.teacher_run_id} (first id: {ids[unknown][0]})"
            )
        return self.logits[rows]

    def permuted(self, label_names: tuple[str, ...]) -> SoftLabels:
        """The same logits with the classes in another order, matched by name."""
        if self.label_names == label_names:
            return self
        if sorted(self.label_names) != sorted(label_names):
            raise ModelError(
                f"teacher {self.teacher_run_id} knows the classes {list(self.label_names)}, "
                f"the task has {list(label_names)}"
            )
        columns = [self.label_names.index(name) for name in label_names]
        return SoftLabels(
            self.ids,
            self.logits[:, columns],
            self.teacher_run_id,
            label_names,
            self.data_fingerprint,
        )


def save(labels: SoftLabels, folder: Path) -> Path:
    """Write the cache atomically as safetensors; ids are stored as 64-bit integers."""
    tensors: dict[str, np.ndarray] = {
        "example_id": np.array([int(i, 16) for i in labels.ids], dtype=np.uint64),
        "logits": np.ascontiguousarray(labels.logits, dtype=np.float32),
    }
    metadata = {
        "teacher_run_id": labels.teacher_run_id,
        "label_names": json.dumps(labels.label_names),
        "data_fingerprint": labels.data_fingerprint,
    }
    temporary = folder / f".{FILE}.{os.getpid()}.tmp"
    save_file(tensors, temporary, metadata=metadata)
    os.replace(temporary, folder / FILE)
    return folder / FILE


def load(folder: Path) -> SoftLabels | None:
    """Read a teacher's cache; None when there is none or it was torn by a crash."""
    try:
        with safe_open(folder / FILE, framework="np") as handle:
            metadata = handle.metadata()
            ids, logits = handle.get_tensor("example_id"), handle.get_tensor("logits")
        return SoftLabels(
            np.array([f"{int(i):016x}" for i in ids], dtype="<U16"),
            logits,
            metadata["teacher_run_id"],
            tuple(json.loads(metadata["label_names"])),
            metadata["data_fingerprint"],
        )
    except (FileNotFoundError, SafetensorError, KeyError, ValueError):
        return None


def soft_labels(
    folder: Path,
    *,
    teacher_run_id: str,
    data: TaskData,
    label: Callable[[Examples], np.ndarray],
) -> tuple[SoftLabels, bool]:
    """The teacher's logits on every split, from its cache or computed now by `label`.

    Returns the labels and whether they came from the cache. A cache of another teacher run or of
    other rows is not used.
    """
    cached = load(folder)
    if (
        cached is not None
        and cached.teacher_run_id == teacher_run_id
        and cached.data_fingerprint == data.fingerprint
    ):
        return cached.permuted(data.task.label_names), True
    parts = data.splits().values()
    ids = np.concatenate([part.ids for part in parts])
    logits = np.concatenate([label(part) for part in parts])
    ids, first = np.unique(ids, return_index=True)
    made = SoftLabels(ids, logits[first], teacher_run_id, data.task.label_names, data.fingerprint)
    save(made, folder)
    return made, False
