from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from kdlora.errors import ModelError
from kdlora.models import adapters
from kdlora.models.saved import load_trained, save_trained
from kdlora.spec.run import EncoderRef
from kdlora.vocabulary.arm import PEFT_VARIANTS
from tests.harness.models import GetEncoder, adapt, load, logits, parameters, train
from tests.harness.tiny_models import tiny_batch


def _base_weights(reference: EncoderRef) -> dict[str, torch.Tensor]:
    return parameters(load(reference).model)


@pytest.mark.parametrize(
    ("variant", "options"),
    [
        *((variant, {}) for variant in PEFT_VARIANTS),
        ("olora", {"use_rslora": True}),
        ("mrlora", {"init_weights": "svd"}),
        ("mrlora", {"ranks": [3, 3], "use_rslora": True, "init_weights": "svd"}),
        ("dora", {"use_rslora": True}),
        ("lora", {"init_lora_weights": "gaussian"}),
    ],
)
def test_norm_is_that_of_the_merged_change(
    variant: str, options: dict, encoder: GetEncoder, tmp_path: Path
) -> None:
    loaded = load(encoder("bert"))
    model = adapt(loaded, variant, options=options)
    assert adapters.adapter_norm(model) == 0.0
    batch = tiny_batch(loaded.tokenizer)
    train(model, batch)
    norm, layers, after = adapters.adapter_norm(model), adapters.adapted_layers(model), None
    after = logits(model, batch)
    save_trained(model, loaded.tokenizer, tmp_path / "run", encoder=encoder("bert"))
    restored, _ = load_trained(tmp_path / "run")
    torch.testing.assert_close(logits(restored, batch), after, atol=1e-5, rtol=0)
    base = _base_weights(encoder("bert"))
    for merged in (adapters.merge(model), restored):
        now = parameters(merged)
        squares = sum(
            float((now[f"{n}.weight"] - base[f"{n}.weight"]).square().sum()) for n in layers
        )
        assert norm == pytest.approx(math.sqrt(squares), rel=1e-4)


@pytest.mark.parametrize("variant", PEFT_VARIANTS)
def test_frozen_weights_in_bf16_do_not_reach_the_saved_model(
    variant: str, encoder: GetEncoder, tmp_path: Path
) -> None:
    loaded = load(encoder("bert"))
    model = adapt(loaded, variant)
    batch = tiny_batch(loaded.tokenizer)
    train(model, batch)
    exact, norm = logits(model, batch), adapters.adapter_norm(model)
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.bfloat16()
    assert adapters.adapter_norm(model) == pytest.approx(norm, rel=0.05)
    save_trained(model, loaded.tokenizer, tmp_path / "run", encoder=encoder("bert"))
    restored, _ = load_trained(tmp_path / "run")
    assert {p.dtype for p in restored.parameters()} == {torch.float32}
    torch.testing.assert_close(logits(restored, batch), exact, atol=1e-5, rtol=0)
    rounded = adapters.merge(model)  # usable, but with the rounding of the base weights
    assert {p.dtype for p in rounded.parameters()} == {torch.float32}
    assert 1e-5 < (logits(rounded, batch) - exact).abs().max() < 0.1


def test_untrained_adapter_has_no_norm_even_in_bf16(encoder: GetEncoder) -> None:
    for variant in PEFT_VARIANTS:
        model = adapt(load(encoder("bert")), variant, rank=3, alpha=7)
        for parameter in model.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.bfloat16()
        assert adapters.adapter_norm(model) == 0.0


def test_broken_adapter_is_not_merged(encoder: GetEncoder) -> None:
    for variant in PEFT_VARIANTS:
        model = adapt(load(encoder("bert")), variant)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.fill_(math.nan)
        with pytest.raises(ModelError, match="cannot be merged"):
            adapters.merge(model)
