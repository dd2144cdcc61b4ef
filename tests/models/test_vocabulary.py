"""A smaller vocabulary: all texts tokenise, and what needs no cut token is seen as before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast

from kdlora.errors import InputError, ModelError
from kdlora.models.vocabulary import trim_vocabulary
from kdlora.records.vocabulary_cut import KEPT_FACTS
from tests.harness.tiny_models import WORDS
from tests.harness.trimmable import KINDS, save_encoder, sentences


@pytest.fixture(scope="module", params=KINDS)
def whole(request, tmp_path_factory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("whole") / "encoder", request.param)


FEW = WORDS[:60]


def test_texts_of_kept_tokens_are_read_and_seen_as_before(whole, tmp_path):
    facts = trim_vocabulary(whole, sentences(600, FEW), tmp_path / "small", keep=1.0)
    before, after = (AutoTokenizer.from_pretrained(f) for f in (whole, tmp_path / "small"))
    assert len(after) == facts.tokens_after < facts.tokens_before == len(before)
    encoders = tuple(AutoModel.from_pretrained(f).eval() for f in (whole, tmp_path / "small"))
    assert encoders[1].get_input_embeddings().weight.shape[0] == len(after)
    for text in sentences(30, FEW, seed=1):
        pair = [before(text, return_tensors="pt"), after(text, return_tensors="pt")]
        assert before.convert_ids_to_tokens(pair[0]["input_ids"][0]) == (
            after.convert_ids_to_tokens(pair[1]["input_ids"][0])
        )
        with torch.no_grad():
            states = [m(**x).last_hidden_state for m, x in zip(encoders, pair, strict=True)]
        torch.testing.assert_close(*states)


def test_every_other_text_still_tokenises(whole, tmp_path):
    trim_vocabulary(whole, sentences(600, FEW), tmp_path / "small", keep=0.9)
    before, after = (AutoTokenizer.from_pretrained(f) for f in (whole, tmp_path / "small"))
    others = [*sentences(50, seed=2), "quixotic zebra", "über naïve", "", "東京"]
    for text in others:
        old, new = (t.convert_ids_to_tokens(t(text)["input_ids"]) for t in (before, after))
        assert len(new) >= len(old)
        assert letters(new) == letters(old)


def letters(tokens: list[str]) -> str:
    return "".join(token.removeprefix("##") for token in tokens)


def test_special_tokens_keep_their_meaning(whole, tmp_path):
    trim_vocabulary(whole, sentences(200, FEW), tmp_path / "small", keep=0.5)
    after = AutoTokenizer.from_pretrained(tmp_path / "small")
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    assert config["pad_token_id"] == after.pad_token_id == 1
    pair = after("good film", "bad film", padding="max_length", max_length=40)["input_ids"]
    ends = [after.cls_token_id, after.sep_token_id]
    assert pair[0] == ends[0]
    assert pair.count(ends[1]) == 2
    assert pair[-1] == after.pad_token_id
    assert after.mask_token_id in after("a <mask> film")["input_ids"]


def test_what_the_counted_texts_lack_is_measured_on_others(tmp_path):
    whole = save_encoder(tmp_path / "whole", "BPE")
    texts = sentences(400, FEW)
    texts[::10] = sentences(40, WORDS[60:], seed=3)  # those that are held out
    facts = trim_vocabulary(whole, texts, tmp_path / "small")
    assert facts.held_out_texts == 40
    assert facts.held_out_changed == 1.0
    assert facts.held_out_growth > 1.1
    stored = json.loads((tmp_path / "small" / KEPT_FACTS).read_text())
    assert stored["tokens_after"] == facts.tokens_after
    assert facts.parameters_before - facts.parameters_after == 32 * (
        facts.tokens_before + 3 - facts.tokens_after
    )


def test_positions_that_are_counted_from_the_padding_stay(tmp_path):
    whole = save_encoder(tmp_path / "whole", "Unigram", "xlm-roberta")
    facts = trim_vocabulary(whole, sentences(300, FEW), tmp_path / "small")
    assert facts.checked_texts > 0


def test_what_cannot_be_cut_is_one_message(tmp_path):
    whole = save_encoder(tmp_path / "whole", "WordPiece")
    with pytest.raises(ModelError, match="keep is"):
        trim_vocabulary(whole, sentences(50), tmp_path / "small", keep=1.5)
    with pytest.raises(ModelError, match="3 texts"):
        trim_vocabulary(whole, sentences(3), tmp_path / "small")
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "[PAD]": 2}, unk_token="<unk>"))
    words = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]")
    words.save_pretrained(whole)
    with pytest.raises(ModelError, match="WordLevel"):
        trim_vocabulary(whole, sentences(50), tmp_path / "small")
    assert not (tmp_path / "small").exists()


def test_nothing_is_replaced_but_a_cut_encoder(tmp_path):
    whole = save_encoder(tmp_path / "whole", "BPE")
    texts = sentences(100, FEW)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("mine")
    (tmp_path / "home" / "encoder").symlink_to(whole)
    (tmp_path / "file").write_text("mine")
    for target, told in (
        (tmp_path / "home", "holds other files than a cut encoder"),
        (tmp_path / "file", "is no folder"),
        (whole, "is where the whole encoder lies"),
        (tmp_path, "is where the whole encoder lies"),
    ):
        with pytest.raises(InputError, match=told):
            trim_vocabulary(whole, texts, target)
    assert (tmp_path / "home" / "thesis.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    for _ in range(2):  # the second replaces the first
        trim_vocabulary(whole, texts, tmp_path / "empty")
