"""Full fine-tuning and the PEFT variants behind one interface.

The training loop calls `adapt` once, `extra_loss` in every step and `after_step` after every
optimizer step; the last two do nothing for variants that do not need them. Two habits keep runs
apart and whole: a base model is adapted once and never shared (OLoRA rewrites its weights), and
the modules to train and save are named in full, never guessed from the end of a name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from peft import AdaLoraConfig, LoraConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from peft.utils.other import get_pattern_key
from torch import nn

from kdlora.errors import ModelError, did_you_mean
from kdlora.models import adalora, peft_methods
from kdlora.models.checkpoints import expected_warnings, seeded
from kdlora.models.families import resolve_targets, trained_modules
from kdlora.models.merging import adapter_norm, merge, remember_initial, tuner_layers
from kdlora.models.mrlora import MrLoraConfig
from kdlora.spec.names import ADAPTATIONS
from kdlora.spec.study import Adapter

if TYPE_CHECKING:
    from kdlora.models.encoders import LoadedEncoder

__all__ = [
    "adapt",
    "adapted_layers",
    "adapter_norm",
    "adapter_parameters",
    "after_step",
    "allocator_state",
    "earliest_stop",
    "extra_loss",
    "load_allocator_state",
    "merge",
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
_INITS: dict[str, tuple[Any, ...]] = {
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
        config, targets = peft_methods.build_config(adapter, model, trained)
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
        problems = peft_methods.method_problems(adapter)
        if problems:
            raise ModelError(problems, where="adapter")
        return
    known = OPTIONS[adaptation]
    problems = []
    for name, value in adapter.options.items():
        if name not in known:
            problems.append(f"{adaptation} has no option '{name}'.{did_you_mean(name, known)}")
        elif name in _INITS and not _known_init(adaptation, name, value):
            allowed = ", ".join(str(v) for v in _inits(adaptation, name))
            problems.append(f"{name}: unknown initialisation '{value}'. Known: {allowed}")
        elif adapter.budget is not None and name in _SIZES:
            problems.append(f"option {name} and a budget both set the adapter's size: give one")
    problems += peft_methods.start_problems(adapter.options)
    if "bias" in known:
        problems += peft_methods.bias_problems("lora", adapter.options)
    if problems:
        raise ModelError(problems, where="adapter.options")


def check_patterns(adapter: Adapter, targets: Sequence[str]) -> None:
    """Raises ModelError for a rank or alpha of layers that carry no adapter, or that is none."""
    problems = []
    for option in _PATTERNS:
        for key, value in (adapter.options.get(option) or {}).items():
            if not any(get_pattern_key([key], name) == key for name in targets):
                ends = {name.rpartition(".")[2] for name in targets}
                problems.append(
                    f"{option}: no adapted layer is named '{key}'.{did_you_mean(key, ends)}"
                )
            if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                problems.append(f"{option}: '{key}' must be a positive number, got {value!r}")
    if problems:
        raise ModelError(problems, where="adapter.options")


def _inits(adaptation: str, name: str) -> tuple[Any, ...]:
    return (*_INITS[name], *(_PISSA if adaptation in ("lora", "rslora") else ()))


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
