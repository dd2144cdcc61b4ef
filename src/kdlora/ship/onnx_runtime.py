"""Exported models at work with onnxruntime, tokenizers and numpy alone: torch is never imported."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdlora.data.batches import Encoded, eval_batches, input_lengths, joined_rows, pad
from kdlora.errors import ModelError
from kdlora.extras import need
from kdlora.files import read_bytes
from kdlora.records.artefact import Artefact, Variant, verify
from kdlora.ship.answers import Outputs, Predictor, Texts
from kdlora.ship.card import CARD, read_card
from kdlora.ship.onnx_files import check_onnx
from kdlora.spec.sections import Windows

if TYPE_CHECKING:
    import onnxruntime
    import tokenizers

TOKENIZER = "tokenizer.json"
TOKENS = 512  # padded tokens a batch: larger ones leave the processor's cache and lose a third
_ALONE = "kdlora.one_text_at_a_time"
_KNOWN_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def load_onnx(
    folder: Path, artefact: Artefact, variant: Variant, *, threads: int | None = None
) -> Predictor:
    """The variant of a folder that `check_folder` has passed already."""
    model = folder / variant.path
    beside = [f"{Path(variant.path).parent.as_posix()}/{name}" for name in check_onnx(model)]
    verify(folder, artefact, only=(variant.path, TOKENIZER, CARD, *beside))
    card = read_card(folder)
    if card is None:
        raise ModelError(f"{folder / CARD} cannot be read; export the model again")
    session = open_session(model, threads=threads)
    reader = open_tokenizer(folder / TOKENIZER, max_length=card.max_length, windows=card.windows)
    inputs = [entry.name for entry in session.get_inputs()]
    outputs = [entry.name for entry in session.get_outputs()]
    if strange := [name for name in inputs if name not in _KNOWN_INPUTS]:
        raise ModelError(f"{model} wants inputs that a text has not: {', '.join(strange)}")
    wanted = artefact.output if artefact.output in outputs else outputs[0]

    whole = open_tokenizer(folder / TOKENIZER, max_length=None)

    def answer(texts: Texts) -> Outputs:
        encoded = encode(reader, texts, pad_id=artefact.pad_id, windows=card.windows)
        lengths = input_lengths(
            encoded, card.max_length, texts,
            lambda cut: encode(whole, cut, pad_id=artefact.pad_id).lengths,
        )  # fmt: skip
        return Outputs(run(session, encoded, inputs=inputs, output=wanted), *lengths)

    width = answer([["a"] for _ in card.text_columns or ["text"]]).logits.shape[1]
    if width != card.num_outputs:
        raise ModelError(f"{model} has {width} outputs, its card names {card.num_outputs}")
    return Predictor(card, variant.name, answer)


def open_session(model: Path, *, threads: int | None = None) -> onnxruntime.InferenceSession:
    """An inference session on the processor. Raises ModelError, InputError without onnxruntime."""
    need("an ONNX model", "onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or usable_processors()
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # every batch has its own shape: patterns would pile up
    options.log_severity_level = 3
    options.add_session_config_entry(_ALONE, "1" if scales_by_batch(model) else "0")
    if os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE":
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes derive from nothing narrower
        detail = " ".join(str(error).split())[:300]
        raise ModelError(f"{model}: onnxruntime cannot load it: {detail}") from None


def scales_by_batch(model: Path) -> bool:
    """Whether a graph quantises activations by their range in the whole batch.

    The answer to a text would then depend on the texts that it happens to share a batch with.
    """
    try:
        content = read_bytes(model, largest=sys.maxsize)
    except OSError as error:
        raise ModelError(f"cannot read {model}: {error}") from None
    return b"DynamicQuantize" in content


def open_tokenizer(
    path: Path, *, max_length: int | None, windows: Windows | None = None
) -> tokenizers.Tokenizer:
    """The tokenizer of a folder, cutting at `max_length`; None cuts nothing.

    With `windows` what is cut off is made into further rows. Raises ModelError.
    """
    need("an ONNX model", "tokenizers")
    import tokenizers

    try:
        reader = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # a bare Exception is what the library raises
        raise ModelError(f"{path} is no tokenizer that can be read: {error}") from None
    reader.no_padding()
    if max_length is None:
        reader.no_truncation()
        return reader
    strategy = (reader.truncation or {}).get("strategy", "longest_first")
    stride = windows.overlap(max_length) if windows else 0
    reader.enable_truncation(max_length, stride=stride, strategy=strategy)
    return reader


def encode(
    reader: tokenizers.Tokenizer, texts: Texts, *, pad_id: int, windows: Windows | None = None
) -> Encoded:
    """Tokenise texts (or pairs, column by column) without padding; with `windows` all of them."""
    rows: list[Any] = list(texts[0]) if len(texts) == 1 else list(zip(*texts, strict=True))
    # The fast form gives the further windows of a pair the token types of a single text.
    found = reader.encode_batch(rows) if windows else reader.encode_batch_fast(rows)
    counts = [1 + len(text.overflowing) for text in found] if windows else []
    if windows:
        found = [row for text in found for row in (text, *text.overflowing)]
    return joined_rows(
        [np.asarray(row.ids, dtype=np.int32) for row in found],
        [np.asarray(row.type_ids, dtype=np.int32) for row in found],
        counts,
        windows=windows,
        pad_id=pad_id,
    )


def run(
    session: onnxruntime.InferenceSession,
    encoded: Encoded,
    *,
    inputs: list[str],
    output: str,
) -> np.ndarray:
    """Outputs of every text [n, c] float32, in the given order; those of its windows are pooled.

    By batches of about one length; one text at a time, without padding, where the graph
    `scales_by_batch`: a text then has one answer, whoever else asks at that moment, at a cost of
    about a third of the throughput.
    """
    alone = session.get_session_options().get_session_config_entry(_ALONE) == "1"
    rows: np.ndarray | None = None
    for index in eval_batches(encoded.row_lengths, tokens=1 if alone else TOKENS):
        batch = _bare(encoded, int(index[0])) if alone else pad(encoded, index)
        try:
            (values,) = session.run([output], {name: batch[name] for name in inputs})
        except Exception as error:  # onnxruntime's own classes derive from nothing narrower
            detail = " ".join(str(error).split())[:300]
            raise ModelError(f"onnxruntime fails on these texts: {detail}") from error
        if rows is None:
            rows = np.zeros((len(encoded.row_lengths), values.shape[1]), dtype=np.float32)
        rows[index] = values
    return encoded.pooled(rows) if rows is not None else np.zeros((0, 1), dtype=np.float32)


def _bare(encoded: Encoded, i: int) -> dict[str, np.ndarray]:
    """One row as it is, int64 [1, l]."""
    own = slice(encoded.offsets[i], encoded.offsets[i + 1])
    ids = encoded.ids[None, own].astype(np.int64)
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    if encoded.types is not None:
        batch["token_type_ids"] = encoded.types[None, own].astype(np.int64)
    return batch


def usable_processors() -> int:
    """How many processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1
