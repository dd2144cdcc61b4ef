"""ModernBERT (Warner et al. 2024): pre-norm, gated, rotary positions, local attention."""

from __future__ import annotations

from typing import Any

from kdlora.models.families.family import Family, Parts, PreNormLayer, Rotary, layers_of


def _layer(module: Any) -> PreNormLayer:
    attention, inner = module.attn, module.mlp
    return PreNormLayer(
        (getattr(module.attn_norm, "weight", None) is not None and module.attn_norm) or None,
        attention.Wqkv, attention.Wo, module.mlp_norm, inner.Wi, inner.act, inner.Wo,
        attention.config.num_attention_heads, attention.attention_dropout,
        getattr(attention.out_drop, "p", 0.0), inner.drop.p, module.attention_type,
    )  # fmt: skip


def _parts(model: Any) -> Parts | None:
    """Where the head reads the first token; it may be told to read the mean of all."""
    base = model.model
    if model.config.classifier_pooling != "cls":
        return None
    return Parts(
        base.embeddings,
        None,
        layers_of(_layer, base.layers),
        lambda hidden: model.classifier(model.drop(model.head(_final(base, hidden[:, 0])))),
        positions=lambda length: _rotary(base, length),
    )


def _final(base: Any, hidden: Any) -> Any:
    """The norm after the last layer, in fp32 as the stream that it ends, whatever its weights."""
    from torch.nn.functional import layer_norm

    norm = base.final_norm
    bias = None if norm.bias is None else norm.bias.float()
    return layer_norm(hidden, norm.normalized_shape, norm.weight.float(), bias, norm.eps)


def _rotary(base: Any, length: int) -> Rotary:
    import torch

    places = torch.arange(length, device=base.final_norm.weight.device)
    like = torch.empty(0, device=places.device)  # fp32
    angles, windows = {}, {}
    for kind in sorted(set(base.config.layer_types)):
        both = base.rotary_emb(like, places[None], kind)
        cos, sin = (x[0, :, : x.shape[-1] // 2] for x in both)
        angles[kind] = (cos, sin)
        if kind == "sliding_attention" and length > base.config.sliding_window + 1:
            apart = (places[:, None] - places[None]).abs() > base.config.sliding_window
            windows[kind] = apart[None, None].float() * torch.finfo(torch.float32).min
    return Rotary(angles, windows)


FAMILY = Family(("modernbert",), ("attn.Wqkv",), parts=_parts, gated=True, position_table=False)
