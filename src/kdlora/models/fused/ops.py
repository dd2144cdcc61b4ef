"""The operations of an encoder layer with their gradients, written for bf16 on a processor.

They compute what torch's own modules compute under autocast (matrix products in bf16, the residual
stream, layer norms and softmax in fp32), with fewer passes over memory. Where a backward pass is
written out, the test compares it with autograd.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd import Function

from kdlora.models.fused.low_rank import Keeps, add_low_rank, low_rank_backward
from kdlora.models.fused.packed import ROWS, WIDE, Packed


def matmul(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """``x @ weight`` for x [t, i] and weight [i, o], in row blocks where that is faster."""
    rows, columns = x.shape[0], weight.shape[1]
    if (
        x.device.type != "cpu"
        or x.dtype != torch.bfloat16
        or columns > 1024
        or x.shape[1] < WIDE
        or not ROWS < rows < 3 * ROWS
    ):
        return x @ weight
    out = x.new_empty(rows, columns)
    size = math.ceil(rows / math.ceil(rows / ROWS))
    for block, into in zip(x.split(size), out.split(size), strict=True):
        torch.mm(block, weight, out=into)
    return out


def _column_sums(grad: torch.Tensor) -> torch.Tensor:
    """Sum of the rows, [o]; as a product it is summed in fp32 and takes a fraction of the time."""
    return (grad.new_ones(1, grad.shape[0]) @ grad).squeeze(0)


class _Linear(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        a: torch.Tensor | None,
        b: torch.Tensor | None,
        packed: Packed | None,
        keeps: Keeps,
        ranks: tuple[int, ...],
    ) -> torch.Tensor:
        if packed is not None:
            y = packed.forward(x)
        else:
            assert weight is not None
            y = matmul(x, weight.t())
            if bias is not None:
                y.add_(bias)
        hidden = add_low_rank(y, x, a, b, keeps, ranks)
        trains = ctx.needs_input_grad[1] or a is not None
        ctx.save_for_backward(x if trains else None, weight, a, b, hidden, *keeps)
        ctx.packed, ctx.ranks = packed, ranks
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        x, weight, a, b, hidden, *keeps = ctx.saved_tensors
        grad = grad.contiguous()
        wants_x, wants_weight, wants_bias, *_ = ctx.needs_input_grad
        gx = None
        if wants_x:
            gx = matmul(grad, weight) if ctx.packed is None else ctx.packed.backward(grad)
        ga, gb = low_rank_backward(grad, gx, x, hidden, a, b, tuple(keeps), ctx.ranks)
        g_weight = grad.t() @ x if wants_weight else None
        g_bias = _column_sums(grad) if wants_bias else None
        return gx, g_weight, g_bias, ga, gb, None, None, None


def linear(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    a: torch.Tensor | None = None,
    b: torch.Tensor | None = None,
    packed: Packed | None = None,
    keeps: Keeps = (),
    ranks: tuple[int, ...] = (),
) -> torch.Tensor:
    """A linear layer and its low-rank update in one step: ``x W^T + bias + (x A^T) B^T``.

    x is [t, i], W [o, i], A [r, i] and B [o, r], all of one dtype; `packed` stands for W and bias
    where they are frozen; `keeps` and `ranks` are those of `add_low_rank`. Returns [t, o].
    """
    return _Linear.apply(x, weight, bias, a, b, packed, keeps, ranks)


def add_norm_forward(
    x: torch.Tensor,
    residual: torch.Tensor,
    keep: torch.Tensor | None,
    scale: float,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """`add_norm`, and the tensors that its gradient needs."""
    if keep is None:
        total = torch.add(residual, x, alpha=scale)
    else:
        total = torch.addcmul(residual, x, keep, value=scale)
    y, mean, rstd = torch.native_layer_norm(total, weight.shape, weight, bias, eps)
    return y, (total, mean, rstd)


def norm_backward(
    grad: torch.Tensor,
    saved: Sequence[torch.Tensor],
    weight: torch.Tensor,
    bias: torch.Tensor,
    wants: tuple[bool, bool, bool] = (True, False, False),
) -> tuple[Any, Any, Any]:
    """The gradients of a norm's input, weight and bias, as far as they are wanted."""
    total, mean, rstd = saved
    gradients: tuple[Any, Any, Any] = torch.ops.aten.native_layer_norm_backward(
        grad.contiguous(), total, weight.shape, mean, rstd, weight, bias, list(wants)
    )
    return gradients


