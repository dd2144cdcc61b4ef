"""A tiny classifier of entailment, random or made by hand to be right about moods."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.modeling_utils import PreTrainedModel

from kdlora.spec.run import EncoderRef
from tests.harness.moods import BAD, GOOD
from tests.harness.tiny_models import save_tiny_encoder

NAMES = ("contradiction", "neutral", "ENTAILMENT")
HYPOTHESIS = "people say {}"
WORDS = {"pos": "yes", "neg": "no"}  # in no sentence of a mood


def save_entailment(
    folder: Path, *, names: tuple[str, ...] = NAMES, knows_moods: bool = False
) -> EncoderRef:
    """Save it: random, or entailing "people say yes" from good moods and "no" from bad ones."""
    labels = dict(enumerate(names))
    reference = save_tiny_encoder(
        folder, "bert", layers=1, seed=5, head=True, num_labels=len(names), id2label=labels,
        label2id={name: i for i, name in labels.items()},
    )  # fmt: skip
    if knows_moods:
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        words = AutoTokenizer.from_pretrained(folder).get_vocab()
        with torch.no_grad():
            _teach_moods(model, words)
        model.save_pretrained(folder)
    return reference


def _teach_moods(model: PreTrainedModel, words: dict[str, int]) -> None:
    """Dimension 0 holds a text's mood, 1 the hypothesis's; they agree if |0 + 1| > |0 - 1|."""
    for name, weights in model.named_parameters():
        weights.fill_(1.0 if name.endswith("LayerNorm.weight") else 0.0)
    table = model.bert.embeddings.word_embeddings.weight
    table[:, 2], table[:, 3] = 1.0, -1.0  # so that no word is all zeros
    for dimension, good, bad in ((0, GOOD, BAD), (1, ("yes",), ("no",))):
        for value, names in ((3.0, good), (-3.0, bad)):
            table[[words[name] for name in names], dimension] = value
    (layer,) = model.bert.encoder.layer
    eye = torch.eye(len(layer.output.dense.weight))
    layer.attention.self.value.weight.copy_(eye)  # each token sees the mean of all
    layer.attention.output.dense.weight.copy_(4 * eye)
    for unit, (sign, of_hypothesis) in enumerate(((1, 1), (-1, -1), (1, -1), (-1, 1))):
        layer.intermediate.dense.weight[unit, :2] = torch.tensor([4.0 * sign, 8.0 * of_hypothesis])
        layer.output.dense.weight[5, unit] = 1.0 if unit < 2 else -1.0
    model.bert.pooler.dense.weight[5, 5] = 1.0
    model.classifier.weight[2, 5], model.classifier.weight[0, 5] = 4.0, -4.0
