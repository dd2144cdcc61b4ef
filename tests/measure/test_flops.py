"""FLOPs against closed forms and against counting the very batch that is asked about."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForSequenceClassification

from kdlora.errors import ModelError
from kdlora.measure.flops import FlopModel, flops_per_length
from tests.harness.tiny_models import FAMILIES, FURTHER_FAMILIES, tiny_config

D, LAYERS, FF, CLASSES = 32, 2, 64, 2


def classifier(family: str = "bert", attention: str = "sdpa") -> nn.Module:
    config = tiny_config(family, width=D, layers=LAYERS)
    if family.startswith("deberta"):
        attention = "eager"
    return AutoModelForSequenceClassification.from_config(config, attn_implementation=attention)


def lora(model: nn.Module, **changes: object) -> nn.Module:
    values = {"r": 4, "target_modules": ["query", "value"], "modules_to_save": ["classifier"]}
    return get_peft_model(model, LoraConfig(**(values | changes)))


def bert_forward(length: int) -> int:
    """Two per multiply-add: q, k, v, o and the two of the MLP; scores and context; pooler, head."""
    linear = 2 * length * (4 * D * D + 2 * D * FF)
    attention = 2 * 2 * length**2 * D
    return LAYERS * (linear + attention) + 2 * D * D + 2 * D * CLASSES


def counted(model: nn.Module, batch: int, length: int, *, backward: bool) -> int:
    ids = torch.randint(5, 50, (batch, length))
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(backward):
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        if backward:
            logits.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("length", [7, 20, 64, 128])
def test_bert_in_closed_form(length):
    model = classifier()
    forward = flops_per_length(model, backward=False)
    assert forward.flops(1, length) == bert_forward(length)
    assert forward.flops(5, length) == 5 * bert_forward(length)
    assert forward.per_batch == (0, 0, 0)


def test_a_full_training_step_is_three_forward_passes():
    step = flops_per_length(classifier(), backward=True)
    assert step.flops(4, 33) == 3 * 4 * bert_forward(33)


def test_a_frozen_weight_gets_no_gradient():
    model = classifier().requires_grad_(False)
    model.classifier.requires_grad_(True)
    step = flops_per_length(model, backward=True)
    assert step.flops(2, 30) == 2 * (bert_forward(30) + 2 * D * CLASSES)


@pytest.mark.parametrize("family", FAMILIES + FURTHER_FAMILIES)
@pytest.mark.parametrize("backward", [False, True])
def test_a_fourth_length_and_a_third_batch_in_every_family(family, backward):
    model = classifier(family, attention="eager").eval()
    found = flops_per_length(model, backward=backward)
    assert found.flops(3, 21) == counted(model, 3, 21, backward=backward)


@pytest.mark.parametrize("variant", [{}, {"use_dora": True}, {"target_modules": "all-linear"}])
def test_adapters_are_counted_as_they_stand(variant):
    model = lora(classifier(attention="eager"), **variant).eval()
    for backward in (False, True):
        found = flops_per_length(model, backward=backward)
        assert found.flops(5, 24) == counted(model, 5, 24, backward=backward)
    assert flops_per_length(model, backward=False).flops(1, 24) > bert_forward(24)
    # less than a full step although the adapters are computed too: no gradient of frozen weights
    assert found.flops(1, 24) < 3 * bert_forward(24)


def test_what_a_batch_costs_once_is_kept_apart():
    dora = flops_per_length(lora(classifier(), use_dora=True), backward=False)
    assert dora.per_batch[0] > 0
    assert dora.per_batch[1:] == (0, 0)


def test_weights_in_a_short_format_count_the_same():
    model = lora(classifier())
    expected = flops_per_length(model, backward=True)
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)
    assert flops_per_length(model, backward=True) == expected


def test_everything_is_put_back():
    model = lora(classifier())
    model.train()
    model.base_model.model.bert.eval()
    weight = model.base_model.model.classifier.modules_to_save["default"].weight
    weight.grad = torch.full_like(weight, 7.0)
    modes = [m.training for m in model.modules()]
    state = torch.get_rng_state()

    flops_per_length(model, backward=True)

    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(weight.grad, torch.full_like(weight, 7.0))
    others = [p.grad for p in model.parameters() if p is not weight]
    assert all(gradient is None for gradient in others)
    assert model.get_base_model().config._attn_implementation == "sdpa"


def test_a_failure_puts_the_attention_back_too():
    model = classifier()
    model.bert.pooler = None
    model.bert.forward = None
    with pytest.raises(TypeError):
        flops_per_length(model, backward=False)
    assert model.config._attn_implementation == "sdpa"


def test_a_frozen_model_has_no_training_step():
    with pytest.raises(ModelError, match="frozen"):
        flops_per_length(classifier().requires_grad_(False), backward=True)


def test_evaluation():
    assert FlopModel(per_batch=(1, 2, 3), per_example=(10, 20, 30)).flops(7, 5) == 86 + 7 * 860
