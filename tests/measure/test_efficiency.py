"""Sizes against files that were really saved, parameters against closed forms and peft's count."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForSequenceClassification, BertForMaskedLM

from kdlora.measure import efficiency
from kdlora.measure.efficiency import PeakMemory, count_parameters, merged_size_mb
from tests.harness.tiny_models import FAMILIES, FURTHER_FAMILIES, tiny_config


def classifier(family: str, **changes: object) -> nn.Module:
    return AutoModelForSequenceClassification.from_config(tiny_config(family, **changes))


def adapted(model: nn.Module, **changes: object):
    values = {"r": 4, "target_modules": "all-linear", "modules_to_save": ["classifier"]}
    return get_peft_model(model, LoraConfig(**(values | changes)))


def test_lora_parameters_in_closed_form():
    width, layers, rank = 32, 2, 4
    model = classifier("bert", width=width, layers=layers)
    plain_trainable, plain_total = count_parameters(model)
    assert plain_trainable == plain_total == sum(p.numel() for p in model.parameters())

    model = adapted(model, r=rank, target_modules=["query", "value"])
    adapters, head = layers * 2 * rank * 2 * width, 2 * width + 2
    trainable, total = count_parameters(model)
    assert trainable == adapters + head
    assert total == plain_total + adapters  # the head's frozen original is no part of the model
    assert (trainable, total + head) == model.get_nb_trainable_parameters()


def test_shared_parameters_count_once():
    config = tiny_config("bert")
    model = BertForMaskedLM(config)
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    _, total = count_parameters(model)
    assert total == sum({id(p): p.numel() for p in model.parameters()}.values())


def saved_bytes(model: nn.Module, folder: Path) -> int:
    model.save_pretrained(folder)
    return (folder / "model.safetensors").stat().st_size


@pytest.mark.parametrize("family", FAMILIES + FURTHER_FAMILIES)
def test_size_of_a_saved_model(family, tmp_path):
    model = classifier(family)
    assert round(merged_size_mb(model) * 1e6) == saved_bytes(model, tmp_path)


def test_size_with_tied_weights(tmp_path):
    model = BertForMaskedLM(tiny_config("bert"))
    assert round(merged_size_mb(model) * 1e6) == saved_bytes(model, tmp_path)


@pytest.mark.parametrize("variant", [{}, {"use_dora": True}, {"init_lora_weights": "olora"}])
def test_an_adapted_model_has_the_size_of_its_merged_file(variant, tmp_path):
    model = adapted(classifier("bert"), **variant)
    stated = merged_size_mb(model)
    assert round(stated * 1e6) == saved_bytes(model.merge_and_unload(), tmp_path)


def test_size_is_that_of_fp32_weights_and_keeps_integer_buffers(tmp_path):
    model = classifier("bert")
    stated = merged_size_mb(model)
    assert merged_size_mb(model.to(torch.bfloat16)) == stated
    model.float().register_buffer("steps", torch.zeros(3, dtype=torch.int64))
    model.register_buffer("scratch", torch.zeros(1000), persistent=False)
    assert round(merged_size_mb(model) * 1e6) == saved_bytes(model, tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="the high-water mark is reset through /proc")
def test_peak_memory_sees_what_was_freed_again_and_forgets_what_was_before():
    with PeakMemory() as first:
        block = np.ones(80_000_000 // 8)
        del block
    with PeakMemory() as second:
        pass
    if "whole process" not in (first.scope or ""):
        pytest.skip("this kernel does not let a process reset its high-water mark")
    assert 75 < first.peak_mb - first.start_mb < 160
    assert second.peak_mb - second.start_mb < 20


def test_peak_memory_says_when_the_mark_could_not_be_reset(monkeypatch, tmp_path):
    monkeypatch.setattr(efficiency, "_reset_high_water_mark", lambda: False)
    with PeakMemory("cpu") as meter:
        pass
    assert "not reset" in meter.scope
    assert meter.peak_mb > 10


def test_peak_memory_without_proc_falls_back_to_the_systems_own_count(monkeypatch):
    monkeypatch.setattr(efficiency, "_proc_status_mb", lambda field: None)
    with PeakMemory() as meter:
        pass
    assert "not reset" in meter.scope
    assert meter.start_mb is None
    assert meter.peak_mb > 10
    monkeypatch.setattr(efficiency, "_max_resident_mb", lambda: None)
    with PeakMemory() as nothing:
        pass
    assert (nothing.peak_mb, nothing.scope) == (None, None)


def test_the_fields_of_proc_are_in_units_of_1024_bytes(tmp_path):
    status = tmp_path / "status"
    status.write_text("Name:\tx\nVmHWM:\t  2000 kB\nVmRSS:\t  1000 kB\n")
    assert efficiency._proc_status_mb("VmRSS", status) == 1.024
    assert efficiency._proc_status_mb("VmSwap", status) is None
    assert efficiency._proc_status_mb("VmRSS", tmp_path / "none") is None
    assert not efficiency._reset_high_water_mark(tmp_path / "no" / "clear_refs")
