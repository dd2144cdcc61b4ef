"""Frozen weights in the layout that oneDNN computes in, and batches in parts that suit it.

A plain weight is reordered at every product; a frozen one can be reordered once, for the product
with it and for the one with its transpose in the backward pass. The operations are those that
torch's own compiler emits for processors; where a build of torch lacks them nothing is packed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch

ROWS = 448  # rows (tokens) of a part, see `texts_per_part`
WIDE = 512  # columns from which on parts pay
MANY = 200  # rows from which on a plain product in fp32 is as fast as a packed one, or faster


@dataclass(frozen=True)
class Packed:
    """A frozen linear layer [o, i] with its bias [o], ready for products of both directions."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    @cached_property
    def forward_weight(self) -> torch.Tensor:
        return _reordered(self.weight)

    @cached_property
    def backward_weight(self) -> torch.Tensor:
        """Made at the first gradient: a model that only answers never needs it."""
        return _reordered(self.weight.t())

    def forward(self, x: torch.Tensor, *, gelu: bool = False) -> torch.Tensor:
        """``x W^T + bias`` for x [t, i], and its (exact) GELU if asked for."""
        if not gelu and _plain_is_fast(x):
            return torch.nn.functional.linear(x, self.weight, self.bias)
        return self.in_layout(x, gelu=gelu)

    def in_layout(self, x: torch.Tensor, *, gelu: bool = False) -> torch.Tensor:
        """The same by the packed weight, whatever is faster."""
        activation, algorithm = ("gelu", "none") if gelu else ("none", "")
        return torch.ops.mkldnn._linear_pointwise(
            x, self.forward_weight, self.bias, activation, [], algorithm
        )

    def backward(self, grad: torch.Tensor) -> torch.Tensor:
        """``grad W`` for grad [t, o]."""
        if _plain_is_fast(grad):
            return grad @ self.weight
        return torch.ops.mkldnn._linear_pointwise(grad, self.backward_weight, None, "none", [], "")


def _plain_is_fast(x: torch.Tensor) -> bool:
    """In fp32 the layout is a small part of a large product, and MKL's plain one the faster."""
    return x.dtype == torch.float32 and len(x) >= MANY


def can_pack(weight: torch.Tensor) -> bool:
    """Whether torch has the operations for this weight's device and dtype."""
    operations = torch.ops.mkldnn
    return (
        weight.device.type == "cpu"
        and hasattr(operations, "_linear_pointwise")
        and hasattr(operations, "_reorder_linear_weight")
        and (
            weight.dtype == torch.float32
            or (weight.dtype == torch.bfloat16 and operations._is_mkldnn_bf16_supported())
        )
    )


def pack(weight: torch.Tensor, bias: torch.Tensor | None) -> Packed:
    """A frozen layer that is reordered when it is first used."""
    return Packed(weight.detach(), None if bias is None else bias.detach().contiguous())


def _reordered(weight: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), ROWS)


def texts_per_part(texts: int, length: int, width: int) -> int:
    """How many texts of `length` tokens to compute at once in layers of `width`.

    oneDNN gives some bf16 products of 450 to 1500 rows to one of two threads; with fewer rows it
    uses both, and what lies between two products stays in the cache. Narrow layers, and few long
    texts, are computed whole. `python -m benchmarks matmul` prints the rates of this machine.
    """
    if width < WIDE or texts * length <= ROWS:
        return texts
    parts = math.ceil(texts * length / ROWS)
    return max(math.ceil(texts / parts), 1)
