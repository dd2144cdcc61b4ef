"""What a family of encoders has to tell: where its parts are, and what its shape does not say.

A file beside this one describes one family, whole: what an adapter may sit on, how its parts are
laid out for the fused pass (`models.fused`), and what its cost in closed form needs to know
(`planning.encoder_shapes`). None of them imports torch, so that a plan reads them too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:  # types alone: a plan reads this module and starts without torch
    import torch
    from torch import nn


L = TypeVar("L")


@dataclass(frozen=True)
class Layer:
    """The modules of one layer, and the probabilities of dropout after each of its parts.

    The layer is "post-norm": attention, residual, norm, feed-forward, residual, norm.
    `distance_dropout` is on the embeddings of distances, where attention reads them.
    """

    query: nn.Module
    key: nn.Module
    value: nn.Module
    out: nn.Module
    attention_norm: nn.LayerNorm
    up: nn.Module
    activation: Callable[[torch.Tensor], torch.Tensor]
    down: nn.Module
    output_norm: nn.LayerNorm
    heads: int
    attention_dropout: float
    out_dropout: float
    down_dropout: float
    distance_dropout: float = 0.0

    @property
    def norms(self) -> tuple[nn.LayerNorm, ...]:
        return (self.attention_norm, self.output_norm)

    @property
    def shared_by(self) -> int:
        """The same for layers that share their weights."""
        return id(self.query)


@dataclass(frozen=True)
class PreNormLayer:
    """The modules of one layer: norm, attention, residual, norm, gated feed-forward, residual.

    `qkv` computes query, key and value, `up` what is activated and its gate, side by side. The
    first layer may lack the first norm. `kind` says which rotation and window the layer has.
    """

    attention_norm: nn.LayerNorm | None
    qkv: nn.Module
    out: nn.Module
    inner_norm: nn.LayerNorm
    up: nn.Module
    activation: Callable[[torch.Tensor], torch.Tensor]
    down: nn.Module
    heads: int
    attention_dropout: float
    out_dropout: float
    inner_dropout: float
    kind: str

    @property
    def norms(self) -> tuple[nn.LayerNorm, ...]:
        return tuple(n for n in (self.attention_norm, self.inner_norm) if n is not None)

    @property
    def shared_by(self) -> int:
        """The same for layers that share their weights."""
        return id(self.qkv)


@dataclass(frozen=True)
class Rotary:
    """Rotations of texts of l tokens, by kind of layer, and what keeps a layer to its window.

    Attributes:
        angles: cosines and sines, each [l, e / 2] fp32.
        windows: fp32 [1, 1, l, l], zero inside the window; a kind that sees all is not there.
    """

    angles: dict[str, tuple[torch.Tensor, torch.Tensor]]
    windows: dict[str, torch.Tensor]

    def of(self, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
        return self.angles[kind]


@dataclass(frozen=True)
class DistanceTable:
    """Embeddings of the distances i - j between a token i and the token j that it attends to.

    Attributes:
        rows: [m, d] fp32, some of which stand for several distances.
        index: [2 l - 1] rows by rising distance, from 1 - l to l - 1, for texts of l tokens.
    """

    rows: torch.Tensor
    index: torch.Tensor


@dataclass(frozen=True)
class Parts:
    """A sequence classifier taken apart.

    `widen` maps embeddings to the layers' width where the two differ. `head` turns the last
    hidden states of the first token, [b, 1, d], into logits. `position_bias` gives what is added
    to the attention scores of texts of one length, [1, h, l, l], where positions are relative.
    `positions` gives what the layers know of the places in texts of l tokens: a table of distances
    where attention is disentangled, whose rows query and key project too, or rotations.
    """

    embeddings: nn.Module
    widen: nn.Module | None
    layers: tuple[Layer, ...] | tuple[PreNormLayer, ...]
    head: Callable[[torch.Tensor], torch.Tensor]
    position_bias: Callable[[torch.Tensor], torch.Tensor] | None = None
    positions: Callable[[int], DistanceTable | Rotary] | None = None


@dataclass(frozen=True)
class Family:
    """What cannot be read off a model of the family, or only once it is loaded.

    Attributes:
        model_types: what ``config.model_type`` says, by which the family is known.
        projections: last parts of module names, as in ``attention.self.query``: a layer's query,
            key and value, or one matrix that computes all three.
        first_position: position id of the first token, so that many rows of the position table
            hold no token; None means padding id + 1, as in fairseq's models.
        parts: takes a sequence classifier apart for the fused pass, or returns None where this
            one differs from what the pass computes; None: the family has no fused pass.
        pooler: the encoder ends in a dense layer of its own width.
        gated: the first matrix of the feed-forward part is doubled (GLU).
        shares_layers: one layer's weights serve all layers.
        narrow_embeddings: ``config.embedding_size`` is the width of the embeddings.
        position_table: positions are looked up in a table.
    """

    model_types: tuple[str, ...]
    projections: tuple[str, ...]
    first_position: int | None = 0
    parts: Callable[[Any], Parts | None] | None = None
    pooler: bool = False
    gated: bool = False
    shares_layers: bool = False
    narrow_embeddings: bool = False
    position_table: bool = True

    @property
    def query_value(self) -> tuple[str, ...]:
        """What the reports adapt; with one matrix for all three the key is adapted too."""
        return (self.projections[0], self.projections[-1])


def layers_of(read: Callable[[Any], L], layers: Iterable[Any]) -> tuple[L, ...]:
    """Each of a model's layers as `read` sees it."""
    return tuple(read(layer) for layer in layers)
