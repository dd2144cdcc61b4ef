"""Full fine-tuning, the PEFT variants and any other method of peft behind one interface.

A method is of use here if it trains something beside layers of the encoder, lets the head train
with it, and can be folded into the weights: a student must be a plain model in the end.

The training loop calls `adapt` once, `extra_loss` in every step and, where ranks are allocated,
`after_step` after every optimizer step; both do nothing for variants that do not need them. Two
habits keep runs apart and whole: a base model is adapted once and never shared (OLoRA rewrites its
weights), and the modules to train and save are named in full, never guessed from the end of a name.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from peft import AdaLoraConfig, LoraConfig, PeftConfig, PeftModel, PromptLearningConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from peft.utils.other import get_pattern_key
from torch import nn
from transformers.modeling_utils import PreTrainedModel

from kdlora.errors import ModelError, Problems, did_you_mean
from kdlora.models import adalora
from kdlora.models.checkpoints import expected_warnings, seeded
from kdlora.models.inspection import ALL_LINEAR, resolve_targets, trained_modules
from kdlora.models.merging import adapter_norm, merge, remember_initial, tuner_layers
from kdlora.models.mrlora import MrLoraConfig
from kdlora.spec.adapter import Adapter
from kdlora.vocabulary.arm import ADAPTATIONS

if TYPE_CHECKING:
    from kdlora.models.encoders import LoadedEncoder


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


__all__ = [
    "adapt",
    "adapted_layers",
    "adapter_norm",
    "adapter_parameters",
    "after_step",
    "allocates_ranks",
    "allocator_state",
    "earliest_stop",
    "extra_loss",
    "load_allocator_state",
    "merge",
    "new_parameters",
    "rank_pattern",
    "saved_modules",
    "trainable_parameters",
]

ADAPTER_NAME = "default"

# What makes each variant what it is, and which further fields of its config may be set. Fields
# that the study file has a name for, or that another variant stands for, are not among them.
_FIXED: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "olora": {"init_lora_weights": "olora"},
    "adalora": {},
    "mrlora": {},
}
_PATTERNS = ("rank_pattern", "alpha_pattern")  # layer: value, other than for the rest
OPTIONS: dict[str, tuple[str, ...]] = {
    "lora": ("init_lora_weights", "bias", "lora_bias", *_PATTERNS),
    "rslora": ("init_lora_weights", "bias", "lora_bias", *_PATTERNS),
    "dora": ("init_lora_weights", "use_rslora", *_PATTERNS),
    "olora": ("use_rslora",),
    "adalora": adalora.OPTIONS,
    "mrlora": ("ranks", "use_rslora", "init_weights"),
}
_SIZES = ("init_r", "ranks", "rank_pattern", "bias")  # options that decide how many train
_PISSA = ("pissa", "pissa_niter_16")  # Meng et al. 2024: like OLoRA, but by singular vectors
_INITS_ADAPTERS: dict[str, tuple[Any, ...]] = {
    "init_lora_weights": (True, "gaussian"),
    "init_weights": ("kaiming", "svd"),
}


def adapt(
    loaded: LoadedEncoder,
    adaptation: str,
    adapter: Adapter | None,
    *,
    seed: int,
    total_steps: int,
) -> nn.Module:
    """Make a loaded encoder trainable; it is used up by this.

    "fft" returns the model itself with every parameter trainable. A PEFT variant returns a
    `peft.PeftModel` in which the adapters, the head and every newly initialised module train.
    Adapters are initialised from `seed` alone. `total_steps` are the optimizer steps that will
    really be done (AdaLoRA plans its budget by them).
    An adapter section with a budget has to be resolved before (`counting.resolve_budget`).
    Raises ModelError with every unknown option and target.
    """
    model = loaded.model
    if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise ModelError("this encoder carries an adapter already: load it anew for every run")
    if adaptation == "fft":
        return model.requires_grad_(True)
    if adaptation not in ADAPTATIONS:
        raise ModelError(
            f"unknown adaptation '{adaptation}'.{did_you_mean(adaptation, ADAPTATIONS)}"
        )
    if adapter is None:
        raise ModelError(f"adaptation '{adaptation}' needs the adapter section of the study")
    check_options(adaptation, adapter)
    trained = trained_modules(model, loaded.new_modules)
    config: Any
    if adaptation == "peft":
        config, targets = build_config(adapter, model, trained)
    else:
        targets = resolve_targets(model, adapter.targets, trained)
        check_patterns(adapter, targets)
        config = _peft_config(adaptation, adapter, total_steps)
    config.target_modules = set(targets)
    config.modules_to_save = list(trained)
    config.base_model_name_or_path = model.name_or_path or None
    with seeded(seed), expected_warnings():
        # Not get_peft_model: without a task type peft adds no module to train by itself.
        try:
            adapted = PeftModel(model, config, ADAPTER_NAME)
        except (ValueError, TypeError, NotImplementedError) as error:  # such as a block size
            text = " ".join(str(error).split())
            raise ModelError(f"{adapter.method or adaptation}: {text}", where="adapter") from None
    _check_names(adapted, targets, trained)
    remember_initial(adapted)
    return adapted


def _peft_config(adaptation: str, adapter: Adapter, total_steps: int) -> Any:
    """The variant's peft config, without the names of modules. Raises ModelError."""
    settings = {**_FIXED[adaptation], **adapter.options}
    rank, dropout = adapter.known_rank, adapter.dropout
    alpha: Any = adapter.alpha_value  # peft declares whole numbers but takes any
    try:
        if adaptation == "mrlora":
            return MrLoraConfig(r=rank, alpha=alpha, dropout=dropout, **settings)
        if adaptation == "adalora":
            settings = adalora.settings(rank, settings, total_steps=total_steps)
            return AdaLoraConfig(lora_alpha=alpha, lora_dropout=dropout, **settings)
        return LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, **settings)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{adaptation}: {error}", where="adapter.options") from None


