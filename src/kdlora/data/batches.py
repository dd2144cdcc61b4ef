"""Tokenised texts, kept on disk for all runs of a study, and batches of similar length.

Every arm and seed of a task reads the same texts with one of two tokenizers; tokenising them anew
in each run costs minutes on a large task. The files are only a cache: any of them may be deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase
import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

from kdlora.data.examples import Examples
from kdlora.files import whole_file

if TYPE_CHECKING:
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


def whole_lengths(
    encoded: Encoded,
    max_length: int,
    texts: Sequence[list[str]],
    count: Callable[[list[list[str]]], Sequence[int] | np.ndarray],
) -> np.ndarray:
    """Tokens [n] of every input before it was cut at `max_length`.

    Only inputs that are as long as that can have been cut: they alone are counted again, by
    `count`, which is given their texts column by column.
    """
    lengths = encoded.lengths.copy()
    cut = np.flatnonzero(lengths >= max_length)
    if len(cut):
        lengths[cut] = count([[column[i] for i in cut] for column in texts])
    return lengths


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


WORTH_KEEPING = 1000  # rows; fewer are tokenised faster than a file is found


def encode_once(
    tokenizer: PreTrainedTokenizerBase, rows: Examples, *, max_length: int, folder: Path
) -> Encoded:
    """`encode` from the cache in `folder`, or computed and put there.

    The name of a file is a hash of the example ids (which are hashes of the texts), of the
    tokenizer and of `max_length`, so it can never belong to other texts. Two runs that make the
    same file at once write the same bytes.
    """
    if len(rows) < WORTH_KEEPING:
        return encode(tokenizer, rows.texts, max_length=max_length)
    path = folder / f"{_key(tokenizer, rows, max_length)}.npz"
    found = _read(path, len(rows))
    if found is not None:
        return found
    encoded = encode(tokenizer, rows.texts, max_length=max_length)
    _write(path, encoded)
    return encoded


def _key(tokenizer: PreTrainedTokenizerBase, rows: Examples, max_length: int) -> str:
    digest = hashlib.blake2b(digest_size=16)
    facts = (max_length, tokenizer.pad_token_id, tokenizer.padding_side, tokenizer.truncation_side)
    for part in (_rules(tokenizer), repr(facts), repr(sorted(tokenizer.model_input_names))):
        digest.update(part.encode())
    digest.update(np.ascontiguousarray(rows.ids).tobytes())
    return digest.hexdigest()


def _rules(tokenizer: PreTrainedTokenizerBase) -> str:
    """All that decides a text's ids, without what the last call left in the tokenizer."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return repr(sorted(tokenizer.get_vocab().items()))
    rules = json.loads(backend.to_str())
    return json.dumps({k: v for k, v in rules.items() if k not in ("truncation", "padding")})


def _read(path: Path, rows: int) -> Encoded | None:
    """The file's content; None where there is none or a crash left it torn."""
    try:
        with np.load(path, allow_pickle=False) as values:
            encoded = Encoded(
                ids=values["ids"],
                offsets=values["offsets"],
                types=values.get("types"),
                pad_id=int(values["pad_id"]),
                pad_left=bool(values["pad_left"]),
            )
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
    whole = len(encoded) == rows and int(encoded.offsets[-1]) == len(encoded.ids)
    return encoded if whole else None


def _write(path: Path, encoded: Encoded) -> None:
    """Atomically; a full disk costs the cache, not the run."""
    values = {
        "ids": encoded.ids,
        "offsets": encoded.offsets,
        "pad_id": np.array(encoded.pad_id),
        "pad_left": np.array(encoded.pad_left),
    }
    if encoded.types is not None:
        values["types"] = encoded.types.astype(np.int8)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary, temporary.open("wb") as handle:
            np.savez(handle, **values)  # type: ignore[arg-type]
