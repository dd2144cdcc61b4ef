"""A head that sees the mean over the tokens, in a plain model of the family."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from kdlora.data.batches import encode
from kdlora.models.encoders import load_encoder
from kdlora.models.inspection import output_layer
from kdlora.models.mean_pooling import with_mean_pooling
from kdlora.spec.run import EncoderRef
from kdlora.training.inference import head_inputs, mean_embeddings, predict
from kdlora.training.precision import choose_compute, ready_for_inference
from kdlora.vocabulary.task import TASKS
from tests.harness.tiny_models import save_tiny_encoder

TEXTS = ["good film", "a bad story with a dull plot and worse music", "book", "the actor was nice"]
POOLED = ("bert", "distilbert", "roberta", "electra")


def load(folder, family: str):
    save_tiny_encoder(folder / family, family, layers=2, seed=1)
    reference = EncoderRef(name=family, source="folder", path=str(folder / family))
    return load_encoder(reference, TASKS["sst2"], seed=0)


@pytest.mark.parametrize("family", POOLED)
def test_the_head_sees_the_mean_of_the_states_but_for_its_scale(tmp_path, family):
    loaded = load(tmp_path, family)
    compute = choose_compute("fp32", max_length=32)
    texts = encode(loaded.tokenizer, (TEXTS,), max_length=32)
    mean = torch.from_numpy(mean_embeddings(loaded.model.eval(), texts, compute))
    wanted = torch.nn.functional.layer_norm(mean, mean.shape[1:])
    model, pooled = with_mean_pooling(loaded.model)
    assert pooled
    assert model.config.num_hidden_layers == 3
    seen = torch.from_numpy(head_inputs(model, output_layer(model), texts, compute))
    for own, like in zip(seen, wanted, strict=True):
        assert torch.corrcoef(torch.stack([own, like]))[0, 1] > 0.99


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_saved_it_is_a_plain_model_and_the_lean_pass_agrees(tmp_path, family):
    loaded = load(tmp_path, family)
    model, _ = with_mean_pooling(loaded.model)
    model.save_pretrained(tmp_path / "saved")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    texts = encode(loaded.tokenizer, (TEXTS,), max_length=32)
    compute = choose_compute("fp32", max_length=32)
    lean = predict(ready_for_inference(model, compute), texts, compute)
    rows = loaded.tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        assert lean == pytest.approx(plain(**rows).logits.numpy(), abs=1e-5)


@pytest.mark.parametrize("family", ["albert", "mpnet"])
def test_families_that_cannot_keep_their_head_as_it_is(tmp_path, family):
    loaded = load(tmp_path, family)
    before = loaded.model.config.num_hidden_layers
    model, pooled = with_mean_pooling(loaded.model)
    assert not pooled
    assert model is loaded.model
    assert model.config.num_hidden_layers == before