def check_options(adaptation: str, adapter: Adapter) -> None:
    """Raises ModelError that lists every option that the variant or peft method does not have."""
    if adaptation == "peft":
        if mistakes := method_problems(adapter):
            raise ModelError(mistakes, where="adapter")
        return
    known = OPTIONS[adaptation]
    problems = Problems("adapter.options")
    for name, value in adapter.options.items():
        if name not in known:
            problems.add(f"{adaptation} has no option '{name}'.{did_you_mean(name, known)}")
        elif name in _INITS_ADAPTERS and not _known_init(adaptation, name, value):
            allowed = ", ".join(str(v) for v in _inits(adaptation, name))
            problems.add(f"{name}: unknown initialisation '{value}'. Known: {allowed}")
        elif adapter.budget is not None and name in _SIZES:
            problems.add(f"option {name} and a budget both set the adapter's size: give one")
    problems.add(*start_problems(adapter.options))
    if "bias" in known:
        problems.add(*bias_problems("lora", adapter.options))
    problems.raise_any(ModelError)


def check_patterns(adapter: Adapter, targets: Sequence[str]) -> None:
    """Raises ModelError for a rank or alpha of layers that carry no adapter, or that is none."""
    problems = Problems("adapter.options")
    for option in _PATTERNS:
        for key, value in (adapter.options.get(option) or {}).items():
            if not any(get_pattern_key([key], name) == key for name in targets):
                ends = {name.rpartition(".")[2] for name in targets}
                problems.add(
                    f"{option}: no adapted layer is named '{key}'.{did_you_mean(key, ends)}"
                )
            if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                problems.add(f"{option}: '{key}' must be a positive number, got {value!r}")
    problems.raise_any(ModelError)


def _inits(adaptation: str, name: str) -> tuple[Any, ...]:
    return (*_INITS_ADAPTERS[name], *(_PISSA if adaptation in ("lora", "rslora") else ()))


