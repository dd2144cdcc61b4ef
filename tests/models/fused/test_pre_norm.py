"""ModernBERT's layers in the fused pass against transformers' own model, local windows included."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification

from kdlora.models.families import modernbert
from kdlora.models.fused.forward import fuse
from kdlora.models.fused.pre_norm import _Rotated
from tests.harness.fused import assert_same
from tests.harness.tiny_models import tiny_config


def model_of(heads: int, width: int, window: int, *, layers: int = 4, **changes):
    """Every third layer sees all, the others a window; in fp32 and without dropout."""
    config = tiny_config(
        "modernbert", width=heads * width, layers=layers, num_attention_heads=heads,
        local_attention=window, num_labels=3, **changes,
    )  # fmt: skip
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")
    with torch.no_grad():  # weights at which a change of what is attended to shows
        for layer in model.model.layers:
            layer.attn.Wqkv.weight.mul_(15)
    return model


def batch_of(config, texts: int, length: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(4, config.vocab_size, (texts, length))
    mask = torch.ones_like(ids)
    for text in range(1, texts):
        mask[text, max(1, length - 3 * text) :] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


@settings(max_examples=25, deadline=None)
@given(
    heads=st.sampled_from([1, 2, 4]),
    width=st.sampled_from([2, 4, 8]),
    window=st.sampled_from([2, 4, 8, 128]),
    length=st.integers(1, 30),
    texts=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)
def test_a_model_of_any_size(heads, width, window, length, texts, seed):
    torch.manual_seed(seed)
    model = model_of(heads, width, window)
    batch = batch_of(model.config, texts, length)
    assert_same(model, batch, fuse(model, torch.float32), tolerance=5e-5)


def test_a_window_changes_what_is_seen():
    torch.manual_seed(0)
    model = model_of(2, 8, 4)
    windows = modernbert._rotary(model.model, 20).windows
    assert set(windows) == {"sliding_attention"}
    reach = (windows["sliding_attention"][0, 0] == 0).sum(1)
    assert reach[10] == 2 * model.config.sliding_window + 1
    assert not modernbert._rotary(model.model, model.config.sliding_window + 1).windows


def test_turning_is_undone_by_its_gradient():
    torch.manual_seed(0)
    angles = torch.rand(5, 4)
    qkv = torch.randn(2, 5, 3 * 2 * 8, dtype=torch.float64, requires_grad=True)
    turned = _Rotated.apply(qkv, angles.cos(), angles.sin(), 2)
    assert torch.autograd.gradcheck(
        lambda x: _Rotated.apply(x, angles.cos(), angles.sin(), 2).float().double(),
        qkv, eps=1e-3, atol=1e-3,
    )  # fmt: skip
    lengths = turned.detach().unflatten(-1, (3, 2, 8)).norm(dim=-1)
    torch.testing.assert_close(lengths, qkv.detach().unflatten(-1, (3, 2, 8)).norm(dim=-1))


@pytest.mark.parametrize("where", ["attention_dropout", "mlp_dropout", "embedding_dropout"])
def test_dropout_has_the_spread_of_the_model(where):
    torch.manual_seed(0)
    model = model_of(2, 8, 8, layers=2, **{where: 0.5}).train()
    batch = batch_of(model.config, 2, 12)
    forward = fuse(model, torch.float32)
    with torch.no_grad():
        many = torch.stack([forward(batch) for _ in range(250)])
        plain = torch.stack([model(**batch).logits for _ in range(250)])
    ratio = many.std(0) / plain.std(0)
    assert ratio.min() > 0.7
    assert ratio.max() < 1.4
