"""DeBERTa's disentangled attention (He et al. 2021), with its gradient, for the fused pass.

A score is the sum of three products: content with content, content with the key of a distance, and
the query of a distance with content. A text of l tokens knows 2 l - 1 distances, so the products
with them are [l, 2 l - 1] for each head and text, computed as one product a head over all texts.
Score (i, j) reads column j - i + l - 1 of row i. That is a view of the product with other strides,
and its gradient is written through the same view: nothing is gathered or scattered.

transformers' own module multiplies with all rows of its table of distances, and gathers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.autograd import Function

from kdlora.models.fused.ops import read_one, weighted, weighted_backward


class Distances(NamedTuple):
    """Projected distances of texts of l tokens, in the compute dtype.

    Attributes:
        key: [h, 2 l - 1, e] by rising j - i, where i is the token that asks and j the one it reads.
        query: [h, 2 l - 1, e] by rising i - j.
    """

    key: torch.Tensor
    query: torch.Tensor


def project(rows: torch.Tensor, heads: int) -> Distances:
    """From projected distances [2 l - 1, 2 d], query beside key, by rising i - j."""
    query, key = rows.unflatten(-1, (2, heads, -1)).permute(1, 2, 0, 3)
    return Distances(key.flip(1), query.contiguous())


def project_first(rows: torch.Tensor, heads: int) -> Distances:
    """The same for the first token, which no other precedes, from [l, 2 d] by rising i - j.

    Both are [h, l, e] by rising j.
    """
    key, query = project(rows, heads)
    return Distances(key, query.flip(1))


def skewed(x: torch.Tensor) -> torch.Tensor:
    """A view of contiguous x [m, l, 2 l - 1] as [m, l, l] whose (i, j) is ``x[i, j - i + l - 1]``.

    Every element of the view is an element of x of its own, so it can be written to as well.
    """
    many, length, columns = x.shape
    strides = (length * columns, columns - 1, 1)
    return x.as_strided((many, length, length), strides, x.storage_offset() + length - 1)


def attention_forward(
    qkv: torch.Tensor,
    distances: Distances,
    bias: torch.Tensor | None,
    keep: torch.Tensor | None,
    scale: float,
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """The context [b, l, d] of `attention`, and the tensors that its gradient needs."""
    heads = len(distances.key)
    texts, length = qkv.shape[:2]
    split = qkv.unflatten(-1, (3, heads, -1)).permute(2, 3, 0, 1, 4)
    query, key, value = split.reshape(3, heads * texts, length, -1)  # heads first
    root = (3 * query.shape[-1]) ** -0.5
    scores = torch.bmm(query, key.transpose(1, 2)).float()
    scores += skewed(_with_distances(query, distances.key))
    scores += skewed(_with_distances(key, distances.query)).transpose(1, 2)
    if bias is None:
        scores.mul_(root)
    else:
        whole = scores.view(heads, texts, length, length)
        scores = torch.add(bias.transpose(0, 1), whole, alpha=root)
    context, weights, dropped = weighted(scores, value, keep, scale)
    context = context.view(heads, texts, length, -1)
    return context.permute(1, 2, 0, 3).flatten(2), (query, key, value, weights, dropped)


def attention_backward(
    grad: torch.Tensor,
    saved: Sequence[torch.Tensor],
    distances: Distances,
    keep: torch.Tensor | None,
    scale: float,
    *,
    wants_distances: bool,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """The gradients of qkv [b, l, 3 d] and of the distances' keys and queries, if wanted."""
    query, key, *_ = saved
    heads, columns, _ = distances.key.shape
    texts, length = grad.shape[:2]
    grad = grad.unflatten(-1, (heads, -1)).permute(2, 0, 1, 3).reshape(query.shape)
    out = query.new_empty(3, *query.shape)
    g_scores = weighted_backward(grad, saved, keep, scale, out[2])
    g_scores = g_scores.mul_((3 * query.shape[-1]) ** -0.5).to(query.dtype)
    torch.bmm(g_scores, key, out=out[0])
    torch.bmm(g_scores.transpose(1, 2), query, out=out[1])

    wide = g_scores.new_zeros(heads * texts, length, columns)
    rows = wide.view(heads, texts * length, columns)
    found: list[torch.Tensor | None] = []
    pairs = ((g_scores, distances.key, query), (g_scores.transpose(1, 2), distances.query, key))
    for into, (g, distance, content) in zip(out[:2], pairs, strict=True):
        skewed(wide).copy_(g)  # the same elements both times; all others stay 0
        into.view(heads, texts * length, -1).baddbmm_(rows, distance)
        by_head = content.view(heads, texts * length, -1)
        found.append(torch.bmm(rows.transpose(1, 2), by_head) if wants_distances else None)
    g_qkv = out.view(3, heads, texts, length, -1).permute(2, 3, 0, 1, 4).flatten(2)
    return g_qkv, found[0], found[1]


