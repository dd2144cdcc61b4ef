"""Load, adapt and train a tiny encoder, as the tests of adapters do again and again."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from kdlora.models import adapters
from kdlora.models.encoders import LoadedEncoder, load_encoder
from kdlora.spec.adapter import Adapter
from kdlora.spec.run import EncoderRef
from kdlora.vocabulary.task import TASKS
from tests.harness.tiny_models import train_tiny

MNLI = TASKS["mnli"]
STEPS = 6
GetEncoder = Callable[[str], EncoderRef]


def load(reference: EncoderRef, **arguments) -> LoadedEncoder:
    """The encoder for MNLI, without dropout, so that two passes compare."""
    return load_encoder(reference, MNLI, **({"seed": 1, "dropout": 0.0} | arguments))


def adapt(loaded: LoadedEncoder, variant: str, seed: int = 2, **adapter) -> nn.Module:
    """Adapted for `STEPS` optimizer steps, with rank 4 unless the section says otherwise."""
    section = Adapter(**({"rank": 4} | adapter))
    return adapters.adapt(loaded, variant, section, seed=seed, total_steps=STEPS)


def train(model: nn.Module, batch, steps: int = STEPS, **arguments) -> list[float]:
    """A few steps with the hooks of the variant; returns the losses."""
    hooks = {"after_step": adapters.after_step, "extra_loss": adapters.extra_loss}
    return train_tiny(model, batch, steps=steps, **hooks, **arguments)


def logits(model: nn.Module, batch) -> torch.Tensor:
    """In evaluation mode."""
    model.eval()
    with torch.no_grad():
        return model(**batch).logits


def parameters(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of every parameter."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def train_what_trains(model: nn.Module, batch, before: torch.Tensor) -> torch.Tensor:
    """Train an adapted model and see that all and only the trainable tensors moved.

    `before` are the logits of the base model; returns those after the training.
    """
    start = parameters(model)
    train(model, batch)
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, start[n])}
    assert moved == {n for n, p in model.named_parameters() if p.requires_grad}
    assert adapters.adapter_norm(model) > 1e-3
    after = logits(model, batch)
    assert (after - before).abs().max() > 1e-3
    return after
