"""DistilBERT (Sanh et al. 2019): no token types, no pooler, a dense layer in the head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kdlora.models.families.family import Family, Layer, Parts, layers_of

if TYPE_CHECKING:
    import torch


def _layer(module: Any) -> Layer:
    attention, ffn = module.attention, module.ffn
    return Layer(
        attention.q_lin, attention.k_lin, attention.v_lin, attention.out_lin,
        module.sa_layer_norm, ffn.lin1, ffn.activation, ffn.lin2, module.output_layer_norm,
        attention.n_heads, attention.dropout.p, 0.0, ffn.dropout.p,
    )  # fmt: skip


def _parts(model: Any) -> Parts:
    base = model.distilbert

    def head(hidden: torch.Tensor) -> torch.Tensor:
        pooled = model.pre_classifier(hidden[:, 0]).relu()
        logits: torch.Tensor = model.classifier(model.dropout(pooled))
        return logits

    return Parts(base.embeddings, None, layers_of(_layer, base.transformer.layer), head)


FAMILY = Family(
    ("distilbert",), ("attention.q_lin", "attention.k_lin", "attention.v_lin"), parts=_parts
)
