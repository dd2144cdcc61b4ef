from __future__ import annotations

import itertools
import warnings
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import BertConfig, BertForMaskedLM

from kdlora.errors import ModelError
from kdlora.models import adapters
from kdlora.models.saved import load_trained, save_trained
from kdlora.spec.adapter import Adapter
from kdlora.spec.run import EncoderRef
from kdlora.vocabulary.arm import PEFT_VARIANTS
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
from tests.harness.tiny_models import (
    FAMILIES,
    FURTHER_FAMILIES,
    tiny_batch,
    tiny_config,
    tiny_tokenizer,
)


@pytest.mark.parametrize(
    ("family", "variant"),
    [*itertools.product(FAMILIES, PEFT_VARIANTS), *((f, "lora") for f in FURTHER_FAMILIES)],
)
def test_life_of_an_adapter(family: str, variant: str, shallow: GetEncoder, tmp_path: Path) -> None:
    """Start at the base model, move all and only what is meant, survive saving and merging."""
    loaded = load(shallow(family))
    base, batch = parameters(loaded.model), tiny_batch(loaded.tokenizer)
    before = logits(loaded.model, batch)

    model = adapt(loaded, variant)
    assert adapters.trainable_parameters(model) == expected_trainable(
        loaded.model.config, variant, Adapter(rank=4), MNLI, new_modules=loaded.new_modules
    )
    torch.testing.assert_close(logits(model, batch), before, atol=2e-6, rtol=0)
    assert adapters.adapter_norm(model) == 0.0

    after = train_what_trains(model, batch, before)
    save_trained(model, loaded.tokenizer, tmp_path / "run", encoder=shallow(family))
    again, tokenizer = load_trained(tmp_path / "run")
    torch.testing.assert_close(logits(again, batch), after, atol=1e-5, rtol=0)
    assert tokenizer.get_vocab() == loaded.tokenizer.get_vocab()

    layers, whole = adapters.adapted_layers(model), adapters.saved_modules(model)
    merged = adapters.merge(model)
    torch.testing.assert_close(logits(merged, batch), after, atol=1e-5, rtol=0)
    now = parameters(merged)
    assert now.keys() == base.keys()
    changed = {name for name in now if not torch.equal(now[name], base[name])}
    # Exactly the adapted weights and the modules trained whole, new ones among them.
    assert changed == {f"{name}.weight" for name in layers} | {
        name for name in base if any(name.startswith(f"{top}.") for top in whole)
    }
    assert all(any(f"{n}.".startswith(f"{top}.") for top in whole) for n in loaded.new_modules)
    assert merged.config.id2label == dict(enumerate(MNLI.label_names))
    assert not any("peft" in type(module).__module__ for module in merged.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_full_fine_tuning_trains_everything(family: str, encoder: GetEncoder) -> None:
    loaded = load(encoder(family))
    batch = tiny_batch(loaded.tokenizer)
    model = adapters.adapt(loaded, "fft", None, seed=0, total_steps=2)
    everything = sum(p.numel() for p in model.parameters())
    assert model is loaded.model
    assert adapters.trainable_parameters(model) == everything
    assert expected_trainable(model.config, "fft", None, MNLI) == everything
    losses = train(model, batch)
    assert losses[-1] < losses[0]
    assert adapters.adapter_norm(model) is None
    assert adapters.merge(model) is model


@pytest.mark.parametrize("variant", PEFT_VARIANTS)
@pytest.mark.parametrize("rank", [1, 3, 70])  # 70 is more than any layer of the encoder has
def test_any_rank(variant: str, rank: int, shallow: GetEncoder, tmp_path: Path) -> None:
    loaded = load(shallow("bert"))
    batch = tiny_batch(loaded.tokenizer)
    before = logits(loaded.model, batch)
    model = adapt(loaded, variant, rank=rank)
    count = expected_trainable(loaded.model.config, variant, Adapter(rank=rank), MNLI)
    assert adapters.trainable_parameters(model) == count
    torch.testing.assert_close(logits(model, batch), before, atol=2e-6, rtol=0)
    train(model, batch, lr=1e-3)
    after = logits(model, batch)
    save_trained(model, loaded.tokenizer, tmp_path / "run", encoder=shallow("bert"))
    torch.testing.assert_close(
        logits(load_trained(tmp_path / "run")[0], batch), after, atol=1e-5, rtol=0
    )


def test_a_new_pooler_is_trained_and_saved(tmp_path: Path) -> None:
    """Masked language modelling leaves BERT without a pooler: peft would freeze a random one."""
    config = tiny_config("bert")
    assert isinstance(config, BertConfig)
    BertForMaskedLM(config).save_pretrained(tmp_path / "mlm")
    tiny_tokenizer(config).save_pretrained(tmp_path / "mlm")
    reference = EncoderRef(name="mlm", source="folder", path=str(tmp_path / "mlm"))
    loaded = load(reference)
    assert loaded.new_modules == ("bert.pooler.dense", "classifier")
    batch = tiny_batch(loaded.tokenizer)
    model = adapt(loaded, "lora")
    assert adapters.saved_modules(model) == ["bert.pooler.dense", "classifier"]
    assert adapters.trainable_parameters(model) == expected_trainable(
        config, "lora", Adapter(rank=4), MNLI, new_modules=loaded.new_modules
    )
    train(model, batch)
    after = logits(model, batch)
    save_trained(model, loaded.tokenizer, tmp_path / "run", encoder=reference)
    again, _ = load_trained(tmp_path / "run")
    torch.testing.assert_close(logits(again, batch), after, atol=1e-5, rtol=0)


def test_seed_decides_alone(encoder: GetEncoder) -> None:
    def build(seed: int) -> dict[str, torch.Tensor]:
        return parameters(adapt(load(encoder("bert")), "lora", seed=seed))

    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    first = build(5)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(99)
    same, other = build(5), build(6)
    assert all(torch.equal(first[name], same[name]) for name in first)
    differ = {name for name in first if not torch.equal(first[name], other[name])}
    assert differ == {name for name in first if "lora_A" in name}


def test_adapter_section_is_obeyed(encoder: GetEncoder) -> None:
    def layers(variant: str, **section) -> list:
        model = adapt(load(encoder("roberta")), variant, targets=["query-value"], **section)
        assert isinstance(model, PeftModel)
        assert len(adapters.adapted_layers(model)) == 4
        return [model.get_base_model().get_submodule(n) for n in adapters.adapted_layers(model)]

    for layer in layers("lora", rank=8, alpha=20, dropout=0.3):
        assert layer.scaling["default"] == 2.5
        assert layer.lora_dropout["default"].p == 0.3
    for layer in layers("rslora", rank=9, alpha="rank"):
        assert layer.scaling["default"] == pytest.approx(3.0)
    for layer in layers("dora"):
        assert layer.use_dora["default"]
    for layer in layers("mrlora", rank=8, alpha=16, dropout=0.3):
        assert layer.ranks["default"] == [8, 4, 2, 1]
        assert layer.scaling["default"] == [2.0, 4.0, 8.0, 16.0]
        assert layer.mrlora_dropout["default"].p == 0.3
    for layer in layers("adalora", rank=8, alpha=24):
        assert layer.r["default"] == 12
        assert layer.scaling["default"] / layer.ranknum["default"].item() == 2.0


def test_all_problems_of_the_section_at_once(encoder: GetEncoder) -> None:
    with pytest.raises(ModelError) as caught:
        adapt(load(encoder("bert")), "lora", options={"use_dora": True, "init_lora_weigts": 1})
    assert len(caught.value.problems) == 2
    assert "init_lora_weights'?" in str(caught.value)
    with pytest.raises(ModelError, match="unknown initialisation 'eva'"):
        adapt(load(encoder("bert")), "lora", options={"init_lora_weights": "eva"})
    with pytest.raises(ModelError, match="unknown initialisation 'pissa'"):
        adapt(load(encoder("bert")), "dora", options={"init_lora_weights": "pissa"})
    with pytest.raises(ModelError, match="ranks must be positive"):
        adapt(load(encoder("bert")), "mrlora", options={"ranks": [4, 0]})
    with pytest.raises(ModelError, match="Did you mean 'lora'"):
        adapt(load(encoder("bert")), "loar")
    with pytest.raises(ModelError, match="needs the adapter section"):
        adapters.adapt(load(encoder("bert")), "lora", None, seed=0, total_steps=9)


def test_a_base_model_is_adapted_once(encoder: GetEncoder) -> None:
    loaded = load(encoder("bert"))
    adapt(loaded, "olora")
    for variant in ("lora", "fft"):
        with pytest.raises(ModelError, match="load it anew"):
            adapt(loaded, variant)


def test_names_matched_by_their_ends_are_refused(encoder: GetEncoder, monkeypatch) -> None:
    """peft would train DistilBERT's pre_classifier along with "classifier"."""
    monkeypatch.setattr(adapters, "trained_modules", lambda model, new: ("classifier",))
    with pytest.raises(ModelError, match="pre_classifier cannot be told apart"):
        adapt(load(encoder("distilbert")), "lora", targets=["query-value"])


def test_hooks_do_nothing_where_nothing_is_needed(encoder: GetEncoder) -> None:
    for variant in ("fft", "lora", "dora", "mrlora"):
        model = adapt(load(encoder("bert")), variant)
        adapters.after_step(model, 1)
        assert adapters.extra_loss(model) is None
        assert adapters.earliest_stop(model) == 0
        assert adapters.rank_pattern(model) is None
        assert adapters.allocator_state(model) is None


@pytest.mark.parametrize("variant", ["fft", *PEFT_VARIANTS])
def test_no_chatter(variant: str, encoder: GetEncoder, tmp_path: Path, capfd) -> None:
    """Loading, adapting, saving and merging print nothing and warn of nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("default", category=ResourceWarning)
        loaded = load(encoder("albert"))
        model = adapt(loaded, variant)
        train(model, tiny_batch(loaded.tokenizer))
        save_trained(model, loaded.tokenizer, tmp_path / "run", encoder=encoder("albert"))
        load_trained(tmp_path / "run")
        adapters.merge(model)
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err == ""


@pytest.mark.parametrize("variant", ["lora", "rslora", "dora"])
def test_layers_of_another_rank(variant: str, encoder: GetEncoder, tmp_path: Path) -> None:
    patterns = {"rank_pattern": {"value": 6, "layer.0.attention.self.query": 1},
                "alpha_pattern": {"value": 3}}  # fmt: skip
    if variant != "dora":
        patterns["lora_bias"] = True
    loaded = load(encoder("bert"))
    batch = tiny_batch(loaded.tokenizer)
    before = logits(loaded.model, batch)
    section = {"options": patterns, "targets": ["query-value"], "rank": 2}
    model = adapt(loaded, variant, **section)
    torch.testing.assert_close(logits(model, batch), before, atol=2e-6, rtol=0)
    vectors = 32 * 4  # a magnitude or a bias for each of the 32 outputs of 4 layers
    assert adapters.adapter_parameters(model) == (6 + 6 + 1 + 2) * 64 + vectors
    assert adapters.trainable_parameters(model) == expected_trainable(
        loaded.model.config, variant, Adapter(**section), MNLI, new_modules=loaded.new_modules
    )
    train(model, batch)
    after = logits(model, batch)
    save_trained(model, loaded.tokenizer, tmp_path / "run", encoder=encoder("bert"))
    again, _ = load_trained(tmp_path / "run")
    torch.testing.assert_close(logits(again, batch), after, atol=1e-5, rtol=0)
    torch.testing.assert_close(logits(adapters.merge(model), batch), after, atol=1e-5, rtol=0)


def test_patterns_that_meet_no_layer(encoder: GetEncoder) -> None:
    options = {"rank_pattern": {"qury": 3, "value": 0}, "alpha_pattern": {"key": 1}}
    with pytest.raises(ModelError) as caught:
        adapt(load(encoder("bert")), "lora", options=options, targets=["query-value"])
    assert len(caught.value.problems) == 3
    assert "Did you mean 'query'" in str(caught.value)
