"""DeBERTa's attention in the fused pass against transformers' own module and whole model."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention

from kdlora.models.families import deberta
from kdlora.models.fused import disentangled
from kdlora.models.fused.forward import fuse
from tests.harness.tiny_models import tiny_config

SIZES = {
    "heads": st.sampled_from([1, 2, 4]),
    "width": st.sampled_from([4, 8, 12]),
    "length": st.integers(1, 40),
    "texts": st.integers(1, 3),
    "buckets": st.sampled_from([-1, 2, 8, 16, 64]),
    "seed": st.integers(0, 2**16),
}


def model_of(heads: int, width: int, buckets: int, *, dropout: float = 0.0, layers: int = 2):
    config = tiny_config(
        "deberta-v2", width=heads * width, layers=layers, num_attention_heads=heads,
        position_buckets=buckets, hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout, num_labels=3,
    )  # fmt: skip
    return AutoModelForSequenceClassification.from_config(config)


def batch_of(config, texts: int, length: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(4, config.vocab_size, (texts, length))
    mask = torch.ones_like(ids)
    for text in range(1, texts):
        mask[text, max(1, length - text) :] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


@settings(max_examples=40, deadline=None)
@given(**SIZES)
def test_attention_and_its_gradients_are_those_of_the_module(
    heads, width, length, texts, buckets, seed
):
    torch.manual_seed(seed)
    encoder = model_of(heads, width, buckets, layers=1).deberta.encoder
    module: DisentangledSelfAttention = encoder.layer[0].attention.self
    table = deberta._distances(encoder, length)
    hidden = torch.randn(texts, length, heads * width, requires_grad=True)
    mask = torch.ones(texts, 1, length, length, dtype=torch.bool)
    weights = torch.randn(texts, length, heads * width)
    reads = [hidden, encoder.rel_embeddings.weight, *module.parameters()]

    expected = module(
        hidden, mask, relative_pos=encoder.get_rel_pos(hidden),
        rel_embeddings=encoder.get_rel_embedding(),
    )[0]  # fmt: skip
    wanted = torch.autograd.grad((expected * weights).sum(), reads)

    projections = (module.query_proj, module.key_proj, module.value_proj)
    qkv = torch.cat([projection(hidden) for projection in projections], -1)
    rows = torch.cat([projection(table.rows) for projection in projections[:2]], -1)
    distances = disentangled.project(rows[table.index], heads)
    context = disentangled.attention(qkv, distances, None, None, 1.0)
    found = torch.autograd.grad((context * weights).sum(), reads)

    torch.testing.assert_close(context, expected, rtol=1e-5, atol=1e-5)
    for g, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(g, want, rtol=1e-4, atol=1e-5 * max(1, float(want.abs().max())))


@settings(max_examples=30, deadline=None)
@given(**SIZES)
def test_a_whole_model_of_any_size(heads, width, length, texts, buckets, seed):
    torch.manual_seed(seed)
    model = model_of(heads, width, buckets).eval()
    batch = batch_of(model.config, texts, length)
    forward = fuse(model, torch.float32)
    assert forward is not None
    with torch.no_grad():
        torch.testing.assert_close(forward(batch), model(**batch).logits, rtol=2e-5, atol=2e-5)


def test_parts_and_threads_share_the_distances(monkeypatch):
    from kdlora.models.fused import forward as passes
    from kdlora.models.fused import team

    torch.manual_seed(0)
    model = model_of(4, 8, 8)
    model.deberta.requires_grad_(False)
    batch = batch_of(model.config, 6, 20)
    whole = fuse(model, torch.float32)(batch)
    monkeypatch.setattr(passes, "texts_per_part", lambda texts, length, width: 2)
    monkeypatch.setattr(team, "LEAST", 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        forward = fuse(model, torch.float32)
        torch.testing.assert_close(forward(batch), whole)
        assert forward.team is not None
    finally:
        torch.set_num_threads(threads)


def test_dropout_on_distances_keeps_the_spread_of_the_model():
    torch.manual_seed(0)
    model = model_of(4, 8, 16)
    for layer in model.deberta.encoder.layer:
        layer.attention.self.pos_dropout.p = 0.5  # all others are 0: only distances are dropped
    batch = batch_of(model.config, 2, 12)
    with torch.no_grad():
        model.deberta.encoder.rel_embeddings.weight.mul_(50)
        for layer in model.deberta.encoder.layer:
            layer.attention.self.query_proj.weight.mul_(20)
        forward = fuse(model.train(), torch.float32)
        many = torch.stack([forward(batch) for _ in range(250)])
        plain = torch.stack([model(**batch).logits for _ in range(250)])
    assert plain.std(0).min() > 0
    ratio = many.std(0) / plain.std(0)
    assert ratio.min() > 0.8
    assert ratio.max() < 1.25


@pytest.mark.parametrize(
    "changes",
    [
        {"relative_attention": False},
        {"share_att_key": False},
        {"pos_att_type": ["c2p"]},
        {"conv_kernel_size": 3},
    ],
)
def test_another_layout_is_left_to_the_model(changes):
    config = tiny_config("deberta-v2", **changes)
    model = AutoModelForSequenceClassification.from_config(config)
    assert fuse(model, torch.float32) is None