def _known_init(adaptation: str, name: str, value: Any) -> bool:
    """Whether an initialisation is known; ``pissa_niter_4`` is PiSSA by 4 steps of a fast SVD."""
    known = _inits(adaptation, name)
    several = isinstance(value, str) and re.fullmatch(r"pissa_niter_[1-9]\d*", value)
    return value in known or bool(several and "pissa" in known)


def _check_names(adapted: PeftModel, targets: Iterable[str], trained: Iterable[str]) -> None:
    """peft matches names by their ends; make sure that it found what was meant and no more."""
    wrong = set(targets) ^ set(adapted_layers(adapted)) | set(trained) ^ set(saved_modules(adapted))
    if wrong:
        raise ModelError(
            f"modules {', '.join(sorted(wrong))} cannot be told apart by the ends of their names, "
            "so an adapter would train the wrong ones; use fft"
        )


def adapted_layers(model: nn.Module) -> list[str]:
    """Full names of the layers that carry an adapter."""
    return list(tuner_layers(model)) if isinstance(model, PeftModel) else []


def saved_modules(model: nn.Module) -> list[str]:
    """Full names of the modules that are trained and saved whole beside the adapters."""
    if not isinstance(model, PeftModel):
        return []
    modules = model.get_base_model().named_modules()
    return [name for name, module in modules if isinstance(module, ModulesToSaveWrapper)]


def new_parameters(model: nn.Module, new_modules: Sequence[str]) -> frozenset[str]:
    """Names of the trained parameters that belong to newly initialised modules of the encoder."""
    wrapped = f".modules_to_save.{ADAPTER_NAME}."
    plain = {
        name: name.removeprefix("base_model.model.").replace(wrapped, ".")
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    return frozenset(n for n, own in plain.items() if own.rpartition(".")[0] in new_modules)


def allocates_ranks(model: nn.Module) -> bool:
    """Whether training must call `after_step`."""
    return _adaptive(model) is not None


def after_step(model: nn.Module, step: int) -> None:
    """Call after optimizer step number `step` (the first is 1) and before `zero_grad`."""
    if adaptive := _adaptive(model):
        adalora.allocate(*adaptive, step)


def extra_loss(model: nn.Module) -> torch.Tensor | None:
    """A weighted term of the loss that the variant needs, or None. Add it before `backward`."""
    return adalora.orthogonality(*adaptive) if (adaptive := _adaptive(model)) else None


def earliest_stop(model: nn.Module) -> int:
    """The optimizer step before which training must not stop, nor its best state be chosen."""
    return adalora.budget_reached(adaptive[1]) if (adaptive := _adaptive(model)) else 0


def rank_pattern(model: nn.Module) -> dict[str, int] | None:
    """Singular values kept per layer; None where ranks are not allocated (yet)."""
    return adalora.kept_ranks(*adaptive) if (adaptive := _adaptive(model)) else None


def allocator_state(model: nn.Module) -> dict[str, Any] | None:
    """What a checkpoint in the middle of training must keep beside the weights, or None."""
    return adalora.allocator_state(*adaptive) if (adaptive := _adaptive(model)) else None


def load_allocator_state(model: nn.Module, state: dict[str, Any] | None) -> None:
    """Continue from an `allocator_state`."""
    if state is not None and (adaptive := _adaptive(model)):
        adalora.load_allocator_state(*adaptive, state)


def trainable_parameters(model: nn.Module) -> int:
    """Number of parameters that training changes."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def adapter_parameters(model: nn.Module) -> int | None:
    """Number of parameters that the adapter trains, without the modules that train whole."""
    if not isinstance(model, PeftModel):
        return None
    modules = (model.get_base_model().get_submodule(name) for name in saved_modules(model))
    whole = sum(p.numel() for m in modules for p in m.parameters() if p.requires_grad)
    return trainable_parameters(model) - whole


def _adaptive(model: nn.Module) -> tuple[PeftModel, AdaLoraConfig] | None:
    """The model and its config if its ranks are allocated in training."""
    if not isinstance(model, PeftModel):
        return None
    config = model.peft_config[ADAPTER_NAME]
    return (model, config) if isinstance(config, AdaLoraConfig) else None
