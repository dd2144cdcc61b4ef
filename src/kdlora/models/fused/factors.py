"""Reading the low-rank factors off peft's layers, variant by variant."""

from __future__ import annotations

from typing import Any, cast

import torch
from peft.tuners.adalora.layer import SVDLinear
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from kdlora.models.mrlora import MrLoraLinear

Factors = tuple[torch.Tensor, torch.Tensor]  # A [r, i] and B [o, r], scales included


def base_linear(module: nn.Module) -> nn.Linear:
    """The linear layer, with or without an adapter around it."""
    return cast(
        nn.Linear, module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
    )


def is_known(module: nn.Module) -> bool:
    """Whether the module is a Linear layer, alone or with one adapter whose factors are known."""
    if type(module) is nn.Linear:
        return True
    if not isinstance(module, LoraLinear | SVDLinear | MrLoraLinear):
        return False
    if type(base_linear(module)) is not nn.Linear or module.merged or module.disable_adapters:
        return False
    if len(module.active_adapters) != 1:
        return False
    if type(_dropout(module)) not in (nn.Dropout, nn.Identity):
        return False
    if type(module) is LoraLinear:
        name = _active(module)
        variant = module.lora_variant.get(name)
        plain_bias = module.lora_B[name].bias is None
        return plain_bias and (variant is None or type(variant).__name__ == "DoraLinearVariant")
    return True


def factors_of(module: nn.Module) -> Factors | None:
    """A and B of a known module as they are now; None without an adapter."""
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


def dropout_of(module: nn.Module) -> float:
    """The probability of the dropout on what A reads; 0 without an adapter."""
    if not isinstance(module, BaseTunerLayer):
        return 0.0
    dropout = _dropout(module)
    return dropout.p if isinstance(dropout, nn.Dropout) else 0.0


def is_dora(module: nn.Module) -> bool:
    """Whether the rows of the layer's weight are scaled to magnitudes that are trained."""
    return isinstance(module, LoraLinear) and _active(module) in module.lora_variant


def magnitude_of(module: nn.Module) -> torch.Tensor:
    """DoRA's, [o] fp32."""
    dora: Any = module
    return dora.lora_magnitude_vector[_active(dora)].weight.float()


def _dropout(module: BaseTunerLayer) -> nn.Module:
    layer: Any = module
    found = layer.mrlora_dropout if isinstance(module, MrLoraLinear) else layer.lora_dropout
    return found[_active(module)]


def _active(module: BaseTunerLayer) -> str:
    return module.active_adapters[0]
