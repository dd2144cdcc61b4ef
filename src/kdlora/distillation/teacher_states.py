"""A teacher's inner states for any training rows: from a file on disk, or computed when needed."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

from kdlora.data.batches import Encoded, collate, eval_batches
from kdlora.distillation.states import Wanted, run_with_states
from kdlora.errors import ModelError
from kdlora.files import leftovers, whole_file

STATES, ABOUT = "teacher_states.npy", "teacher_states.json"
_LARGEST = float(np.finfo(np.float16).max)


class TeacherStates(Protocol):
    """States of the training rows at some positions, text by text: name -> [tokens, width]."""

    def __call__(self, index: np.ndarray) -> dict[str, torch.Tensor]: ...


@dataclass(frozen=True, eq=False)
class Online:
    """The teacher itself, in evaluation mode and without gradients."""

    model: nn.Module
    texts: Encoded
    wanted: Wanted
    device: torch.device
    autocast: Callable[[], AbstractContextManager]

    @torch.no_grad()
    def __call__(self, index: np.ndarray) -> dict[str, torch.Tensor]:
        inputs = collate(self.texts, index, self.device)
        with self.autocast():
            _, states = run_with_states(self.model, inputs, self.wanted)
        mask = inputs["attention_mask"].bool()
        return {name: state[mask] for name, state in states.items()}


@dataclass(frozen=True, eq=False)
class Cached:
    """Half-precision states in a memory-mapped file: [all tokens, all features]."""

    values: np.ndarray
    offsets: np.ndarray  # [n + 1]: whose tokens stand where
    features: dict[str, slice]
    device: torch.device

    def __call__(self, index: np.ndarray) -> dict[str, torch.Tensor]:
        parts = [self.values[self.offsets[i] : self.offsets[i + 1]] for i in index]
        whole = torch.from_numpy(np.concatenate(parts)).to(self.device)
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
    """The states of all rows in a file below `folder`, or None if they would not fit the budget.

    A whole file of an interrupted run with the same `about` (which teacher, which states) and the
    same ids [n] is used again; `teacher` is then never called. Drop it with `drop_cache`.
    """
    columns = max((place.stop for place in features.values()), default=0)
    shape = (int(texts.offsets[-1]), columns)
    if 2 * shape[0] * shape[1] > budget_mb * 1e6:
        return None
    identity = {"about": about, "ids": "".join(ids.tolist()), "shape": list(shape)}
    values = _read(folder, identity)
    if values is None:
        _write(teacher(), folder, texts=texts, features=features, shape=shape)
        (folder / ABOUT).write_text(json.dumps(identity), encoding="utf-8")
        values = _read(folder, identity)
        assert values is not None
    return Cached(values, texts.offsets, features, device)


def drop_cache(folder: Path) -> None:
    """Remove what `cache_states` left, whole or torn."""
    for path in (folder / ABOUT, folder / STATES, *leftovers(folder / STATES)):
        path.unlink(missing_ok=True)


def _read(folder: Path, identity: dict) -> np.ndarray | None:
    try:
        if json.loads((folder / ABOUT).read_text(encoding="utf-8")) != identity:
            return None
        values = np.load(folder / STATES, mmap_mode="r")
    except (OSError, ValueError):
        return None
    return values if list(values.shape) == identity["shape"] else None


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
        values = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=shape)
        for index in eval_batches(texts.lengths):
            states = teacher(index)
            start = np.concatenate([[0], np.cumsum(texts.lengths[index])])
            for name, place in features.items():
                block = states[name].float().clamp(-_LARGEST, _LARGEST).half().cpu().numpy()
                for at, row in enumerate(index):
                    target = slice(texts.offsets[row], texts.offsets[row + 1])
                    values[target, place] = block[start[at] : start[at + 1]]
        values.flush()
        del values


def require_same_tokens(student: Encoded, teacher: Encoded, *, names: tuple[str, str]) -> None:
    """Raises ModelError unless both tokenizers made the same ids of every text."""
    same_lengths = np.array_equal(student.offsets, teacher.offsets)
    if same_lengths and np.array_equal(student.ids, teacher.ids):
        return

    def tokens(encoded: Encoded, i: int) -> np.ndarray:
        return encoded.ids[encoded.offsets[i] : encoded.offsets[i + 1]]

    differing = sum(
        not np.array_equal(tokens(student, i), tokens(teacher, i)) for i in range(len(student))
    )
    raise ModelError(
        f"hidden and relations compare token by token, but the tokenizers of student {names[0]} "
        f"and teacher {names[1]} differ on {differing:,} of {len(student):,} texts: use kl, "
        "logit-mse, dkd or dist, or a pair that shares its tokenizer"
    )
