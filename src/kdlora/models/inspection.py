"""What can be read off an encoder or its config, whatever its family.

Heads, token types, attention back ends, the longest text and the layers that an adapter may sit
on. What cannot be read off a model stands in `models.families`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from peft import PeftModel
from torch import nn
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel

from kdlora.errors import ModelError, Problems, did_you_mean
from kdlora.models.families import FAMILIES, longest_text

ALL_LINEAR = "all-linear"
QUERY_VALUE = "query-value"


def supports_sdpa(config: PreTrainedConfig) -> bool:
    """Whether the family has torch's fused attention; DeBERTa and MPNet are eager only."""
    classes = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
    model_class = classes[0] if isinstance(classes, tuple) else classes
    return bool(getattr(model_class, "_supports_sdpa", False))


def max_tokens(config: PreTrainedConfig) -> int | None:
    """The longest text in tokens, special ones included; None where positions set no limit."""
    return longest_text(config.to_dict())


def dropout_fields(config: PreTrainedConfig) -> list[str]:
    """The config's numeric dropout probabilities, whatever the family calls them."""
    return [
        name
        for name, value in config.to_dict().items()
        if "dropout" in name and isinstance(value, int | float) and not isinstance(value, bool)
    ]


def head_modules(model: PreTrainedModel) -> tuple[str, ...]:
    """Names of the modules between the encoder and the logits, in the model's order."""
    return tuple(
        name
        for name, module in model.named_children()
        if module is not model.base_model and any(True for _ in module.parameters())
    )


def output_layer(model: nn.Module) -> nn.Linear | None:
    """The last Linear layer of a classifier's head; None where the head has none of its outputs.

    Of a model with an adapter it is the copy that trains and is saved.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(base, PreTrainedModel)
    layers = [
        layer
        for name in head_modules(base)
        for part, layer in base.get_submodule(name).named_modules()
        if isinstance(layer, nn.Linear)
        and layer.out_features == base.config.num_labels
        and "original_module" not in part.split(".")  # what peft keeps of it beside the copy
    ]
    return layers[-1] if layers else None


def trained_modules(model: PreTrainedModel, new_modules: Iterable[str]) -> tuple[str, ...]:
    """Full names of all modules that train beside an adapter: the head and whatever is new.

    No name lies inside another one, so each can be wrapped and saved by itself.
    """
    head = head_modules(model)
    inside = [n for n in new_modules if not any(n == h or n.startswith(h + ".") for h in head)]
    return (*inside, *head)


def linear_names(model: nn.Module, *, outside: Sequence[str] = ()) -> list[str]:
    """Full names of all Linear layers that are not part of the modules named in `outside`."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not any(_within(name, top) for top in outside)
    ]


def resolve_targets(
    model: PreTrainedModel, targets: Sequence[str], trained: Sequence[str]
) -> list[str]:
    """Full names of the Linear layers to adapt.

    `targets` are ``all-linear``, ``query-value`` or the (last parts of the) names of modules;
    `trained` are left out, since they are trained whole.
    Raises ModelError that lists every target without a match and the names there are.
    """
    linears = linear_names(model, outside=trained)
    chosen: set[str] = set()
    problems = Problems("adapter.targets")
    for target in targets:
        if target == ALL_LINEAR:
            found = linears
        elif target == QUERY_VALUE:
            found = _query_value(model, linears)
        else:
            found = [name for name in linears if _ends_with(name, target)]
        if not found:
            problems.add(_no_target(model, target, linears))
        chosen.update(found)
    problems.raise_any(ModelError)
    return [name for name in linears if name in chosen]


def _query_value(model: PreTrainedModel, linears: list[str]) -> list[str]:
    family = FAMILIES.get(model.config.model_type)
    wanted = family.query_value if family else ()
    return [name for name in linears if any(_ends_with(name, part) for part in wanted)]


def _no_target(model: PreTrainedModel, target: str, linears: list[str]) -> str:
    kinds = sorted({_kind(name) for name in linears})
    model_type = model.config.model_type
    if not linears:
        return f"'{target}': a {model_type} model has no Linear layer to adapt; use fft"
    if target == QUERY_VALUE:
        return (
            f"which layers are query and value is not known for model type '{model_type}'. "
            f"Name them, or give {ALL_LINEAR}. Its Linear layers: {', '.join(kinds)}"
        )
    names = kinds if "." in target else {kind.rpartition(".")[2] for kind in kinds}
    known = (*names, ALL_LINEAR, QUERY_VALUE)
    return f"a {model_type} model has no Linear layer '{target}'.{did_you_mean(target, known)}"


def _kind(name: str) -> str:
    """A layer's name without what repeats in every block: the parts after the last number."""
    parts = name.split(".")
    numbers = [i for i, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[numbers[-1] + 1 :] if numbers and numbers[-1] + 1 < len(parts) else parts)


def _ends_with(name: str, part: str) -> bool:
    return name == part or name.endswith("." + part)


def _within(name: str, top: str) -> bool:
    return name == top or name.startswith(top + ".")
