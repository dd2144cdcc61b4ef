"""BERT (Devlin et al. 2019)."""

from __future__ import annotations

from typing import Any

from kdlora.models.families.family import Family, Layer, Parts, layers_of

PROJECTIONS = ("attention.self.query", "attention.self.key", "attention.self.value")


def layer(module: Any) -> Layer:
    """One layer, laid out as RoBERTa's and ELECTRA's are too."""
    attention, output = module.attention.self, module.attention.output
    return Layer(
        attention.query, attention.key, attention.value, output.dense, output.LayerNorm,
        module.intermediate.dense, module.intermediate.intermediate_act_fn,
        module.output.dense, module.output.LayerNorm, attention.num_attention_heads,
        attention.dropout.p, output.dropout.p, module.output.dropout.p,
    )  # fmt: skip


def _parts(model: Any) -> Parts:
    base = model.bert
    return Parts(
        base.embeddings,
        None,
        layers_of(layer, base.encoder.layer),
        lambda hidden: model.classifier(model.dropout(base.pooler(hidden))),
    )


FAMILY = Family(("bert",), PROJECTIONS, parts=_parts, pooler=True)
