"""Tokenised texts, kept on disk for all runs of a study, and batches of similar length.

Every arm and seed of a task reads the same texts with one of two tokenizers; tokenising them anew
in each run costs minutes on a large task. The files are only a cache: any of them may be deleted.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from kdlora.data.examples import Examples
from kdlora.data.windows import TextWindows, read_windows
from kdlora.errors import ModelError
from kdlora.files import whole_file
from kdlora.spec.sections import Windows

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


_POOL = 50  # batches that are sorted by length together: long enough to save, short enough to mix


@dataclass(frozen=True)
class Encoded:
    """Ragged token ids of n texts: row i is `ids[offsets[i]:offsets[i + 1]]`.

    A row is a text, or one of a text's windows where `windows` says whose. `types` are the token
    type ids (which sentence of a pair), None where the encoder has none.
    """

    ids: np.ndarray  # [total tokens] int32
    offsets: np.ndarray  # [rows + 1] int64
    types: np.ndarray | None
    pad_id: int
    pad_left: bool = False
    windows: TextWindows | None = None

    def __len__(self) -> int:
        """How many texts there are."""
        return len(self.offsets if self.windows is None else self.windows.offsets) - 1

    @cached_property
    def row_lengths(self) -> np.ndarray:
        """Tokens of each row, special tokens included, [rows]."""
        return np.diff(self.offsets)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each text, in all its windows, special tokens included, [n]."""
        if self.windows is None:
            return self.row_lengths
        return np.diff(self.offsets[self.windows.offsets])

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest row; 0 without texts."""
        return int(self.row_lengths.max(initial=0))

    def rows(self, index: np.ndarray) -> np.ndarray:
        """The rows of the texts at `index`, text by text."""
        return index if self.windows is None else self.windows.rows(index)

    def pooled(self, values: np.ndarray) -> np.ndarray:
        """From outputs of all rows [rows, c] to those of the texts [n, c]."""
        return values if self.windows is None else self.windows.pool(values)


def encode(
    tokenizer: PreTrainedTokenizerBase,
    texts: tuple[list[str], ...],
    *,
    max_length: int,
    windows: Windows | None = None,
) -> Encoded:
    """Tokenise one or two text columns.

    Longer inputs are cut (the longer sentence first), or with `windows` read in several rows.
    Raises ModelError for windows of a tokenizer that cannot make them.
    """
    if windows is not None and not tokenizer.is_fast:
        raise ModelError(
            "windows need a fast tokenizer (tokenizer.json), which this model has not: leave "
            "training.windows out, or take another encoder"
        )
    overlap: dict[str, Any] = {}
    if windows:
        overlap = {"stride": windows.overlap(max_length), "return_overflowing_tokens": True}
    wants_types = "token_type_ids" in tokenizer.model_input_names
    ids: list[np.ndarray] = []
    types: list[np.ndarray] = []
    counts: list[int] = []  # windows of each text
    for start in range(0, len(texts[0]), 4096):
        block = [column[start : start + 4096] for column in texts]
        out = tokenizer(
            *block,
            truncation=True,
            max_length=max_length,
            return_attention_mask=False,
            return_token_type_ids=wants_types,
            **overlap,
        )
        ids += [np.asarray(row, dtype=np.int32) for row in out["input_ids"]]
        if wants_types:
            types += [np.asarray(row, dtype=np.int32) for row in out["token_type_ids"]]
        if windows:
            of_text = np.asarray(out["overflow_to_sample_mapping"], dtype=np.int64)
            counts += np.bincount(of_text, minlength=len(block[0])).tolist()
    return joined_rows(
        ids,
        types if wants_types else None,
        counts,
        windows=windows,
        pad_id=int(tokenizer.pad_token_id or 0),
        pad_left=tokenizer.padding_side == "left",
    )


def joined_rows(
    ids: Sequence[np.ndarray],
    types: Sequence[np.ndarray] | None,
    counts: Sequence[int] = (),
    *,
    windows: Windows | None,
    pad_id: int,
    pad_left: bool = False,
) -> Encoded:
    """The ids and types of rows, laid end to end.

    With `windows` text i has counts[i] rows, of which no more are kept than `max_windows`.
    """
    own = None
    if windows:
        read, own = read_windows(
            np.array(counts, dtype=np.int64), windows.max_windows, windows.pooling
        )
        ids = list(compress(ids, read))
        types = list(compress(types, read)) if types is not None else None
    empty = np.zeros(0, dtype=np.int32)
    return Encoded(
        ids=np.concatenate([empty, *ids]),
        offsets=np.cumsum([0, *map(len, ids)], dtype=np.int64),
        types=None if types is None else np.concatenate([empty, *types]),
        pad_id=pad_id,
        pad_left=pad_left,
        windows=own,
    )


class InputLengths(NamedTuple):
    """How long inputs are, [n] each: tokens of the whole, whether its end is read, its windows."""

    tokens: np.ndarray
    truncated: np.ndarray
    windows: np.ndarray | None


def input_lengths(
    encoded: Encoded,
    max_length: int,
    texts: Sequence[list[str]],
    count: Callable[[list[list[str]]], Sequence[int] | np.ndarray],
) -> InputLengths:
    """How long the inputs are that were encoded at `max_length`.

    Only inputs that are as long as that can have been cut: they alone are counted again, by
    `count`, which is given their texts column by column.
    """
    tokens = encoded.lengths.copy()
    long = np.flatnonzero(tokens >= max_length)
    if len(long):
        tokens[long] = count([[column[i] for i in long] for column in texts])
    if encoded.windows is None:
        return InputLengths(tokens, tokens > max_length, None)
    return InputLengths(tokens, encoded.windows.partly, encoded.windows.counts)


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


def micro_batches(encoded: Encoded, batch: np.ndarray, most: int) -> Iterator[np.ndarray]:
    """A batch of texts in parts of at most `most` rows, and of one text at least."""
    if encoded.windows is None:
        yield from (batch[start : start + most] for start in range(0, len(batch), most))
        return
    start = 0
    ends = np.cumsum(encoded.windows.counts[batch])
    while start < len(batch):
        before = int(ends[start - 1]) if start else 0
        stop = max(int(np.searchsorted(ends, before + most, side="right")), start + 1)
        yield batch[start:stop]
        start = stop


def eval_batches(
    lengths: np.ndarray, *, tokens: int = 8192, largest: int = 256
) -> Iterator[np.ndarray]:
    """All rows once, longest first, about `tokens` padded tokens a batch."""
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
    """Pad the chosen rows to about their longest: int64 [batch, l], by the encoder's inputs.

    Lengths above 16 are rounded up (see `padded_length`), but never beyond the longest row of
    all, which the encoder is known to take.
    """
    starts, lengths = encoded.offsets[index], encoded.row_lengths[index]
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

    where = torch.device(device)
    return {k: on_device(torch.from_numpy(v), where) for k, v in pad(encoded, index).items()}


def on_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the processor's memory on `device`, without waiting for what that is doing."""
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


