"""What is kept of a shape's costs: found once, never for another shape, never from a torn file."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification

from kdlora.measure.flops import flops_per_length
from kdlora.measure.shape_cache import once, shape_of
from tests.harness.tiny_models import tiny_config


def model(seed: int = 0, **changes):
    torch.manual_seed(seed)
    return AutoModelForSequenceClassification.from_config(tiny_config("bert", **changes))


def adapted(**settings):
    config = LoraConfig(r=2, target_modules=["query", "value"], **settings)
    return get_peft_model(model(), config)


def test_a_shape_is_the_same_whatever_the_weights_and_the_names_of_the_labels():
    other = model(1)
    other.config.id2label = {0: "no", 1: "yes"}
    assert shape_of(model(0)) == shape_of(other)


def test_a_shape_differs_with_all_that_costs_time():
    frozen, half = model().requires_grad_(False), model().to(torch.bfloat16)
    shapes = [model(), frozen, half, model(num_hidden_layers=1), adapted(), adapted(use_dora=True)]
    assert len({shape_of(m) for m in shapes}) == len(shapes)


def test_found_once_for_a_key(tmp_path):
    calls = []

    def find():
        calls.append(1)
        return {"value": len(calls)}

    assert [once(tmp_path, ["a", 1], find) for _ in range(3)] == [{"value": 1}] * 3
    assert once(tmp_path, ["a", 2], find) == {"value": 2}
    assert once(None, ["a", 1], find) == {"value": 3}
    assert once(tmp_path / "new" / "folder", ["a", 1], find) == {"value": 4}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"key": ["b"], "found": {"value": 9}}'])
def test_a_torn_or_strange_file_is_replaced(tmp_path, content):
    once(tmp_path, ["a"], lambda: {"value": 1})
    (path,) = tmp_path.glob("*.json")
    path.write_text(content, encoding="utf-8")
    assert once(tmp_path, ["a"], lambda: {"value": 2}) == {"value": 2}
    assert once(tmp_path, ["a"], lambda: {"value": 3}) == {"value": 2}


def test_a_folder_that_cannot_be_written_costs_the_cache_only(tmp_path):
    (tmp_path / "file").write_text("")
    assert once(tmp_path / "file" / "below", ["a"], lambda: {"value": 1}) == {"value": 1}


def test_flops_are_counted_once_for_a_shape(tmp_path, monkeypatch):
    first = flops_per_length(model(0), backward=False, folder=tmp_path)
    monkeypatch.setattr("kdlora.measure.flops._counted", lambda *_: pytest.fail("counted again"))
    assert flops_per_length(model(1), backward=False, folder=tmp_path) == first
    with pytest.raises(pytest.fail.Exception):
        flops_per_length(model(0), backward=True, folder=tmp_path)
