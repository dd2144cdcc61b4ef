"""A whole layer with frozen base weights as one operation, its gradient written out.

This is what a LoRA training spends its time in. Only the stream and the low-rank factors have
gradients, so nothing else is kept or summed, and every pass over memory that can be done in place
is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.autograd import Function

from kdlora.models.fused import disentangled
from kdlora.models.fused.disentangled import Distances
from kdlora.models.fused.low_rank import Keeps, add_low_rank, low_rank_backward
from kdlora.models.fused.ops import (
    add_norm_forward,
    attention_backward,
    attention_forward,
    dropout_backward,
    norm_backward,
)
from kdlora.models.fused.projection import Bound


class Norm(NamedTuple):
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

    `projections` are query-key-value, attention output, up and down, and `drops` the masks of their
    adapters' dropout; `keeps` and `scales` the dropout masks and 1 / (share kept) of attention
    weights, attention output and feed-forward.
    """

    texts: int
    heads: int
    projections: tuple[Bound, Bound, Bound, Bound]
    norms: tuple[Norm, Norm]
    drops: tuple[Keeps, ...]
    keeps: Keeps
    scales: tuple[float, float, float]
    dtype: torch.dtype


def frozen_layer(
    stream: torch.Tensor, bias: torch.Tensor | None, distances: Distances | None, layer: Frozen
) -> torch.Tensor:
    """A post-norm layer with exact GELU: stream [b * l, d] fp32 -> the same.

    `bias` (fp32, broadcast over [b, h, l, l]) gets no gradient: where the base is frozen, so are
    relative positions. `distances` get one, because the factors of query and key project them.
    """
    factors = [factor for bound in layer.projections for factor in (bound.a, bound.b)]
    key, query = distances or (None, None)
    return _FrozenLayer.apply(stream, bias, key, query, layer, *factors)


class _FrozenLayer(Function):
    @staticmethod
    def forward(
        ctx: Any,
        stream: torch.Tensor,
        bias: torch.Tensor | None,
        distance_key: torch.Tensor | None,
        distance_query: torch.Tensor | None,
        layer: Frozen,
        *factors: torch.Tensor | None,
    ) -> torch.Tensor:
        qkv, out, up, down = (
            _Product(bound, a, b, keeps)
            for (bound, a, b), keeps in zip(
                _triples(layer.projections, factors), layer.drops, strict=True
            )
        )
        first, second = layer.norms
        x = stream.to(layer.dtype)
        joined = qkv.forward(x).unflatten(0, (layer.texts, -1))
        keep, scale = layer.keeps[0], layer.scales[0]
        if distance_key is None or distance_query is None:
            context, saved = attention_forward(joined, layer.heads, bias, keep, scale)
        else:
            distances = Distances(distance_key, distance_query)
            context, saved = disentangled.attention_forward(joined, distances, bias, keep, scale)
        middle, stats1 = add_norm_forward(
            out.forward(context.flatten(0, 1)), stream, layer.keeps[1], layer.scales[1], *first
        )
        raised = up.forward(middle.to(layer.dtype))
        lowered = down.forward(torch.nn.functional.gelu(raised))
        y, stats2 = add_norm_forward(lowered, middle, layer.keeps[2], layer.scales[2], *second)
        products = (qkv, out, up, down)
        kept = [t for product in products for t in (product.x, product.hidden)]
        drops = [keep for keeps in layer.drops for keep in keeps]
        ctx.save_for_backward(
            *(*saved, *stats1, *stats2, raised, *layer.keeps, *factors, *kept),
            *(distance_key, distance_query, *drops),
        )
        ctx.dropped = [len(keeps) for keeps in layer.drops]
        ctx.layer = replace(layer, keeps=(), drops=())  # masks go when saved tensors are freed
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        layer: Frozen = ctx.layer
        tensors = list(ctx.saved_tensors)
        saved, stats1, stats2 = tensors[:5], tensors[5:8], tensors[8:11]
        raised, keeps, factors, kept = tensors[11], tensors[12:15], tensors[15:23], tensors[23:31]
        distance_key, distance_query = tensors[31:33]
        drops = iter(tensors[33:])
        qkv, out, up, down = (
            _Product(bound, a, b, tuple(islice(drops, n)), *kept[2 * i : 2 * i + 2])
            for i, ((bound, a, b), n) in enumerate(
                zip(_triples(layer.projections, factors), ctx.dropped, strict=True)
            )
        )
        first, second = layer.norms
        g_stream = norm_backward(grad, stats2, second.weight, second.bias)[0]
        g: torch.Tensor | None = down.backward(
            dropout_backward(g_stream, keeps[2], layer.scales[2], layer.dtype)
        )
        g = torch.ops.aten.gelu_backward(g, raised)
        assert g is not None
        g_stream = g_stream.add_(up.backward(g))
        g_stream = norm_backward(g_stream, stats1, first.weight, first.bias)[0]
        g = out.backward(dropout_backward(g_stream, keeps[1], layer.scales[1], layer.dtype))
        assert g is not None
        g = g.unflatten(0, (layer.texts, -1))
        g_key = g_query = None
        if distance_key is None:
            g = attention_backward(g, layer.heads, saved, keeps[0], layer.scales[0])
        else:
            wants = any(ctx.needs_input_grad[2:4])
            distances = Distances(distance_key, distance_query)
            g, g_key, g_query = disentangled.attention_backward(
                g, saved, distances, keeps[0], layer.scales[0], wants_distances=wants
            )
        g = qkv.backward(g.flatten(0, 1), wants_input=ctx.needs_input_grad[0])
        grads = [t for product in (qkv, out, up, down) for t in (product.ga, product.gb)]
        g_stream = None if g is None else g_stream.add_(g)
        return g_stream, None, g_key, g_query, None, *grads


def _triples(
    projections: Sequence[Bound], factors: Sequence[torch.Tensor | None]
) -> Iterator[tuple[Bound, torch.Tensor | None, torch.Tensor | None]]:
    """Each projection with its two factors, which stand in pairs."""
    return zip(projections, factors[0::2], factors[1::2], strict=True)


class _Product:
    """A frozen layer and its low-rank update: forward, and backward with the factors' gradients."""

    def __init__(
        self,
        bound: Bound,
        a: torch.Tensor | None,
        b: torch.Tensor | None,
        keeps: Keeps,
        x: torch.Tensor | None = None,
        hidden: torch.Tensor | None = None,
    ) -> None:
        assert bound.frozen is not None
        self.packed, self.ranks = bound.frozen, bound.ranks
        self.a, self.b, self.keeps, self.x, self.hidden = a, b, keeps, x, hidden
        self.ga: torch.Tensor | None = None
        self.gb: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.packed.forward(x)
        self.hidden = add_low_rank(y, x, self.a, self.b, self.keeps, self.ranks)
        self.x = x if self.hidden is not None else None
        return y

    def backward(self, grad: torch.Tensor, *, wants_input: bool = True) -> torch.Tensor | None:
        gx = self.packed.backward(grad) if wants_input else None
        self.ga, self.gb = low_rank_backward(
            grad, gx, self.x, self.hidden, self.a, self.b, self.keeps, self.ranks
        )
        return gx
