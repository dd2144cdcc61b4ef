"""What must hold for every variant on every family, beside the life of an adapter.

The life itself (start, what moves, save, load, merge) is `test_adapters.test_life_of_an_adapter`.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from kdlora.models import adapters
from kdlora.vocabulary.arm import PEFT_VARIANTS
from tests.harness.models import GetEncoder, adapt, load, parameters, train
from tests.harness.tiny_models import FAMILIES, FURTHER_FAMILIES, tiny_batch

HEADS = {  # the modules beside the encoder; a classifier in the others
    "distilbert": ("pre_classifier", "classifier"),
    "deberta-v2": ("pooler", "classifier"),
    "modernbert": ("head", "classifier"),
}
RANK = 4


def closed_form(variant: str, inputs: int, outputs: int) -> int:
    """Parameters beside one layer, as the papers have it, written without kdlora's own count."""
    both = inputs + outputs
    return {
        "lora": RANK * both,
        "rslora": RANK * both,
        "olora": RANK * both,
        "dora": RANK * both + outputs,
        "adalora": math.ceil(1.5 * RANK) * (both + 1),
        "mrlora": (4 + 2 + 1) * both + 3,
    }[variant]


@pytest.mark.parametrize(
    ("family", "variant"), itertools.product((*FAMILIES, *FURTHER_FAMILIES), PEFT_VARIANTS)
)
def test_trainable_parameters_are_the_closed_form(
    family: str, variant: str, shallow: GetEncoder
) -> None:
    loaded = load(shallow(family))
    tops = HEADS.get(family, ("classifier",))
    linears = {
        name: module
        for name, module in loaded.model.named_modules()
        if isinstance(module, nn.Linear) and name.partition(".")[0] not in tops
    }
    beside = sum(
        p.numel() for name, p in loaded.model.named_parameters() if name.partition(".")[0] in tops
    )
    expected = sum(closed_form(variant, m.in_features, m.out_features) for m in linears.values())
    model = adapt(loaded, variant, rank=RANK)
    assert adapters.adapter_parameters(model) == expected
    assert adapters.trainable_parameters(model) == expected + beside
    assert set(adapters.adapted_layers(model)) == set(linears)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_second_training_is_not_affected_by_the_first(family: str, shallow: GetEncoder) -> None:
    """Everything once in a row, then the other way round: each gives the same weights again."""

    def run(way: str) -> dict[str, torch.Tensor]:
        loaded = load(shallow(family))
        variant, _, init = way.partition(" from ")
        model = adapt(loaded, variant, **({"options": {"init_weights": init}} if init else {}))
        train(model, tiny_batch(loaded.tokenizer, n=4), steps=6)
        return parameters(model)

    ways = ["fft", *PEFT_VARIANTS, "mrlora from svd"]
    first = {way: run(way) for way in ways}
    for way in reversed(ways):
        again = run(way)
        assert first[way].keys() == again.keys()
        differ = [name for name in again if not torch.equal(again[name], first[way][name])]
        assert differ == [], way
