"""The fused forward pass against the model's own, for every family and variant."""

from __future__ import annotations

import pytest
import torch

from kdlora.models.fused.forward import fuse
from kdlora.training.precision import choose_compute, ready_for_inference
from tests.harness.fused import FAMILIES, VARIANTS, assert_same, trained
from tests.harness.models import adapt, load
from tests.harness.tiny_models import tiny_batch


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("targets", [("all-linear",), ("query-value",)])
def test_families(encoder, family, targets):
    model, batch = trained(encoder, family, "lora", targets=targets)
    assert_same(model, batch, fuse(model, torch.float32), tolerance=2e-5)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", ["bert", "albert", "deberta-v2", "modernbert"])
def test_variants(encoder, family, variant):
    model, batch = trained(encoder, family, variant)
    forward = fuse(model, torch.float32)
    assert all(p.fused for layer in forward.layers for p in layer.projections())
    assert_same(model, batch, forward, tolerance=2e-5)


def test_unknown_layers_are_called_as_they_are(encoder):
    model, batch = trained(encoder, "bert", "lora", options={"lora_bias": True})
    forward = fuse(model, torch.float32)
    assert not forward.layers[0].qkv[0].fused
    model.eval()
    torch.testing.assert_close(forward(batch), model(**batch).logits, rtol=2e-5, atol=2e-5)


def test_a_model_of_another_layout_has_none(encoder):
    model = load(encoder("modernbert")).model
    model.config.classifier_pooling = "mean"
    assert fuse(model, torch.float32) is None


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_placed_for_answers_in_bf16(encoder, family):
    loaded = load(encoder(family))
    batch = tiny_batch(loaded.tokenizer)
    exact = loaded.model.eval()(**batch).logits.detach()
    compute = choose_compute("bf16")
    placed = ready_for_inference(loaded.model, compute)
    with torch.inference_mode():
        logits = fuse(placed, torch.bfloat16)(batch)
    torch.testing.assert_close(logits, exact, rtol=0.05, atol=0.05)


def test_bf16_is_as_close_to_fp32_as_autocast(encoder):
    model, batch = trained(encoder, "bert", "lora")
    model.eval()
    with torch.no_grad():
        exact = model(**batch).logits
        with torch.autocast("cpu", dtype=torch.bfloat16):
            autocast = model(**batch).logits.float()
        fused = fuse(model, torch.bfloat16)(batch)
    assert (fused - exact).abs().mean() <= 1.5 * (autocast - exact).abs().mean() + 1e-4


def test_dropout_keeps_the_expectation_and_follows_the_seed(encoder):
    loaded = load(encoder("bert"), dropout=0.1)
    batch = tiny_batch(loaded.tokenizer)
    model = adapt(loaded, "fft").train()
    forward = fuse(model, torch.float32)
    with torch.no_grad():
        torch.manual_seed(1)
        first = forward(batch)
        torch.manual_seed(1)
        again = forward(batch)
        other = forward(batch)
        many = torch.stack([forward(batch) for _ in range(300)])
        plain = torch.stack([model(**batch).logits for _ in range(300)])
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    spread = plain.std(0).max()
    assert (many.mean(0) - plain.mean(0)).abs().max() < 0.5 * spread
    assert 0.8 < many.std(0).mean() / plain.std(0).mean() < 1.25


def test_the_model_is_left_as_it_was(encoder):
    model, batch = trained(encoder, "bert", "lora")
    before = {n: v.clone() for n, v in model.state_dict().items()}
    forward = fuse(model, torch.bfloat16)
    forward(batch).sum().backward()
    after = model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[n], after[n]) for n in before)


def test_an_evaluation_first_does_not_stop_a_training_after(encoder):
    model, batch = trained(encoder, "bert", "lora")
    forward = fuse(model, torch.bfloat16)
    with torch.inference_mode():
        forward(batch)
    forward(batch).sum().backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


PACKED_BF16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="oneDNN packs no bf16 here"
)


@pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.bfloat16, marks=PACKED_BF16)], ids=["fp32", "bf16"]
)
def test_what_is_shared_is_packed_once_and_for_answers_in_one_direction(encoder, dtype):
    from kdlora.models.fused import packed

    calls = []
    reorder = packed._reordered
    model, batch = trained(encoder, "albert", "lora")
    forward = fuse(model.eval(), dtype)
    assert len({id(layer) for layer in forward.layers}) == 1
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(packed, "_reordered", lambda w: calls.append(w.shape) or reorder(w))
        forward(batch)
        assert len(calls) == len(set(map(id, forward.layers))) * 4 + 5 + (forward.widen is not None)
        forward(batch)
    assert len(calls) == 10
