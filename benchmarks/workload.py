"""What is timed: model shapes with random weights, and token ids with real tasks' lengths.

Time depends neither on the values of weights nor on the words, so none are needed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    PreTrainedModel,
    XLMRobertaConfig,
)

from kdlora.data.batches import Encoded
from kdlora.models.adapters import adapt
from kdlora.models.encoders import LoadedEncoder
from kdlora.spec.adapter import Adapter

VOCABULARY = 30522
PAD = 0

# Deciles of the number of tokens of a training text (WordPiece, at most 128), lowest to highest.
LENGTHS: dict[str, tuple[int, ...]] = {
    "cola": (5, 7, 8, 9, 10, 11, 11, 13, 14, 17, 47),
    "sst2": (3, 4, 6, 7, 8, 10, 13, 16, 20, 27, 57),
    "movie-reviews": (4, 12, 17, 20, 23, 26, 29, 33, 37, 42, 78),
    "mrpc": (19, 36, 41, 45, 50, 53, 57, 61, 64, 70, 103),
    "rte": (13, 33, 40, 45, 50, 56, 62, 72, 103, 128, 128),
}

SHAPES: dict[str, object] = {
    "distilbert": DistilBertConfig(),
    "minilm-l3": BertConfig(
        hidden_size=384, num_hidden_layers=3, num_attention_heads=12, intermediate_size=1536
    ),
    "bert-base": BertConfig(),
    "multilingual-minilm-l12": BertConfig(
        vocab_size=250_037,
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=1536,
    ),
    "xlm-r-base": XLMRobertaConfig(vocab_size=250_002),
}

_QUERY_VALUE = {"distilbert": ["q_lin", "v_lin"], "minilm-l3": ["query", "value"]}
_HEAD = {"distilbert": ["pre_classifier", "classifier"], "minilm-l3": ["classifier"]}


@dataclass(frozen=True)
class Workload:
    """n tokenised texts with binary labels [n] and a teacher's logits [n, 2]."""

    texts: Encoded
    labels: torch.Tensor
    teacher: torch.Tensor

    def rows(self) -> list[dict[str, object]]:
        """The same as a list of dicts, as the Hugging Face Trainer reads it."""
        offsets = self.texts.offsets
        return [
            {
                "input_ids": self.texts.ids[offsets[i] : offsets[i + 1]].tolist(),
                "attention_mask": [1] * int(offsets[i + 1] - offsets[i]),
                "labels": int(self.labels[i]),
                "teacher": self.teacher[i].tolist(),
            }
            for i in range(len(self.texts))
        ]


def make_workload(profile: str, n: int, *, seed: int = 0) -> Workload:
    """Random tokens with the lengths of a task, drawn from its deciles."""
    rng = np.random.default_rng(seed)
    lengths = np.interp(rng.uniform(0, 100, n), np.arange(0, 101, 10), LENGTHS[profile])
    lengths = np.round(lengths).astype(np.int64)
    texts = Encoded(
        ids=rng.integers(1000, VOCABULARY, int(lengths.sum()), dtype=np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        types=None,
        pad_id=PAD,
    )
    labels = torch.from_numpy(rng.integers(0, 2, n))
    return Workload(texts, labels, torch.from_numpy(rng.normal(size=(n, 2)).astype(np.float32)))


def with_usual_words(work: Workload, vocabulary: int, *, seed: int = 0) -> Workload:
    """The same lengths in tokens of which some are frequent and most rare (Zipf's law)."""
    rng = np.random.default_rng(seed)
    chances = 1.0 / np.arange(1, vocabulary - 1000 + 1)
    ids = 1000 + rng.choice(len(chances), len(work.texts.ids), p=chances / chances.sum())
    return replace(work, texts=replace(work.texts, ids=ids.astype(np.int32)))


def make_model(shape: str, *, attention: str, seed: int = 0) -> PreTrainedModel:
    """A classifier of two classes with random weights in fp32."""
    torch.manual_seed(seed)
    return AutoModelForSequenceClassification.from_config(
        SHAPES[shape], attn_implementation=attention
    )


RANK, ALPHA = 8, 16


def with_lora(model: nn.Module, shape: str) -> nn.Module:
    """The reports' adapter: LoRA of rank 8 on query and value, the head trained whole."""
    config = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=_QUERY_VALUE[shape],
        modules_to_save=_HEAD[shape],
    )
    return get_peft_model(model, config)


def with_variant(model: PreTrainedModel, shape: str, variant: str, steps: int) -> nn.Module:
    """Another adapter of that rank in the same places, as a study makes it."""
    loaded = LoadedEncoder(model, _NoTokenizer(), tuple(_HEAD[shape]))  # type: ignore[arg-type]
    adapter = Adapter(rank=RANK, alpha=ALPHA, targets=("query-value",))
    return adapt(loaded, variant, adapter, seed=0, total_steps=steps)


class _NoTokenizer:
    """Token ids are made up, so nothing is tokenised."""
