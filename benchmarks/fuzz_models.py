"""What is fuzzed with torch: models and adapters that are loaded; and the sound folders of both."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import sys
from pathlib import Path

from benchmarks.fuzz import Read, Target
from kdlora.spec.run import EncoderRef


def make_targets(folder: Path) -> list[Target]:
    """All of them; `folder` is for the sound files."""
    model, adapter = save_models(folder)
    return [
        Target(
            "adapters loaded, config", _adapted(adapter, model, "adapter_config.json"),
            (file_in(adapter, "adapter_config.json"),), share=0.02,
        ),
        Target(
            "adapters loaded, note", _adapted(adapter, model, "kdlora.json"),
            (file_in(adapter, "kdlora.json"),), share=0.02,
        ),
        Target(
            "models loaded, config", _loaded(model, "config.json"),
            (file_in(model, "config.json"),), share=0.02,
        ),
        Target(
            "models loaded, weights", _loaded(model, "model.safetensors"),
            (file_in(model, "model.safetensors"),), share=0.02,
        ),
        Target(
            "models loaded, tokenizer", _loaded(model, "tokenizer.json"),
            (file_in(model, "tokenizer.json"),), share=0.02,
        ),
    ]  # fmt: skip


def saved_models(folder: Path) -> tuple[Path, Path]:
    """What `save_models` gives, made by another process where torch is not loaded in this one."""
    if "torch" in sys.modules:
        return save_models(folder)
    process = multiprocessing.get_context("spawn").Process(target=save_models, args=(folder,))
    process.start()
    process.join()
    assert process.exitcode == 0, "the sound models could not be made"
    return folder / "model", folder / "adapter"


def save_models(folder: Path) -> tuple[Path, Path]:
    """A small classifier, and a small adapter of it, as they are saved."""
    model = _save_model(folder / "model")
    return model, _save_adapter(folder / "adapter", model)


def _loaded(model: Path, name: str) -> Read:
    def work(content: bytes, folder: Path) -> None:
        from kdlora.ship.predict import load_predictor

        place = copy_with(model, folder, name, content)
        answers = load_predictor(place, threads=1)([["good film " * 100, ""]])
        json.dumps(answers, allow_nan=False, ensure_ascii=False).encode()

    return work


def _adapted(adapter: Path, model: Path, name: str) -> Read:
    def work(content: bytes, folder: Path) -> None:
        from kdlora.data.model_folder import check_folder
        from kdlora.models.saved import load_trained

        place = copy_with(adapter, folder, name, content)
        check_folder(place)
        load_trained(place, encoder=EncoderRef(name="m", source="folder", path=str(model)))

    return work


def copy_with(model: Path, folder: Path, name: str, content: bytes) -> Path:
    """The folder with another content of one file; the others are links: copies take long.

    It lies beside `folder`, which is emptied for each input, and is used again.
    """
    place = folder.with_name(f"{model.name}, {name}")
    if not place.exists():
        shutil.copytree(model, place, copy_function=os.link)
        (place / name).unlink(missing_ok=True)
    (place / name).write_bytes(content)
    return place


def file_in(folder: Path, name: str) -> bytes:
    return (folder / name).read_bytes()


def _save_model(folder: Path) -> Path:
    """A small classifier as transformers saves it."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        PreTrainedTokenizerFast,
    )
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(1)  # processes are forked from here, which threads of OpenMP outlive not
    words = {w: i for i, w in enumerate(("[PAD]", "[UNK]", "good", "bad", "film"))}
    config = BertConfig(
        vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=20, id2label={0: "no", 1: "yes"},
        label2id={"no": 0, "yes": 1},
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)
    return folder


def _save_adapter(folder: Path, model: Path) -> Path:
    """A small adapter of that classifier, as a run saves it."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from kdlora.models.saved import save_trained

    base = AutoModelForSequenceClassification.from_pretrained(model)
    lora = LoraConfig(r=2, target_modules=["query"], modules_to_save=["classifier"])
    encoder = EncoderRef(name="m", source="folder", path=str(model))
    tokenizer = AutoTokenizer.from_pretrained(model)
    save_trained(get_peft_model(base, lora), tokenizer, folder, encoder=encoder)
    return folder