WORTH_KEEPING = 1000  # rows; fewer are tokenised faster than a file is found


def encode_once(
    tokenizer: PreTrainedTokenizerBase,
    rows: Examples,
    *,
    max_length: int,
    folder: Path,
    windows: Windows | None = None,
) -> Encoded:
    """`encode` from the cache in `folder`, or computed and put there.

    The name of a file is a hash of the example ids (which are hashes of the texts), of the
    tokenizer and of how long texts are read, so it can never belong to other texts. Two runs that
    make the same file at once write the same bytes.
    """

    def made() -> Encoded:
        return encode(tokenizer, rows.texts, max_length=max_length, windows=windows)

    if len(rows) < WORTH_KEEPING:
        return made()
    path = folder / f"{_key(tokenizer, rows, max_length, windows)}.npz"
    found = _read(path, len(rows), windows)
    if found is not None:
        return found
    encoded = made()
    _write(path, encoded)
    return encoded


def _key(
    tokenizer: PreTrainedTokenizerBase, rows: Examples, max_length: int, windows: Windows | None
) -> str:
    digest = hashlib.blake2b(digest_size=16)
    facts: tuple[Any, ...] = (
        max_length, tokenizer.pad_token_id, tokenizer.padding_side, tokenizer.truncation_side
    )  # fmt: skip
    facts = facts if windows is None else (*facts, windows.overlap(max_length), windows.max_windows)
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


def _read(path: Path, rows: int, windows: Windows | None) -> Encoded | None:
    """The file's content; None where there is none, or a torn or damaged one."""
    try:
        with np.load(path, allow_pickle=False) as values:
            own = None
            if windows is not None:
                own = TextWindows(values["windows"], values["partly"], windows.pooling)
            encoded = Encoded(
                ids=values["ids"],
                offsets=values["offsets"],
                types=values.get("types"),
                pad_id=int(values["pad_id"]),
                pad_left=bool(values["pad_left"]),
                windows=own,
            )
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, RuntimeError, zlib.error):
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
    if encoded.windows is not None:
        values |= {"windows": encoded.windows.offsets, "partly": encoded.windows.partly}
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary, temporary.open("wb") as handle:
            np.savez(handle, **values)  # type: ignore[arg-type]
