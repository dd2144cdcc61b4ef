"""Where the parts of an encoder layer are, family by family, for encoders of the BERT kind.

All of them are "post-norm": attention, residual, norm, feed-forward, residual, norm. What is not in
the table (DeBERTa's disentangled attention, ModernBERT's rotary one) has no fused forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import PreTrainedModel


@dataclass(frozen=True)
class Layer:
    """The modules of one layer; `dropout` are the probabilities after each of its three parts."""

    query: nn.Module
    key: nn.Module
    value: nn.Module
    out: nn.Module
    attention_norm: nn.LayerNorm
    up: nn.Module
    activation: Callable[[torch.Tensor], torch.Tensor]
    down: nn.Module
    output_norm: nn.LayerNorm
    heads: int
    attention_dropout: float
    out_dropout: float
    down_dropout: float


@dataclass(frozen=True)
class Parts:
    """An encoder with its head, taken apart.

    `widen` maps embeddings to the layers' width where the two differ. `head` turns the last
    hidden states of the first token, [b, 1, d], into logits. `position_bias` gives what is added
    to the attention scores of texts of one length, [1, h, l, l], where positions are relative.
    """

    embeddings: nn.Module
    widen: nn.Module | None
    layers: tuple[Layer, ...]
    head: Callable[[torch.Tensor], torch.Tensor]
    position_bias: Callable[[torch.Tensor], torch.Tensor] | None = None


def _bert_layer(layer: Any) -> Layer:
    attention, output = layer.attention.self, layer.attention.output
    return Layer(
        attention.query, attention.key, attention.value, output.dense, output.LayerNorm,
        layer.intermediate.dense, layer.intermediate.intermediate_act_fn,
        layer.output.dense, layer.output.LayerNorm, attention.num_attention_heads,
        attention.dropout.p, output.dropout.p, layer.output.dropout.p,
    )  # fmt: skip


def _distilbert_layer(layer: Any) -> Layer:
    attention, ffn = layer.attention, layer.ffn
    return Layer(
        attention.q_lin, attention.k_lin, attention.v_lin, attention.out_lin,
        layer.sa_layer_norm, ffn.lin1, ffn.activation, ffn.lin2, layer.output_layer_norm,
        attention.n_heads, attention.dropout.p, 0.0, ffn.dropout.p,
    )  # fmt: skip


def _mpnet_layer(layer: Any) -> Layer:
    attention = layer.attention.attn
    return Layer(
        attention.q, attention.k, attention.v, attention.o, layer.attention.LayerNorm,
        layer.intermediate.dense, layer.intermediate.intermediate_act_fn,
        layer.output.dense, layer.output.LayerNorm, attention.num_attention_heads,
        attention.dropout.p, layer.attention.dropout.p, layer.output.dropout.p,
    )  # fmt: skip


def _albert_layer(layer: Any) -> Layer:
    attention = layer.attention
    return Layer(
        attention.query, attention.key, attention.value, attention.dense, attention.LayerNorm,
        layer.ffn, layer.activation, layer.ffn_output, layer.full_layer_layer_norm,
        attention.num_attention_heads,
        attention.attention_dropout.p, attention.output_dropout.p, 0.0,
    )  # fmt: skip


def _layers_of(read: Callable[[Any], Layer], layers: Any) -> tuple[Layer, ...]:
    return tuple(read(layer) for layer in layers)


def _bert(model: Any) -> Parts:
    base = model.bert
    return Parts(
        base.embeddings,
        None,
        _layers_of(_bert_layer, base.encoder.layer),
        lambda hidden: model.classifier(model.dropout(base.pooler(hidden))),
    )


def _roberta(model: Any) -> Parts:
    base = model.base_model
    return Parts(
        base.embeddings, None, _layers_of(_bert_layer, base.encoder.layer), model.classifier
    )


def _electra(model: Any) -> Parts:
    base = model.electra
    return Parts(
        base.embeddings,
        getattr(base, "embeddings_project", None),
        _layers_of(_bert_layer, base.encoder.layer),
        model.classifier,
    )


def _distilbert(model: Any) -> Parts:
    base = model.distilbert

    def head(hidden: torch.Tensor) -> torch.Tensor:
        pooled = torch.relu(model.pre_classifier(hidden[:, 0]))
        return model.classifier(model.dropout(pooled))

    return Parts(base.embeddings, None, _layers_of(_distilbert_layer, base.transformer.layer), head)


def _mpnet(model: Any) -> Parts:
    base = model.mpnet
    return Parts(
        base.embeddings,
        None,
        _layers_of(_mpnet_layer, base.encoder.layer),
        model.classifier,
        lambda hidden: base.encoder.compute_position_bias(hidden[:1]).float(),
    )


def _albert(model: Any) -> Parts:
    base, config = model.albert, model.config
    groups = base.encoder.albert_layer_groups
    share = config.num_hidden_layers / config.num_hidden_groups
    repeated = [
        layer
        for i in range(config.num_hidden_layers)
        for layer in groups[int(i / share)].albert_layers
    ]

    def head(hidden: torch.Tensor) -> torch.Tensor:
        pooled = base.pooler_activation(base.pooler(hidden[:, 0]))
        return model.classifier(model.dropout(pooled))

    return Parts(
        base.embeddings,
        base.encoder.embedding_hidden_mapping_in,
        _layers_of(_albert_layer, repeated),
        head,
    )


_FAMILIES: dict[str, Callable[[Any], Parts]] = {
    "bert": _bert,
    "distilbert": _distilbert,
    "roberta": _roberta,
    "xlm-roberta": _roberta,
    "camembert": _roberta,
    "electra": _electra,
    "mpnet": _mpnet,
    "albert": _albert,
}


def take_apart(model: PreTrainedModel) -> Parts | None:
    """The parts of a sequence classifier, or None where the family has no fused forward pass."""
    read = _FAMILIES.get(model.config.model_type)
    config: Any = model.config
    if read is None or getattr(config, "is_decoder", False):
        return None
    return read(model)
