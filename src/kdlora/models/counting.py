"""How many parameters an adapter of a study trains, and the rank that a budget allows."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import torch
from peft.utils.other import get_pattern_key
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel

from kdlora.errors import ModelError
from kdlora.models.adapters import check_options
from kdlora.models.inspection import resolve_targets, trained_modules
from kdlora.spec.adapter import Adapter
from kdlora.vocabulary.adapter_size import layer_parameters
from kdlora.vocabulary.task import Task

Shapes = dict[str, tuple[int, int]]  # inputs and outputs of every adapted layer


def adapter_parameters(
    adaptation: str, adapter: Adapter, inputs: int, outputs: int, *, name: str = ""
) -> int:
    """Trainable parameters of one adapter beside a Linear layer from `inputs` to `outputs`.

    `name` is the layer's, by which a `rank_pattern` may give it a rank of its own.
    """
    rank, options = adapter.known_rank, adapter.options
    ranks_by_name = options.get("rank_pattern") or {}
    rank = ranks_by_name.get(get_pattern_key(list(ranks_by_name), name), rank)
    return layer_parameters(adaptation, rank, inputs, outputs, options)


def resolve_budget(
    config: PreTrainedConfig,
    adaptation: str,
    adapter: Adapter,
    task: Task,
    *,
    new_modules: Sequence[str] = (),
) -> Adapter:
    """The adapter with the largest rank whose parameters are within its budget.

    What trains beside the adapter (the head, `new_modules`) is no part of the budget. For AdaLoRA
    the parameters are those that training begins with. An adapter without a budget is returned as
    it is. Raises ModelError that states the smallest size where the budget is too small.
    """
    if adapter.budget is None:
        return adapter
    check_options(adaptation, adapter)
    model = without_weights(config, task)
    shapes = _shapes(model, adapter, trained_modules(model, new_modules))
    return adapter.at_rank(_largest_rank(adaptation, adapter, shapes))


def without_weights(config: PreTrainedConfig, task: Task) -> PreTrainedModel:
    """The classifier on the meta device, where tensors have a shape and nothing in it."""
    values = {k: v for k, v in config.to_dict().items() if k not in ("id2label", "label2id")}
    config = type(config).from_dict({**values, "num_labels": task.num_outputs})
    with torch.device("meta"):
        return AutoModelForSequenceClassification.from_config(config)


def _largest_rank(adaptation: str, adapter: Adapter, shapes: Shapes) -> int:
    assert adapter.budget is not None

    def size(rank: int) -> int:
        return _total(adaptation, adapter.at_rank(rank), shapes)

    if size(1) > adapter.budget:
        raise ModelError(
            f"{adapter.budget:,} trainable parameters are too few for {adaptation} on "
            f"{len(shapes)} layers: the smallest adapter, of rank 1, has {size(1):,}. Raise the "
            "budget, or name fewer targets",
            where="adapter.budget",
        )
    most = adapter.budget  # every rank costs at least one parameter
    if adaptation == "olora":  # its rank is cut to the layer's own, so more changes nothing
        most = max(min(shape) for shape in shapes.values())
    return bisect_right(range(1, most + 1), adapter.budget, key=size)


def _shapes(model: PreTrainedModel, adapter: Adapter, trained: Sequence[str]) -> Shapes:
    """Inputs and outputs of every layer that the adapter stands beside."""
    names = resolve_targets(model, adapter.targets, trained)
    layers = {name: model.get_submodule(name) for name in names}
    return {
        name: (layer.in_features, layer.out_features)
        for name, layer in layers.items()
        if isinstance(layer, nn.Linear)
    }


def _total(adaptation: str, adapter: Adapter, shapes: Shapes) -> int:
    return sum(
        adapter_parameters(adaptation, adapter, *shape, name=name) for name, shape in shapes.items()
    )
