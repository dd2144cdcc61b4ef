"""A student made of some layers of another encoder: its embeddings, those layers, its pooler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel

from kdlora.errors import ModelError
from kdlora.models.checkpoints import Checkpoint, seeded

# Lists of a config that hold one value for each layer. By name: others may be as long by chance,
# such as the two kinds of DeBERTa's relative attention in a model of two layers.
_PER_LAYER = ("layer_types", "mlp_layer_types", "attention_layers", "no_rope_layers")


def shares_layers(config: PreTrainedConfig) -> bool:
    """Whether one set of weights serves every layer, as in ALBERT."""
    return hasattr(config, "num_hidden_groups")


def with_layers(
    config: PreTrainedConfig, layers: Sequence[int] | None, *, where: str
) -> PreTrainedConfig:
    """The config of the encoder that keeps `layers`, counted from 0; None keeps all.

    Where the layers share their weights (ALBERT), so many repetitions of them are kept as layers
    are named. Raises ModelError for layers that the encoder does not have.
    """
    if layers is None:
        return config
    number = config.num_hidden_layers
    outside = [str(i) for i in layers if not 0 <= i < number]
    if outside:
        raise ModelError(
            f"{where}: no layer {', '.join(outside)}: it has {number}, numbered 0 to {number - 1}"
        )
    if shares_layers(config) and config.num_hidden_groups > 1:
        raise ModelError(
            f"{where}: its {number} layers share {config.num_hidden_groups} groups of weights by "
            "their place, so no layer can be left out"
        )
    values = config.to_dict()
    for name in _PER_LAYER:
        value = values.get(name)
        if isinstance(value, list) and len(value) == number:
            values[name] = [value[i] for i in layers]
    values[config.attribute_map.get("num_hidden_layers", "num_hidden_layers")] = len(layers)
    reduced = type(config).from_dict(values)
    reduced.name_or_path = config.name_or_path
    return reduced


def keep_layers(
    checkpoint: Checkpoint, layers: Sequence[int] | None, *, where: str, seed: int
) -> Checkpoint:
    """The model that keeps `layers` of a whole one, each weight equal to the source's.

    It is built anew from the reduced config, so that it loads from disk like any other model.
    Raises ModelError for layers that the encoder does not have, or that cannot stand where they
    would come to stand (ModernBERT's first layer lacks a norm that the others have).
    """
    if layers is None:
        return checkpoint
    whole = checkpoint.model
    reduced = with_layers(whole.config, layers, where=where)
    names = _new_names(whole, layers)
    with seeded(seed):
        model = type(whole)._from_config(
            reduced, attn_implementation=whole.config._attn_implementation, dtype=torch.float32
        )
    model.name_or_path = whole.name_or_path
    weights = {names[old]: weight for old, weight in whole.state_dict().items() if old in names}
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    for name, weight in weights.items():
        if shapes.get(name, weight.shape) != weight.shape:
            raise ModelError(
                f"{where}: a {whole.config.model_type} encoder cannot be made of "
                f"{len(layers)} of its {whole.config.num_hidden_layers} layers: {name} is of shape "
                f"{list(weight.shape)} and would have to be {list(shapes[name])}. Take a smaller "
                "encoder as the student"
            )
    report = model.load_state_dict(weights, strict=False)
    wrong = [*report.missing_keys, *report.unexpected_keys]
    if wrong:
        raise ModelError(
            f"{where}: a {whole.config.model_type} encoder cannot be made of layers "
            f"{', '.join(map(str, layers))}: {wrong[0]} would have no place or no weights. "
            "Keep its first layer"
        )
    new = frozenset(names[old] for old in checkpoint.new_parameters if old in names)
    return Checkpoint(model.eval(), new)


def _new_names(model: PreTrainedModel, layers: Sequence[int]) -> dict[str, str]:
    """The weights that are kept, by their names in the whole model: their names afterwards."""
    weights = list(model.state_dict())
    if shares_layers(model.config):
        return {name: name for name in weights}
    stacks = [name for name, module in model.named_modules() if _is_stack(module, model.config)]
    if len(stacks) != 1:
        raise ModelError(
            f"which modules are the layers of a {model.config.model_type} model is not known: "
            f"{len(stacks)} lists of {model.config.num_hidden_layers} modules were found"
        )
    prefix, names = stacks[0] + ".", {}
    places = {str(layer): place for place, layer in enumerate(layers)}
    for name in weights:
        number, _, rest = name.removeprefix(prefix).partition(".")
        if not name.startswith(prefix):
            names[name] = name
        elif number in places:
            names[name] = f"{prefix}{places[number]}.{rest}"
    return names


def _is_stack(module: Any, config: PreTrainedConfig) -> bool:
    """Lists of that length may lie inside one another; only blocks with attention are layers."""
    if not isinstance(module, nn.ModuleList) or len(module) != config.num_hidden_layers:
        return False
    return all(any("att" in name.lower() for name, _ in block.named_modules()) for block in module)
