"""Small random encoders with tokenizers, made offline; every test that needs a model uses them."""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    CONFIG_MAPPING,
    AutoModel,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

from kdlora.spec.run import EncoderRef

FAMILIES = ("bert", "distilbert", "roberta", "deberta-v2", "albert", "xlm-roberta", "mpnet")
FURTHER_FAMILIES = ("electra", "modernbert")

_TEXT = """
the a an and or but not no is was were be are this that it its of to in on at for with by from as
i you he she we they them his her our your who what which when where why how all some any more most
very too so just only even still also again never always often good bad great terrible fine awful
best worst better worse nice dull bright funny boring sad happy love loved hate hated like liked
enjoy enjoyed film movie story plot actor actors acting scene scenes music book song play show
director character characters script dialogue ending beginning time day night year life world man
woman child people house street city car dog cat food water work home school way thing things part
one two three first last new old long short big small high low left right hot cold fast slow red
blue green white black open closed true false same different question answer yes maybe can could
will would should may might must do does did done make made take took give gave go went come came
see saw know knew think thought say said find found want wanted feel felt seem seemed
"""
WORDS = tuple(_TEXT.split())


def tiny_config(
    family: str, *, width: int = 32, layers: int = 2, **changes: Any
) -> PreTrainedConfig:
    """A config of the family with a few thousand parameters; dropout as the family has it."""
    values: dict[str, Any] = {
        "vocab_size": len(_vocabulary()),
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": 2 * width,
        "max_position_embeddings": 66,
        "pad_token_id": 0,
    }
    if family == "distilbert":
        values |= {"dim": width, "n_layers": layers, "n_heads": 4, "hidden_dim": 2 * width}
        for name in (
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
        ):
            del values[name]
    elif family == "deberta-v2":  # as in DeBERTa-v3
        values |= {
            "relative_attention": True,
            "position_buckets": 16,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
            "type_vocab_size": 0,
            "pooler_hidden_size": width,
        }
    elif family in ("roberta", "xlm-roberta"):
        values |= {"type_vocab_size": 1}
    elif family in ("albert", "electra"):
        values |= {"embedding_size": width // 2}
    elif family == "modernbert":
        ids = {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
        values |= {**ids, "reference_compile": False}
    return CONFIG_MAPPING[family](**(values | changes))


def tiny_tokenizer(config: PreTrainedConfig) -> PreTrainedTokenizerFast:
    """Whole words, else single letters; a pair's token types as the family has them."""
    tokenizer = Tokenizer(
        models.WordPiece(_vocabulary(), unk_token="[UNK]", max_input_chars_per_word=40)
    )
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    second = 1 if (getattr(config, "type_vocab_size", 0) or 0) > 1 else 0
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair=f"[CLS] $A [SEP] $B:{second} [SEP]:{second}",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    inputs = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
        model_input_names=[*inputs, "token_type_ids"] if second else inputs,
    )


def save_tiny_encoder(
    folder: Path, family: str = "bert", *, seed: int = 0, head: bool = False, **changes: Any
) -> EncoderRef:
    """Save a random encoder and its tokenizer; returns the reference by which to load it.

    Without `head` this is an encoder as pretraining leaves it; with it, a classifier as fine-tuned
    (give ``num_labels``, ``id2label`` and ``label2id`` among `changes`).
    """
    config = tiny_config(family, **changes)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = (AutoModelForSequenceClassification if head else AutoModel).from_config(config)
    model.save_pretrained(folder)
    tiny_tokenizer(config).save_pretrained(folder)
    return EncoderRef(name=str(folder), source="folder", path=str(folder))


@functools.cache
def _vocabulary() -> dict[str, int]:
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-"
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    tokens += [f"##{letter}" for letter in letters]
    words = [word for word in dict.fromkeys(WORDS) if re.fullmatch(r"[a-z]{2,}", word)]
    return {token: i for i, token in enumerate([*tokens, *words])}


def tiny_batch(tokenizer: PreTrainedTokenizerFast, n: int = 8) -> dict[str, torch.Tensor]:
    """Sentences of different length, padded to one another."""
    rng = random.Random(7)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(3, 12))) for _ in range(n)]
    return dict(tokenizer(texts, padding=True, return_tensors="pt"))


def train_tiny(
    model: torch.nn.Module,
    batch: dict[str, torch.Tensor],
    *,
    steps: int = 4,
    lr: float = 5e-3,
    after_step: Callable[[torch.nn.Module, int], None] = lambda model, step: None,
    extra_loss: Callable[[torch.nn.Module], torch.Tensor | None] = lambda model: None,
) -> list[float]:
    """A few steps towards fixed labels, with the hooks where a training loop has them."""
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    losses = []
    for step in range(1, steps + 1):
        logits = model(**batch).logits
        target = torch.arange(len(logits)) % logits.shape[-1]
        loss = torch.nn.functional.cross_entropy(logits, target)
        losses.append(loss.item())
        if (extra := extra_loss(model)) is not None:
            loss = loss + extra
        loss.backward()
        optimizer.step()
        after_step(model, step)
        optimizer.zero_grad()
    model.eval()
    return losses
