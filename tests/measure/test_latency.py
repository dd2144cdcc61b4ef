"""Timing by a clock that only the models move: order, counts and arithmetic, never real time."""

from __future__ import annotations

import functools
import gc
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from kdlora.measure import latency
from kdlora.measure.latency import (
    MIN_BATCHES,
    MIN_REPEATS,
    WARM_UP_ROUNDS,
    TimingProtocol,
    time_models,
)
from tests.harness.tiny_models import tiny_config


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Scripted(nn.Module):
    """Takes 1 ms x its speed x (1 + rows / 10) and writes down the call."""

    def __init__(self, name, clock, log, speed=1.0, vocab_size=100):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.config = SimpleNamespace(vocab_size=vocab_size)
        self.name, self.clock, self.log, self.speed = name, clock, log, speed

    def forward(self, input_ids, attention_mask):
        self.log.append(
            SimpleNamespace(
                name=self.name,
                ids=input_ids.clone(),
                mask=attention_mask,
                training=self.training,
                inference=torch.is_inference_mode_enabled(),
                collecting=gc.isenabled(),
            )
        )
        self.clock.now += 1e-3 * self.speed * (1 + len(input_ids) / 10)
        return SimpleNamespace(logits=self.weight)


def setup(**speeds: float):
    clock, log = Clock(), []
    models = {name: Scripted(name, clock, log, speed) for name, speed in speeds.items()}
    return models, clock, log


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_models_take_turns_after_a_warm_up():
    models, clock, log = setup(a=1, b=2)
    timings = time_models(models, TimingProtocol(repeats=12, batch=8), rng=rng(), clock=clock)
    rounds = WARM_UP_ROUNDS + 12
    assert [call.name for call in log] == ["a", "b"] * rounds * 2
    rows = [len(call.ids) for call in log]
    assert rows == [1] * 2 * rounds + [8] * 2 * rounds
    assert timings["a"].protocol["latency_repeats"] == 12
    assert timings["b"].protocol["throughput_repeats"] == 12
    assert timings["b"].protocol["interleaved"] == ["a", "b"]


def test_the_arithmetic():
    models, clock, _ = setup(a=1, b=2)
    timings = time_models(models, TimingProtocol(batch=10), rng=rng(), clock=clock)
    assert timings["a"].p50_ms == pytest.approx(1.1)
    assert timings["b"].p50_ms == pytest.approx(2.2)
    assert timings["b"].p95_ms == pytest.approx(2.2)
    assert timings["a"].throughput_per_s == pytest.approx(10 / 2e-3)
    assert timings["b"].throughput_per_s == pytest.approx(10 / 4e-3)


def test_percentiles_and_median_leave_the_warm_up_out():
    models, clock, log = setup(a=1)
    rounds = WARM_UP_ROUNDS + 21
    plain = Scripted.forward

    def uneven(model, **inputs):
        turn = len(log) % rounds - WARM_UP_ROUNDS  # the timed ones take 1, 2, ..., 21 units
        model.speed = 1 + turn if turn >= 0 else 1000
        return plain(model, **inputs)

    models["a"].forward = functools.partial(uneven, models["a"])
    timing = time_models(models, TimingProtocol(repeats=21, batch=10), rng=rng(), clock=clock)["a"]
    assert timing.p50_ms == pytest.approx(1.1 * 11)
    assert timing.p95_ms == pytest.approx(1.1 * 20)
    assert timing.throughput_per_s == pytest.approx(10 / (2e-3 * 11))


def test_a_spent_budget_ends_the_rounds_but_not_too_soon():
    models, clock, _ = setup(a=1000, b=1000)  # 2.2 s a round
    protocol = time_models(models, TimingProtocol(budget_s=6), rng=rng(), clock=clock)["a"].protocol
    assert protocol["latency_repeats"] == MIN_REPEATS == 10
    assert protocol["throughput_repeats"] == MIN_BATCHES == 5
    models, clock, _ = setup(a=50, b=50)  # 0.11 s a round: 28 rounds in 3 s
    protocol = time_models(models, TimingProtocol(budget_s=6), rng=rng(), clock=clock)["a"].protocol
    assert protocol["latency_repeats"] == 28
    models, clock, _ = setup(a=1)
    protocol = time_models(models, TimingProtocol(), rng=rng(), clock=clock)["a"].protocol
    assert protocol["latency_repeats"] == 30


def test_all_models_see_the_same_unpadded_ids_of_the_smallest_vocabulary():
    models, clock, log = setup(a=1, b=1)
    models["b"].config.vocab_size = 7
    time_models(models, TimingProtocol(seq_length=33, batch=16), rng=rng(), clock=clock)
    many = [call.ids for call in log if len(call.ids) == 16]
    assert all(torch.equal(ids, many[0]) for ids in many)
    assert many[0].shape == (16, 33)
    assert set(many[0].unique().tolist()) == set(range(7))
    assert all(call.mask.all() and call.mask.shape == call.ids.shape for call in log)
    first = many[0]
    log.clear()
    time_models(
        models,
        TimingProtocol(seq_length=33, batch=16, vocab_size=3),
        rng=np.random.default_rng(1),
        clock=clock,
    )
    assert not torch.equal(log[-1].ids, first)
    assert int(log[-1].ids.max()) == 2


def test_evaluation_mode_without_autograd_and_everything_put_back():
    models, clock, log = setup(a=1, b=1)
    models["a"].train()
    models["b"].eval()
    time_models(models, TimingProtocol(), rng=rng(), clock=clock)
    assert not any(call.training or call.collecting for call in log)
    assert all(call.inference for call in log)
    assert models["a"].training
    assert not models["b"].training
    assert gc.isenabled()


def test_a_real_model_and_its_protocol():
    config = tiny_config("bert")
    model = AutoModelForSequenceClassification.from_config(config)
    timing = time_models(
        {"m": model}, TimingProtocol(merged=True, seq_length=16, batch=4, budget_s=600), rng=rng()
    )["m"]
    assert 0 < timing.p50_ms <= timing.p95_ms
    assert timing.throughput_per_s > 0
    assert timing.protocol == {
        "merged": True,
        "seq_length": 16,
        "latency_batch": 1,
        "throughput_batch": 4,
        "latency_repeats": 30,
        "throughput_repeats": 30,
        "warm_up": WARM_UP_ROUNDS,
        "interleaved": ["m"],
        "threads": torch.get_num_threads(),
        "dtype": "float32",
        "device": latency._device_name(torch.device("cpu")),
    }
    assert timing.protocol["device"].startswith("cpu")


def test_another_dtype_is_timed_on_a_copy():
    model = AutoModelForSequenceClassification.from_config(tiny_config("bert"))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    copied = latency._placed(model, torch.device("cpu"), torch.bfloat16)
    assert {p.dtype for p in copied.parameters()} == {torch.bfloat16}
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert latency._placed(model, torch.device("cpu"), torch.float32) is model
    copied.classifier.float()  # a head in fp32 does not make a bf16 model another one
    assert latency._placed(copied, torch.device("cpu"), torch.bfloat16) is copied
