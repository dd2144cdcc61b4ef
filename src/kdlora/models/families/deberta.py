"""DeBERTa v2 and v3 (He et al. 2021, 2023): disentangled attention to content and distances."""

from __future__ import annotations

from typing import Any

from kdlora.models.families.family import DistanceTable, Family, Layer, Parts, layers_of


def _layer(module: Any) -> Layer:
    attention, out, down = module.attention.self, module.attention.output, module.output
    return Layer(
        attention.query_proj, attention.key_proj, attention.value_proj, out.dense, out.LayerNorm,
        module.intermediate.dense, module.intermediate.intermediate_act_fn,
        down.dense, down.LayerNorm, attention.num_attention_heads,
        attention.dropout.p, out.dropout.p, down.dropout.p, attention.pos_dropout.p,
    )  # fmt: skip


def _parts(model: Any) -> Parts | None:
    """Laid out as v3: query and key project distances too, and there is no convolution."""
    config, base = model.config, model.deberta
    if (
        not config.relative_attention
        or not getattr(config, "share_att_key", False)
        or sorted(config.pos_att_type or ()) != ["c2p", "p2c"]
        or base.encoder.conv is not None
    ):
        return None
    return Parts(
        base.embeddings,
        None,
        layers_of(_layer, base.encoder.layer),
        lambda hidden: model.classifier(model.dropout(model.pooler(hidden))),
        positions=lambda length: _distances(base.encoder, length),
    )


def _distances(encoder: Any, length: int) -> DistanceTable:
    """Far distances share a row, by their logarithm, where the encoder has buckets."""
    import torch
    from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

    table = encoder.get_rel_embedding()
    index = torch.arange(1 - length, length, device=table.device)
    buckets, span = encoder.position_buckets, encoder.max_relative_positions
    if buckets > 0:
        index = make_log_bucket_position(index, buckets, span).long()
    middle = buckets if buckets > 0 else span
    index = (index + middle).clamp_(0, 2 * middle - 1)
    first, last = int(index[0]), int(index[-1])
    return DistanceTable(table[first : last + 1].float(), index - first)


FAMILY = Family(
    ("deberta-v2",),
    ("attention.self.query_proj", "attention.self.key_proj", "attention.self.value_proj"),
    parts=_parts,
    pooler=True,
)
