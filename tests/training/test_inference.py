"""Evaluation in small batches, and costs that are measured once for every shape."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from kdlora.data.batches import Encoded
from kdlora.spec.run import EncoderRef, TaskRef, TrainedRun
from kdlora.spec.sections import Data, Training
from kdlora.training import inference
from kdlora.training.inference import inference_costs, predict
from kdlora.training.precision import choose_compute, ready_for_inference
from kdlora.vocabulary.task import TASKS
from tests.harness.tiny_models import tiny_config


def merged(seed: int = 0):
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_config(tiny_config("bert"))
    return ready_for_inference(model, choose_compute("fp32"))


def texts(n: int) -> Encoded:
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 12, n)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Encoded(rng.integers(5, 30, int(offsets[-1]), dtype=np.int32), offsets, None, pad_id=0)


def test_predictions_do_not_depend_on_the_size_of_the_batches(monkeypatch):
    model, compute = merged(), choose_compute("fp32")
    together = predict(model, texts(40), compute)
    monkeypatch.setattr(inference, "CPU_TOKENS", 24)
    np.testing.assert_allclose(predict(model, texts(40), compute), together, atol=1e-5)


def run() -> TrainedRun:
    encoder = EncoderRef(name="tiny", source="folder", path="/none")
    return TrainedRun(
        role="student", task=TaskRef(name="sst2", source="folder", version=1), data=Data(), seed=1,
        encoder=encoder, reference=encoder, adaptation="fft", training=Training(), lr=1e-4,
    )  # fmt: skip


def test_a_shape_is_timed_once(tmp_path, monkeypatch):
    compute = choose_compute("fp32")
    monkeypatch.setattr(inference, "TIMING_S", 0.0)
    first = inference_costs(run(), TASKS["sst2"], merged(0), compute, folder=tmp_path)
    assert first["latency_p50_ms"] > 0
    assert first["protocol"]["measured"] == "once for all runs of this shape"

    alone = inference_costs(run(), TASKS["sst2"], merged(0), compute)
    assert alone["protocol"]["measured"] == "in this run"

    monkeypatch.setattr(inference, "time_models", lambda *_, **__: pytest.fail("timed again"))
    assert inference_costs(run(), TASKS["sst2"], merged(1), compute, folder=tmp_path) == first
    monkeypatch.setattr(
        inference, "timing_conditions", lambda device: {"threads": 99}
    )  # another number of threads is another time
    with pytest.raises(pytest.fail.Exception):
        inference_costs(run(), TASKS["sst2"], merged(1), compute, folder=tmp_path)
