"""Texts as an encoder's tokenizer sees them: how long, how much is cut, how well it knows them.

`tokenizers` alone reads a tokenizer.json, so that a look needs neither torch nor transformers.
Tokens a word ("fertility") tell how well a tokenizer fits a language (Rust et al. 2021, "How good
is your tokenizer?"): a fitting one has between 1 and 2, one that spells has 3 and more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kdlora.data.encoder_files import tokenizer_rules
from kdlora.data.windows import count_windows, longest_read
from kdlora.errors import DataError
from kdlora.records.data_look import DataFinding, TokenCount, percent
from kdlora.spec.run import EncoderRef
from kdlora.spec.sections import Windows

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CUT_TEXTS = 0.05  # share of texts from which cutting is a warning; a percent is usual and harmless
CUT_TOKENS = 0.02  # or this share of all tokens
UNKNOWN_TOKENS = 0.02  # share of tokens that say nothing: more than emoji and rare signs make up
SPELLED = 2.7  # tokens a word
_MOST_CHARACTERS = 5_000_000  # that one tokenizer reads for a look: some five seconds
_BATCH = 2048
_LARGE = 20_000  # texts that are looked at for words

# Scripts without blanks between words, and how many of their letters make about one word.
_UNSPACED = (
    (1.0, re.compile("[\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
                     "\U00020000-\U0003134f]")),  # Han and kana
    (4.0, re.compile("[\u0e00-\u0e7f\u0e80-\u0eff\u1000-\u109f\u1780-\u17ff]")),
    # Thai, Lao, Burmese, Khmer
)  # fmt: skip
_TIBETAN = "\u0f0b"  # stands between syllables as a blank does between words


@dataclass(frozen=True)
class EncoderTokenizer:
    """A tokenizer and the encoders that share it, each at the length to which it reads."""

    encoders: tuple[str, ...]
    tokenizer: Tokenizer
    max_length: int
    windows: Windows | None = None


def count_words(text: str) -> float:
    """About how many words and signs a text has, whatever its script."""
    words = 0.0
    for letters, script in _UNSPACED:
        if not text.isascii():
            text, found = script.subn(" ", text)
            words += found / letters
    return words + len(_pieces(text.replace(_TIBETAN, " ")))


def _pieces(text: str) -> list[str]:
    """Runs of letters, digits and marks, and every sign by itself, as BERT's tokenizer splits."""
    return _PIECE.findall(text)


# A mark (as of Bengali vowels) is no \w in Python: all that is no sign and no blank is a letter.
_SIGNS = "!-/:-@[-`{-~\u00a1-\u00bf\u2010-\u205e\u3001-\u303f\u0964\u0965\u060c\u061b\u061f"
_PIECE = re.compile(f"[^\\s{_SIGNS}]+|[{_SIGNS}]")


def read_tokenizers(
    wanted: Sequence[tuple[EncoderRef, int, Windows | None]],
    rules: Callable[[EncoderRef], str | None] = tokenizer_rules,
) -> tuple[list[EncoderTokenizer], list[str]]:
    """The tokenizers of encoders at their lengths, and the encoders whose is not at hand.

    Encoders with the same tokenizer, length and windows share one.
    """
    shared: dict[tuple[str, int, Windows | None], list[str]] = {}
    missing = []
    for encoder, max_length, windows in wanted:
        found = rules(encoder)
        if found is None:
            missing.append(encoder.title)
            continue
        names = shared.setdefault((found, max_length, windows), [])
        if encoder.title not in names:
            names.append(encoder.title)
    return [
        EncoderTokenizer(tuple(names), parse_tokenizer(found), max_length, windows)
        for (found, max_length, windows), names in shared.items()
    ], list(dict.fromkeys(missing))


def parse_tokenizer(rules: str) -> Tokenizer:
    """A tokenizer from its JSON, which neither cuts nor pads. Raises DataError."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(rules)
    except Exception as error:  # the library raises no class of its own
        raise DataError(f"a tokenizer.json cannot be read: {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def token_lengths(tokenizer: Tokenizer, texts: Sequence[Sequence[str]]) -> np.ndarray:
    """Tokens [n] of every input, special tokens included; two columns are one input."""
    return _tokenised(tokenizer, texts)[0]


def _tokenised(
    tokenizer: Tokenizer, texts: Sequence[Sequence[str]]
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and unknown tokens of every input, [n] each. Raises DataError."""
    rows = list(zip(*texts, strict=True)) if len(texts) > 1 else list(texts[0])
    unknown = _unknown_id(tokenizer)
    lengths, unknowns = [], []
    for start in range(0, len(rows), _BATCH):
        try:
            encoded = tokenizer.encode_batch_fast(rows[start : start + _BATCH])
        except Exception as error:  # as above
            raise DataError(f"a tokenizer.json does not read these texts: {error}") from None
        for encoding in encoded:
            ids = encoding.ids
            lengths.append(len(ids))
            unknowns.append(ids.count(unknown) if unknown is not None else 0)
    return np.array(lengths, dtype=np.int64), np.array(unknowns, dtype=np.int64)


