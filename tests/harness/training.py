"""A tiny classifier, sentences that it learns, and a training of it; as tests of the loop use."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdlora.data.batches import encode
from kdlora.distillation.losses import Loss, make_loss
from kdlora.spec.sections import Training
from kdlora.training.checkpoint import Progress
from kdlora.training.inference import predict
from kdlora.training.loop import Seeds, TrainingData, TrainingSetup, train
from kdlora.training.precision import Compute
from kdlora.training.schedule import make_schedule
from kdlora.vocabulary.task import TASKS
from tests.harness.moods import sentences
from tests.harness.tiny_models import tiny_config, tiny_tokenizer

CPU = Compute(torch.device("cpu"), torch.float32, "eager", "test")
TASK = TASKS["sst2"]
CONFIG = tiny_config("bert", layers=1, width=16)


def make_model(dropout: float = 0.1, seed: int = 0) -> nn.Module:
    from transformers import AutoModelForSequenceClassification

    config = copy.deepcopy(CONFIG)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = dropout
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")


def make_data(n: int = 96) -> TrainingData:
    texts, moods = sentences(n, 0)
    encoded = encode(tiny_tokenizer(CONFIG), (texts,), max_length=32)
    return TrainingData(encoded, torch.tensor([int(mood == "pos") for mood in moods]))


DATA = make_data()


def accuracy(model: nn.Module) -> dict[str, float | None]:
    outputs = predict(model, DATA.texts, CPU)
    return {"accuracy": float((outputs.argmax(1) == DATA.labels.numpy()).mean())}


def fit(
    model: nn.Module,
    folder: Path,
    *,
    data: TrainingData = DATA,
    settings: Training | None = None,
    loss: Loss | None = None,
    on_progress: Callable[[dict[str, Any]], None] = lambda event: None,
    pause_after: int | None = None,
    **setup: Any,
) -> Progress:
    """Train the model for its accuracy; `setup` holds further fields of `TrainingSetup`."""
    settings = settings or Training(epochs=3, batch_size=16, max_length=32)
    usual: dict[str, Any] = {
        "evaluate": accuracy,
        "primary": "accuracy",
        "direction": 1,
        "schedule": make_schedule(len(DATA.labels), settings, 5e-3),
        "compute": CPU,
        "seeds": Seeds(1, 2),
    }
    whole = TrainingSetup(loss=loss or make_loss(TASK, None), settings=settings, **usual | setup)
    return train(
        model, data, whole, folder=folder, on_progress=on_progress, pause_after=pause_after
    )


def same(one: nn.Module, two: nn.Module) -> bool:
    """Whether two models have equal weights, bit for bit."""
    pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)
