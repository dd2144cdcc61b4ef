"""A teacher's inner states for any training rows, computed or kept."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from transformers import PreTrainedConfig

from kdlora.data.batches import Encoded, collate, eval_batches, on_device, pad
from kdlora.errors import ModelError
from kdlora.files import leftovers, whole_file
from kdlora.models.inner_states import StateForward
from kdlora.records.contents import read_sealed, sealed
from kdlora.spec.fingerprint import sha256_of


@dataclass(frozen=True)
class StateShape:
    """What matching needs to know of an encoder before it is loaded."""

    layers: int
    width: int
    heads: int
    family: str


def shape_of(config: PreTrainedConfig) -> StateShape:
    """The shape that a config describes. Raises ModelError if it does not tell."""
    try:
        return StateShape(
            config.num_hidden_layers,
            config.hidden_size,
            config.num_attention_heads,
            config.model_type,
        )
    except AttributeError as error:
        raise ModelError(f"a {config.model_type} config does not tell its shape: {error}") from None


STATES, ABOUT = "teacher_states.npy", "teacher_states.json"
_LARGEST = float(np.finfo(np.float16).max)


class TeacherStates(Protocol):
    """States of the training rows at some positions, row by row: name -> [tokens, width].

    A row is a text, or a window of one.
    """

    def __call__(self, index: np.ndarray) -> dict[str, torch.Tensor]: ...


@dataclass(frozen=True, eq=False)
class Online:
    """The teacher itself, in evaluation mode and without gradients."""

    forward: StateForward
    texts: Encoded
    device: torch.device

    @torch.no_grad()
    def __call__(self, index: np.ndarray) -> dict[str, torch.Tensor]:
        inputs = collate(self.texts, index, self.device)
        _, states = self.forward(inputs)
        tokens = np.flatnonzero(pad(self.texts, index)["attention_mask"])
        places = on_device(torch.from_numpy(tokens), self.device)
        return {name: state.flatten(0, 1)[places] for name, state in states.items()}


@dataclass(frozen=True, eq=False)
class Cached:
    """Half-precision states in a memory-mapped file: [all tokens, all features]."""

    values: np.ndarray
    offsets: np.ndarray  # [n + 1]: whose tokens stand where
    features: dict[str, slice]
    device: torch.device
    seconds: float  # what the teacher took to make them, in whichever process did

    def __call__(self, index: np.ndarray) -> dict[str, torch.Tensor]:
        parts = [self.values[self.offsets[i] : self.offsets[i + 1]] for i in index]
        whole = on_device(torch.from_numpy(np.concatenate(parts)), self.device)
        return {name: whole[:, place] for name, place in self.features.items()}


def cache_states(
    teacher: Callable[[], Online],
    folder: Path,
    *,
    texts: Encoded,
    ids: np.ndarray,
    features: dict[str, slice],
    about: str,
    budget_mb: int,
    device: torch.device,
) -> Cached | None:
    """The states of all rows in a file below `folder`; None beyond the budget or the disk's space.

    A whole file of an interrupted run with the same `about` (which teacher, which states) and the
    same ids [n] is used again; `teacher` is then never called. Drop it with `drop_cache`.
    """
    columns = max((place.stop for place in features.values()), default=0)
    shape = (int(texts.offsets[-1]), columns)
    if 2 * shape[0] * shape[1] > budget_mb * 1e6:
        return None
    identity = {"about": about, "ids": "".join(ids.tolist()), "shape": list(shape)}
    found = _read(folder, identity)
    if found is None:
        start = time.perf_counter()
        try:
            _write(teacher(), folder, texts=texts, features=features, shape=shape)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return None
        about_it = {**identity, "seconds": time.perf_counter() - start}
        about_it["sha256"] = sha256_of(folder / STATES)
        (folder / ABOUT).write_text(json.dumps(sealed(about_it)), encoding="utf-8")
        found = _read(folder, identity)
        assert found is not None
    values, seconds = found
    return Cached(values, texts.offsets, features, device, seconds)


def drop_cache(folder: Path) -> None:
    """Remove what `cache_states` left, whole or torn."""
    for path in (folder / ABOUT, folder / STATES, *leftovers(folder / STATES)):
        path.unlink(missing_ok=True)


def _read(folder: Path, identity: dict) -> tuple[np.ndarray, float] | None:
    """The states on disk and the seconds they took; None if there are none of that identity.

    Damaged ones are none: they are made again, and dropped when the training is over.
    """
    try:
        about = read_sealed(folder / ABOUT)
        seconds, content = float(about.pop("seconds", 0.0)), about.pop("sha256", None)
        if about != identity or content not in (None, sha256_of(folder / STATES)):
            return None
        values = np.load(folder / STATES, mmap_mode="r")
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return (values, seconds) if list(values.shape) == identity["shape"] else None


def _write(
    teacher: Online,
    folder: Path,
    *,
    texts: Encoded,
    features: dict[str, slice],
    shape: tuple[int, int],
) -> None:
    drop_cache(folder)
    with whole_file(folder / STATES) as temporary:
        _require_space(temporary.parent, 2 * shape[0] * shape[1])
        values = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=shape)
        _reserve(temporary)
        for index in eval_batches(texts.row_lengths):
            states = teacher(index)
            start = np.concatenate([[0], np.cumsum(texts.row_lengths[index])])
            for name, place in features.items():
                block = states[name].float().clamp(-_LARGEST, _LARGEST).half().cpu().numpy()
                for at, row in enumerate(index):
                    target = slice(texts.offsets[row], texts.offsets[row + 1])
                    values[target, place] = block[start[at] : start[at + 1]]
        values.flush()
        del values


def _require_space(folder: Path, size: int) -> None:
    """Raises OSError where so many bytes and the header have no room."""
    if shutil.disk_usage(folder).free < size + 4096:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def _reserve(path: Path) -> None:
    """Claim the disk's space for a file with holes, where the system can. Raises OSError.

    A mapped page that finds no space ends the process by a signal, without a word.
    """
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as handle:
            os.posix_fallocate(handle.fileno(), 0, path.stat().st_size)


def require_same_tokens(student: Encoded, teacher: Encoded, *, names: tuple[str, str]) -> None:
    """Raises ModelError unless both tokenizers made the same ids of every text."""
    same_lengths = np.array_equal(student.offsets, teacher.offsets)
    if same_lengths and np.array_equal(student.ids, teacher.ids):
        return

    def tokens(encoded: Encoded, i: int) -> np.ndarray:
        return encoded.ids[encoded.offsets[i] : encoded.offsets[i + 1]]

    rows = len(student.row_lengths)
    differing = rows - sum(
        np.array_equal(tokens(student, i), tokens(teacher, i))
        for i in range(min(rows, len(teacher.row_lengths)))
    )
    raise ModelError(
        f"hidden and relations compare token by token, but the tokenizers of student {names[0]} "
        f"and teacher {names[1]} differ on {differing:,} of {rows:,} texts: use kl, "
        "logit-mse, dkd or dist, or a pair that shares its tokenizer"
    )
