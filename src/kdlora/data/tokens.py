"""Tokenised texts on disk, made once and shared by all runs of a study.

Every arm and seed of a task reads the same texts with one of two tokenizers; tokenising them anew
in each run costs minutes on a large task. The files are only a cache: any of them may be deleted.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np

from kdlora.data.batches import Encoded, encode
from kdlora.data.examples import Examples
from kdlora.files import whole_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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
