from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from kdlora.distillation.hidden_states import shape_of
from kdlora.errors import ModelError
from kdlora.models import adapters, families
from kdlora.models.encoders import load_encoder
from kdlora.models.inner_states import Wanted, run_with_states
from kdlora.spec.adapter import Adapter
from kdlora.vocabulary.task import TASKS
from tests.harness.tiny_models import (
    FAMILIES,
    FURTHER_FAMILIES,
    save_tiny_encoder,
    tiny_batch,
    tiny_config,
    tiny_tokenizer,
)

WANTED = Wanted((0, 1, 3), 2, "qkv")


def tiny(family: str, layers: int = 3):
    config = tiny_config(family, layers=layers)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")
        for parameter in model.parameters():  # so that no two layers or biases are alike
            parameter.data += 0.02 * torch.randn_like(parameter)
    return model.eval(), tiny_batch(tiny_tokenizer(config), 3)


@pytest.mark.parametrize("family", [*FAMILIES, *FURTHER_FAMILIES])
def test_every_family_shows_its_states_and_the_logits_stay(family):
    model, batch = tiny(family)
    with torch.no_grad():
        logits, states = run_with_states(model, batch, WANTED)
        plain = model(**batch, output_hidden_states=True)
    torch.testing.assert_close(logits, plain.logits)
    assert set(states) == {"hidden.0", "hidden.1", "hidden.3", "q", "k", "v"}
    for layer in (0, 1, 3):
        assert states[f"hidden.{layer}"].equal(plain.hidden_states[layer])
    shape = (*batch["input_ids"].shape, 32)
    assert all(x.shape == shape for x in states.values())
    assert shape_of(model.config).layers == 3
    assert shape_of(model.config).family == family


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta", "albert", "electra"])
def test_projections_give_the_layers_own_attention(family):
    """softmax(q k / sqrt(d)) with as many relation heads as the model has is its attention."""
    model, batch = tiny(family)
    with torch.no_grad():
        _, states = run_with_states(model, batch, WANTED)
        attention = model(**batch, output_attentions=True).attentions
    mask = batch["attention_mask"].bool()
    q, k = (states[n].unflatten(-1, (4, 8)).transpose(1, 2) for n in "qk")
    scores = (q @ k.transpose(-1, -2) / 8**0.5).masked_fill(~mask[:, None, None], -torch.inf)
    torch.testing.assert_close(scores.softmax(-1), attention[1], atol=1e-5, rtol=1e-4)
    # and the layers do differ, so a wrong layer would have been noticed
    assert (attention[0] - attention[1]).abs().max() > 1e-4


def test_the_adapters_share_is_in_the_states(tmp_path):
    loaded = load_encoder(save_tiny_encoder(tmp_path), TASKS["sst2"], seed=0)
    batch = tiny_batch(loaded.tokenizer, 3)
    with torch.no_grad():
        _, before = run_with_states(loaded.model.eval(), batch, Wanted((2,), 1, "qkv"))
    model = adapters.adapt(
        loaded, "lora", Adapter(rank=2, targets=("query-value",)), seed=0, total_steps=1
    ).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_()
    logits, after = run_with_states(model, batch, Wanted((2,), 1, "qkv"))
    assert (after["q"] - before["q"]).abs().max() > 1e-3
    assert after["k"].equal(before["k"])
    assert after["hidden.2"].requires_grad
    assert logits.shape == (3, 2)


def test_hooks_are_gone_after_a_pass_even_a_failed_one():
    model, batch = tiny("bert")
    broken = {**batch, "input_ids": batch["input_ids"] + 10**6}
    with pytest.raises(IndexError):
        run_with_states(model, broken, Wanted((), 2, "qkv"))
    run_with_states(model, batch, Wanted((), 2, "qkv"))
    assert not any(module._forward_hooks for module in model.modules())


def test_an_unknown_family_is_said_to_be_unknown(monkeypatch):
    monkeypatch.delitem(families.FAMILIES, "bert")
    model, batch = tiny("bert")
    with pytest.raises(ModelError, match="where a 'bert' model computes queries"):
        run_with_states(model, batch, WANTED)
