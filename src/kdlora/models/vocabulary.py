"""Cutting an encoder's vocabulary to the tokens that texts of a kind use.

In a small multilingual encoder most weights are embeddings of tokens that a user's texts never
hold: 250,000 rows in XLM-R. The rows of rare tokens are cut out of the table, and the same tokens
out of the tokenizer (Abdaoui et al. 2020, "Load What You Need"). Single characters and bytes stay,
and so does whatever a merge needs, so that every text still becomes the tokens that are left. A
text that needs no cut token becomes the same tokens as before and gets the same hidden states,
which is checked before anything is kept.
"""

from __future__ import annotations

import copy
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from kdlora.errors import InputError, ModelError
from kdlora.files import real_path, whole_folder
from kdlora.json_files import read_json_object
from kdlora.models.checkpoints import quiet, read_encoder, read_tokenizer
from kdlora.records.vocabulary_cut import KEPT_FACTS, Cut

HELD_OUT = 10  # one text in so many is not counted, but measured
CHECKED = 64  # texts whose hidden states are compared
_TABLE = "tokenizer.json"
_BATCH = 1000  # texts tokenised at once

Progress = Callable[[int], None]  # told how many more texts were tokenised


def trim_vocabulary(
    source: str | Path,
    texts: Sequence[str],
    target: str | Path,
    *,
    keep: float = 0.999,
    name: str | None = None,
    on_progress: Progress = lambda texts: None,
) -> Cut:
    """Write the encoder of a folder with a smaller vocabulary as a model folder of its own.

    Args:
        source: a model folder with safetensors and a fast tokenizer.
        texts: of the kind that the model will read; many more than a training file holds, since
            what is not counted is cut. Every tenth is held out and measured.
        target: the new folder; a cut encoder that is there is replaced, and nothing else.
        keep: share of the tokens of the counted texts that the kept ones cover, the commonest
            first. 1 keeps every token that occurs.
        name: what the source is called in the facts.

    Raises InputError where other files would be lost, ModelError where the tokenizer cannot be cut,
    or where the cut encoder would answer otherwise on a text that needs no cut token.
    """
    source, target = Path(source), Path(target)
    if not 0 < keep <= 1:
        raise ModelError(f"keep is {keep}: expected a share above 0 and at most 1")
    if len(texts) < HELD_OUT:
        raise ModelError(f"{len(texts)} texts to count tokens in: expected {HELD_OUT} or more")
    check_cut_target(source, target)
    tokenizer = read_tokenizer(str(source))
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelError(f"{source}: its tokenizer is a slow one, which cannot be cut")
    held_out = texts[::HELD_OUT]
    counted = [text for i, text in enumerate(texts) if i % HELD_OUT]
    counts = _count(tokenizer, counted, on_progress)
    table = json.loads(tokenizer.backend_tokenizer.to_str())
    kept = _kept_tokens(table, tokenizer, counts, keep)
    places = np.full(len(counts), -1)
    places[kept] = np.arange(len(kept))

    with whole_folder(Path(target)) as folder:
        _write_tokenizer(tokenizer, table, places, folder)
        before = _write_weights(Path(source), kept, places, folder)
        smaller = read_tokenizer(str(folder))
        changed, growth, same = _compare_tokens(tokenizer, smaller, held_out, places, on_progress)
        _compare_states(Path(source), folder, tokenizer, smaller, same[:CHECKED])
        after = _sizes(folder)
        facts = Cut(
            source=name or str(source),
            keep=keep,
            counted_texts=len(counted),
            held_out_texts=len(held_out),
            held_out_changed=changed,
            held_out_growth=growth,
            tokens_before=len(tokenizer),
            tokens_after=len(kept),
            parameters_before=before[0],
            parameters_after=after[0],
            size_before_mb=before[1],
            size_after_mb=after[1],
            checked_texts=len(same[:CHECKED]),
        )
        (folder / KEPT_FACTS).write_text(json.dumps(asdict(facts), indent=1) + "\n", "utf-8")
    return facts


def check_cut_target(source: Path, target: Path) -> None:
    """See that an encoder cut out of `source` may be written to `target`. Raises InputError."""
    if not os.path.lexists(target):
        return
    if not target.is_dir():
        raise InputError(f"{target} is no folder: name a folder for the encoder")
    if real_path(source).is_relative_to(real_path(target)):
        raise InputError(f"{target} is where the whole encoder lies: name another folder")
    if any(target.iterdir()) and not (target / KEPT_FACTS).is_file():
        raise InputError(
            f"{target} holds other files than a cut encoder, which would be lost: name another "
            "folder"
        )


def _count(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], on_progress: Progress
) -> np.ndarray:
    """How often each token occurs in the texts, [tokens]."""
    counts = np.zeros(len(tokenizer), dtype=np.int64)
    for ids in _encoded(tokenizer, texts, on_progress):
        counts += np.bincount(ids, minlength=len(counts))
    return counts