def dropout_backward(
    grad: torch.Tensor, keep: torch.Tensor | None, scale: float, dtype: torch.dtype
) -> torch.Tensor:
    """The gradient of what was dropped out, in the compute dtype, from that of the stream."""
    grad = grad.to(dtype)
    return grad if keep is None else (grad * keep).mul_(scale)


class _AddNorm(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        residual: torch.Tensor,
        keep: torch.Tensor | None,
        scale: float,
        weight: torch.Tensor,
        bias: torch.Tensor,
        eps: float,
    ) -> torch.Tensor:
        y, saved = add_norm_forward(x, residual, keep, scale, weight, bias, eps)
        ctx.save_for_backward(*saved, weight, bias, keep)
        ctx.scale, ctx.dtype = scale, x.dtype
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        *saved, weight, bias, keep = ctx.saved_tensors
        wants = (True, ctx.needs_input_grad[4], ctx.needs_input_grad[5])
        g_total, g_weight, g_bias = norm_backward(grad, saved, weight, bias, wants)
        gx = dropout_backward(g_total, keep, ctx.scale, ctx.dtype)
        return gx, g_total, None, None, g_weight, g_bias, None


def add_norm(
    x: torch.Tensor,
    residual: torch.Tensor,
    keep: torch.Tensor | None,
    scale: float,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
) -> torch.Tensor:
    """Layer norm of ``residual + scale * keep * x``: dropout, residual and norm of a sublayer.

    Args:
        x: [t, d], what the sublayer computed, in the compute dtype.
        residual: [t, d] fp32.
        keep: [t, d] ones and zeros in x's dtype, or None without dropout.
        scale: 1 / (share kept).

    Returns the new residual stream, [t, d] fp32.
    """
    return _AddNorm.apply(x, residual, keep, scale, weight, bias, eps)


