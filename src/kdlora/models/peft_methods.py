"""Any other method of peft, by its name in peft's registry and the arguments of its config.

A method is of use here if it trains something beside layers of the encoder, lets the head train
with it, and can be folded into the weights: a student must be a plain model in the end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from peft import PeftConfig, PromptLearningConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch import nn
from transformers.modeling_utils import PreTrainedModel

from kdlora.errors import ModelError, did_you_mean
from kdlora.models.families import ALL_LINEAR, resolve_targets
from kdlora.spec.study import Adapter

# Fields of a peft config that the study says elsewhere, or that follow from the encoder.
_OURS = {
    "target_modules": "adapter.targets",
    "exclude_modules": "adapter.targets",
    "layers_to_transform": "adapter.targets",
    "layers_pattern": "adapter.targets",
    "modules_to_save": "the head and every new module, always",
    "task_type": "the task",
    "base_model_name_or_path": "the pair",
    "revision": "the pair",
}
_INTERNAL = ("peft_type", "auto_mapping", "peft_version", "inference_mode")

_INITS = ("gaussian", "olora", "orthogonal", "pissa")  # what LoRA can begin with

# LoRA's fields that are known to survive saving, loading and merging, and why some others do not.
_OF_LORA = (
    "r", "lora_alpha", "lora_dropout", "bias", "lora_bias", "use_rslora", "use_dora",
    "init_lora_weights", "rank_pattern", "alpha_pattern",
)  # fmt: skip
_NOT_OF_LORA = {
    "layer_replication": "the encoder would have other layers than it is saved with; a student of "
    "some layers is a pair's student: {from: ..., layers: [...]}",
    "trainable_token_indices": "embeddings are not adapted here; use fft to train them",
    "target_parameters": "layers are adapted whole: name them in adapter.targets",
    "alora_invocation_tokens": "it answers to tokens in the text and cannot be merged",
}

# Why a method that has the fields for it is of no use all the same.
_REFUSED = {
    "ADALORA": "its ranks are allocated in training: use the arm student/adalora",
    "MRLORA": "use the arm student/mrlora",
    "LILY": "it cannot be merged into the encoder's weights",
    "POLY": "it wants a task number with every text",
    "SHADOW": "it runs a second network beside the encoder and cannot be merged",
}


def method_problems(adapter: Adapter) -> list[str]:
    """What is wrong with the method and config of an adapter section, as far as peft tells."""
    assert adapter.method is not None
    found = {str(t.value): config for t, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    config_class = found.get(adapter.method)
    usable = [name for name, cls in found.items() if not _no_use(name, cls)]
    if config_class is None:
        return [f"peft has no method '{adapter.method}'.{did_you_mean(adapter.method, usable)}"]
    reason = _no_use(adapter.method, config_class)
    if reason:
        return [f"method {adapter.method}: {reason}"]
    names = {field.name for field in dataclasses.fields(config_class)} - set(_INTERNAL)
    problems = []
    for name in adapter.config:
        if name in _OURS:
            problems.append(f"config.{name} is not set here: it follows from {_OURS[name]}")
        elif adapter.method == "LORA" and name in names and name not in _OF_LORA:
            why = _NOT_OF_LORA.get(name, "it is not known to survive saving and merging")
            problems.append(f"config.{name} is of no use here: {why}")
        elif name not in names:
            known = _OF_LORA if adapter.method == "LORA" else names - set(_OURS)
            problems.append(f"{adapter.method} has no option '{name}'.{did_you_mean(name, known)}")
    if adapter.method == "LORA":
        problems += _init_problems(adapter.config) + start_problems(adapter.config)
    if "bias" in names:
        problems += bias_problems(adapter.method, adapter.config)
    if not problems:
        try:
            config_class(**_arguments(adapter))
        except (TypeError, ValueError) as error:
            problems.append(f"{adapter.method}: {' '.join(str(error).split())}")
    return problems


def _init_problems(config: Mapping[str, Any]) -> list[str]:
    """Initialisations of LoRA that want data or a prepared model, which nobody here gives them."""
    init = config.get("init_lora_weights", True)
    if isinstance(init, bool) or init in _INITS or str(init).startswith("pissa_niter_"):
        return []
    return [f"init_lora_weights: '{init}' is of no use here.{did_you_mean(str(init), _INITS)}"]


def bias_problems(method: str, options: Mapping[str, Any]) -> list[str]:
    """A choice of biases that peft does not know; some of its methods take it for none."""
    known = ("none", "all", f"{method.lower()}_only")
    given = str(options.get("bias", "none"))
    return [] if given.lower() in known else [f"bias: '{given}'.{did_you_mean(given, known)}"]


def start_problems(options: Mapping[str, Any]) -> list[str]:
    """What does not go with a start that is taken out of the base weights.

    Such an adapter is saved as one of twice the rank for the base as it was (see `saved`), which
    needs one rank and one scale for all layers, and no magnitudes.
    """
    init = options.get("init_lora_weights")
    if not isinstance(init, str) or init == "gaussian":
        return []
    others = [n for n in ("rank_pattern", "alpha_pattern", "use_dora") if options.get(n)]
    return [f"init_lora_weights '{init}' and {name} do not go together" for name in others]


def _no_use(name: str, config_class: type[PeftConfig]) -> str:
    """Why a method cannot adapt a classifier that ends as a plain model; "" if it can."""
    fields = {field.name for field in dataclasses.fields(config_class)}
    if issubclass(config_class, PromptLearningConfig):
        return (
            "it trains an input that stands before every text, which cannot be merged into the "
            "encoder's weights, so the student would be no plain model"
        )
    if not {"target_modules", "modules_to_save"} <= fields:
        return "it cannot train a classification head beside the layers it adapts"
    return _REFUSED.get(name, "")


def build_config(
    adapter: Adapter, model: PreTrainedModel, trained: Sequence[str]
) -> tuple[PeftConfig, list[str]]:
    """The method's config for a model, and the full names of the layers that it adapts.

    `trained` are the modules that train whole beside the adapter. Raises ModelError.
    """
    problems = method_problems(adapter)
    if problems:
        raise ModelError(problems, where="adapter")
    arguments = _arguments(adapter)
    if adapter.method == "LN_TUNING":
        targets = _norms(model, adapter.targets, trained)
    else:
        targets = resolve_targets(model, adapter.targets, trained)
    inner = arguments.get("feedforward_modules")  # IA3 scales the input of these, not the output
    if inner:
        arguments["feedforward_modules"] = set(
            resolve_targets(model, [inner] if isinstance(inner, str) else list(inner), trained)
        )
        strangers = sorted(arguments["feedforward_modules"] - set(targets))
        if strangers:
            raise ModelError(
                f"config.feedforward_modules: {', '.join(strangers[:3])} are not among the targets",
                where="adapter",
            )
    config_class: Any = PEFT_TYPE_TO_CONFIG_MAPPING[adapter.method]  # type: ignore[index]
    return config_class(**arguments), targets


def _arguments(adapter: Adapter) -> dict[str, Any]:
    arguments = dict(adapter.config)
    if adapter.method == "IA3":  # peft would guess by the family, where it knows it
        arguments.setdefault("feedforward_modules", [])
    return arguments


def _norms(model: PreTrainedModel, targets: Sequence[str], trained: Sequence[str]) -> list[str]:
    """The normalisation layers outside of `trained`, all or those whose names end as wanted."""
    norms = [
        name
        for name, module in model.named_modules()
        if "norm" in type(module).__name__.lower()
        and isinstance(getattr(module, "weight", None), nn.Parameter)
        and not any(name == top or name.startswith(top + ".") for top in trained)
    ]
    if tuple(targets) == (ALL_LINEAR,):  # nothing was chosen
        return norms
    chosen = [n for n in norms if any(n == t or n.endswith("." + t) for t in targets)]
    if not chosen:
        ends = {name.rpartition(".")[2] for name in norms}
        raise ModelError(
            f"LN_TUNING trains normalisation layers, none of which is named "
            f"{' or '.join(targets)}.{did_you_mean(targets[0], ends)}",
            where="adapter.targets",
        )
    return chosen
