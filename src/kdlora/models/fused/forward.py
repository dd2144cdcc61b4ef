"""The forward pass of a sequence classifier, in training and at inference, computed leanly.

Same parameters, same result as calling the model (up to rounding and to which elements dropout
draws), in less time on a processor:

- query, key and value and all their adapters are one matrix product each way;
- attention for short texts without copies in between, dropout masks from random bytes;
- the last layer is computed for the first token only, because the head reads no other;
- one cast to the compute dtype per residual stream, none per module.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers.modeling_utils import PreTrainedModel

from kdlora.models.fused.layer import Batch, BoundLayer, FusedLayer, LastLayer
from kdlora.models.fused.layers import Parts, take_apart
from kdlora.models.fused.masks import Masks
from kdlora.models.fused.packed import texts_per_part
from kdlora.models.fused.projection import Bound, Projection, autocast


class FusedForward:
    """A model's forward pass; call it with the model's inputs, it returns logits [b, c] fp32.

    It holds copies of frozen weights, so it is made anew when frozen weights change.
    """

    def __init__(self, model: nn.Module, parts: Parts, dtype: torch.dtype) -> None:
        self.model, self.parts, self.dtype = model, parts, dtype
        self.widen = Projection([parts.widen], dtype) if parts.widen is not None else None
        # ALBERT's layers are one layer many times, whose weights are packed once
        made = {id(layer.query): layer for layer in parts.layers[:-1]}
        fused = {key: FusedLayer(layer, dtype) for key, layer in made.items()}
        self.layers = [fused[id(layer.query)] for layer in parts.layers[:-1]]
        self.last = LastLayer(parts.layers[-1], dtype)
        self.masks = Masks(_embedding_dropout(parts.embeddings).p)
        self.frozen = all(layer.frozen for layer in (*self.layers, self.last))

    def __call__(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        bound = {id(layer): layer.bind() for layer in [*self.layers, self.last]}
        layers = [bound[id(layer)] for layer in self.layers]
        last = bound[id(self.last)]
        widen = self.widen.bind() if self.widen is not None else None
        first = torch.cat([self._encode(part, widen, layers, last) for part in self._parts(inputs)])
        with autocast(first.device, self.dtype):
            return self.parts.head(first.unsqueeze(1)).float()

    def _parts(self, inputs: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        """The batch in parts of some texts each, if that is faster; see `packed.texts_per_part`.

        Trained base weights would have to sum their gradients over the parts: then it stays whole.
        """
        batch, length = inputs["input_ids"].shape
        width = self.parts.layers[0].output_norm.normalized_shape[0]
        size = texts_per_part(batch, length, width) if self.frozen else batch
        if size >= batch:
            return [inputs]
        names = list(inputs)
        pieces = zip(*(inputs[name].split(size) for name in names), strict=True)
        return [dict(zip(names, piece, strict=True)) for piece in pieces]

    def _encode(
        self,
        inputs: dict[str, torch.Tensor],
        widen: Bound | None,
        layers: list[BoundLayer],
        last: BoundLayer,
    ) -> torch.Tensor:
        """Hidden states of the first tokens, [b, d] fp32."""
        training, embeddings = self.model.training, self.parts.embeddings
        with _without_dropout(embeddings):
            known = ("input_ids", "token_type_ids")
            stream = embeddings(**{k: inputs[k] for k in known if k in inputs}).float()
        if training and (keep := self.masks.draw(stream.shape, stream)) is not None:
            stream = stream * keep * self.masks.scale
        bias = _padding_bias(inputs["attention_mask"])
        if self.parts.position_bias is not None:
            relative = self.parts.position_bias(stream)
            bias = relative if bias is None else relative + bias
        batch = Batch(stream.shape[0], stream.shape[1], bias, training)
        stream = stream.flatten(0, 1)
        if widen is not None:
            stream = widen(stream.to(self.dtype)).float()
        for layer in layers:
            stream = layer(stream, batch)
        return last(stream, batch)


def fuse(model: nn.Module, dtype: torch.dtype) -> FusedForward | None:
    """The fused forward pass of a classifier, or None where the family has none.

    The model is one of transformers', bare or in a `PeftModel`; adapters stay where they are and
    are trained, saved and merged as ever.
    """
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    if not isinstance(base, PreTrainedModel):
        return None
    parts = take_apart(base)
    if parts is None or not all(_norms_are_plain(layer) for layer in parts.layers):
        return None
    return FusedForward(model, parts, dtype)


def _norms_are_plain(layer: Any) -> bool:
    """False where a method of peft trains the norms (LN_TUNING)."""
    return all(type(n) is nn.LayerNorm for n in (layer.attention_norm, layer.output_norm))


def _embedding_dropout(embeddings: Any) -> nn.Dropout:
    return embeddings.dropout


@contextmanager
def _without_dropout(embeddings: nn.Module) -> Iterator[None]:
    """Embeddings as they are: their dropout is drawn by `Masks` afterwards."""
    dropout = _embedding_dropout(embeddings)
    before, dropout.p = dropout.p, 0.0
    try:
        yield
    finally:
        dropout.p = before


def _padding_bias(attention_mask: torch.Tensor) -> torch.Tensor | None:
    """Zero for tokens and a very negative number for padding, [b, 1, 1, l]; None: no padding."""
    if bool(attention_mask.all()):
        return None
    padding = (attention_mask == 0)[:, None, None, :]
    return padding.float() * torch.finfo(torch.float32).min
