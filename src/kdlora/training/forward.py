"""From a batch to logits: the one place that decides how a model's forward pass is computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from kdlora.models.fused.forward import fuse
from kdlora.models.inner_states import StateForward, Wanted, run_with_states
from kdlora.training.precision import SHORT_TOKENS, Compute

# inputs of a batch (tensors [b, l]) -> logits [b, c] fp32
Forward = Callable[[dict[str, torch.Tensor]], torch.Tensor]

_Inputs = dict[str, torch.Tensor]
_Outputs = TypeVar("_Outputs")


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
    return plain if fused is None else _by_length(model, plain, fused)


def make_state_forward(model: nn.Module, compute: Compute, wanted: Wanted) -> StateForward:
    """The same pass that gives inner states beside the logits, as a teacher's are matched.

    Under an adapter's dropout the fused pass draws masks for the wanted queries, keys and values
    that are not those of the layer's own attention.
    """

    def plain(inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        with compute.autocast():
            logits, states = run_with_states(model, inputs, wanted)
        return logits.float(), states

    fused = fuse(model, compute.dtype, wanted) if compute.device.type == "cpu" else None
    return plain if fused is None else _by_length(model, plain, fused.with_states)


def _by_length(
    model: nn.Module, plain: Callable[[_Inputs], _Outputs], fused: Callable[[_Inputs], _Outputs]
) -> Callable[[_Inputs], _Outputs]:
    """The fused pass, but for batches of long texts in training where the model has sdpa."""
    if not _has_sdpa(model):
        return fused

    def by_length(inputs: _Inputs) -> _Outputs:
        long = inputs["input_ids"].shape[1] > SHORT_TOKENS and torch.is_grad_enabled()
        return plain(inputs) if long else fused(inputs)

    return by_length


def _has_sdpa(model: nn.Module) -> bool:
    config: Any = model.config
    return config._attn_implementation == "sdpa"
