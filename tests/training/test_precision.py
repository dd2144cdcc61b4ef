from __future__ import annotations

import pytest
import torch
from torch import nn

from kdlora.data.batches import encode
from kdlora.training import precision
from kdlora.training.inference import predict
from kdlora.training.precision import (
    Compute,
    choose_compute,
    ready_for_inference,
    ready_for_training,
)
from tests.harness.moods import sentences
from tests.harness.tiny_models import tiny_config, tiny_tokenizer

BF16 = Compute(torch.device("cpu"), torch.bfloat16, "eager", "test")
FP32 = Compute(torch.device("cpu"), torch.float32, "eager", "test")


def model(outputs: int = 1) -> nn.Module:
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(0)
    config = tiny_config("bert", width=64, num_labels=outputs)
    return AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"amx_bf16"}, "bf16"),
        ({"avx512_bf16", "avx2"}, "bf16"),
        ({"avx2"}, "fp32"),
        (set(), "fp32"),
    ],
)
def test_bf16_is_chosen_where_the_processor_multiplies_it(monkeypatch, flags, expected):
    monkeypatch.setattr(precision, "cpu_flags", lambda: flags)
    compute = choose_compute("auto", device="cpu")
    assert compute.name == expected
    assert compute.reason


def test_what_is_asked_for_is_done():
    assert choose_compute("fp32", device="cpu").dtype == torch.float32
    assert choose_compute("bf16", device="cpu").dtype == torch.bfloat16


def test_the_attention_rule():
    assert choose_compute("fp32", device="cpu", max_length=128).attention == "eager"
    assert choose_compute("fp32", device="cpu", max_length=512).attention == "sdpa"


def test_frozen_weights_are_cast_and_trained_ones_kept():
    net = model()
    net.bert.requires_grad_(False)
    net.bert.pooler.requires_grad_(True)
    ready_for_training(net, BF16)
    for name, parameter in net.named_parameters():
        trained = "pooler" in name or "classifier" in name
        assert parameter.dtype == (torch.float32 if trained else torch.bfloat16), name


def test_outputs_are_not_rounded_to_bf16():
    """A regression near 4 must not come in steps of 1/32."""
    net = ready_for_inference(model(), BF16)
    with torch.no_grad():
        net.classifier.bias += 4
    texts = encode(tiny_tokenizer(net.config), (sentences(64, 0)[0],), max_length=32)
    values = torch.from_numpy(predict(net, texts, BF16))
    assert (values != values.bfloat16().float()).float().mean() > 0.9


def test_bf16_and_fp32_agree_within_rounding():
    texts = None
    outputs = []
    for compute in (FP32, BF16):
        net = ready_for_inference(model(3), compute)
        texts = texts or encode(tiny_tokenizer(net.config), (sentences(64, 0)[0],), max_length=32)
        outputs.append(torch.from_numpy(predict(net, texts, compute)))
    torch.testing.assert_close(outputs[0], outputs[1], atol=0.02, rtol=0.05)
    assert not torch.equal(outputs[0], outputs[1])
