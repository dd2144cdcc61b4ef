"""ALBERT (Lan et al. 2020): one layer's weights for all layers, narrow embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kdlora.models.families.family import Family, Layer, Parts, layers_of

if TYPE_CHECKING:
    import torch


def _layer(module: Any) -> Layer:
    attention = module.attention
    return Layer(
        attention.query, attention.key, attention.value, attention.dense, attention.LayerNorm,
        module.ffn, module.activation, module.ffn_output, module.full_layer_layer_norm,
        attention.num_attention_heads,
        attention.attention_dropout.p, attention.output_dropout.p, 0.0,
    )  # fmt: skip


def _parts(model: Any) -> Parts:
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
        logits: torch.Tensor = model.classifier(model.dropout(pooled))
        return logits

    return Parts(
        base.embeddings,
        base.encoder.embedding_hidden_mapping_in,
        layers_of(_layer, repeated),
        head,
    )


FAMILY = Family(
    ("albert",),
    ("attention.query", "attention.key", "attention.value"),
    parts=_parts,
    pooler=True,
    shares_layers=True,
    narrow_embeddings=True,
)
