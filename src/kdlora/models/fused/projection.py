"""Linear layers with their adapters as one matrix product.

peft's layers compute every adapter beside its layer with casts and copies of their own. Here the
factors of the usual variants are read off the layers and go into the layer's product; whatever is
not known is called as it is, so that any adapter works.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft.tuners.adalora.layer import SVDLinear
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from kdlora.models.fused.ops import linear
from kdlora.models.fused.packed import Packed, can_pack, pack
from kdlora.models.mrlora import MrLoraLinear

Factors = tuple[torch.Tensor, torch.Tensor]  # A [r, i] and B [o, r], scales included


class Projection:
    """One or several linear layers that read the same input, as one.

    Frozen weights are kept side by side in the compute dtype `dtype`; trained ones are read by
    every `bind`.
    """

    def __init__(self, modules: Sequence[nn.Module], dtype: torch.dtype) -> None:
        self.modules, self.dtype = list(modules), dtype
        self.layers = [_linear(module) for module in modules]
        self.fused = all(_is_known(module) for module in modules)
        parameters = [p for layer in self.layers for p in layer.parameters(recurse=False)]
        self.frozen = not any(p.requires_grad for p in parameters)
        self.kept: tuple[torch.Tensor | None, torch.Tensor | None] | None = None
        self.packed: Packed | None = None
        if self.frozen and self.fused:
            weight, bias = self._weights()
            dora = any(_is_dora(module) for module in modules)
            if can_pack(weight):
                self.packed = pack(weight, None if dora else bias)
                self.kept = None, bias
            else:
                self.kept = weight, bias
        self.squares = (
            [_row_squares(layer.weight) if _is_dora(m) else None for m, layer in self._pairs()]
            if self.fused
            else []
        )

    def _pairs(self) -> list[tuple[nn.Module, nn.Linear]]:
        return list(zip(self.modules, self.layers, strict=True))

    def _weights(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        weights = [layer.weight.to(self.dtype) for layer in self.layers]
        biases = [layer.bias.to(self.dtype) for layer in self.layers if layer.bias is not None]
        return _joined(weights), _joined(biases) if biases else None

    def bind(self) -> Bound:
        """The layers with their weights and factors as they are now."""
        if not self.fused:
            return Bound(self)
        weight, bias = self.kept or self._weights()
        a, b = self._factors()
        scale = None
        if any(square is not None for square in self.squares):
            scale = torch.cat([self._magnitudes(i) for i in range(len(self.modules))])
        return Bound(self, weight, bias, a, b, scale)

    def _factors(self) -> tuple[torch.Tensor, torch.Tensor] | tuple[None, None]:
        """A of all layers below each other, B on the diagonal of blocks."""
        found = [_factors(module) for module in self.modules]
        if not any(found):
            return None, None
        a = _joined([f[0].to(self.dtype) for f in found if f])
        blocks = [
            f[1].to(self.dtype) if f else a.new_zeros(layer.out_features, 0)
            for f, layer in zip(found, self.layers, strict=True)
        ]
        return a, blocks[0] if len(blocks) == 1 else torch.block_diag(*blocks)

    def _magnitudes(self, i: int) -> torch.Tensor:
        """DoRA's ``m / ||W + s B A||`` for every row of layer i, [o] fp32; ones without DoRA.

        The norm is a constant for the gradient (Liu et al. 2024, section 4.3), and it is computed
        from ``W A^T`` and ``A A^T``, so that the [o, i] update is never written out.
        """
        module, layer, square = self.modules[i], self.layers[i], self.squares[i]
        if square is None:
            return torch.ones(layer.out_features, device=layer.weight.device)
        dora: Any = module
        magnitude = dora.lora_magnitude_vector[_active(dora)].weight.float()
        with torch.no_grad():
            factors = _factors(module)
            assert factors is not None
            a, b = factors[0].float(), factors[1].float()
            cross = (layer.weight.to(self.dtype) @ a.to(self.dtype).t()).float()
            square = square + 2 * (cross * b).sum(1) + ((b @ (a @ a.t())) * b).sum(1)
        return magnitude / square.clamp_min(0).sqrt()


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

    @property
    def frozen(self) -> Packed | None:
        """The packed layer if nothing but low-rank factors is trained in it."""
        return self.projection.packed if self.scale is None else None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        own, packed = self.projection, self.projection.packed
        if not own.fused:
            with autocast(x.device, own.dtype):
                return _joined([module(x) for module in own.modules], 1).to(own.dtype)
        if self.scale is None:
            return linear(x, self.weight, self.bias, self.a, self.b, packed)
        y = linear(x, self.weight, None, self.a, self.b, packed) * self.scale  # in fp32
        return (y if self.bias is None else y + self.bias).to(own.dtype)

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


def _linear(module: nn.Module) -> nn.Linear:
    return cast(
        nn.Linear, module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
    )


def _active(module: BaseTunerLayer) -> str:
    return module.active_adapters[0]


def _is_known(module: nn.Module) -> bool:
    """Whether the module is a Linear layer, alone or with one adapter whose factors are known."""
    if type(module) is nn.Linear:
        return True
    if not isinstance(module, LoraLinear | SVDLinear | MrLoraLinear):
        return False
    if type(_linear(module)) is not nn.Linear or module.merged or module.disable_adapters:
        return False
    if len(module.active_adapters) != 1:
        return False
    name = _active(module)
    dropout = (module.mrlora_dropout if isinstance(module, MrLoraLinear) else module.lora_dropout)[
        name
    ]
    if isinstance(dropout, nn.Dropout) and dropout.p > 0:
        return False
    if type(module) is LoraLinear:
        variant = module.lora_variant.get(name)
        plain_bias = module.lora_B[name].bias is None
        return plain_bias and (variant is None or type(variant).__name__ == "DoraLinearVariant")
    return True


def _is_dora(module: nn.Module) -> bool:
    return isinstance(module, LoraLinear) and _active(module) in module.lora_variant


def _factors(module: nn.Module) -> Factors | None:
    layer: Any = module  # peft declares its dictionaries of parameters as modules
    if isinstance(module, MrLoraLinear):
        name = _active(module)
        return layer.mrlora_A[name], layer.mrlora_B[name] * layer.unit_scales(name)
    if isinstance(module, SVDLinear):
        name = _active(module)
        scale = layer.scaling[name] / (layer.ranknum[name] + 1e-5)
        return layer.lora_A[name] * layer.lora_E[name], layer.lora_B[name] * scale
    if isinstance(module, LoraLinear):
        name = _active(module)
        return layer.lora_A[name].weight, layer.lora_B[name].weight * layer.scaling[name]
    return None


def _row_squares(weight: torch.Tensor) -> torch.Tensor:
    return weight.detach().float().square().sum(1)
