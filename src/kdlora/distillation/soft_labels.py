"""A teacher's logits, computed once per teacher run and looked up by example id.

Ids are content hashes, so neither the order of rows, nor the student's tokenizer, nor a subset of
the data can misalign a student's example and its teacher's signal. Raw logits are stored, never
tempered ones.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from kdlora.data.examples import Examples, TaskData
from kdlora.data.unlabelled import Unlabelled
from kdlora.errors import ModelError
from kdlora.files import set_aside, whole_file
from kdlora.vocabulary.task import Task

FILE = "soft_labels.safetensors"
_NONE = np.zeros(0)


@dataclass(frozen=True)
class SoftLabels:
    """Logits [n, c] of n examples, in the task's canonical order of classes.

    `teacher_checksum` is that of the teacher's record, which is another when the same run was done
    again; empty where it is not known. `seconds` is what the run `made_by` paid for the labelling.
    """

    ids: np.ndarray  # [n] '<U16'
    logits: np.ndarray  # [n, c] float32
    teacher_run_id: str
    label_names: tuple[str, ...]
    data_fingerprint: str
    teacher_checksum: str = ""
    made_by: str = ""  # empty where it is not known
    seconds: float = 0.0

    def paid_by(self, run_id: str) -> float:
        """The seconds that a run paid, in this process or before it was interrupted."""
        return self.seconds if run_id == self.made_by else 0.0

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

    def knows(self, ids: np.ndarray) -> np.ndarray:
        """Which of the ids have logits, boolean [m]."""
        return np.isin(ids, self.ids)

    def joined(self, other: SoftLabels) -> SoftLabels:
        """These logits and those of further examples; the classes must be in the same order."""
        return replace(
            self,
            ids=np.concatenate([self.ids, other.ids]),
            logits=np.concatenate([self.logits, other.logits]),
        )

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
        return replace(self, logits=self.logits[:, columns], label_names=label_names)


def mean_of(teachers: Sequence[SoftLabels]) -> SoftLabels:
    """The mean logits of an ensemble, of the examples that all of its teachers know."""
    first, *others = teachers
    if not others:
        return first
    known = np.logical_and.reduce([teacher.knows(first.ids) for teacher in teachers])
    ids = first.ids[known]
    logits = np.stack([teacher.take(ids) for teacher in teachers]).mean(axis=0)
    names = " and ".join(teacher.teacher_run_id for teacher in teachers)
    return replace(first, ids=ids, logits=logits, teacher_run_id=names)


def save(labels: SoftLabels, folder: Path, name: str = FILE) -> Path:
    """Write the cache atomically as safetensors; ids are stored as 64-bit integers."""
    tensors: dict[str, np.ndarray] = {
        "example_id": np.array([int(i, 16) for i in labels.ids], dtype=np.uint64),
        "logits": np.ascontiguousarray(labels.logits, dtype=np.float32),
    }
    metadata = {
        "teacher_run_id": labels.teacher_run_id,
        "label_names": json.dumps(labels.label_names),
        "data_fingerprint": labels.data_fingerprint,
        "teacher_checksum": labels.teacher_checksum,
        "made_by": labels.made_by,
        "seconds": repr(labels.seconds),
    }
    metadata["content"] = _content_hash(tensors, metadata)
    with whole_file(folder / name) as temporary:
        save_file(tensors, temporary, metadata=metadata)
    return folder / name


def _content_hash(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> str:
    """SHA-256 of ids, logits and all that is said of them."""
    digest = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tensors[name].shape}".encode())
        digest.update(np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()


class DamagedCache(ValueError):
    """A file of logits that is no longer what was written."""


def load(folder: Path, name: str = FILE) -> SoftLabels | None:
    """Read a teacher's cache; None when there is none. Raises DamagedCache."""
    try:
        with safe_open(folder / name, framework="np") as handle:
            metadata = handle.metadata()
            tensors = {part: handle.get_tensor(part) for part in ("example_id", "logits")}
        content = metadata.pop("content", None)  # caches of earlier versions have none
        if content is not None and content != _content_hash(tensors, metadata):
            raise DamagedCache(f"{folder / name} is not what was written")
        return SoftLabels(
            np.array([f"{int(i):016x}" for i in tensors["example_id"]], dtype="<U16"),
            tensors["logits"],
            metadata["teacher_run_id"],
            tuple(json.loads(metadata["label_names"])),
            metadata["data_fingerprint"],
            metadata.get("teacher_checksum", ""),
            metadata.get("made_by", ""),
            float(metadata.get("seconds", 0.0)),
        )
    except FileNotFoundError:
        return None
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise DamagedCache(f"{folder / name}: {error}") from None


def soft_labels(
    folder: Path,
    *,
    teacher_run_id: str,
    data: TaskData,
    label: Callable[[Examples], np.ndarray],
    teacher_checksum: str = "",
    made_by: str = "",
    alone: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> tuple[SoftLabels, bool]:
    """The teacher's logits on every split, from its cache or computed now by `label`.

    Returns the labels and whether they came from the cache. A cache of another teacher run, of
    another training of the same run (see `SoftLabels`) or of other rows is not used. `alone` is
    entered to label: where it waits for another process that does so, that one's cache is used.
    """
    return _labelled(
        folder,
        FILE,
        data.splits().values(),
        like=SoftLabels(
            _NONE,
            _NONE,
            teacher_run_id,
            data.task.label_names,
            data.fingerprint,
            teacher_checksum,
            made_by,
        ),
        label=label,
        alone=alone,
    )


def soft_labels_of_texts(
    folder: Path,
    *,
    teacher_run_id: str,
    task: Task,
    extra: Unlabelled,
    label: Callable[[Examples], np.ndarray],
    teacher_checksum: str = "",
    made_by: str = "",
    alone: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> tuple[SoftLabels, bool]:
    """The same for unlabelled rows, in a cache of their own for each set of rows."""
    return _labelled(
        folder,
        f"soft_labels-{extra.fingerprint}.safetensors",
        [extra.rows],
        like=SoftLabels(
            _NONE,
            _NONE,
            teacher_run_id,
            task.label_names,
            extra.fingerprint,
            teacher_checksum,
            made_by,
        ),
        label=label,
        alone=alone,
    )


def _labelled(
    folder: Path,
    name: str,
    parts: Iterable[Examples],
    *,
    like: SoftLabels,
    label: Callable[[Examples], np.ndarray],
    alone: Callable[[], AbstractContextManager[object]],
) -> tuple[SoftLabels, bool]:
    with suppress(DamagedCache):
        if (cached := _known(folder, name, like)) is not None:
            return cached, True
    with alone():
        try:
            if (cached := _known(folder, name, like)) is not None:  # another process has made it
                return cached, True
        except DamagedCache:
            set_aside(folder / name)
        start, parts = time.perf_counter(), list(parts)
        ids = np.concatenate([part.ids for part in parts])
        logits = np.concatenate([label(part) for part in parts])
        ids, first = np.unique(ids, return_index=True)
        seconds = time.perf_counter() - start
        made = replace(like, ids=ids, logits=logits[first], seconds=seconds)
        save(made, folder, name)
        return made, False


def _known(folder: Path, name: str, like: SoftLabels) -> SoftLabels | None:
    """The cache, if it is of this teacher and these rows. Raises DamagedCache."""
    cached = load(folder, name)
    if (
        cached is None
        or cached.teacher_run_id != like.teacher_run_id
        or cached.data_fingerprint != like.data_fingerprint
        or cached.teacher_checksum not in ("", like.teacher_checksum)  # "": from before it was kept
    ):
        return None
    return cached.permuted(like.label_names)
