"""MPNet (Song et al. 2020): relative positions, as a bias on the attention scores."""

from __future__ import annotations

from typing import Any

from kdlora.models.families.family import Family, Layer, Parts, layers_of


def _layer(module: Any) -> Layer:
    attention = module.attention.attn
    return Layer(
        attention.q, attention.k, attention.v, attention.o, module.attention.LayerNorm,
        module.intermediate.dense, module.intermediate.intermediate_act_fn,
        module.output.dense, module.output.LayerNorm, attention.num_attention_heads,
        attention.dropout.p, module.attention.dropout.p, module.output.dropout.p,
    )  # fmt: skip


def _parts(model: Any) -> Parts:
    base = model.mpnet
    return Parts(
        base.embeddings,
        None,
        layers_of(_layer, base.encoder.layer),
        model.classifier,
        lambda hidden: base.encoder.compute_position_bias(hidden[:1]).float(),
    )


FAMILY = Family(
    ("mpnet",),
    ("attention.attn.q", "attention.attn.k", "attention.attn.v"),
    first_position=2,
    parts=_parts,
)
