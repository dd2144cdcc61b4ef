"""From a batch to logits: the one place that decides how a model's forward pass is computed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from kdlora.models.fused.forward import fuse
from kdlora.training.precision import Compute

# inputs of a batch (tensors [b, l]) -> logits [b, c] fp32
Forward = Callable[[dict[str, torch.Tensor]], torch.Tensor]


def make_forward(model: nn.Module, compute: Compute) -> Forward:
    """The fastest exact forward pass of a placed model, in training and at inference.

    On a processor that is `models.fused` where the family has it; elsewhere the model itself under
    autocast. Trained weights are read at every call; frozen ones may be copied once, so make it
    anew when frozen weights, adapters or the placement change.
    """
    fused = fuse(model, compute.dtype) if compute.device.type == "cpu" else None
    if fused is not None:
        return fused

    def plain(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        with compute.autocast():
            return model(**inputs).logits.float()

    return plain