def attention_forward(
    qkv: torch.Tensor,
    heads: int,
    bias: torch.Tensor | None,
    keep: torch.Tensor | None,
    scale: float,
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """The context [b, l, d] of `attention`, and the tensors that its gradient needs."""
    texts, length = qkv.shape[:2]
    split = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    query, key, value = split.reshape(3, texts * heads, length, -1)
    root = query.shape[-1] ** -0.5
    scores = torch.bmm(query, key.transpose(1, 2)).float()
    if bias is None:
        scores.mul_(root)
    else:
        scores = torch.add(bias, scores.view(texts, heads, length, length), alpha=root)
    context, weights, dropped = weighted(scores, value, keep, scale)
    context = context.view(texts, heads, length, -1)
    return context.transpose(1, 2).flatten(2), (query, key, value, weights, dropped)


def weighted(
    scores: torch.Tensor, value: torch.Tensor, keep: torch.Tensor | None, scale: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """From scores, fp32 with m matrices [l, l], and values [m, l, e] to the context [m, l, e].

    Beside it the weights [m, l, l] in fp32, and in the compute dtype what dropout leaves of them.
    """
    weights = torch.softmax(scores, -1).view(-1, *scores.shape[-2:])
    half = weights.to(value.dtype)
    dropped = half if keep is None else (half * keep.view_as(half)).mul_(scale)
    return torch.bmm(dropped, value), weights, dropped


def weighted_backward(
    grad: torch.Tensor,
    saved: Sequence[torch.Tensor],
    keep: torch.Tensor | None,
    scale: float,
    g_value: torch.Tensor,
) -> torch.Tensor:
    """The gradient of the scores [m, l, l] fp32; that of the values is written to `g_value`.

    `grad` is the one of the context [m, l, e]; `saved` ends in value, weights and dropped.
    """
    value, weights, dropped = saved[-3:]
    torch.bmm(dropped.transpose(1, 2), grad, out=g_value)
    g_weights = torch.bmm(grad, value.transpose(1, 2))
    if keep is not None:
        g_weights.mul_(keep.view_as(g_weights)).mul_(scale)
    g_scores: torch.Tensor = torch.ops.aten._softmax_backward_data(
        g_weights.float(), weights, -1, torch.float32
    )
    return g_scores


def attention_backward(
    grad: torch.Tensor,
    heads: int,
    saved: Sequence[torch.Tensor],
    keep: torch.Tensor | None,
    scale: float,
    g_bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """The gradient of qkv [b, l, 3 d]; the one of the scores is added to `g_bias` if given."""
    query, key, *_ = saved
    texts, length = grad.shape[:2]
    grad = grad.unflatten(-1, (heads, -1)).transpose(1, 2).reshape(query.shape)
    out = query.new_empty(3, *query.shape)
    g_scores = weighted_backward(grad, saved, keep, scale, out[2])
    if g_bias is not None:
        whole = g_scores.view(texts, heads, length, length)
        g_bias += whole.sum_to_size(g_bias.shape)
    g_scores = g_scores.mul_(query.shape[-1] ** -0.5).to(query.dtype)
    torch.bmm(g_scores, key, out=out[0])
    torch.bmm(g_scores.transpose(1, 2), query, out=out[1])
    return out.view(3, texts, heads, length, -1).permute(1, 3, 0, 2, 4).flatten(2)


class _Attention(Function):
    @staticmethod
    def forward(
        ctx: Any,
        qkv: torch.Tensor,
        heads: int,
        bias: torch.Tensor | None,
        keep: torch.Tensor | None,
        scale: float,
    ) -> torch.Tensor:
        context, saved = attention_forward(qkv, heads, bias, keep, scale)
        ctx.save_for_backward(*saved, keep)
        ctx.heads, ctx.scale = heads, scale
        ctx.bias_shape = None if bias is None else bias.shape
        return context

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        *saved, keep = ctx.saved_tensors
        g_bias = None
        if ctx.needs_input_grad[2]:
            g_bias = grad.new_zeros(ctx.bias_shape, dtype=torch.float32)
        g_qkv = attention_backward(grad, ctx.heads, saved, keep, ctx.scale, g_bias)
        return g_qkv, None, g_bias, None, None


def attention(
    qkv: torch.Tensor,
    heads: int,
    bias: torch.Tensor | None,
    keep: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    """Scaled dot-product self-attention with dropout on its weights; softmax in fp32.

    Args:
        qkv: [b, l, 3 d] query, key and value of all heads side by side, in the compute dtype.
        bias: fp32, broadcast over [b, h, l, l] (padding, relative positions), or None.
        keep: [b, h, l, l] ones and zeros in the compute dtype, or None.
        scale: 1 / (share kept).

    Returns [b, l, d].
    """
    return _Attention.apply(qkv, heads, bias, keep, scale)


def attend_one(
    query: torch.Tensor,
    key_value: torch.Tensor,
    heads: int,
    bias: torch.Tensor | None,
    keep: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    """`attention` for one query a text: query [b, d], key_value [b, l, 2 d] -> [b, d].

    `bias` broadcasts over [b, h, 1, l], `keep` is [b, h, 1, l].
    """
    key, value = key_value.unflatten(-1, (2, heads, -1)).permute(2, 0, 3, 1, 4).contiguous()
    query = query.unflatten(-1, (heads, -1)).unsqueeze(2)  # [b, h, 1, e]
    scores = torch.matmul(query, key.transpose(-1, -2)).float() * query.shape[-1] ** -0.5
    return read_one(scores, value, bias, keep, scale)


def read_one(
    scores: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None,
    keep: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    """The context [b, d] of one query a text, from its scores [b, h, 1, l] in fp32."""
    weights = torch.softmax(scores if bias is None else scores + bias, -1).to(value.dtype)
    if keep is not None:
        weights = weights * keep * scale
    return torch.matmul(weights, value).squeeze(2).flatten(1)