def _unknown_id(tokenizer: Tokenizer) -> int | None:
    """The token that stands for what a tokenizer does not know; byte-level ones have none."""
    model = tokenizer.model
    if hasattr(model, "unk_token"):
        return None if model.unk_token is None else tokenizer.token_to_id(model.unk_token)
    found = json.loads(tokenizer.to_str())["model"].get("unk_id")  # of Unigram
    return found if isinstance(found, int) else None


def spread_rows(texts: Sequence[Sequence[str]], most_characters: int) -> np.ndarray:
    """Row numbers, evenly spaced, of about as many characters as given; all if there are fewer."""
    characters = sum(len(text) for column in texts for text in column)
    step = max(1, -(-characters // most_characters))
    return np.arange(0, len(texts[0]), step)


def count_tokens(one: EncoderTokenizer, texts: Sequence[Sequence[str]]) -> TokenCount:
    """Lengths, cuts and fit of one tokenizer on rows of one or two text columns."""
    rows = spread_rows(texts, _MOST_CHARACTERS)
    chosen = [[column[i] for i in rows] for column in texts]
    lengths, unknown = _tokenised(one.tokenizer, chosen)
    special = one.tokenizer.num_special_tokens_to_add(len(texts) > 1)
    step = max(1, len(rows) // _LARGE)
    words = sum(count_words(text) for column in chosen for text in column[::step])
    own = lengths[::step].sum() - special * len(lengths[::step])
    taken, read = None, one.max_length
    if one.windows is not None:
        taken = count_windows(lengths, one.max_length, one.windows, special=special)
        read = longest_read(one.max_length, one.windows, special=special)
    beyond = np.maximum(lengths - read, 0)
    said = max(int(lengths.sum()) - special * len(lengths), 1)
    return TokenCount(
        encoders=one.encoders,
        texts=len(texts[0]),
        measured=len(rows),
        max_length=one.max_length,
        median=int(np.median(lengths)),
        percentile_99=int(np.ceil(np.quantile(lengths, 0.99))),
        longest=int(lengths.max()),
        cut_texts=float((beyond > 0).mean()),
        cut_tokens=float(beyond.sum() / lengths.sum()),
        unknown_tokens=float(unknown.sum() / said),
        texts_with_unknown=float((unknown > 0).mean()),
        tokens_per_word=float(own / max(words, 1.0)),
        windows=None if taken is None else float(taken.mean()),
    )


_ADVICE = (
    "Set training.max_length (--max-length) to auto or to a number, up to what the encoder takes; "
    "or read long texts whole by training.windows (--windows); or put what matters first"
)


def token_findings(count: TokenCount) -> Iterator[DataFinding]:
    """Texts that are cut, and a tokenizer that does not know the language."""
    names = " and ".join(count.encoders)
    if count.cut_texts > 0:
        much = count.cut_texts >= CUT_TEXTS or count.cut_tokens >= CUT_TOKENS
        how, advice = f"{count.max_length} tokens ({names}) and are cut", _ADVICE
        if count.windows is not None:
            how = f"the windows of {count.max_length} tokens that are read of each ({names})"
            advice = "Raise training.windows.max_windows, or training.max_length"
        yield DataFinding(
            "cut_texts",
            "warning" if much else "info",
            f"{percent(count.cut_texts)} of the texts are longer than {how}: "
            f"{percent(count.cut_tokens)} of all tokens are never read. The "
            f"median text has {count.median} tokens, the 99th percentile {count.percentile_99}",
            advice if much else "",
        )
    spelled = count.tokens_per_word >= SPELLED
    if count.unknown_tokens >= UNKNOWN_TOKENS or spelled:
        yield DataFinding(
            "foreign_tokenizer",
            "warning",
            f"the tokenizer of {names} does not know the language of these texts: "
            f"{count.tokens_per_word:.1f} tokens a word (1 to 2 is usual), "
            f"{percent(count.unknown_tokens)} of them unknown, in "
            f"{percent(count.texts_with_unknown)} of the texts",
            "Take encoders for this language, or multilingual ones such as xlm-roberta-base or "
            "distilbert-base-multilingual-cased",
        )
