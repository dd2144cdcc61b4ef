"""Students made of some layers of another encoder."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
)

from kdlora.errors import ModelError
from kdlora.models import adapters
from kdlora.models.encoders import load_encoder
from kdlora.models.saved import load_trained, save_trained
from kdlora.models.student_layers import with_layers
from kdlora.spec.fingerprint import hash_model_folder
from kdlora.spec.run import EncoderRef
from tests.harness.models import MNLI, adapt, load, logits, parameters, train
from tests.harness.tiny_models import (
    FAMILIES,
    FURTHER_FAMILIES,
    save_tiny_encoder,
    tiny_batch,
    tiny_config,
    tiny_tokenizer,
)

EVERY_FAMILY = (*FAMILIES, *FURTHER_FAMILIES)
STACKS = {
    "distilbert": "distilbert.transformer.layer",
    "modernbert": "model.layers",
    "xlm-roberta": "roberta.encoder.layer",
    "deberta-v2": "deberta.encoder.layer",
}


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> dict[str, EncoderRef]:
    """Every family's tiny encoder with four layers."""
    root = tmp_path_factory.mktemp("four")
    return {family: save_tiny_encoder(root / family, family, layers=4) for family in EVERY_FAMILY}


def keep(reference: EncoderRef, *layers: int) -> EncoderRef:
    return reference.model_copy(update={"layers": layers})


def stack_of(family: str) -> str:
    return STACKS.get(family, f"{family}.encoder.layer")


@pytest.mark.parametrize("family", [f for f in EVERY_FAMILY if f != "albert"])
def test_every_weight_is_the_sources(family: str, four: dict[str, EncoderRef]) -> None:
    whole, cut = load(four[family]), load(keep(four[family], 0, 2))
    assert cut.model.config.num_hidden_layers == 2
    assert whole.model.config.num_hidden_layers == 4
    assert cut.new_modules == whole.new_modules
    before, after = whole.model.state_dict(), cut.model.state_dict()
    stack, place = stack_of(family), {"0": "0", "1": "2"}
    inside = 0
    for name, weight in after.items():
        if name.startswith(stack + "."):
            inside += 1
            number, _, rest = name.removeprefix(stack + ".").partition(".")
            name = f"{stack}.{place[number]}.{rest}"
        assert torch.equal(weight, before[name]), name
    assert inside > 10
    dropped = {name.removeprefix(stack + ".").partition(".")[0] for name in before
               if name.startswith(stack + ".")}  # fmt: skip
    assert dropped == {"0", "1", "2", "3"}


@pytest.mark.parametrize("family", [f for f in EVERY_FAMILY if f != "albert"])
def test_it_computes_what_the_source_computes_without_the_others(
    family: str, four: dict[str, EncoderRef]
) -> None:
    """Taking the layers out of the running model's own list gives the same logits."""
    whole, cut = load(four[family]), load(keep(four[family], 0, 3))
    batch = tiny_batch(whole.tokenizer)
    parent, _, name = stack_of(family).rpartition(".")
    holder = whole.model.get_submodule(parent)
    layers = getattr(holder, name)
    setattr(holder, name, nn.ModuleList([layers[0], layers[3]]))
    if family == "modernbert":
        types = whole.model.config.layer_types
        whole.model.config.layer_types = [types[0], types[3]]
    whole.model.config.num_hidden_layers = 2
    torch.testing.assert_close(
        logits(cut.model, batch), logits(whole.model, batch), atol=1e-6, rtol=0
    )


def test_albert_repeats_its_one_layer_as_often_as_layers_are_named(
    four: dict[str, EncoderRef], tmp_path: Path
) -> None:
    whole, cut = load(four["albert"]), load(keep(four["albert"], 1, 3))
    before, after = whole.model.state_dict(), cut.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert cut.model.config.num_hidden_layers == 2
    batch = tiny_batch(whole.tokenizer)
    whole.model.config.num_hidden_layers = whole.model.albert.encoder.config.num_hidden_layers = 2
    torch.testing.assert_close(logits(cut.model, batch), logits(whole.model, batch))
    grouped = save_tiny_encoder(tmp_path / "g", "albert", layers=4, num_hidden_groups=2)
    with pytest.raises(ModelError, match="share 2 groups of weights"):
        load(keep(grouped, 0, 1))


@pytest.mark.parametrize(
    ("family", "variant"),
    [
        *((family, "lora") for family in EVERY_FAMILY),
        *itertools.product(("bert", "deberta-v2"), ("olora", "mrlora", "adalora")),
    ],
)
def test_an_adapter_on_it_comes_back_from_disk(
    family: str, variant: str, four: dict[str, EncoderRef], tmp_path: Path
) -> None:
    reference = keep(four[family], 0, 2)
    loaded = load(reference)
    model = adapt(loaded, variant)
    batch = tiny_batch(loaded.tokenizer)
    train(model, batch)
    after = logits(model, batch)
    save_trained(model, loaded.tokenizer, tmp_path / "run", encoder=reference)
    again, _ = load_trained(tmp_path / "run")  # rebuilt from what the folder remembers
    assert again.config.num_hidden_layers == 2
    torch.testing.assert_close(logits(again, batch), after, atol=1e-5, rtol=0)
    torch.testing.assert_close(logits(adapters.merge(model), batch), after, atol=1e-5, rtol=0)
    again.save_pretrained(tmp_path / "merged")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(plain, batch), after, atol=1e-5, rtol=0)


