"""From a batch to logits: the one place that decides how a model's forward pass is computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from kdlora.models.fused.forward import fuse
from kdlora.training.precision import SHORT_TOKENS, Compute

# inputs of a batch (tensors [b, l]) -> logits [b, c] fp32
Forward = Callable[[dict[str, torch.Tensor]], torch.Tensor]


def make_forward(model: nn.Module, compute: Compute) -> Forward:
    """The fastest exact forward pass of a placed model, in training and at inference.

    On a processor that is `models.fused` where the family has it; elsewhere the model itself under
    autocast. Trained weights are read at every call; frozen ones may be copied once, so make it
    anew when frozen weights, adapters or the placement change.

    The fused pass keeps the weights of attention for the gradient, which for long texts are more
    than all else together (over a gigabyte a layer of BERT-base for 32 texts of 512 tokens). So
    batches of long texts are trained through the model itself where it has sdpa.
    """

    def plain(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        with compute.autocast():
            return model(**inputs).logits.float()

    fused = fuse(model, compute.dtype) if compute.device.type == "cpu" else None
    if fused is None:
        return plain
    if not _has_sdpa(model):
        return fused

    def by_length(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        long = inputs["input_ids"].shape[1] > SHORT_TOKENS and torch.is_grad_enabled()
        return plain(inputs) if long else fused(inputs)

    return by_length


def _has_sdpa(model: nn.Module) -> bool:
    config: Any = model.config
    return config._attn_implementation == "sdpa"
