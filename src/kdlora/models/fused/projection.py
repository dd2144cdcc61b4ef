"""Linear layers with their adapters as one matrix product.

peft's layers compute every adapter beside its layer with casts and copies of their own. Here the
factors of the usual variants are read off the layers and go into the layer's product; whatever is
not known is called as it is, so that any adapter works.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from kdlora.models.fused.factors import (
    base_linear,
    dropout_of,
    factors_of,
    is_dora,
    is_known,
    magnitude_of,
)
from kdlora.models.fused.low_rank import Keeps
from kdlora.models.fused.masks import Masks
from kdlora.models.fused.ops import linear
from kdlora.models.fused.packed import Packed, can_pack, pack

# masks, shape and a tensor of the wanted dtype -> ones and zeros, or None where all is kept
Draw = Callable[[Masks, tuple[int, ...], torch.Tensor], torch.Tensor | None]


class Projection:
    """One or several linear layers that read the same input, as one.

    Frozen weights are kept side by side in the compute dtype `dtype`; trained ones are read by
    every `bind`.
    """

    def __init__(self, modules: Sequence[nn.Module], dtype: torch.dtype) -> None:
        self.modules, self.dtype = list(modules), dtype
        self.layers = [base_linear(module) for module in modules]
        self.fused = all(is_known(module) for module in modules)
        parameters = [p for layer in self.layers for p in layer.parameters(recurse=False)]
        self.frozen = not any(p.requires_grad for p in parameters)
        self.masks = [Masks(dropout_of(m)) for m in modules] if self.fused else []
        self.drops = any(masks.threshold for masks in self.masks)
        self.dora = self.fused and any(is_dora(module) for module in modules)
        self.squares = [
            _row_squares(layer.weight) if self.dora and is_dora(module) else None
            for module, layer in zip(self.modules, self.layers, strict=True)
        ]
        self.kept: tuple[torch.Tensor | None, torch.Tensor | None] | None = None
        self.packed: Packed | None = None
        self.apart: list[Packed] | None = None  # the layers one by one, see `Bound._dora_dropped`
        if self.frozen and self.fused:
            self._keep()

    def _keep(self) -> None:
        weight, bias = self._weights()
        if not can_pack(weight):
            self.kept = weight, bias
            return
        self.packed = pack(weight, None if self.dora else bias)
        self.kept = None, bias
        if self.dora and self.drops:
            self.apart = [pack(layer.weight.to(self.dtype), None) for layer in self.layers]

    def _weights(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        weights = [layer.weight.to(self.dtype) for layer in self.layers]
        biases = [layer.bias.to(self.dtype) for layer in self.layers if layer.bias is not None]
        return _joined(weights), _joined(biases) if biases else None

    def bind(self, *, training: bool = False) -> Bound:
        """The layers with their weights and factors as they are now.

        In training A is scaled by 1 / (share kept) of its module's dropout, which costs less than
        to scale what is kept.
        """
        if not self.fused:
            return Bound(self)
        weight, bias = self.kept or self._weights()
        found = [factors_of(module) for module in self.modules]
        if not any(found):
            return Bound(self, weight, bias)
        scaled = training and self.drops and not self.dora
        a = [
            (f[0] * masks.scale if scaled else f[0]).to(self.dtype)
            for f, masks in zip(found, self.masks, strict=True)
            if f
        ]
        blocks = [  # B, on the diagonal
            f[1].to(self.dtype) if f else a[0].new_zeros(layer.out_features, 0)
            for f, layer in zip(found, self.layers, strict=True)
        ]
        b = blocks[0] if len(blocks) == 1 else torch.block_diag(*blocks)
        scale = None
        if self.dora:
            scale = torch.cat([self._magnitudes(i) for i in range(len(self.modules))])
        ranks = tuple(len(f[0]) if f else 0 for f in found)
        return Bound(self, weight, bias, _joined(a), b, scale, ranks)

    def _magnitudes(self, i: int) -> torch.Tensor:
        """DoRA's ``m / ||W + s B A||`` for every row of layer i, [o] fp32; ones without DoRA.

        The norm is a constant for the gradient (Liu et al. 2024, section 4.3), and it is computed
        from ``W A^T`` and ``A A^T``, so that the [o, i] update is never written out.
        """
        module, layer, square = self.modules[i], self.layers[i], self.squares[i]
        if square is None:
            return torch.ones(layer.out_features, device=layer.weight.device)
        with torch.no_grad():
            factors = factors_of(module)
            assert factors is not None
            a, b = factors[0].float(), factors[1].float()
            cross = (layer.weight.to(self.dtype) @ a.to(self.dtype).t()).float()
            square = square + 2 * (cross * b).sum(1) + ((b @ (a @ a.t())) * b).sum(1)
        return magnitude_of(module) / square.clamp_min(0).sqrt()


@dataclass(frozen=True)
class Bound:
    """A projection during one forward pass: x [t, i] -> [t, sum of o], several times.

    The factors are cast and put together once, however many parts the batch is computed in.
    """

    projection: Projection
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    a: torch.Tensor | None = None
    b: torch.Tensor | None = None
    scale: torch.Tensor | None = None  # DoRA's, [sum of o]
    ranks: tuple[int, ...] = ()  # rows of A by module

    @property
    def frozen(self) -> Packed | None:
        """The packed layer if nothing but low-rank factors is trained in it."""
        return self.projection.packed if self.scale is None else None

    def keeps(self, rows: int, like: torch.Tensor, draw: Draw) -> Keeps:
        """The masks of the adapters' dropout for `rows` rows of input, one a module."""
        own = self.projection
        if not own.drops or self.a is None:
            return ()
        shape = (rows, self.a.shape[1])
        drawn = tuple(
            draw(masks, shape, like) if rank else None
            for masks, rank in zip(own.masks, self.ranks, strict=True)
        )
        return drawn if any(keep is not None for keep in drawn) else ()

    def __call__(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        own, packed = self.projection, self.projection.packed
        if not own.fused:
            with autocast(x.device, own.dtype):
                return _joined([module(x) for module in own.modules], 1).to(own.dtype)
        keeps = self.keeps(len(x), x, draw)
        if self.scale is None:
            return linear(x, self.weight, self.bias, self.a, self.b, packed, keeps, self.ranks)
        if keeps:
            y = self._dora_dropped(x, keeps)
        else:
            y = linear(x, self.weight, None, self.a, self.b, packed) * self.scale  # in fp32
        return (y if self.bias is None else y + self.bias).to(own.dtype)

    def _dora_dropped(self, x: torch.Tensor, keeps: Keeps) -> torch.Tensor:
        """DoRA under dropout, module by module, without bias: [t, sum of o] fp32.

        peft adds to the layer's output what the magnitudes change in that of the dropped input x~:
        ``W x + (m - 1) W x~ + m B A x~``, which is ``W (x - x~) + m (W + B A) x~``.
        """
        own = self.projection
        assert self.scale is not None
        assert self.a is not None
        assert self.b is not None
        outputs = [layer.out_features for layer in own.layers]
        a, scale = self.a.split(self.ranks), self.scale.split(outputs)
        b = [rows.split(self.ranks, 1)[i] for i, rows in enumerate(self.b.split(outputs))]
        weights = [None] * len(outputs) if self.weight is None else self.weight.split(outputs)
        y = []
        for i, keep in enumerate(keeps):
            packed = own.apart[i] if own.apart is not None else None
            dropped = x if keep is None else x * keep * own.masks[i].scale
            if own.squares[i] is None:
                y.append(linear(x, weights[i], None, packed=packed).float())
                continue
            moved = linear(dropped, weights[i], None, a[i], b[i], packed) * scale[i]
            y.append(moved + linear(x - dropped, weights[i], None, packed=packed))
        return _joined(y, 1)

    def gelu(self, x: torch.Tensor) -> torch.Tensor | None:
        """The exact GELU of the layer's output in one step, or None where that is not possible."""
        if self.frozen is None or self.a is not None or torch.is_grad_enabled():
            return None
        return self.frozen.forward(x, gelu=True)


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Matrix products in the compute dtype; does nothing for fp32."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def _joined(tensors: list[torch.Tensor], dim: int = 0) -> torch.Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim)


def _row_squares(weight: torch.Tensor) -> torch.Tensor:
    return weight.detach().float().square().sum(1)
