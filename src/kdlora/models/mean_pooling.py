"""A classifier whose head sees the mean over a text's tokens, as a plain model of its family.

Encoders that were trained for similarity say what a text is about by the mean of their last hidden
states, and little by the first token, which is what most families' heads read. One more layer puts
the mean there. Its queries and keys are zero, so that every token is attended to alike, its values
are the states themselves, and its feed-forward part is nothing:

    LN(LN(c * mean + first token)),

which for a large c is the mean but for its scale. It costs one more layer, and every library that
knows the family loads, exports and serves the model as any other.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers.modeling_utils import PreTrainedModel

from kdlora.models.families import Layer, take_apart
from kdlora.models.inspection import head_modules, output_layer
from kdlora.models.student_layers import shares_layers, with_layers

LOUDNESS = 1024.0  # of the mean beside the first token; a power of two, so that bf16 keeps it
_TRIAL = 64
# How a dense layer of the head is made to pass on what it reads: (scale, shift). The first is for
# tanh, nearly linear around 0; the second for activations that are linear above 0.
_PASSING = ((1 / 64, 0.0), (1.0, 4.0))


def pools_by_config(model: PreTrainedModel) -> bool:
    """Whether the family's own head can read the mean (ModernBERT)."""
    return hasattr(model.config, "classifier_pooling")


def with_mean_pooling(model: PreTrainedModel) -> tuple[PreTrainedModel, bool]:
    """The model whose head sees the mean, and whether it does.

    Where the family cannot be taken apart, adds positions to its attention or shares its layers'
    weights, the model stays as it is, and the head reads what it always does.
    """
    if pools_by_config(model):
        model.config.classifier_pooling = "mean"
        return model, True
    if not _may_grow(model):
        return model, False
    longer = _with_one_more_layer(model)
    if longer is None:
        return model, False
    parts = take_apart(longer)
    assert parts is not None
    last = parts.layers[-1]
    assert isinstance(last, Layer)
    _make_mean(last)
    longer.eval()  # dropout would hide how the head passes on what it reads
    _let_pass(longer)
    return longer, True


def _may_grow(model: PreTrainedModel) -> bool:
    """Whether one more layer can be set so that it attends to all tokens alike."""
    parts = take_apart(model)
    return (
        parts is not None
        and all(isinstance(layer, Layer) for layer in parts.layers)
        and parts.position_bias is None
        and parts.positions is None
        and not shares_layers(model.config)
    )


def _with_one_more_layer(model: PreTrainedModel) -> PreTrainedModel | None:
    """The same model with one more layer, not set yet; None where it cannot be built."""
    number = model.config.num_hidden_layers
    config = with_layers(model.config, [*range(number), number - 1], where="the encoder")
    longer = type(model)._from_config(
        config, attn_implementation=model.config._attn_implementation, dtype=torch.float32
    )
    longer.name_or_path = model.name_or_path
    report = longer.load_state_dict(model.state_dict(), strict=False)
    return None if report.unexpected_keys else longer


@torch.no_grad()
def _make_mean(layer: Layer) -> None:
    """Set the weights of a layer so that it puts the mean of all tokens before each."""
    for part in (layer.query, layer.key, layer.up, layer.down):
        _set(part, 0.0)
    for part, factor in ((layer.value, 1.0), (layer.out, LOUDNESS)):
        _set(part, factor)
    for norm in (layer.attention_norm, layer.output_norm):
        norm.weight.fill_(1.0)
        norm.bias.zero_()


def _set(part: nn.Module, factor: float) -> None:
    """Make a layer pass on its input times a factor; zero for any shape."""
    assert isinstance(part, nn.Linear)
    part.weight.zero_()
    if factor:
        part.weight.fill_diagonal_(factor)
    if part.bias is not None:
        part.bias.zero_()


@torch.no_grad()
def _let_pass(model: PreTrainedModel) -> None:
    """Make the dense layers before the last one pass on what they read."""
    last = output_layer(model)
    inside = [m for name in head_modules(model) for m in model.get_submodule(name).modules()]
    pooler = getattr(model.base_model, "pooler", None)
    inside += list(pooler.modules()) if isinstance(pooler, nn.Module) else []
    dense = [
        m for m in inside
        if isinstance(m, nn.Linear) and m is not last and m.in_features == m.out_features
    ]  # fmt: skip
    parts = take_apart(model)
    if not dense or last is None or parts is None:
        return
    values = torch.randn(
        _TRIAL, 1, dense[0].in_features, generator=torch.Generator().manual_seed(0)
    )
    best, chosen = -1.0, _PASSING[0]
    seen: list[torch.Tensor] = []
    watching = last.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    for passing in _PASSING:
        _set_passing(dense, *passing)
        parts.head(values)
        like = torch.corrcoef(torch.stack([seen[-1].flatten(), values.flatten()]))[0, 1].item()
        best, chosen = max((best, chosen), (like, passing))
    watching.remove()
    _set_passing(dense, *chosen)


def _set_passing(dense: list[nn.Linear], scale: float, shift: float) -> None:
    for module in dense:
        module.weight.copy_(scale * torch.eye(module.in_features))
        module.bias.fill_(shift)
