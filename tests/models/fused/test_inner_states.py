"""Inner states that the fused pass gives beside the logits, against transformers' own."""

from __future__ import annotations

import weakref
from functools import partial

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from kdlora.models.fused.forward import FusedForward, fuse
from kdlora.models.fused.layer import BoundLayer
from kdlora.models.inner_states import Wanted, run_with_states
from tests.harness.fused import FAMILIES, VARIANTS, trained
from tests.harness.models import adapt, load
from tests.harness.tiny_models import tiny_batch, tiny_config, tiny_tokenizer

PRE_NORM = ("modernbert",)
POST_NORM = [family for family in FAMILIES if family not in PRE_NORM]


def assert_same_states(model, batch, wanted: Wanted) -> FusedForward:
    """Logits, states, and the gradients of a loss on all of them; on tokens, not on padding."""
    forward = fuse(model, torch.float32, wanted)
    mask = batch["attention_mask"].bool()
    found = []
    for compute in (partial(run_with_states, model, wanted=wanted), forward.with_states):
        model.zero_grad()
        logits, states = compute(batch)
        assert set(states) == set(wanted.names)
        values = {"logits": logits} | {name: states[name][mask] for name in wanted.names}
        noise = torch.Generator().manual_seed(0)
        weights = {n: torch.randn(v.shape, generator=noise) for n, v in values.items()}
        sum((v * weights[n]).sum() for n, v in values.items()).backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        found.append((values, gradients))
    (theirs, their_gradients), (ours, our_gradients) = found
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=5e-5, atol=5e-5, msg=name)
    assert our_gradients.keys() == their_gradients.keys()
    for name, gradient in their_gradients.items():
        scale = gradient.abs().max().clamp_min(1e-3)
        torch.testing.assert_close(our_gradients[name] / scale, gradient / scale, rtol=0, atol=2e-4)
    return forward


@pytest.mark.parametrize("family", POST_NORM)
@pytest.mark.parametrize(
    "wanted",
    [Wanted((0, 1, 2)), Wanted((1,), 1, "qv"), Wanted((), 2, "qkv"), Wanted((2, 0), 2, "v")],
    ids=["every layer", "the first layer", "projections of the last", "the last layer"],
)
def test_families(encoder, family, wanted):
    model, batch = trained(encoder, family, "lora")
    model.eval()
    assert_same_states(model, batch, wanted)


@pytest.mark.parametrize("wanted", [Wanted((0, 1)), Wanted((1,), 2, "qkv")], ids=["hidden", "qkv"])
def test_a_pre_norm_family_but_for_what_its_final_norm_makes(encoder, wanted):
    model, batch = trained(encoder, "modernbert", "lora")
    model.eval()
    assert_same_states(model, batch, wanted)
    assert fuse(model, torch.float32, Wanted((2,))) is None


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", ["bert", "deberta-v2"])
def test_variants(encoder, family, variant):
    model, batch = trained(encoder, family, variant)
    model.eval()
    assert_same_states(model, batch, Wanted((1, 2), 2, "qkv"))


def test_full_fine_tuning(encoder):
    loaded = load(encoder("bert"))
    batch = tiny_batch(loaded.tokenizer)
    model = adapt(loaded, "fft").eval()
    assert_same_states(model, batch, Wanted((0, 2), 1, "qk"))


def test_a_batch_in_parts_has_the_same_states(encoder, monkeypatch):
    model, batch = trained(encoder, "bert", "lora")
    monkeypatch.setattr("kdlora.models.fused.forward.texts_per_part", lambda *shape: 1)
    assert_same_states(model.eval(), batch, Wanted((0, 1, 2), 2, "qkv"))


def test_texts_shared_out_to_threads_have_the_same_states(encoder, two_threads):
    model, batch = trained(encoder, "bert", "lora")
    forward = assert_same_states(model.eval(), batch, Wanted((0, 1, 2), 2, "qkv"))
    assert forward.team is not None


def test_what_is_dropped_in_training_is_dropped_in_the_states(encoder):
    loaded = load(encoder("bert"), dropout=0.5)
    batch = tiny_batch(loaded.tokenizer)
    model = adapt(loaded, "lora").train()
    forward = fuse(model, torch.float32, Wanted((0, 2)))
    with torch.no_grad():
        torch.manual_seed(1)
        _, first = forward.with_states(batch)
        torch.manual_seed(1)
        _, again = forward.with_states(batch)
        _, other = forward.with_states(batch)
    for name, state in first.items():
        assert state.equal(again[name])
        assert not state.equal(other[name])
    assert (first["hidden.0"] == 0).float().mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("wanted", [Wanted(), Wanted((4,))], ids=["none", "the last"])
def test_states_that_nobody_wants_are_not_held(monkeypatch, wanted):
    """In answers each layer's stream goes when the next one's is there; they may be large."""
    config = tiny_config("bert", layers=4)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    made, held, call = [], [], BoundLayer.__call__

    def watched(self, stream, *others):
        held.append(sum(one() is not None for one in made))
        out = call(self, stream, *others)
        made.append(weakref.ref(out))
        return out

    monkeypatch.setattr(BoundLayer, "__call__", watched)
    with torch.no_grad():
        fuse(model, torch.float32, wanted).with_states(tiny_batch(tiny_tokenizer(config)))
    assert held[:3] == [0, 1, 1]  # what a layer reads, and no other
