"""The trainable parameters of a run in closed form: what a model that was built must agree with."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedConfig

from kdlora.models.adapters import check_options
from kdlora.models.counting import adapter_parameters, resolve_budget, without_weights
from kdlora.models.inspection import resolve_targets, trained_modules
from kdlora.spec.adapter import Adapter
from kdlora.vocabulary.task import Task


def expected_trainable(
    config: PreTrainedConfig,
    adaptation: str,
    adapter: Adapter | None,
    task: Task,
    *,
    new_modules: Sequence[str] = (),
    trained: Sequence[str] | None = None,
) -> int:
    """Parameters that a run trains, from the encoder's config alone.

    `new_modules` are what a load of the encoder reports beyond its head (BERT's pooler after
    masked language modelling). `trained` replaces the modules trained beside the adapter, which
    are otherwise the head and the new ones. Raises ModelError as `adapt` does.
    """
    model = without_weights(config, task)
    if adaptation == "fft" or adapter is None:
        return sum(p.numel() for p in model.parameters())
    check_options(adaptation, adapter)
    beside = trained_modules(model, new_modules) if trained is None else tuple(trained)
    adapter = resolve_budget(config, adaptation, adapter, task, new_modules=new_modules)
    layers = {
        name: model.get_submodule(name) for name in resolve_targets(model, adapter.targets, beside)
    }
    adapters = sum(
        adapter_parameters(adaptation, adapter, layer.in_features, layer.out_features, name=name)
        for name, layer in layers.items()
        if isinstance(layer, nn.Linear)
    )
    # biases that train with the adapter: those of its layers, or all of the encoder's
    chosen = adapter.options.get("bias", "none")
    biases = sum(
        p.numel()
        for name, p in model.named_parameters()
        if name.endswith("bias")
        and (chosen == "all" or (chosen != "none" and name.rpartition(".")[0] in layers))
        and not any(name.startswith(f"{top}.") for top in beside)
    )
    whole = sum(p.numel() for name in beside for p in model.get_submodule(name).parameters())
    return adapters + biases + whole
