from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModel, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from kdlora.errors import ModelError
from kdlora.models import adapters
from kdlora.models.encoders import load_encoder
from kdlora.models.saved import load_trained, save_tokenizer, save_trained
from kdlora.spec.adapter import Adapter
from kdlora.spec.fingerprint import hash_model_folder
from kdlora.spec.run import EncoderRef
from kdlora.vocabulary.arm import PEFT_VARIANTS
from kdlora.vocabulary.task import TASKS
from tests.harness.tiny_models import (
    save_tiny_encoder,
    tiny_batch,
    tiny_config,
    tiny_tokenizer,
    train_tiny,
)

GetEncoder = Callable[[str], EncoderRef]
MNLI = TASKS["mnli"]


def test_a_saved_tokenizer_cuts_where_training_did_and_stays_as_it_was(tmp_path):
    tokenizer = tiny_tokenizer(tiny_config("bert"))
    allowed = tokenizer.model_max_length
    save_tokenizer(tokenizer, tmp_path, max_length=10)
    assert tokenizer.model_max_length == allowed != 10
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert len(again("film " * 50, truncation=True)["input_ids"]) == 10


def _trained(reference: EncoderRef, variant: str, folder: Path, **options):
    """Train a few steps and save; returns the batch and the logits on it."""
    loaded = load_encoder(reference, MNLI, seed=0)
    batch = tiny_batch(loaded.tokenizer)
    section = Adapter(rank=4, options=options)
    model = adapters.adapt(loaded, variant, section, seed=0, total_steps=6)
    train_tiny(model, batch, steps=6, after_step=adapters.after_step)
    save_trained(model, loaded.tokenizer, folder, encoder=reference)
    with torch.no_grad():
        return batch, model(**batch).logits


def _logits(model, batch) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**batch).logits


@pytest.mark.filterwarnings("ignore:The following rank_pattern keys")  # peft's, of AdaLoRA
@pytest.mark.parametrize("variant", PEFT_VARIANTS)
@pytest.mark.parametrize("family", ["bert", "roberta", "deberta-v2"])
def test_adapter_folders_load_with_plain_peft(
    family: str, variant: str, encoder: GetEncoder, tmp_path: Path
) -> None:
    batch, logits = _trained(encoder(family), variant, tmp_path / "run")
    base = AutoModelForSequenceClassification.from_pretrained(encoder(family).path, num_labels=3)
    plain = PeftModel.from_pretrained(base, tmp_path / "run")
    torch.testing.assert_close(_logits(plain, batch), logits, atol=1e-5, rtol=0)
    with plain.disable_adapter():  # OLoRA too: its start no longer sits in the base weights
        fresh = AutoModelForSequenceClassification.from_pretrained(
            encoder(family).path, num_labels=3
        )
        hidden = plain.get_base_model().base_model(**batch).last_hidden_state
        torch.testing.assert_close(hidden, fresh.eval().base_model(**batch).last_hidden_state)


def test_what_lies_in_the_folder(encoder: GetEncoder, tmp_path: Path) -> None:
    _trained(encoder("deberta-v2"), "lora", tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "kdlora.json"} <= names
    assert {"tokenizer.json", "tokenizer_config.json"} <= names
    assert not names & {"README.md", "config.json", "model.safetensors"}
    about = json.loads((tmp_path / "run" / "kdlora.json").read_text())
    assert about["labels"] == list(MNLI.label_names)
    assert about["encoder"]["path"] == encoder("deberta-v2").path
    weights = load_file(tmp_path / "run" / "adapter_model.safetensors")
    assert "base_model.model.pooler.dense.weight" in weights
    assert [path.name for path in tmp_path.iterdir()] == ["run"]  # nothing half-written is left


def test_saving_asks_no_hub(encoder: GetEncoder, tmp_path: Path, monkeypatch) -> None:
    loaded = load_encoder(encoder("bert"), MNLI, seed=0)
    model = adapters.adapt(loaded, "lora", Adapter(rank=4), seed=0, total_steps=6)
    assert isinstance(model, PeftModel)
    model.peft_config["default"].base_model_name_or_path = "bert-base-uncased"
    asked = []
    monkeypatch.setattr(
        "peft.utils.save_and_load.check_file_exists_on_hf_hub", lambda *a, **k: asked.append(a)
    )
    save_trained(model, loaded.tokenizer, tmp_path / "run")
    assert asked == []


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}])
def test_olora_is_saved_as_lora_of_twice_the_rank(
    options: dict, encoder: GetEncoder, tmp_path: Path
) -> None:
    _trained(encoder("bert"), "olora", tmp_path / "run", **options)
    config = json.loads((tmp_path / "run" / "adapter_config.json").read_text())
    assert config["init_lora_weights"] is True
    assert config["r"] == 8
    root = 2**0.5 if options else 2.0
    assert config["lora_alpha"] == pytest.approx(8 * root)  # alpha / r or alpha / sqrt(r) stays


def test_model_folder(encoder: GetEncoder, tmp_path: Path) -> None:
    loaded = load_encoder(encoder("distilbert"), MNLI, seed=0)
    batch = tiny_batch(loaded.tokenizer)
    model = adapters.adapt(loaded, "fft", None, seed=0, total_steps=3)
    train_tiny(model, batch)
    save_trained(model, loaded.tokenizer, tmp_path / "run")
    restored, tokenizer = load_trained(tmp_path / "run", attention="sdpa")
    torch.testing.assert_close(_logits(restored, batch), _logits(model, batch), atol=1e-5, rtol=0)
    assert restored.config.id2label == dict(enumerate(MNLI.label_names))
    assert restored.config._attn_implementation == "sdpa"
    assert tokenizer("good film")["input_ids"] == loaded.tokenizer("good film")["input_ids"]
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run")
    torch.testing.assert_close(_logits(plain, batch), _logits(model, batch))


