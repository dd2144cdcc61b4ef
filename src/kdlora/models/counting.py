"""How many parameters a plan would train, in closed form and without weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedConfig

from kdlora.models.adalora import initial_rank
from kdlora.models.adapters import check_options
from kdlora.models.families import resolve_targets, trained_modules
from kdlora.models.mrlora import halving_ranks
from kdlora.spec.study import Adapter
from kdlora.spec.tasks import Task


def adapter_parameters(adaptation: str, adapter: Adapter, inputs: int, outputs: int) -> int:
    """Trainable parameters of one adapter beside a Linear layer from `inputs` to `outputs`.

    LoRA and rsLoRA: ``r (in + out)``; OLoRA the same, its r no larger than the layer. DoRA: one
    magnitude per output more. AdaLoRA begins with ``init_r > r`` triplets of two vectors and a
    value. MrLoRA: the sum of its blocks' ranks in place of r, and one weight per block.
    """
    rank, options = adapter.rank, adapter.options
    both = inputs + outputs
    if adaptation == "adalora":
        return options.get("init_r", initial_rank(rank)) * (both + 1)
    if adaptation == "mrlora":
        ranks = options.get("ranks") or halving_ranks(rank)
        return sum(ranks) * both + len(ranks)
    if adaptation == "olora":
        return min(rank, inputs, outputs) * both
    return rank * both + (outputs if adaptation == "dora" else 0)


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
    config = type(config).from_dict({**config.to_dict(), "num_labels": task.num_outputs})
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    if adaptation == "fft" or adapter is None:
        return sum(p.numel() for p in model.parameters())
    check_options(adaptation, adapter)
    beside = trained_modules(model, new_modules) if trained is None else tuple(trained)
    layers = [model.get_submodule(name) for name in resolve_targets(model, adapter.targets, beside)]
    adapters = sum(
        adapter_parameters(adaptation, adapter, layer.in_features, layer.out_features)
        for layer in layers
        if isinstance(layer, nn.Linear)
    )
    whole = sum(p.numel() for name in beside for p in model.get_submodule(name).parameters())
    return adapters + whole