def _encoded(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], on_progress: Progress
) -> Iterable[list[int]]:
    """The ids of each text, special tokens included, uncut."""
    for first in range(0, len(texts), _BATCH):
        batch = list(texts[first : first + _BATCH])
        with quiet():
            yield from tokenizer(batch, truncation=False)["input_ids"]
        on_progress(len(batch))


def _kept_tokens(
    table: dict[str, Any], tokenizer: PreTrainedTokenizerFast, counts: np.ndarray, keep: float
) -> np.ndarray:
    """The ids that stay, rising: the common, the special, the atoms, and parts of merges."""
    model = table["model"]
    ids = tokenizer.get_vocab()
    common = np.argsort(-counts, kind="stable")
    enough = int(np.searchsorted(np.cumsum(counts[common]), keep * counts.sum())) + 1
    kept = {int(i) for i in common[:enough] if counts[i]}
    kept |= set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    # Families such as RoBERTa count positions from the padding id: it stays where it is.
    kept |= set(range(int(tokenizer.pad_token_id or 0) + 1))
    kept |= {ids[token] for token in _atoms(model) if token in ids}
    if model["type"] == "BPE":
        names = {i: token for token, i in ids.items()}
        parts = _merge_parts(model, [names[i] for i in kept if i in names])
        kept |= {ids[token] for token in parts if token in ids}
    return np.array(sorted(kept))


def _atoms(model: dict[str, Any]) -> list[str]:
    """The tokens that no text can do without: characters and bytes."""
    kind = model["type"]
    if kind == "WordPiece":
        prefix = model.get("continuing_subword_prefix") or "##"
        return [token for token in model["vocab"] if len(token.removeprefix(prefix)) == 1]
    if kind == "Unigram":
        pieces = [piece for piece, _ in model["vocab"]]
        return [p for p in pieces if len(p) == 1 or (p.startswith("<0x") and p.endswith(">"))]
    if kind == "BPE":
        made = {_merged(pair, model) for pair in _merges(model)}
        return [token for token in model["vocab"] if token not in made]
    raise ModelError(
        f"a tokenizer of the kind {kind}: what is cut from it would be unknown. Expected BPE, "
        "WordPiece or Unigram"
    )


def _merges(model: dict[str, Any]) -> list[tuple[str, str]]:
    """Pairs by rising rank; older files write a pair as one text."""
    pairs = (p.split(" ", 1) if isinstance(p, str) else p for p in model["merges"])
    return [(left, right) for left, right in pairs]


def _merged(pair: tuple[str, str], model: dict[str, Any]) -> str:
    return pair[0] + pair[1].removeprefix(model.get("continuing_subword_prefix") or "")


def _merge_parts(model: dict[str, Any], tokens: Sequence[str]) -> set[str]:
    """All that arises on the way from characters to these tokens, as BPE merges them."""
    ranks = {pair: rank for rank, pair in enumerate(_merges(model))}
    vocabulary, found = model["vocab"], set()
    for token in tokens:
        parts = list(token)
        if not all(part in vocabulary for part in parts):
            continue  # a special token, or a byte's: it is no merge's result
        while len(parts) > 1:
            pairs = list(itertools.pairwise(parts))
            best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
            if best not in ranks:
                break
            made, joined, i = [], _merged(best, model), 0
            while i < len(parts):
                if tuple(parts[i : i + 2]) == best:
                    made.append(joined)
                    i += 2
                else:
                    made.append(parts[i])
                    i += 1
            parts = made
            found.add(joined)
    return found