def _with_distances(content: torch.Tensor, distance: torch.Tensor) -> torch.Tensor:
    """[h * b, l, e] with [h, 2 l - 1, e] -> [h * b, l, 2 l - 1], one product a head."""
    many, length, width = content.shape
    by_head = content.view(len(distance), -1, width)
    return torch.bmm(by_head, distance.transpose(1, 2)).view(many, length, -1)


class _Attention(Function):
    @staticmethod
    def forward(
        ctx: Any,
        qkv: torch.Tensor,
        distance_key: torch.Tensor,
        distance_query: torch.Tensor,
        bias: torch.Tensor | None,
        keep: torch.Tensor | None,
        scale: float,
    ) -> torch.Tensor:
        distances = Distances(distance_key, distance_query)
        context, saved = attention_forward(qkv, distances, bias, keep, scale)
        ctx.save_for_backward(*saved, *distances, keep)
        ctx.scale = scale
        return context

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        *saved, key, query, keep = ctx.saved_tensors
        wants = any(ctx.needs_input_grad[1:3])
        g_qkv, g_key, g_query = attention_backward(
            grad, saved, Distances(key, query), keep, ctx.scale, wants_distances=wants
        )
        return g_qkv, g_key, g_query, None, None, None


def attention(
    qkv: torch.Tensor,
    distances: Distances,
    bias: torch.Tensor | None,
    keep: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    """Self-attention of content and distances, with dropout on its weights; softmax in fp32.

    Args:
        qkv: [b, l, 3 d] query, key and value of all heads side by side, in the compute dtype.
        distances: keys and queries of the 2 l - 1 distances.
        bias: fp32, [b, 1, 1, l] or [1, 1, 1, l]: the padding; or None. It gets no gradient.
        keep: [b, h, l, l] ones and zeros in the compute dtype, or None.
        scale: 1 / (share kept).

    Returns [b, l, d].
    """
    return _Attention.apply(qkv, *distances, bias, keep, scale)


def attend_one(
    query: torch.Tensor,
    key_value: torch.Tensor,
    distances: Distances,
    bias: torch.Tensor | None,
    keep: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    """`attention` for the first token: query [b, d], key_value [b, l, 2 d] -> [b, d].

    It needs one distance a token that it reads, see `project_first`.
    `bias` broadcasts over [b, h, 1, l], `keep` is [b, h, 1, l].
    """
    heads = len(distances.key)
    key, value = key_value.unflatten(-1, (2, heads, -1)).permute(2, 0, 3, 1, 4).contiguous()
    query = query.unflatten(-1, (heads, -1)).unsqueeze(2)  # [b, h, 1, e]
    scores = torch.matmul(query, (key + distances.key).transpose(-1, -2)).float()
    scores = scores + (key.float() * distances.query.float()).sum(-1).unsqueeze(2)
    return read_one(scores * (3 * query.shape[-1]) ** -0.5, value, bias, keep, scale)
