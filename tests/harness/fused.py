"""Trained tiny models, and the fused pass held against the plain one."""

from __future__ import annotations

import torch

from tests.harness.models import adapt, load, train
from tests.harness.tiny_models import tiny_batch

FAMILIES = (
    "bert", "distilbert", "roberta", "xlm-roberta", "electra", "albert", "mpnet", "deberta-v2",
    "modernbert",
)  # fmt: skip
VARIANTS = ("fft", "lora", "adalora", "dora", "mrlora", "olora", "rslora")


def trained(encoder, family, variant, **adapter):
    """A model some steps into its training, so that no factor is zero, and a padded batch."""
    loaded = load(encoder(family))
    batch = tiny_batch(loaded.tokenizer)
    model = adapt(loaded, variant, **adapter)
    train(model, batch)
    return model, batch


def gradients(model, logits):
    model.zero_grad()
    target = torch.arange(len(logits)) % logits.shape[-1]
    torch.nn.functional.cross_entropy(logits, target).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_same(model, batch, forward, *, tolerance):
    model.train()
    plain = gradients(model, model(**batch).logits)
    expected = model(**batch).logits
    logits = forward(batch)
    torch.testing.assert_close(logits, expected, rtol=tolerance, atol=tolerance)
    fused = gradients(model, logits)
    nonzero = {n for n, g in plain.items() if g.abs().max() > 1e-7}
    assert nonzero <= set(fused)
    for name in nonzero:
        scale = plain[name].abs().max()
        error = (fused[name] - plain[name]).abs().max() / scale
        assert error < 20 * tolerance, f"{name}: {error:.2e}"
