"""Any method of peft by its name and config, and initialisations that rewrite the base weights."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import nn

from kdlora.errors import ModelError
from kdlora.models import adapters
from kdlora.models.adapters import check_options
from kdlora.models.saved import load_trained, save_trained
from kdlora.spec.study import Adapter
from tests.models.helpers import (
    GetEncoder,
    adapt,
    load,
    logits,
    parameters,
    train,
    train_what_trains,
)
from tests.tiny_models import FAMILIES, FURTHER_FAMILIES, tiny_batch

METHODS: dict[str, dict] = {
    "IA3": {},
    "LOHA": {"r": 4, "alpha": 8},
    "LOKR": {"r": 4, "alpha": 8},
    "VERA": {"r": 8},
    "BOFT": {"boft_block_size": 4},
    "OFT": {"oft_block_size": 8, "r": 0},
    "LN_TUNING": {},
    "HRA": {"r": 4},
    "LORA": {"r": 4, "lora_alpha": 8, "init_lora_weights": "pissa"},
}


def section(method: str, **values) -> dict:
    return {"rank": None, "method": method, "config": METHODS.get(method, {})} | values


@pytest.mark.parametrize(
    ("family", "method"),
    [
        *itertools.product(("bert", "deberta-v2"), METHODS),
        *((f, m) for f in (*FAMILIES, *FURTHER_FAMILIES) for m in ("LOHA", "LN_TUNING", "IA3")
          if f not in ("bert", "deberta-v2")),
    ],
)  # fmt: skip
def test_life_of_a_method(family: str, method: str, encoder: GetEncoder, tmp_path: Path) -> None:
    """Start at the base model, move all and only what is meant, survive saving and merging."""
    loaded = load(encoder(family))
    base, batch = parameters(loaded.model), tiny_batch(loaded.tokenizer)
    before = logits(loaded.model, batch)

    model = adapt(loaded, "peft", **section(method))
    torch.testing.assert_close(logits(model, batch), before, atol=2e-6, rtol=0)
    assert adapters.adapter_norm(model) == pytest.approx(0, abs=1e-4)
    whole = adapters.saved_modules(model)
    assert all(any(f"{n}.".startswith(f"{top}.") for top in whole) for n in loaded.new_modules)

    after = train_what_trains(model, batch, before)

    save_trained(model, loaded.tokenizer, tmp_path / "run", encoder=encoder(family))
    again, _ = load_trained(tmp_path / "run")
    torch.testing.assert_close(logits(again, batch), after, atol=1e-5, rtol=0)
    layers = adapters.adapted_layers(model)
    merged = adapters.merge(model)
    torch.testing.assert_close(logits(merged, batch), after, atol=1e-5, rtol=0)
    now = parameters(merged)
    assert now.keys() == base.keys()
    changed = {name for name in now if not torch.equal(now[name], base[name])}
    assert changed <= {name for name in base if name.rpartition(".")[0] in layers} | {
        name for name in base if any(name.startswith(f"{top}.") for top in whole)
    }
    assert not any("peft" in type(module).__module__ for module in merged.modules())


@pytest.mark.parametrize("variant", ["lora", "rslora"])
@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4"])
def test_pissa_is_saved_for_the_base_as_it_was(
    variant: str, init: str, encoder: GetEncoder, tmp_path: Path
) -> None:
    loaded = load(encoder("bert"))
    batch = tiny_batch(loaded.tokenizer)
    base, before = parameters(loaded.model), logits(loaded.model, batch)
    model = adapt(loaded, variant, options={"init_lora_weights": init})
    assert isinstance(model, PeftModel)
    name = adapters.adapted_layers(model)[0]
    layer = model.get_base_model().get_submodule(name)
    weight = layer.get_base_layer().weight
    assert not torch.equal(weight, base[f"{name}.weight"])  # taken out of the base ...
    torch.testing.assert_close(logits(model, batch), before, atol=2e-6, rtol=0)  # ... and put back
    train(model, batch)
    after = logits(model, batch)
    save_trained(model, loaded.tokenizer, tmp_path / "run", encoder=encoder("bert"))
    plain = PeftModel.from_pretrained(load(encoder("bert")).model, str(tmp_path / "run"))
    torch.testing.assert_close(logits(plain, batch), after, atol=1e-5, rtol=0)
    torch.testing.assert_close(plain.get_base_model().get_submodule(name).get_base_layer().weight,
                               base[f"{name}.weight"])  # fmt: skip


def test_ia3_scales_the_input_of_feedforward_layers(encoder: GetEncoder) -> None:
    config = {"feedforward_modules": ["output.dense"]}
    targets = ("attention.self.key", "attention.self.value", "output.dense")
    model = adapt(load(encoder("bert")), "peft", **section("IA3", config=config, targets=targets))
    assert isinstance(model, PeftModel)
    modules = dict(model.get_base_model().named_modules())
    shapes = {
        name: tuple(modules[name].ia3_l["default"].shape) for name in adapters.adapted_layers(model)
    }
    assert shapes["bert.encoder.layer.0.attention.self.key"] == (32, 1)
    assert shapes["bert.encoder.layer.0.output.dense"] == (1, 64)
    strange = {"feedforward_modules": ["intermediate.dense"]}
    with pytest.raises(ModelError, match="are not among the targets"):
        adapt(load(encoder("bert")), "peft", **section("IA3", config=strange, targets=targets))


def test_layer_norms_are_chosen_by_name(encoder: GetEncoder) -> None:
    model = adapt(load(encoder("bert")), "peft", **section("LN_TUNING"))
    base = model.get_base_model()
    norms = adapters.adapted_layers(model)
    assert len(norms) == 5
    kinds = [type(base.get_submodule(name).get_base_layer()) for name in norms]
    assert set(kinds) == {nn.LayerNorm}
    targets = ("attention.output.LayerNorm",)
    some = adapt(load(encoder("bert")), "peft", **section("LN_TUNING", targets=targets))
    assert len(adapters.adapted_layers(some)) == 2
    with pytest.raises(ModelError, match="normalisation layers, none of which is named query"):
        adapt(load(encoder("bert")), "peft", **section("LN_TUNING", targets=("query",)))


@pytest.mark.parametrize(
    ("method", "config", "message"),
    [
        ("LOHAA", {}, "Did you mean 'LOHA'"),
        ("LOHA", {"alhpa": 3}, "LOHA has no option 'alhpa'. Did you mean 'alpha'"),
        ("LOHA", {"target_modules": ["query"]}, "follows from adapter.targets"),
        ("LOHA", {"modules_to_save": ["x"]}, "always"),
        ("LOHA", {"inference_mode": True}, "no option 'inference_mode'"),
        ("PROMPT_TUNING", {}, "no plain model"),
        ("PREFIX_TUNING", {}, "no plain model"),
        ("TRAINABLE_TOKENS", {}, "cannot train a classification head"),
        ("LILY", {}, "cannot be merged"),
        ("ADALORA", {}, "student/adalora"),
        ("LORA", {"init_lora_weights": "eva"}, "'eva' is of no use here"),
        ("LORA", {"init_lora_weights": "pissa", "use_dora": True}, "do not go together"),
        ("LORA", {"init_lora_weights": "olora", "rank_pattern": {"query": 2}}, "rank_pattern"),
        ("VBLORA", {"num_vectors": 0, "topk": -1}, ""),
    ],
)
def test_what_does_not_fit_is_told_before_training(method: str, config: dict, message: str) -> None:
    adapter = Adapter(rank=None, method=method, config=config)
    if not message:
        check_options("peft", adapter)  # peft itself finds nothing wrong with it
        return
    with pytest.raises(ModelError) as caught:
        check_options("peft", adapter)
    assert message in str(caught.value)


def test_every_problem_of_a_config_at_once() -> None:
    with pytest.raises(ModelError) as caught:
        check_options("peft", Adapter(rank=None, method="LOKR", config={"rr": 1, "alpah": 2}))
    assert len(caught.value.problems) == 2


def test_what_peft_finds_only_on_the_model_is_no_traceback(encoder: GetEncoder) -> None:
    with pytest.raises(ModelError, match="C3A: The block size should be a factor"):
        adapt(load(encoder("bert")), "peft", **section("C3A", config={"block_size": 7}))


def test_a_method_by_name_is_the_variant_of_that_name(encoder: GetEncoder) -> None:
    def trained(variant: str, **values) -> torch.Tensor:
        loaded = load(encoder("roberta"))
        model = adapt(loaded, variant, **values)
        train(model, tiny_batch(loaded.tokenizer))
        return logits(model, tiny_batch(loaded.tokenizer))

    config = {"r": 4, "lora_alpha": 8.0}
    torch.testing.assert_close(
        trained("peft", **section("LORA", config=config)), trained("lora", rank=4), atol=0, rtol=0
    )


def test_a_start_out_of_the_base_wants_one_rank_for_all(encoder: GetEncoder) -> None:
    options = {"init_lora_weights": "pissa", "rank_pattern": {"query": 2}}
    with pytest.raises(ModelError, match="'pissa' and rank_pattern do not go together"):
        adapt(load(encoder("bert")), "lora", options=options)


@pytest.mark.parametrize("init", ["olora", "orthogonal", "gaussian"])
def test_loras_other_starts_come_back_from_disk(
    init: str, encoder: GetEncoder, tmp_path: Path
) -> None:
    loaded = load(encoder("mpnet"))
    batch = tiny_batch(loaded.tokenizer)
    before = logits(loaded.model, batch)
    config = {"r": 4, "lora_alpha": 4, "init_lora_weights": init}
    model = adapt(loaded, "peft", **section("LORA", config=config))
    torch.testing.assert_close(logits(model, batch), before, atol=2e-6, rtol=0)
    train(model, batch)
    after = logits(model, batch)
    save_trained(model, loaded.tokenizer, tmp_path / "run", encoder=encoder("mpnet"))
    again, _ = load_trained(tmp_path / "run")
    torch.testing.assert_close(logits(again, batch), after, atol=1e-5, rtol=0)