def test_the_encoder_may_have_moved(four: dict[str, EncoderRef], tmp_path: Path) -> None:
    reference = keep(four["bert"], 1, 2)
    loaded = load(reference)
    model = adapt(loaded, "lora")
    train(model, tiny_batch(loaded.tokenizer))
    save_trained(model, loaded.tokenizer, tmp_path / "run", encoder=reference)
    elsewhere = four["bert"].model_copy(update={"name": "elsewhere"})  # says nothing of layers
    again, _ = load_trained(tmp_path / "run", encoder=elsewhere)
    batch = tiny_batch(loaded.tokenizer)
    torch.testing.assert_close(logits(again, batch), logits(model, batch), atol=1e-5, rtol=0)


def test_a_fully_tuned_one_is_a_plain_model(four: dict[str, EncoderRef], tmp_path: Path) -> None:
    loaded = load(keep(four["roberta"], 1, 3))
    model = adapters.adapt(loaded, "fft", None, seed=0, total_steps=3)
    batch = tiny_batch(loaded.tokenizer)
    train(model, batch)
    save_trained(model, loaded.tokenizer, tmp_path / "run")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run")
    assert plain.config.num_hidden_layers == 2
    torch.testing.assert_close(logits(plain, batch), logits(model, batch), atol=1e-6, rtol=0)


def test_the_source_is_not_touched_and_the_seed_decides(four: dict[str, EncoderRef]) -> None:
    folder = Path(four["bert"].path or "")
    before = hash_model_folder(folder)
    one, same, other = (load(keep(four["bert"], 0, 1), seed=s) for s in (1, 1, 2))
    heads = [parameters(x.model)["classifier.weight"] for x in (one, same, other)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    whole = parameters(load(four["bert"], seed=1).model)["classifier.weight"]
    assert torch.equal(heads[0], whole)  # the head is that of the whole model's seed
    assert hash_model_folder(folder) == before


@pytest.mark.parametrize("layers", [(4,), (0, 9)])
def test_layers_that_are_not_there(layers: tuple[int, ...], four: dict[str, EncoderRef]) -> None:
    number = max(layers)
    with pytest.raises(ModelError, match=f"no layer {number}: it has 4, numbered 0 to 3"):
        load(keep(four["distilbert"], *layers))
    config = AutoConfig.from_pretrained(four["distilbert"].path)
    with pytest.raises(ModelError, match=f"here: no layer {number}"):
        with_layers(config, layers, where="here")
    assert with_layers(config, None, where="here") is config


def test_a_layer_that_cannot_come_first_is_refused(four: dict[str, EncoderRef]) -> None:
    """ModernBERT's first layer has no norm before its attention; the others have."""
    with pytest.raises(ModelError, match="Keep its first layer"):
        load_encoder(keep(four["modernbert"], 1, 2), MNLI, seed=0)


def test_a_list_that_is_as_long_as_the_layers_by_chance_stays_whole(tmp_path: Path) -> None:
    """Two layers and two kinds of relative attention: one layer still has both kinds."""
    reference = save_tiny_encoder(tmp_path / "deberta", "deberta-v2", layers=2)
    whole, cut = load(reference), load(keep(reference, 0))
    assert cut.model.config.pos_att_type == whole.model.config.pos_att_type == ["p2c", "c2p"]
    modern = AutoConfig.from_pretrained(
        save_tiny_encoder(tmp_path / "modernbert", "modernbert", layers=4).path
    )
    kept = with_layers(modern, (0, 2, 3), where="m").layer_types
    assert kept == [modern.layer_types[i] for i in (0, 2, 3)]


@pytest.mark.parametrize("family", ["esm", "canine"])
def test_families_that_cannot_be_used_say_so(family: str, tmp_path: Path) -> None:
    """ESM has a head as wide as all layers' attention; CANINE hashes characters."""
    config = CONFIG_MAPPING[family](
        vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=66, pad_token_id=0, mask_token_id=4,
        bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    AutoModel.from_config(config).save_pretrained(tmp_path)
    tiny_tokenizer(tiny_config("roberta")).save_pretrained(tmp_path)
    reference = EncoderRef(name=family, source="folder", path=str(tmp_path))
    message = {
        "esm": "a esm encoder cannot be made of 1 of its 2 layers: .* would have to be",
        "canine": "a canine model has no table of token embeddings",
    }
    with pytest.raises(ModelError, match=message[family]):
        load(keep(reference, 0) if family == "esm" else reference)


def test_quantised_embeddings_are_counted_as_any_others(tmp_path: Path) -> None:
    """I-BERT's are a class of their own, which does not tell how many it has."""
    config = CONFIG_MAPPING["ibert"](
        vocab_size=300, hidden_size=32, num_hidden_layers=1, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=66, pad_token_id=0,
    )  # fmt: skip
    AutoModel.from_config(config).save_pretrained(tmp_path)
    tiny_tokenizer(tiny_config("roberta")).save_pretrained(tmp_path)
    assert load(EncoderRef(name="ibert", source="folder", path=str(tmp_path))).model
