"""Encoders whose vocabulary can be cut: real tokenizers of every kind, and texts for them."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModel, PreTrainedTokenizerFast

from tests.harness.tiny_models import WORDS, tiny_config

SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
KINDS = ("WordPiece", "BPE", "byte BPE", "Unigram")


def sentences(n: int, words: tuple[str, ...] = WORDS, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(words, k=rng.randint(3, 12))) for _ in range(n)]


def trained_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A tokenizer of each kind, trained on sentences of all words and some others."""
    texts = sentences(400) + ["zebra quixotic jazz pyjamas über naïve 東京 7 + 8"] * 5
    extra = {"special_tokens": SPECIALS}
    if kind == "WordPiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=400, **extra)
    elif kind == "Unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=300, unk_token="<unk>", **extra)
    else:
        tokenizer = Tokenizer(models.BPE(unk_token=None if kind.startswith("byte") else "<unk>"))
        if kind.startswith("byte"):
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
            tokenizer.decoder = decoders.ByteLevel()
            extra["initial_alphabet"] = pre_tokenizers.ByteLevel.alphabet()
        else:
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.BpeTrainer(vocab_size=500, **extra)
    tokenizer.train_from_iterator(texts, trainer)
    first, last = tokenizer.token_to_id("<s>"), tokenizer.token_to_id("</s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>",
        special_tokens=[("<s>", first), ("</s>", last)],
    )  # fmt: skip
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, cls_token="<s>", bos_token="<s>", pad_token="<pad>",
        eos_token="</s>", sep_token="</s>", unk_token="<unk>", mask_token="<mask>",
    )  # fmt: skip


def save_encoder(folder: Path, kind: str, family: str = "bert") -> Path:
    tokenizer = trained_tokenizer(kind)
    config = tiny_config(family, vocab_size=len(tokenizer) + 3, pad_token_id=1)
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
