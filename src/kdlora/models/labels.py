"""The order of a fine-tuned model's outputs, made equal to the task's."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel

from kdlora.errors import ModelError
from kdlora.models.families import head_modules
from kdlora.spec.tasks import Task


def order_labels(model: PreTrainedModel, task: Task, *, where: str) -> tuple[str, ...]:
    """Permute the model's outputs in place into the order of `task.label_names`.

    Labels are matched by name, without regard to case and to what joins the words. Returns
    remarks: names such as LABEL_0 say nothing and are taken in order.
    Raises ModelError that lists both sets of names where they differ.
    """
    if task.kind == "regression":
        return ()
    config = model.config
    given = list(output_names(config))
    order = label_permutation(given, task.label_names)
    if order is None and all(re.fullmatch(r"LABEL_\d+", name) for name in given):
        pairs = ", ".join(f"{a} = {b}" for a, b in zip(given, task.label_names, strict=True))
        return (f"{where} does not name its outputs; they are taken in order: {pairs}",)
    if order is None:
        raise ModelError(
            f"{where}: its outputs are named {', '.join(given)}, but those of task '{task.name}' "
            f"are {', '.join(task.label_names)}. Correct id2label in its config.json"
        )
    if order != list(range(len(order))):
        permute_outputs(model, order)
        return (f"{where}: outputs put into the task's order {', '.join(task.label_names)}",)
    return ()


def output_names(config: PreTrainedConfig) -> tuple[str, ...]:
    """The names of a classifier's outputs in their order."""
    labels = {int(i): str(name) for i, name in (config.id2label or {}).items()}
    return tuple(labels[i] for i in sorted(labels))


def label_permutation(given: Sequence[str], wanted: Sequence[str]) -> list[int] | None:
    """For each wanted label its place among the given ones; None where the two sets differ."""
    places = {_plain(name): i for i, name in enumerate(given)}
    names = [_plain(name) for name in wanted]
    if len(places) != len(given) or sorted(places) != sorted(names):
        return None
    return [places[name] for name in names]


def _plain(name: str) -> str:
    return re.sub(r"[\s_\-]+", " ", name.strip().casefold())


def permute_outputs(model: PreTrainedModel, order: Sequence[int]) -> None:
    """Make output `i` what output `order[i]` was, by moving rows of the last Linear layer.

    Heads differ, so the result is proved by a forward pass. Raises ModelError if it does not
    hold.
    """
    last = _last_layer(model)
    training = model.training
    model.eval()
    tokens = torch.arange(4)[None] % model.config.vocab_size
    with torch.no_grad():
        before = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
        rows = torch.as_tensor(order)
        if last is not None:
            last.weight.copy_(last.weight[rows])
            if last.bias is not None:
                last.bias.copy_(last.bias[rows])
        after = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
    model.train(training)
    if not torch.allclose(after, before[:, rows], atol=1e-5):
        raise ModelError(
            f"the outputs of a {model.config.model_type} classifier cannot be reordered; save it "
            "with its labels in the task's order"
        )


def _last_layer(model: PreTrainedModel) -> nn.Linear | None:
    layers = [
        layer
        for name in head_modules(model)
        for layer in model.get_submodule(name).modules()
        if isinstance(layer, nn.Linear) and layer.out_features == model.config.num_labels
    ]
    return layers[-1] if layers else None