def test_saving_replaces_the_folder_whole(encoder: GetEncoder, tmp_path: Path) -> None:
    _trained(encoder("bert"), "lora", tmp_path / "run")
    loaded = load_encoder(encoder("bert"), MNLI, seed=5)
    save_trained(loaded.model, loaded.tokenizer, tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert "config.json" in names
    assert not any(name.startswith("adapter") for name in names)

    class Broken:
        def save_pretrained(self, folder: Path) -> None:
            raise OSError("disk full")

    before = hash_model_folder(tmp_path / "run")
    with pytest.raises(OSError, match="disk full"):
        save_trained(load_encoder(encoder("bert"), MNLI, seed=6).model, Broken(), tmp_path / "run")
    assert hash_model_folder(tmp_path / "run") == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_moved_encoder_can_be_named(encoder: GetEncoder, tmp_path: Path) -> None:
    shutil.copytree(encoder("bert").path, tmp_path / "here")
    here = EncoderRef(name="e", source="folder", path=str(tmp_path / "here"))
    batch, logits = _trained(here, "lora", tmp_path / "run")
    (tmp_path / "here").rename(tmp_path / "there")
    with pytest.raises(ModelError, match=r"no model folder at .*here"):
        load_trained(tmp_path / "run")
    there = EncoderRef(name="e", source="folder", path=str(tmp_path / "there"))
    restored, _ = load_trained(tmp_path / "run", encoder=there)
    torch.testing.assert_close(_logits(restored, batch), logits, atol=1e-5, rtol=0)


def test_a_changed_encoder_is_refused(encoder: GetEncoder, tmp_path: Path) -> None:
    shutil.copytree(encoder("bert").path, tmp_path / "e")
    fingerprint = hash_model_folder(tmp_path / "e")
    here = EncoderRef(name="e", source="folder", path=str(tmp_path / "e"), fingerprint=fingerprint)
    _trained(here, "lora", tmp_path / "run")
    load_trained(tmp_path / "run")
    other = load_encoder(here, MNLI, seed=0)
    with torch.no_grad():
        other.model.get_input_embeddings().weight += 1
    other.model.base_model.save_pretrained(tmp_path / "e")
    with pytest.raises(ModelError, match="holds other files than then"):
        load_trained(tmp_path / "run")


def test_an_adapter_does_not_fit_another_encoder(encoder: GetEncoder, tmp_path: Path) -> None:
    _trained(encoder("bert"), "lora", tmp_path / "run")
    with pytest.raises(ModelError, match="a roberta model, which has no bert"):
        load_trained(tmp_path / "run", encoder=encoder("roberta"))
    narrow = save_tiny_encoder(tmp_path / "narrow", "bert", width=16)
    with pytest.raises(ModelError, match=r"does not fit encoder .*size mismatch"):
        load_trained(tmp_path / "run", encoder=narrow)


def _foreign(encoder: EncoderRef, folder: Path, **settings) -> tuple[PeftModel, dict]:
    """An adapter as made with peft alone, by its own rules of what to train."""
    loaded = load_encoder(encoder, MNLI, seed=0)
    config = LoraConfig(task_type="SEQ_CLS", init_lora_weights=False, **settings)
    model = get_peft_model(loaded.model, config).eval()
    model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return model, tiny_batch(loaded.tokenizer)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_adapters_of_other_tools(family: str, encoder: GetEncoder, tmp_path: Path) -> None:
    model, batch = _foreign(encoder(family), tmp_path / "run", target_modules=["query"])
    restored, _ = load_trained(tmp_path / "run")
    torch.testing.assert_close(_logits(restored, batch), _logits(model, batch), atol=1e-5, rtol=0)
    assert restored.config.num_labels == 3


def test_an_adapter_without_its_random_pooler_is_refused(
    encoder: GetEncoder, tmp_path: Path
) -> None:
    """peft neither trains nor saves DeBERTa's pooler, so each load would draw another one."""
    _foreign(encoder("deberta-v2"), tmp_path / "run", target_modules=["query_proj"])
    with pytest.raises(ModelError, match=r"saved without pooler.dense.bias, pooler.dense.weight"):
        load_trained(tmp_path / "run")


def test_own_folders_serve_peft_auto_classes(encoder: GetEncoder, tmp_path: Path) -> None:
    """The adapter's config says itself which class its base model has."""
    batch, logits = _trained(encoder("bert"), "lora", tmp_path / "run")
    plain = AutoPeftModel.from_pretrained(tmp_path / "run", num_labels=3)
    torch.testing.assert_close(_logits(plain, batch), logits, atol=1e-5, rtol=0)


def test_folders_that_hold_no_classifier(encoder: GetEncoder, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"neither adapter_config.json nor config.json"):
        load_trained(tmp_path)
    with pytest.raises(ModelError, match=r"no trained classifier: pooler.dense, classifier"):
        load_trained(Path(encoder("deberta-v2").path))
    _trained(encoder("bert"), "lora", tmp_path / "run")
    (tmp_path / "run" / "adapter_model.safetensors").write_bytes(b"broken")
    with pytest.raises(ModelError, match="no safetensors file"):
        load_trained(tmp_path / "run")
    (tmp_path / "run" / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match="no safetensors file"):
        load_trained(tmp_path / "run")
    (tmp_path / "run" / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="no safetensors file"):
        load_trained(tmp_path / "run")
