"""One encoder layer: attention and feed-forward, each with dropout, residual and norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.activations import GELUActivation

from kdlora.models.families import DistanceTable, Layer
from kdlora.models.fused import disentangled
from kdlora.models.fused.disentangled import Distances
from kdlora.models.fused.factors import base_linear
from kdlora.models.fused.frozen_layer import Frozen, Norm, frozen_layer
from kdlora.models.fused.masks import Masks
from kdlora.models.fused.ops import add_norm, attend_one, attention
from kdlora.models.fused.projection import Projection


@dataclass(frozen=True)
class Batch:
    """What all layers share: b texts of l tokens, and what is added to their attention scores."""

    size: int
    length: int
    bias: torch.Tensor | None  # fp32, broadcast over [b, h, l, l]
    training: bool
    generator: torch.Generator | None = None  # of the dropout masks; None: torch's global one

    def keep(self, masks: Masks, shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor | None:
        """A dropout mask in training, see `Masks.draw`; None where all is kept."""
        return masks.draw(shape, like, self.generator) if self.training else None


class FusedLayer:
    """A layer of the model; `bind` it for one forward pass."""

    def __init__(self, layer: Layer, dtype: torch.dtype) -> None:
        self.layer, self.dtype = layer, dtype
        self.qkv = self._attention_inputs(layer)
        self.out = Projection([layer.out], dtype)
        self.up, self.down = Projection([layer.up], dtype), Projection([layer.down], dtype)
        self.attention_masks = Masks(layer.attention_dropout)
        self.out_masks, self.down_masks = Masks(layer.out_dropout), Masks(layer.down_dropout)
        self.distance_masks = Masks(layer.distance_dropout)
        self.exact_gelu = isinstance(layer.activation, GELUActivation)
        norms = [*layer.attention_norm.parameters(), *layer.output_norm.parameters()]
        self.frozen = all(
            projection.packed is not None for projection in self.projections()
        ) and not any(p.requires_grad for p in norms)
        self.norms = (
            (Norm.of(layer.attention_norm), Norm.of(layer.output_norm)) if self.frozen else None
        )

    def _attention_inputs(self, layer: Layer) -> tuple[Projection, ...]:
        return (Projection([layer.query, layer.key, layer.value], self.dtype),)

    def projections(self) -> list[Projection]:
        return [*self.qkv, self.out, self.up, self.down]

    def bind(self, *, training: bool) -> BoundLayer:
        """The layer with the weights and factors of this moment."""
        return BoundLayer(self, training)


class BoundLayer:
    """A layer during one forward pass: stream [b * l, d] fp32 -> the same.

    `distances` are what the layer makes of the table of distances where attention is disentangled,
    once for all parts of the batch (`positions`).
    """

    def __init__(self, owner: FusedLayer, training: bool) -> None:
        self.owner, self.layer = owner, owner.layer
        self.qkv = [projection.bind(training=training) for projection in owner.qkv]
        self.out, self.up, self.down = (
            projection.bind(training=training) for projection in (owner.out, owner.up, owner.down)
        )
        bound = (*self.qkv, self.out, self.up, self.down)
        self.frozen = owner.frozen and owner.exact_gelu and all(b.frozen for b in bound)

    def __call__(
        self, stream: torch.Tensor, batch: Batch, distances: Distances | None = None
    ) -> torch.Tensor:
        owner = self.owner
        if self.frozen and torch.is_grad_enabled():
            return frozen_layer(stream, batch.bias, distances, self._frozen(batch, stream))
        half = stream.to(owner.dtype)
        qkv = self.qkv[0](half, batch.keep).unflatten(0, (batch.size, batch.length))
        keep = self._attention_keep(batch, batch.length, half)
        scale = owner.attention_masks.scale
        if distances is None:
            context = attention(qkv, self.layer.heads, batch.bias, keep, scale)
        else:
            context = disentangled.attention(qkv, distances, batch.bias, keep, scale)
        return self.rest(context.flatten(0, 1), stream, batch)

    def query_key_value(self, stream: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        """The projections ``q``, ``k`` and ``v`` of the stream, each [b * l, d]."""
        projected = self.qkv[0](stream.to(self.owner.dtype), batch.keep)
        return dict(zip("qkv", projected.chunk(3, 1), strict=True))

    def positions(self, table: DistanceTable, batch: Batch) -> Distances:
        """The keys and queries of the distances, with this layer's dropout on their embeddings."""
        rows = self._distance_rows(table.rows, batch)
        query_key = self.qkv[0](rows, batch.keep)[:, : 2 * self._width]
        return disentangled.project(query_key[table.index], self.layer.heads)

    @property
    def _width(self) -> int:
        return base_linear(self.layer.query).out_features

    def _distance_rows(self, rows: torch.Tensor, batch: Batch) -> torch.Tensor:
        masks = self.owner.distance_masks
        if (keep := batch.keep(masks, rows.shape, rows)) is not None:
            rows = rows * keep * masks.scale
        return rows.to(self.owner.dtype)

    def _attention_keep(
        self, batch: Batch, queries: int, like: torch.Tensor
    ) -> torch.Tensor | None:
        shape = (batch.size, self.layer.heads, queries, batch.length)
        return batch.keep(self.owner.attention_masks, shape, like)

    def _frozen(self, batch: Batch, stream: torch.Tensor) -> Frozen:
        owner, layer = self.owner, self.layer
        assert owner.norms is not None
        like = stream.new_empty(0, dtype=owner.dtype)
        keeps = (
            self._attention_keep(batch, batch.length, like),
            batch.keep(owner.out_masks, stream.shape, like),
            batch.keep(owner.down_masks, stream.shape, like),
        )
        scales = (owner.attention_masks.scale, owner.out_masks.scale, owner.down_masks.scale)
        projections = (self.qkv[0], self.out, self.up, self.down)
        return Frozen(
            texts=batch.size,
            heads=layer.heads,
            projections=projections,
            norms=owner.norms,
            drops=tuple(bound.keeps(len(stream), like, batch.keep) for bound in projections),
            keeps=keeps,
            scales=scales if batch.training else (1.0, 1.0, 1.0),
            dtype=owner.dtype,
        )

    def rest(self, context: torch.Tensor, residual: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Everything after attention, row by row: [t, d] in the compute dtype -> [t, d] fp32."""
        owner, layer = self.owner, self.layer
        stream = _add_norm(
            self.out(context, batch.keep), residual, owner.out_masks, layer.attention_norm, batch
        )
        half = stream.to(owner.dtype)
        raised = self.up.gelu(half) if owner.exact_gelu else None
        if raised is None:
            raised = layer.activation(self.up(half, batch.keep))
        lowered = self.down(raised, batch.keep)
        return _add_norm(lowered, stream, owner.down_masks, layer.output_norm, batch)


class LastLayer(FusedLayer):
    """The last layer: computed for the first token of each text only.

    Keys and values are needed of all tokens, everything else of the one that the head reads.
    """

    def _attention_inputs(self, layer: Layer) -> tuple[Projection, ...]:
        return (
            Projection([layer.query], self.dtype),
            Projection([layer.key, layer.value], self.dtype),
        )

    def bind(self, *, training: bool) -> BoundLayer:
        return _BoundLastLayer(self, training)


class _BoundLastLayer(BoundLayer):
    """Stream [b * l, d] fp32 -> [b, d] fp32."""

    def __call__(
        self, stream: torch.Tensor, batch: Batch, distances: Distances | None = None
    ) -> torch.Tensor:
        half = stream.to(self.owner.dtype).unflatten(0, (batch.size, batch.length))
        query = self.qkv[0](half[:, 0].contiguous(), batch.keep)
        key_value = self.qkv[1](half.flatten(0, 1), batch.keep)
        key_value = key_value.unflatten(0, (batch.size, batch.length))
        bias = None if batch.bias is None else batch.bias[..., :1, :]
        keep = self._attention_keep(batch, 1, half)
        scale = self.owner.attention_masks.scale
        if distances is None:
            context = attend_one(query, key_value, self.layer.heads, bias, keep, scale)
        else:
            context = disentangled.attend_one(query, key_value, distances, bias, keep, scale)
        residual = stream.unflatten(0, (batch.size, batch.length))[:, 0].contiguous()
        return self.rest(context, residual, batch)

    def positions(self, table: DistanceTable, batch: Batch) -> Distances:
        """Of the first token, which no other precedes."""
        rows = self._distance_rows(table.rows, batch)
        query, key_value = (projection(rows, batch.keep) for projection in self.qkv)
        query_key = torch.cat([query, key_value[:, : self._width]], 1)
        return disentangled.project_first(query_key[table.index[: batch.length]], self.layer.heads)


def _add_norm(
    x: torch.Tensor, residual: torch.Tensor, masks: Masks, norm: Any, batch: Batch
) -> torch.Tensor:
    assert isinstance(norm, nn.LayerNorm)
    keep = batch.keep(masks, x.shape, x)
    scale = 1.0 if keep is None else masks.scale
    return add_norm(x, residual, keep, scale, norm.weight.float(), norm.bias.float(), norm.eps)
