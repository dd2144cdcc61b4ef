"""Any method of peft by its name and config, and initialisations that rewrite the base weights."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch import nn

from kdlora.errors import ModelError
from kdlora.models import adapters
from kdlora.models.adapters import check_options
from kdlora.models.saved import load_trained, save_trained
from kdlora.spec.adapter import Adapter
from tests.harness.counting import expected_trainable
from tests.harness.models import (
    MNLI,
    GetEncoder,
    adapt,
    load,
    logits,
    parameters,
    train,
    train_what_trains,
)
from tests.harness.tiny_models import FAMILIES, FURTHER_FAMILIES, tiny_batch

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
def test_life_of_a_method(family: str, method: str, shallow: GetEncoder, tmp_path: Path) -> None:
    """Start at the base model, move all and only what is meant, survive saving and merging."""
    loaded = load(shallow(family))
    base, batch = parameters(loaded.model), tiny_batch(loaded.tokenizer)
    before = logits(loaded.model, batch)

    model = adapt(loaded, "peft", **section(method))
    torch.testing.assert_close(logits(model, batch), before, atol=2e-6, rtol=0)
    assert adapters.adapter_norm(model) == pytest.approx(0, abs=1e-4)
    whole = adapters.saved_modules(model)
    assert all(any(f"{n}.".startswith(f"{top}.") for top in whole) for n in loaded.new_modules)

    after = train_what_trains(model, batch, before)

    save_trained(model, loaded.tokenizer, tmp_path / "run", encoder=shallow(family))
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
    init: str, shallow: GetEncoder, tmp_path: Path
) -> None:
    loaded = load(shallow("mpnet"))
    batch = tiny_batch(loaded.tokenizer)
    before = logits(loaded.model, batch)
    config = {"r": 4, "lora_alpha": 4, "init_lora_weights": init}
    model = adapt(loaded, "peft", **section("LORA", config=config))
    torch.testing.assert_close(logits(model, batch), before, atol=2e-6, rtol=0)
    train(model, batch)
    after = logits(model, batch)
    save_trained(model, loaded.tokenizer, tmp_path / "run", encoder=shallow("mpnet"))
    again, _ = load_trained(tmp_path / "run")
    torch.testing.assert_close(logits(again, batch), after, atol=1e-5, rtol=0)


SMALL = {  # what fits layers of 32 inputs, where a method's own default does not
    "C3A": {"block_size": 8},
    "MISS": {"r": 4},
    "SHIRA": {"r": 2},
    "ROAD": {"group_size": 8},
    "VBLORA": {"vector_length": 8, "num_vectors": 16},
    "WAVEFT": {"n_frequency": 64},
    "LORA": {"r": 4, "lora_alpha": 8},
}
REFUSED = {
    "ADALORA", "ADAPTION_PROMPT", "CARTRIDGE", "CPT", "LILY", "MRLORA", "MULTITASK_PROMPT_TUNING",
    "POLY", "PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING", "SHADOW", "TRAINABLE_TOKENS", "XLORA",
}  # fmt: skip


@pytest.mark.parametrize("method", sorted(str(t.value) for t in PEFT_TYPE_TO_CONFIG_MAPPING))
def test_every_method_of_peft_works_or_is_refused(
    method: str, shallow: GetEncoder, tmp_path: Path
) -> None:
    """Whatever peft has or comes to have: it trains and comes back from disk, or says why not."""
    values = section(method, config=SMALL.get(method, {}))
    if method in REFUSED:
        with pytest.raises(ModelError, match=rf"method {method}: \w.{{20}}"):
            check_options("peft", Adapter(**values))
        return
    check_options("peft", Adapter(**values))
    _, after, batch = trained_with(values, shallow, tmp_path)
    again, _ = load_trained(tmp_path / "run")
    torch.testing.assert_close(logits(again, batch), after, atol=1e-5, rtol=0)


def trained_with(values: dict, encoder: GetEncoder, folder: Path):
    """A tiny BERT adapted, trained and saved below the folder; its logits and their batch."""
    loaded = load(encoder("bert"))
    batch = tiny_batch(loaded.tokenizer)
    model = adapt(loaded, values.pop("variant", "peft"), **values)
    before = parameters(model)
    train(model, batch)
    assert any(not torch.equal(p, before[n]) for n, p in model.named_parameters())
    after = logits(model, batch)
    save_trained(model, loaded.tokenizer, folder / "run", encoder=encoder("bert"))
    return model, after, batch


BIASES: list[tuple[str, dict]] = [
    ("lora_only", section("LORA", config={"r": 4, "bias": "lora_only"})),
    ("all", section("LORA", config={"r": 4, "bias": "all", "init_lora_weights": "pissa"})),
    ("boft_only", section("BOFT", config={"boft_block_size": 4, "bias": "boft_only"})),
    ("lora_only", {"variant": "lora", "options": {"bias": "lora_only"}}),
    ("all", {"variant": "rslora", "options": {"bias": "all", "lora_bias": True}}),
]


@pytest.mark.parametrize(("bias", "values"), BIASES)
def test_biases_that_train_along_come_back_from_disk(
    bias: str, values: dict, encoder: GetEncoder, tmp_path: Path
) -> None:
    base = parameters(load(encoder("bert")).model)
    model, after, batch = trained_with(dict(values), encoder, tmp_path)
    layers = adapters.adapted_layers(model)
    again, _ = load_trained(tmp_path / "run")
    torch.testing.assert_close(logits(again, batch), after, atol=1e-5, rtol=0)
    now = parameters(again)
    moved = {n for n in base if n.endswith("bias") and not torch.equal(now[n], base[n])}
    moved -= {"classifier.bias"} if bias != "all" else set()
    biases = {n for n in base if n.endswith("bias")}
    # A key's bias moves all scores of a query alike, so softmax leaves it no gradient to speak of.
    inside = {n for n in biases if n.rpartition(".")[0] in layers}
    assert moved >= {n for n in (biases if bias == "all" else inside) if "key.bias" not in n}
    assert moved <= (biases if bias == "all" else inside)
    if "variant" in values:
        adapter = Adapter(rank=4, options=values["options"])
        config = load(encoder("bert")).model.config
        expected = expected_trainable(config, values["variant"], adapter, MNLI)
        assert adapters.trainable_parameters(model) == expected


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"layer_replication": [[0, 2]]}, "a student of some layers is a pair's student"),
        ({"trainable_token_indices": [1]}, "embeddings are not adapted here; use fft"),
        ({"target_parameters": ["query.weight"]}, "name them in adapter.targets"),
        ({"alora_invocation_tokens": [5]}, "cannot be merged"),
        ({"kasa_config": {}}, "config.kasa_config is of no use here: it is not known to survive"),
        ({"bias": "lora-only"}, "bias: 'lora-only'. Did you mean 'lora_only'"),
        ({"lora_alhpa": 3}, "LORA has no option 'lora_alhpa'. Did you mean 'lora_alpha'"),
    ],
)
def test_fields_of_lora_that_would_fail_late_are_refused(config: dict, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        check_options("peft", Adapter(rank=None, method="LORA", config=config))
    assert message in str(caught.value)
