"""Which forward pass a batch takes."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from kdlora.training import forward as forwards
from kdlora.training.forward import make_forward
from kdlora.training.precision import SHORT_TOKENS, choose_compute
from tests.harness.tiny_models import tiny_config


def model(family: str, attention: str):
    torch.manual_seed(0)
    config = tiny_config(family, max_position_embeddings=600)
    made = AutoModelForSequenceClassification.from_config(config, attn_implementation=attention)
    return made.eval()


def batch(length: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 30, (2, length), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.fixture
def fused_lengths(monkeypatch):
    """The lengths of the batches that took the fused pass."""
    seen, fuse = [], forwards.fuse

    def watched(model, dtype):
        fused = fuse(model, dtype)

        def call(inputs):
            seen.append(inputs["input_ids"].shape[1])
            return fused(inputs)

        return call

    monkeypatch.setattr(forwards, "fuse", watched)
    return seen


def test_long_texts_are_trained_without_keeping_what_grows_with_their_square(fused_lengths):
    net = model("bert", choose_compute("fp32", max_length=512, device="cpu").attention)
    forward = make_forward(net, choose_compute("fp32", device="cpu"))
    for length in (SHORT_TOKENS, SHORT_TOKENS + 1):
        inputs, kept = batch(length), []

        def keep(tensor, kept=kept):
            kept.append(tensor.shape)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            logits = forward(inputs)
        torch.testing.assert_close(logits, net(**inputs).logits, rtol=2e-5, atol=2e-5)
        squares = [shape for shape in kept if shape[-2:] == (length, length)]
        assert bool(squares) == (length == SHORT_TOKENS)
    assert fused_lengths == [SHORT_TOKENS]
    with torch.no_grad():  # nothing is kept, so the faster pass
        forward(batch(SHORT_TOKENS + 1))
    assert fused_lengths == [SHORT_TOKENS, SHORT_TOKENS + 1]


@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_without_sdpa_nothing_is_gained_by_the_models_own_pass(fused_lengths, family):
    forward = make_forward(model(family, "eager"), choose_compute("fp32", device="cpu"))
    forward(batch(SHORT_TOKENS + 1))
    assert fused_lengths == [SHORT_TOKENS + 1]
