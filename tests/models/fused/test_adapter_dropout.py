"""Dropout on what adapters read: the fused pass against peft's own layers with the same masks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdlora.models.fused import layer as layers
from kdlora.models.fused import team as teams
from kdlora.models.fused.factors import factors_of
from kdlora.models.fused.forward import fuse
from tests.harness.fused import assert_same, gradients, trained
from tests.harness.models import adapt, load
from tests.harness.tiny_models import tiny_batch

VARIANTS = ("lora", "adalora", "dora", "mrlora", "rslora")


class Fixed(nn.Dropout):
    """Dropout whose mask is given: [b, l, i]."""

    def __init__(self, p, mask, scale):
        super().__init__(p)
        self.mask, self.scale = mask, scale

    def forward(self, x):
        return x * self.mask * self.scale if self.training else x


def adapted(encoder, variant, **adapter):
    """A model whose adapters do much, and a padded batch."""
    model, batch = trained(encoder, "bert", variant, **adapter)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name and "magnitude" not in name:
                parameter.normal_(std=0.3)
    return model, batch


def fix_masks(model, forward, batch, *, alike=False):
    """Give peft's layers and the fused pass the same masks; returns how many layers have one.

    `alike`: every text has the same, so that it does not matter which share of a batch it is in.
    """
    texts, length = batch["input_ids"].shape
    generator = torch.Generator().manual_seed(0)

    def held(module):
        return module.mrlora_dropout if hasattr(module, "mrlora_dropout") else module.lora_dropout

    def fix(module, masks, first_only):
        width = module.get_base_layer().in_features
        keep = (torch.rand(1 if alike else texts, length, width, generator=generator) > 0.3).float()
        keep = keep.expand(texts, -1, -1)
        held(module)["default"] = Fixed(0.3, keep, masks.scale)
        mine = keep[:, :1] if first_only else keep

        def draw(shape, like, generator=None):
            rows = mine[: shape[0] // mine.shape[1]].reshape(shape)
            return rows.to(like.dtype)

        masks.draw = draw

    for module in model.modules():  # those outside the layers (the pooler's) stay without
        if factors_of(module) is not None:
            held(module)["default"] = nn.Identity()
    n = 0
    for fused in [*forward.layers, forward.last]:
        for projection in fused.projections():
            first_only = fused is forward.last and projection is not fused.qkv[1]
            for module, masks in zip(projection.modules, projection.masks, strict=True):
                if factors_of(module) is not None:
                    fix(module, masks, first_only)
                    n += 1
    return n


def counted(monkeypatch):
    """Counts the layers that are computed as one operation with a gradient of its own."""
    calls = []
    whole = layers.frozen_layer
    monkeypatch.setattr(layers, "frozen_layer", lambda *a: calls.append(1) or whole(*a))
    return calls


@pytest.mark.parametrize("targets", [("all-linear",), ("query-value",)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_values_and_gradients_are_pefts(encoder, monkeypatch, variant, targets):
    model, batch = adapted(encoder, variant, dropout=0.3, targets=targets)
    forward = fuse(model, torch.float32)
    assert fix_masks(model, forward, batch) == (12 if targets == ("all-linear",) else 4)
    calls = counted(monkeypatch)
    assert_same(model, batch, forward, tolerance=2e-5)
    assert forward.frozen
    assert len(calls) == (0 if variant == "dora" else 1)  # of two layers, the last is cut short
    model.train()
    with_masks = forward(batch)
    model.eval()
    assert (with_masks - forward(batch)).abs().max() > 1e-4


@pytest.mark.parametrize("variant", ["lora", "dora"])
def test_threads_with_texts_of_their_own(encoder, monkeypatch, variant):
    model, batch = adapted(encoder, variant, dropout=0.3)
    forward = fuse(model, torch.float32)
    fix_masks(model, forward, batch, alike=True)
    monkeypatch.setattr(teams, "LEAST", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert_same(model, batch, forward, tolerance=2e-5)
    finally:
        torch.set_num_threads(before)
    assert forward.team is not None


def test_layers_without_a_gradient_of_their_own(encoder):
    """As `test_values_and_gradients_are_pefts`, where weights are not packed."""
    model, batch = adapted(encoder, "lora", dropout=0.3)
    for name, parameter in model.named_parameters():
        if "LayerNorm" in name:
            parameter.requires_grad = True
    forward = fuse(model, torch.float32)
    assert not forward.frozen
    fix_masks(model, forward, batch)
    assert_same(model, batch, forward, tolerance=2e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_is_dropped_in_evaluation(encoder, variant):
    model, batch = adapted(encoder, variant, dropout=0.5)
    model.eval()
    forward = fuse(model, torch.float32)
    torch.testing.assert_close(forward(batch), model(**batch).logits, rtol=1e-4, atol=1e-4)


def test_every_module_has_a_mask_of_its_own(encoder):
    model, _ = adapted(encoder, "lora", dropout=0.5, targets="query-value")
    fused = fuse(model, torch.float32).layers[0]
    bound = fused.bind(training=True).qkv[0]
    like = torch.empty(0)
    training = layers.Batch(2, 5, None, training=True)
    query, key, value = bound.keeps(10, like, training.keep)
    assert key is None  # it has no adapter
    assert query.shape == value.shape == (10, 32)
    assert 0.3 < float(query.mean()) < 0.7
    assert not torch.equal(query, value)
    assert not torch.equal(query, bound.keeps(10, like, training.keep)[0])
    assert bound.keeps(10, like, layers.Batch(2, 5, None, training=False).keep) == ()


@pytest.mark.parametrize("variant", ["lora", "mrlora", "dora"])
def test_the_expectation_and_spread_are_pefts(encoder, variant):
    loaded = load(encoder("bert"))
    batch = tiny_batch(loaded.tokenizer)
    model = adapt(loaded, variant, dropout=0.4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    forward = fuse(model.train(), torch.float32)
    with torch.no_grad():
        torch.manual_seed(0)
        many = torch.stack([forward(batch) for _ in range(150)])
        plain = torch.stack([model(**batch).logits for _ in range(150)])
    spread = plain.std(0)
    assert ((many.mean(0) - plain.mean(0)).abs() < 0.5 * spread.max()).all()
    assert 0.85 < float(many.std(0).mean() / spread.mean()) < 1.15


def test_masks_do_not_outlive_the_backward_pass(encoder):
    model, batch = adapted(encoder, "lora", dropout=0.5)
    forward = fuse(model.train(), torch.float32)
    logits = forward(batch)
    gradients(model, logits)
    node = logits.grad_fn
    found, todo = [], [node]
    while todo:
        node = todo.pop()
        todo += [n for n, _ in node.next_functions if n is not None]
        if type(node).__name__ == "_FrozenLayerBackward":
            found.append((node.layer.keeps, node.layer.drops))
    assert set(found) == {((), ())}
