"""The forward pass of a sequence classifier, in training and at inference, computed leanly.

Same parameters, same result as calling the model (up to rounding and to which elements dropout
draws), in less time on a processor:

- query, key and value and all their adapters are one matrix product each way;
- attention for short texts without copies in between, dropout masks from random bytes;
- every thread takes its own texts through all layers, see `team`;
- the last layer is computed for the first token only, because the head reads no other (whole where
  its inner states are wanted);
- one cast to the compute dtype per residual stream, none per module.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from peft import PeftModel
from torch import nn
from transformers.modeling_utils import PreTrainedModel

from kdlora.models.families import (
    DistanceTable,
    Layer,
    Parts,
    PreNormLayer,
    Rotary,
    take_apart,
)
from kdlora.models.fused.layer import Batch, FusedLayer, LastLayer
from kdlora.models.fused.masks import Masks
from kdlora.models.fused.packed import texts_per_part
from kdlora.models.fused.pre_norm import FusedPreNormLayer
from kdlora.models.fused.projection import Bound, Projection, autocast
from kdlora.models.fused.team import Team, shares, side_by_side
from kdlora.models.inner_states import Wanted

Positions = DistanceTable | Rotary


class FusedForward:
    """A model's forward pass; call it with the model's inputs, it returns logits [b, c] fp32.

    Where inner states are `wanted`, `with_states` returns them too.

    It holds copies of frozen weights, so it is made anew when frozen weights change.

    `frozen`: every base weight of the layers is packed, so only adapters (DoRA's too) and what
    stands outside the layers can be trained.
    """

    def __init__(
        self, model: nn.Module, parts: Parts, dtype: torch.dtype, wanted: Wanted = Wanted()
    ) -> None:
        self.model, self.parts, self.dtype, self.wanted = model, parts, dtype, wanted
        self.widen = Projection([parts.widen], dtype) if parts.widen is not None else None
        # ALBERT's layers are one layer many times, whose weights are packed once
        made = {layer.shared_by: layer for layer in parts.layers[:-1]}
        fused = {key: _fused_layer(layer, dtype) for key, layer in made.items()}
        self.layers = [fused[layer.shared_by] for layer in parts.layers[:-1]]
        whole = len(parts.layers) in (*wanted.hidden, wanted.layer)
        self.last = _fused_layer(parts.layers[-1], dtype, last=not whole)
        self.masks = Masks(_embedding_dropout(parts.embeddings).p)
        layers = [*fused.values(), self.last]
        used = [p for layer in layers for p in layer.projections()]
        used += [self.widen] if self.widen is not None else []
        self.frozen = all(layer.frozen for layer in layers) and all(
            p.packed is not None for p in used
        )
        modules = nn.ModuleList(module for projection in used for module in projection.modules)
        self.trained = [p for p in modules.parameters() if p.requires_grad]  # each once
        self.width = parts.layers[0].norms[-1].normalized_shape[0]
        self.team: Team | None = None
        self.alone = False  # no team could be made

    def __call__(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.with_states(inputs)[0]

    def with_states(
        self, inputs: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Logits [b, c] fp32, and the wanted states by name, each [b, l, d]."""
        stream = self._embed(inputs)
        bias = _padding_bias(inputs["attention_mask"])
        if self.parts.position_bias is not None:
            relative = self.parts.position_bias(stream)
            bias = relative if bias is None else relative + bias
        places = self.parts.positions
        positions = None if places is None else places(stream.shape[1])
        first, *states = self._encode(stream, bias, positions).split(self._widths(stream), 1)
        with autocast(first.device, self.dtype):
            logits = self.parts.head(first.unsqueeze(1)).float()
        shape = (stream.shape[1], self.width)
        named = zip(self.wanted.names, states, strict=True)
        return logits, {name: state.unflatten(1, shape) for name, state in named}

    def _widths(self, stream: torch.Tensor) -> list[int]:
        """Of what `_encode` puts side by side."""
        return [self.width, *[stream.shape[1] * self.width] * len(self.wanted.names)]

    def _embed(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """[b, l, d] fp32, without dropout."""
        embeddings = self.parts.embeddings
        with _without_dropout(embeddings):
            known = ("input_ids", "token_type_ids")
            return embeddings(**{k: inputs[k] for k in known if k in inputs}).float()

    def _encode(
        self,
        stream: torch.Tensor,
        bias: torch.Tensor | None,
        positions: Positions | None = None,
    ) -> torch.Tensor:
        """Hidden states of the first tokens, [b, d] fp32, by as many threads as torch has.

        The wanted states [b, l, d] follow, each flattened to [b, l * d].
        """
        threads = self._threads(stream, bias, positions)
        texts, length = stream.shape[:2]
        sizes = shares(texts, length, self.width, threads)
        team = self._team(threads) if len(sizes) > 1 else None
        if team is None:
            return self._encode_share(stream, bias, positions, self._bind(), None)
        streams, biases = stream.split(sizes), _split(bias, sizes)
        # Graphs of their own, or one set of constants for all.
        shared = None if torch.is_grad_enabled() else self._bind()
        seeds = torch.randint(2**62, (len(sizes),)).tolist() if self.model.training else None

        def encode(share: int) -> torch.Tensor:
            generator = None if seeds is None else torch.Generator().manual_seed(seeds[share])
            bound = shared or self._bind()
            return self._encode_share(streams[share], biases[share], positions, bound, generator)

        return side_by_side(team, encode, sizes, self.trained)

    def _team(self, threads: int) -> Team | None:
        """As many threads, started once; None where the system allows no more of them."""
        if self.alone:
            return None
        if self.team is None or self.team.size != threads:
            try:
                self.team = Team(threads)
            except RuntimeError as error:
                self.alone = True
                warnings.warn(f"texts are not shared out to threads: {error}", stacklevel=2)
                return None
        return self.team

    def _threads(
        self, stream: torch.Tensor, bias: torch.Tensor | None, positions: Positions | None
    ) -> int:
        """1 where sharing texts out does not pay: trained weights have gradients as large as they
        are, which would have to be added up; so would those of embeddings and positions.
        """
        if stream.device.type != "cpu" or stream.requires_grad:
            return 1
        if bias is not None and bias.requires_grad:
            return 1
        if isinstance(positions, DistanceTable) and positions.rows.requires_grad:
            return 1
        if torch.is_grad_enabled() and not self.frozen:
            return 1
        return torch.get_num_threads()

    def _bind(self) -> _Bound:
        training = self.model.training
        bound = {id(layer): layer.bind(training=training) for layer in [*self.layers, self.last]}
        return _Bound(
            widen=None if self.widen is None else self.widen.bind(training=training),
            layers=[bound[id(layer)] for layer in self.layers],
            last=bound[id(self.last)],
            wanted=self.wanted,
        )

    def _encode_share(
        self,
        stream: torch.Tensor,
        bias: torch.Tensor | None,
        positions: Positions | None,
        bound: _Bound,
        generator: torch.Generator | None,
    ) -> torch.Tensor:
        """The same for one thread's texts, in parts where that is faster, see `texts_per_part`.

        Trained base weights would have to sum their gradients over the parts: then it stays whole.
        """
        texts, length = stream.shape[:2]
        whole = Batch(texts, length, bias, self.model.training, generator)
        by_layer = bound.positions(positions, whole)
        parts = stream.split(texts_per_part(texts, length, self.width) if self.frozen else texts)
        biases = _split(bias, [len(part) for part in parts])
        outputs = []
        for part, more in zip(parts, biases, strict=True):
            batch = Batch(len(part), length, more, self.model.training, generator)
            if (keep := batch.keep(self.masks, part.shape, part)) is not None:
                part = part * keep * self.masks.scale
            outputs.append(bound(part.flatten(0, 1), batch, by_layer))
        return torch.cat(outputs)


class _LayerOfAPass(Protocol):
    """A layer with the weights of this moment, as `layer` and `pre_norm` have it."""

    def __call__(self, stream: torch.Tensor, batch: Batch, positions: Any, /) -> torch.Tensor: ...

    def positions(self, positions: Any, batch: Batch, /) -> Any:
        """What the layer makes of the positions, once for all parts of a batch."""

    def query_key_value(self, stream: torch.Tensor, batch: Batch, /) -> dict[str, torch.Tensor]:
        """The projections ``q``, ``k`` and ``v`` of the stream, each [b * l, d]."""


@dataclass(frozen=True)
class _Bound:
    """All layers with the weights and factors of this moment: [b * l, e] fp32 -> [b, d] fp32.

    The wanted states follow, each flattened to [b, l * d].
    """

    widen: Bound | None
    layers: list[_LayerOfAPass]
    last: _LayerOfAPass
    wanted: Wanted

    def __call__(
        self, stream: torch.Tensor, batch: Batch, positions: Sequence[Any]
    ) -> torch.Tensor:
        if self.widen is not None:
            half = stream.to(self.widen.projection.dtype)
            stream = self.widen(half, batch.keep).float()
        wanted = self.wanted
        seen: dict[str, torch.Tensor] = {}
        layers = zip([*self.layers, self.last], positions, strict=True)
        for below, (layer, of_layer) in enumerate(layers):
            if below in wanted.hidden:
                seen[f"hidden.{below}"] = stream
            if below + 1 == wanted.layer:
                seen |= layer.query_key_value(stream, batch)
            stream = layer(stream, batch, of_layer)
        if not wanted.names:
            return stream
        seen[f"hidden.{len(positions)}"] = stream
        first = stream if len(stream) == batch.size else stream[:: batch.length]
        states = [seen[name].float().reshape(batch.size, -1) for name in wanted.names]
        return torch.cat([first, *states], 1)

    def positions(self, positions: Positions | None, batch: Batch) -> list[Any]:
        """What each layer makes of them; None where layers know none."""
        layers = [*self.layers, self.last]
        if positions is None:
            return [None] * len(layers)
        return [layer.positions(positions, batch) for layer in layers]


def _fused_layer(
    layer: Layer | PreNormLayer, dtype: torch.dtype, *, last: bool = False
) -> FusedLayer | FusedPreNormLayer:
    if isinstance(layer, PreNormLayer):
        return FusedPreNormLayer(layer, dtype, last=last)
    return LastLayer(layer, dtype) if last else FusedLayer(layer, dtype)


def _split(bias: torch.Tensor | None, sizes: list[int]) -> Sequence[torch.Tensor | None]:
    """What is added to the scores, by parts of the batch; one of size 1 is all parts'."""
    if bias is None or bias.shape[0] == 1:
        return [bias] * len(sizes)
    return bias.split(sizes)


def fuse(model: nn.Module, dtype: torch.dtype, wanted: Wanted = Wanted()) -> FusedForward | None:
    """The fused forward pass of a classifier, or None where the family has none.

    It has none that gives the last hidden states of a pre-norm family, which its final norm makes.

    The model is one of transformers', bare or in a `PeftModel`; adapters stay where they are and
    are trained, saved and merged as ever.
    """
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    if not isinstance(base, PreTrainedModel):
        return None
    parts = take_apart(base)
    if parts is None or not all(_norms_are_plain(layer) for layer in parts.layers):
        return None
    last = len(parts.layers)
    if last in wanted.hidden and isinstance(parts.layers[-1], PreNormLayer):
        return None
    return FusedForward(model, parts, dtype, wanted)


def _norms_are_plain(layer: Layer | PreNormLayer) -> bool:
    """False where a method of peft trains the norms (LN_TUNING)."""
    return all(type(norm) is nn.LayerNorm for norm in layer.norms)


def _embedding_dropout(embeddings: Any) -> nn.Dropout:
    return embeddings.drop if hasattr(embeddings, "drop") else embeddings.dropout


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
