"""What an adapter adds to its encoder: folded into the weights, and measured."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.adalora.layer import AdaLoraLayer
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers.modeling_utils import PreTrainedModel

from kdlora.errors import ModelError
from kdlora.models.mrlora import MrLoraLinear

Factors = dict[str, torch.Tensor]
_INITIAL = "initial_factors"  # attribute of an adapted model: layer name -> Factors


def merge(model: nn.Module) -> PreTrainedModel:
    """Fold the adapters into the encoder in fp32; the adapted model is used up by this.

    Returns the plain transformers model, whose config keeps its label names. Adapters are folded
    into the base weights as they stand: if those were cast to bf16 for training, their rounding
    stays. The exact merge is `saved.load_trained` of the saved run, which begins with fresh fp32
    base weights. Raises ModelError if a merged weight is not finite.
    """
    model.float()
    if not isinstance(model, PeftModel):
        assert isinstance(model, PreTrainedModel)
        return model
    base = model.get_base_model()
    for name, module in list(base.named_modules()):  # not every method of peft puts heads back
        if isinstance(module, ModulesToSaveWrapper):
            base.set_submodule(name, module.modules_to_save["default"])
    try:
        merged = model.merge_and_unload(safe_merge=True)
    except (ValueError, NotImplementedError) as error:
        raise ModelError(f"the adapter cannot be merged: {error}") from None
    if hasattr(merged, "peft_config"):  # else save_pretrained would look for adapters
        del merged.peft_config
    return merged


def remember_initial(model: PeftModel) -> None:
    """Keep what is needed to tell later what training has changed.

    Initialisations such as OLoRA's begin with ``B A != 0`` and take that out of the base weight,
    so the learned update is ``s (B A - B0 A0)``; DoRA's magnitudes begin as the norms of the fp32
    weight, which cannot be recomputed once the base is cast.
    """
    factors = {name: _factors(layer) for name, layer in tuner_layers(model).items()}
    kept: tuple[str, ...] = ()
    if any("magnitude" in f for f in factors.values()):
        kept = ("magnitude",)
    elif any(f["B"].any() for f in factors.values() if f):
        kept = ("A", "B")
    initial = {
        name: {key: f[key].detach().clone() for key in kept} for name, f in factors.items() if kept
    }
    setattr(model, _INITIAL, initial)


def initial_factors(model: nn.Module) -> dict[str, Factors]:
    """Per layer the factors that training began with, where they matter (`remember_initial`)."""
    return getattr(model, _INITIAL, {}) if isinstance(model, PeftModel) else {}


def tuner_layers(model: PeftModel) -> dict[str, BaseTunerLayer]:
    """The adapted layers by their full names in the base model."""
    return {
        name: module
        for name, module in model.get_base_model().named_modules()
        if isinstance(module, BaseTunerLayer)
    }


@torch.no_grad()
def adapter_norm(model: nn.Module) -> float | None:
    """Frobenius norm of the learned update of all adapted layers, ``sqrt(sum ||dW||^2)``.

    `dW` is relative to what the layer computed before training. None without an adapter; 0.0
    means that the adapters have learned nothing.
    """
    if not isinstance(model, PeftModel):
        return None
    initial = initial_factors(model)
    layers = tuner_layers(model).items()
    return math.sqrt(sum(_squared_update(layer, initial.get(name, {})) for name, layer in layers))


def _squared_update(layer: Any, initial: Factors) -> float:
    name = layer.active_adapters[0]
    if not _is_low_rank(layer):
        return _squared_change(layer)
    update = layer.get_delta_weight(name).float()
    factors = _factors(layer)
    initial = {key: tensor.to(update.device) for key, tensor in initial.items()}
    if "magnitude" in factors:
        # W' = m / ||W + dW|| (W + dW), row by row. Written as a ratio to the initial one it is
        # exactly W as long as nothing has changed, even for a base that was cast to bf16.
        weight = layer.get_base_layer().weight.float()
        before = torch.linalg.norm(weight, dim=1)
        after = torch.linalg.norm(weight + update, dim=1)
        gain = factors["magnitude"] / initial.get("magnitude", before) * (before / after)
        update = gain[:, None] * (weight + update) - weight
    elif initial and isinstance(layer, MrLoraLinear):  # its learnable weights were all 1
        update = update - (initial["B"] * layer.fixed_scales(name)) @ initial["A"]
    elif initial:
        update = update - (initial["B"] @ initial["A"]) * layer.scaling[name]
    return float(update.double().square().sum())


def _is_low_rank(layer: Any) -> bool:
    """Whether the layer's update is an explicit ``s B A``."""
    return isinstance(layer, LoraLayer | MrLoraLinear)


def _squared_change(layer: Any) -> float:
    """``||W' - W||^2`` over a layer's parameters, W' those of a merged copy."""
    before = dict(layer.get_base_layer().named_parameters())
    merged = copy.deepcopy(layer).float()
    merged.merge()
    after = dict(merged.get_base_layer().named_parameters())
    # A method may replace a layer's parameters by others; what is new began as nothing.
    return sum(
        float((p.double() - before[n].double() if n in before else p.double()).square().sum())
        for n, p in after.items()
    )


def _factors(layer: Any) -> Factors:
    name = layer.active_adapters[0]
    if isinstance(layer, MrLoraLinear):
        return {"A": layer.mrlora_A[name], "B": layer.mrlora_B[name]}
    if isinstance(layer, AdaLoraLayer) or not _is_low_rank(layer):
        return {}  # AdaLoRA's singular values begin with zero; other methods are merged to see
    factors: Factors = {"A": layer.lora_A[name].weight, "B": layer.lora_B[name].weight}
    if name in layer.lora_magnitude_vector:
        factors["magnitude"] = layer.lora_magnitude_vector[name].weight
    return factors
