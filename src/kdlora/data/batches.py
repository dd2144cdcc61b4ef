"""Tokenised texts and batches of similar length, so that little is spent on padding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

_POOL = 50  # batches that are sorted by length together: long enough to save, short enough to mix


@dataclass(frozen=True)
class Encoded:
    """Ragged token ids of n texts: row i is `ids[offsets[i]:offsets[i + 1]]`.

    `types` are the token type ids (which sentence of a pair), None where the encoder has none.
    """

    ids: np.ndarray  # [total tokens] int32
    offsets: np.ndarray  # [n + 1] int64
    types: np.ndarray | None
    pad_id: int
    pad_left: bool = False

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each text, special tokens included, [n]."""
        return np.diff(self.offsets)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest text; 0 without texts."""
        return int(self.lengths.max(initial=0))


def encode(
    tokenizer: PreTrainedTokenizerBase, texts: tuple[list[str], ...], *, max_length: int
) -> Encoded:
    """Tokenise one or two text columns; longer inputs are cut (the longer sentence first)."""
    wants_types = "token_type_ids" in tokenizer.model_input_names
    pieces: list[np.ndarray] = []
    types: list[np.ndarray] = []
    lengths = [0]
    for start in range(0, len(texts[0]), 4096):
        block = [column[start : start + 4096] for column in texts]
        out = tokenizer(
            *block,
            truncation=True,
            max_length=max_length,
            return_attention_mask=False,
            return_token_type_ids=wants_types,
        )
        pieces += [np.asarray(row, dtype=np.int32) for row in out["input_ids"]]
        if wants_types:
            types += [np.asarray(row, dtype=np.int32) for row in out["token_type_ids"]]
    lengths += [len(piece) for piece in pieces]
    empty = np.zeros(0, dtype=np.int32)
    return Encoded(
        ids=np.concatenate(pieces) if pieces else empty,
        offsets=np.cumsum(lengths, dtype=np.int64),
        types=(np.concatenate(types) if types else empty) if wants_types else None,
        pad_id=int(tokenizer.pad_token_id or 0),
        pad_left=tokenizer.padding_side == "left",
    )


def train_batches(
    lengths: np.ndarray, batch_size: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """One epoch in random order, each batch of texts of about one length.

    Texts are shuffled, pools of 50 batches are sorted by length (with random ties), cut into
    batches, and the batches shuffled: every text once, the last batch may be smaller.
    """
    order = rng.permutation(len(lengths))
    batches: list[np.ndarray] = []
    for start in range(0, len(order), _POOL * batch_size):
        pool = order[start : start + _POOL * batch_size]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def eval_batches(
    lengths: np.ndarray, *, tokens: int = 8192, largest: int = 256
) -> Iterator[np.ndarray]:
    """All texts once, longest first, about `tokens` padded tokens a batch."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = int(np.clip(tokens // max(int(lengths[order[start]]), 1), 1, largest))
        yield order[start : start + size]
        start += size


def padded_length(longest: int) -> int:
    """Round a length up to a multiple of about an eighth of itself: 17 to 18, 60 to 60, 93 to 96.

    Kernel libraries prepare code and memory for every shape they meet; a hundred lengths cost a
    small student two gigabytes. Up to 128 this leaves forty, for one to four percent more padding.
    """
    step = 1 << max(longest.bit_length() - 4, 0)
    return -(-longest // step) * step


def pad(encoded: Encoded, index: np.ndarray) -> dict[str, np.ndarray]:
    """Pad the chosen texts to about their longest: int64 [batch, l], by the encoder's inputs.

    Lengths above 16 are rounded up (see `padded_length`), but never beyond the longest text of
    all, which the encoder is known to take.
    """
    starts, lengths = encoded.offsets[index], encoded.lengths[index]
    longest = min(padded_length(int(lengths.max())), encoded.longest)
    column = np.arange(longest)[None, :]
    shift = (longest - lengths)[:, None] if encoded.pad_left else 0
    inside = (column >= shift) & (column < shift + lengths[:, None])
    source = np.where(inside, starts[:, None] + column - shift, 0)
    batch = {
        "input_ids": np.where(inside, encoded.ids[source], encoded.pad_id),
        "attention_mask": inside,
    }
    if encoded.types is not None:
        batch["token_type_ids"] = np.where(inside, encoded.types[source], 0)
    return {name: values.astype(np.int64) for name, values in batch.items()}


def collate(
    encoded: Encoded, index: np.ndarray, device: str | torch.device = "cpu"
) -> dict[str, Any]:
    """`pad` as tensors for the encoder, on `device`."""
    import torch

    tensors = {k: torch.from_numpy(v) for k, v in pad(encoded, index).items()}
    if torch.device(device).type == "cpu":
        return tensors
    return {k: v.pin_memory().to(device, non_blocking=True) for k, v in tensors.items()}
