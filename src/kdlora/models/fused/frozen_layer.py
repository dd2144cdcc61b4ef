"""A whole layer with frozen base weights as one operation, its gradient written out.

This is what a LoRA training spends its time in. Only the stream and the low-rank factors have
gradients, so nothing else is kept or summed, and every pass over memory that can be done in place
is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd import Function

from kdlora.models.fused.ops import attention_backward, attention_forward
from kdlora.models.fused.projection import Bound

Keeps = tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]


@dataclass(frozen=True)
class Norm:
    """A frozen layer norm in fp32."""

    weight: torch.Tensor
    bias: torch.Tensor
    eps: float

    @classmethod
    def of(cls, norm: nn.LayerNorm) -> Norm:
        return cls(norm.weight.detach().float(), norm.bias.detach().float(), norm.eps)


@dataclass(frozen=True)
class Frozen:
    """The constants of a layer in one pass.

    `projections` are query-key-value, attention output, up and down; `keeps` and `scales` the
    dropout masks and 1 / (share kept) of attention weights, attention output and feed-forward.
    """

    texts: int
    heads: int
    projections: tuple[Bound, Bound, Bound, Bound]
    norms: tuple[Norm, Norm]
    keeps: Keeps
    scales: tuple[float, float, float]
    dtype: torch.dtype


def frozen_layer(stream: torch.Tensor, bias: torch.Tensor | None, layer: Frozen) -> torch.Tensor:
    """A post-norm layer with exact GELU: stream [b * l, d] fp32 -> the same.

    `bias` (fp32, broadcast over [b, h, l, l]) gets no gradient: where the base is frozen, so are
    relative positions.
    """
    factors = [factor for bound in layer.projections for factor in (bound.a, bound.b)]
    return _FrozenLayer.apply(stream, bias, layer, *factors)


class _FrozenLayer(Function):
    @staticmethod
    def forward(ctx: Any, stream, bias, layer: Frozen, *factors):
        qkv, out, up, down = (
            _Product(bound, a, b) for bound, a, b in _triples(layer.projections, factors)
        )
        first, second = layer.norms
        x = stream.to(layer.dtype)
        joined = qkv.forward(x).unflatten(0, (layer.texts, -1))
        context, saved = attention_forward(
            joined, layer.heads, bias, layer.keeps[0], layer.scales[0]
        )
        middle, stats1 = _add_norm(
            out.forward(context.flatten(0, 1)), stream, layer.keeps[1], layer.scales[1], first
        )
        raised = up.forward(middle.to(layer.dtype))
        lowered = down.forward(torch.nn.functional.gelu(raised))
        y, stats2 = _add_norm(lowered, middle, layer.keeps[2], layer.scales[2], second)
        products = (qkv, out, up, down)
        kept = [t for product in products for t in (product.x, product.hidden)]
        ctx.save_for_backward(*saved, *stats1, *stats2, raised, *layer.keeps, *factors, *kept)
        ctx.layer = layer
        return y

    @staticmethod
    def backward(ctx: Any, grad):
        layer: Frozen = ctx.layer
        tensors = list(ctx.saved_tensors)
        saved, stats1, stats2 = tensors[:5], tensors[5:8], tensors[8:11]
        raised, keeps, factors, kept = tensors[11], tensors[12:15], tensors[15:23], tensors[23:]
        qkv, out, up, down = (
            _Product(bound, a, b, *kept[2 * i : 2 * i + 2])
            for i, (bound, a, b) in enumerate(_triples(layer.projections, factors))
        )
        first, second = layer.norms
        g_stream = _norm_backward(grad, stats2, second)
        g = _dropped(g_stream, keeps[2], layer.scales[2], layer.dtype)
        g = torch.ops.aten.gelu_backward(down.backward(g), raised)
        g_stream = _norm_backward(g_stream.add_(up.backward(g)), stats1, first)
        g = out.backward(_dropped(g_stream, keeps[1], layer.scales[1], layer.dtype))
        assert g is not None
        g = attention_backward(
            g.unflatten(0, (layer.texts, -1)), layer.heads, saved, keeps[0], layer.scales[0]
        ).flatten(0, 1)
        g = qkv.backward(g, wants_input=ctx.needs_input_grad[0])
        grads = [t for product in (qkv, out, up, down) for t in (product.ga, product.gb)]
        return (None if g is None else g_stream.add_(g)), None, None, *grads


def _triples(projections, factors):
    return zip(projections, factors[0::2], factors[1::2], strict=True)


class _Product:
    """A frozen layer and its low-rank update: forward, and backward with the factors' gradients."""

    def __init__(self, bound: Bound, a, b, x=None, hidden=None) -> None:
        assert bound.frozen is not None
        self.packed, self.a, self.b, self.x, self.hidden = bound.frozen, a, b, x, hidden
        self.ga: torch.Tensor | None = None
        self.gb: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.packed.forward(x)
        if self.a is not None:
            self.x, self.hidden = x, x @ self.a.t()
            y.addmm_(self.hidden, self.b.t())
        return y

    def backward(self, grad: torch.Tensor, *, wants_input: bool = True) -> torch.Tensor | None:
        gx = self.packed.backward(grad) if wants_input else None
        if self.a is not None:
            g_hidden = grad @ self.b
            self.ga, self.gb = g_hidden.t() @ self.x, grad.t() @ self.hidden
            if gx is not None:
                gx.addmm_(g_hidden, self.a)
        return gx


def _add_norm(x, residual, keep, scale, norm: Norm):
    """The stream after a sublayer, and what its gradient needs. Overwrites x."""
    total = torch.add(residual, x if keep is None else x.mul_(keep), alpha=scale)
    y, mean, rstd = torch.native_layer_norm(
        total, norm.weight.shape, norm.weight, norm.bias, norm.eps
    )
    return y, (total, mean, rstd)


def _norm_backward(grad, stats, norm: Norm):
    total, mean, rstd = stats
    return torch.ops.aten.native_layer_norm_backward(
        grad.contiguous(), total, norm.weight.shape, mean, rstd, norm.weight, norm.bias,
        [True, False, False],
    )[0]  # fmt: skip


def _dropped(grad, keep, scale, dtype):
    grad = grad.to(dtype)
    return grad if keep is None else grad.mul_(keep).mul_(scale)
