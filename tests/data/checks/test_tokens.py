"""Lengths as training cuts them, and a warning where a tokenizer does not know a script."""

from __future__ import annotations

import functools
import re

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from kdlora.data.batches import encode
from kdlora.data.checks.tokens import (
    EncoderTokenizer,
    count_tokens,
    count_words,
    parse_tokenizer,
    read_tokenizers,
    token_findings,
    token_lengths,
)
from kdlora.data.packaged import packaged_folder
from kdlora.errors import InputError
from kdlora.spec.run import EncoderRef
from tests.harness.moods import sentences
from tests.harness.scripts import LETTERS, UNSPACED, lexicon, texts_in
from tests.harness.tiny_models import tiny_config, tiny_tokenizer

KNOWN = ("latin", "greek", "hebrew", "devanagari", "bengali", "tamil", "ethiopic", "hangul",
         "thai", "han")  # fmt: skip


def warned(tokenizer: Tokenizer, texts: list[str]) -> list[str]:
    count = count_tokens(EncoderTokenizer(("e",), tokenizer, 512), (texts,))
    return [found.name for found in token_findings(count) if found.severity == "warning"]


@functools.cache
def knowing_half(kind: str) -> Tokenizer:
    """A tokenizer of a kind that knows words and letters of half of the scripts."""
    words = [word for script in KNOWN for word in lexicon(script)]
    letters = sorted(set("".join(words)) | {"."})
    if kind == "word pieces":
        pieces = ["[UNK]", *words, *letters, *(f"##{letter}" for letter in letters)]
        vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
        tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(strip_accents=False)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        return tokenizer
    if kind == "sentence pieces":
        scores = dict.fromkeys(letters, -12.0) | dict.fromkeys(words, -8.5)
        scores |= {"\u2581": -9.0} | {f"\u2581{word}": -8.0 for word in words}
        tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), *scores.items()], unk_id=0))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        return tokenizer
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.ByteLevel(use_regex=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=8000, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([" ".join([*words, "."])] * 20, trainer)
    return tokenizer


@pytest.mark.parametrize(
    ("kind", "script"),
    [
        (kind, script)
        for kind in ("word pieces", "byte pairs", "sentence pieces")
        for script in LETTERS
        if kind != "word pieces" or script not in ("thai", "khmer")  # they need told words
    ],
)
def test_a_tokenizer_is_foreign_to_a_script_that_it_never_saw_and_to_no_other(kind, script):
    expected = [] if script in KNOWN else ["foreign_tokenizer"]
    assert warned(knowing_half(kind), texts_in(script, 60)) == expected


@pytest.mark.real
@pytest.mark.parametrize("script", [name for name in LETTERS if name != "latin"])
def test_an_english_encoder_is_foreign_to_all_other_scripts(script):
    path = packaged_folder("minilm-l6") / "tokenizer.json"
    if not path.is_file():
        pytest.skip(f"no {path}: the packaged encoder was never fetched")
    assert "foreign_tokenizer" in warned(
        parse_tokenizer(path.read_text(encoding="utf-8")), texts_in(script, 60)
    )


def test_lengths_are_those_that_training_cuts():
    wrapped = tiny_tokenizer(tiny_config("bert"))
    texts, _ = sentences(50, 0)
    bare = parse_tokenizer(wrapped.backend_tokenizer.to_str())
    for columns in ((texts,), (texts, texts[::-1])):
        encoded = encode(wrapped, columns, max_length=10_000)
        assert token_lengths(bare, columns).tolist() == encoded.lengths.tolist()


def test_what_is_cut_is_counted_in_texts_and_in_tokens():
    bare = parse_tokenizer(tiny_tokenizer(tiny_config("bert")).backend_tokenizer.to_str())
    texts = ["film " * 8] * 19 + ["film " * 98]  # 10 and 100 tokens with the two special ones
    count = count_tokens(EncoderTokenizer(("e",), bare, 50), (texts,))
    assert (count.median, count.longest, count.max_length) == (10, 100, 50)
    assert count.cut_texts == pytest.approx(1 / 20)
    assert count.cut_tokens == pytest.approx(50 / (19 * 10 + 100))
    (found,) = token_findings(count)
    assert (found.name, found.severity) == ("cut_texts", "warning")
    assert "5 % of the texts are longer than 50 tokens (e)" in found.sentence
    assert "17 % of all tokens are never read" in found.sentence
    assert not list(token_findings(count_tokens(EncoderTokenizer(("e",), bare, 100), (texts,))))


def test_unknown_signs_are_counted_and_special_tokens_are_no_words():
    bare = parse_tokenizer(tiny_tokenizer(tiny_config("bert")).backend_tokenizer.to_str())
    count = count_tokens(EncoderTokenizer(("e",), bare, 50), (["film \u0995", "film film"],))
    assert count.unknown_tokens == pytest.approx(1 / 4)
    assert count.texts_with_unknown == pytest.approx(1 / 2)
    assert count.tokens_per_word == pytest.approx(1.0)


@pytest.mark.parametrize("script", [name for name in LETTERS if name not in UNSPACED])
def test_a_word_is_one_with_all_its_marks(script):
    assert [count_words(word) for word in lexicon(script)] == [1] * 150


def test_words_of_signs_and_of_scripts_without_blanks():
    assert count_words("don't stop, now!") == 7  # don ' t stop , now !
    assert count_words("\u4e2d\u6587 abc") == 3
    assert count_words("\u0e01" * 8) == 2
    assert count_words("") == 0


def test_encoders_with_one_tokenizer_share_a_count_and_unknown_ones_are_named(tmp_path):
    refs = []
    for name in ("a", "b"):
        tiny_tokenizer(tiny_config("bert")).save_pretrained(tmp_path / name)
        refs.append(EncoderRef(name=name, source="folder", path=str(tmp_path / name)))
    missing = EncoderRef(name="nobody/has-it", source="hub")
    found, unread = read_tokenizers(
        [(refs[0], 64, None), (refs[1], 64, None), (refs[1], 32, None), (missing, 64, None)]
    )
    assert [(one.encoders, one.max_length) for one in found] == [(("a", "b"), 64), (("b",), 32)]
    assert unread == ["nobody/has-it"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"model": "\xff"}', "tokenizer.json cannot be read: it is not UTF-8"),
        (b'{"model": 3}', "a tokenizer.json cannot be read"),
        (b'{"model": {"type": "Unigram", "vocab": [["a", 0]]}}', "does not read these texts"),
    ],
)
def test_a_tokenizer_that_cannot_be_used_is_one_message(tmp_path, content, told):
    (tmp_path / "tokenizer.json").write_bytes(content)
    mine = EncoderRef(name="mine", source="folder", path=str(tmp_path))
    with pytest.raises(InputError, match=re.escape(told)):
        [token_lengths(t.tokenizer, (["b"],)) for t in read_tokenizers([(mine, 32, None)])[0]]