def _write_tokenizer(
    tokenizer: PreTrainedTokenizerFast, table: dict[str, Any], places: np.ndarray, folder: Path
) -> None:
    """The tokenizer's files with the kept tokens alone, numbered anew."""
    with quiet():
        tokenizer.save_pretrained(folder)
    for other in set(tokenizer.vocab_files_names.values()) - {_TABLE}:
        (folder / other).unlink(missing_ok=True)  # vocabularies of slow tokenizers
    cut = copy.deepcopy(table)
    model = cut["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {t: int(places[i]) for t, i in model["vocab"].items() if places[i] >= 0}
    else:
        model["vocab"] = [entry for entry, place in zip(model["vocab"], places, strict=False)
                          if place >= 0]  # fmt: skip
        if model.get("unk_id") is not None:
            model["unk_id"] = int(places[model["unk_id"]])
    if model["type"] == "BPE":
        known = model["vocab"]
        model["merges"] = [
            list(pair)
            for pair in _merges(model)
            if pair[0] in known and pair[1] in known and _merged(pair, model) in known
        ]
    for added in cut.get("added_tokens") or ():
        added["id"] = int(places[added["id"]])
    if cut.get("padding"):
        cut["padding"]["pad_id"] = int(places[cut["padding"]["pad_id"]])
    if cut.get("post_processor"):
        _renumber(cut["post_processor"], places)
    text = json.dumps(cut, ensure_ascii=False)
    Tokenizer.from_str(text)  # whether it is one
    (folder / _TABLE).write_text(text, encoding="utf-8")
    settings = folder / "tokenizer_config.json"
    if settings.is_file():
        values = read_json_object(settings)
        if known_added := values.get("added_tokens_decoder"):
            values["added_tokens_decoder"] = {
                str(int(places[int(i)])): token for i, token in known_added.items()
            }
            settings.write_text(json.dumps(values, indent=2, ensure_ascii=False), encoding="utf-8")


def _renumber(processor: dict[str, Any], places: np.ndarray) -> None:
    """The ids of special tokens in what puts them around a text, in place."""
    for inner in processor.get("processors", ()):
        _renumber(inner, places)
    for name in ("cls", "sep"):
        if isinstance(pair := processor.get(name), list):
            processor[name] = [pair[0], int(places[pair[1]])]
    specials = processor.get("special_tokens")
    if isinstance(specials, dict):
        for special in specials.values():
            special["ids"] = [int(places[i]) for i in special["ids"]]


def _write_weights(
    source: Path, kept: np.ndarray, places: np.ndarray, folder: Path
) -> tuple[int, float]:
    """Weights and config with the kept rows; returns parameters and MB of the source."""
    try:
        config = read_json_object(source / "config.json")
        rows = int(config["vocab_size"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{source}: its config.json names no vocab_size: {error}") from None
    before = _sizes(source)
    wanted = torch.from_numpy(kept)
    weights: dict[str, torch.Tensor] = {}
    tables = 0
    for file in sorted(source.glob("*.safetensors")):
        with _tensors(file) as tensors:
            for name in tensors.keys():  # noqa: SIM118 (no mapping)
                weight = tensors.get_tensor(name)
                if weight.dim() and len(weight) == rows and _of_vocabulary(name):
                    weight = weight[wanted].contiguous()
                    tables += 1
                weights[name] = weight
    if not tables:
        raise ModelError(f"{source}: found no table of token embeddings with {rows} rows")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config["vocab_size"] = len(kept)
    for field, value in config.items():
        if field.endswith("_token_id") and isinstance(value, int) and 0 <= value < len(places):
            config[field] = max(int(places[value]), 0)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return before


@contextmanager
def _tensors(file: Path) -> Iterator[Any]:
    """A file of weights, open. Raises ModelError for a damaged one."""
    try:
        with safe_open(file, framework="pt") as tensors:
            yield tensors
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} is damaged: {error}") from None


def _of_vocabulary(name: str) -> bool:
    """Whether a tensor with as many rows as there are tokens has one for each of them."""
    words = ("word_embeddings", "tok_embeddings", "embed_tokens", "wte", "decoder", "predictions",
             "lm_head", "vocab")  # fmt: skip
    return any(word in name for word in words)


def _sizes(folder: Path) -> tuple[int, float]:
    """Parameters, and MB of the weights' files."""
    files = sorted(folder.glob("*.safetensors"))
    parameters = 0
    for file in files:
        with _tensors(file) as tensors:
            for name in tensors.keys():  # noqa: SIM118
                parameters += int(np.prod(tensors.get_slice(name).get_shape()))
    return parameters, sum(file.stat().st_size for file in files) / 1e6


def _compare_tokens(
    before: PreTrainedTokenizerFast,
    after: PreTrainedTokenizerBase,
    texts: Sequence[str],
    places: np.ndarray,
    on_progress: Progress,
) -> tuple[float, float, list[str]]:
    """Share of texts with a cut token, growth in tokens, and the texts without one.

    Raises ModelError where a text without a cut token becomes other tokens than before.
    """
    old = list(_encoded(before, texts, on_progress))
    new = list(_encoded(after, texts, lambda texts: None))
    same = []
    for text, ids, other in zip(texts, old, new, strict=True):
        wanted = places[ids]
        if (wanted < 0).any():
            continue
        if wanted.tolist() != other:
            raise ModelError(
                f"the cut tokenizer reads {text[:60]!r} in other tokens although none of them was "
                "cut: this tokenizer cannot be cut"
            )
        same.append(text)
    growth = sum(map(len, new)) / max(sum(map(len, old)), 1)
    return 1 - len(same) / len(texts), growth, same


@torch.no_grad()
def _compare_states(
    source: Path,
    folder: Path,
    before: PreTrainedTokenizerBase,
    after: PreTrainedTokenizerBase,
    texts: Sequence[str],
) -> None:
    """Raise ModelError where the two encoders see a text differently that needs no cut token."""
    pairs = []
    for place, tokenizer in ((source, before), (folder, after)):
        model = read_encoder(str(place))
        states = []
        for text in texts:
            ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=128)
            states.append(model(**ids).last_hidden_state)
        pairs.append(states)
    for text, old, new in zip(texts, *pairs, strict=True):
        if old.shape != new.shape or not torch.allclose(old, new, atol=1e-4, rtol=1e-4):
            raise ModelError(
                f"the cut encoder sees {text[:60]!r} otherwise than the whole one, although none "
                "of its tokens was cut"
            )
