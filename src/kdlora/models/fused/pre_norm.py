"""A pre-norm layer with rotary positions and a gated feed-forward part, as ModernBERT's.

Norm, attention, residual, norm, gated feed-forward, residual (Xiong et al. 2020; Shazeer 2020; Su
et al. 2021). It has the interface of `layer.FusedLayer`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd import Function

from kdlora.models.families import PreNormLayer, Rotary
from kdlora.models.fused.layer import Batch
from kdlora.models.fused.masks import Masks
from kdlora.models.fused.ops import attend_one, attention
from kdlora.models.fused.projection import Projection


class FusedPreNormLayer:
    """A layer of the model; `bind` it for one forward pass."""

    def __init__(self, layer: PreNormLayer, dtype: torch.dtype, *, last: bool = False) -> None:
        self.layer, self.dtype, self.last = layer, dtype, last
        self.qkv, self.out = Projection([layer.qkv], dtype), Projection([layer.out], dtype)
        self.up, self.down = Projection([layer.up], dtype), Projection([layer.down], dtype)
        self.attention_masks, self.out_masks = (
            Masks(layer.attention_dropout),
            Masks(layer.out_dropout),
        )
        self.inner_masks = Masks(layer.inner_dropout)
        norms = [p for norm in layer.norms for p in norm.parameters()]
        self.frozen = all(p.packed is not None for p in self.projections()) and not any(
            p.requires_grad for p in norms
        )

    def projections(self) -> list[Projection]:
        return [self.qkv, self.out, self.up, self.down]

    def bind(self, *, training: bool) -> BoundPreNormLayer:
        """The layer with the weights and factors of this moment."""
        return BoundPreNormLayer(self, training)


class BoundPreNormLayer:
    """A layer during one forward pass: stream [b * l, d] fp32 -> the same.

    The last layer of a model is computed for the first token of each text only: -> [b, d].
    """

    def __init__(self, owner: FusedPreNormLayer, training: bool) -> None:
        self.owner, self.layer = owner, owner.layer
        self.qkv, self.out, self.up, self.down = (
            projection.bind(training=training) for projection in owner.projections()
        )

    def query_key_value(self, stream: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        """The projections ``q``, ``k`` and ``v`` of the normed stream, each [b * l, d]."""
        projected = self.qkv(self._normed(stream).to(self.owner.dtype), batch.keep)
        return dict(zip("qkv", projected.chunk(3, 1), strict=True))

    def positions(self, rotary: Rotary, batch: Batch) -> Rotary:
        """Nothing of a rotation depends on the layer's weights."""
        return rotary

    def _normed(self, stream: torch.Tensor) -> torch.Tensor:
        """What attention reads: the first layer's norm is that of the embeddings."""
        norm = self.layer.attention_norm
        return stream if norm is None else _norm(stream, norm)

    def __call__(self, stream: torch.Tensor, batch: Batch, rotary: Rotary) -> torch.Tensor:
        layer, owner, shape = self.layer, self.owner, (batch.size, batch.length)
        qkv = self.qkv(self._normed(stream).to(owner.dtype), batch.keep).unflatten(0, shape)
        qkv = _Rotated.apply(qkv, *rotary.of(layer.kind), layer.heads)
        bias = batch.bias
        if (window := rotary.windows.get(layer.kind)) is not None:
            bias = window if bias is None else window + bias
        queries = 1 if owner.last else batch.length
        keep = batch.keep(
            owner.attention_masks, (batch.size, layer.heads, queries, batch.length), qkv
        )
        scale = owner.attention_masks.scale
        if owner.last:
            first, width = qkv[:, 0], qkv.shape[-1] // 3
            bias = None if bias is None else bias[..., :1, :]
            context = attend_one(first[:, :width], qkv[..., width:], layer.heads, bias, keep, scale)
            stream = stream.unflatten(0, shape)[:, 0]
        else:
            context = attention(qkv, layer.heads, bias, keep, scale).flatten(0, 1)
        stream = stream + _dropped(self.out(context, batch.keep), owner.out_masks, batch)
        raised = self.up(_norm(stream, layer.inner_norm).to(owner.dtype), batch.keep)
        value, gate = raised.chunk(2, -1)
        inner = _dropped(layer.activation(value) * gate, owner.inner_masks, batch)
        return stream + self.down(inner, batch.keep)


class _Rotated(Function):
    """Query and key of [b, l, 3 d] turned by their positions; the value stays as it is."""

    @staticmethod
    def forward(
        ctx: Any, qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, heads: int
    ) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.heads = heads
        return _turn(qkv, cos, sin, heads)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        cos, sin = ctx.saved_tensors
        return _turn(grad, cos, -sin, ctx.heads), None, None, None


def _turn(qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, heads: int) -> torch.Tensor:
    """Each pair of elements (i, i + e / 2) of a head by the angle of its position; in fp32."""
    turned = torch.empty_like(qkv, memory_format=torch.contiguous_format)
    parts, into = (x.unflatten(-1, (3, heads, 2, -1)) for x in (qkv, turned))
    first, second = parts[:, :, :2, :, 0].float(), parts[:, :, :2, :, 1].float()
    cos, sin = cos[:, None, None], sin[:, None, None]  # [l, 1, 1, e / 2]
    into[:, :, :2, :, 0] = first * cos - second * sin
    into[:, :, :2, :, 1] = second * cos + first * sin
    into[:, :, 2] = parts[:, :, 2]
    return turned


def _norm(stream: torch.Tensor, norm: nn.LayerNorm) -> torch.Tensor:
    bias = None if norm.bias is None else norm.bias.float()
    return nn.functional.layer_norm(
        stream, norm.normalized_shape, norm.weight.float(), bias, norm.eps
    )


def _dropped(x: torch.Tensor, masks: Masks, batch: Batch) -> torch.Tensor:
    keep = batch.keep(masks, tuple(x.shape), x)
    return x if keep is None else x * keep * masks.scale
