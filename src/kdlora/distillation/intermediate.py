"""Losses on inner states: hidden-state matching and self-attention relations.

One value an example, padding left out, so that a batch in parts has the same mean as a whole one.
"""

from __future__ import annotations

import torch


def padded(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Ragged states [all tokens, d], text by text, at the true places of mask [b, l]: [b, l, d]."""
    out = tokens.new_zeros(*mask.shape, tokens.shape[-1])
    out[mask] = tokens
    return out


def hidden_mse(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of hidden states [b, l, d] over a text's tokens and dimensions, [b].

    Source: Jiao et al. (2020), "TinyBERT: Distilling BERT for natural language understanding".
    """
    return _mean_of_tokens((student - teacher).square().mean(-1), mask)


def relation_kl(
    student: tuple[torch.Tensor, torch.Tensor],
    teacher: tuple[torch.Tensor, torch.Tensor],
    mask: torch.Tensor,
    *,
    heads: int,
) -> torch.Tensor:
    """``KL(teacher's || student's relations)``, mean over relation heads and a text's tokens, [b].

    A relation is the softmax of the scaled products of two projections of the tokens, such as
    queries with queries. Widths may differ, since each side is split into the same number of
    relation heads. Sources: Wang et al. (2020), "MiniLM" (queries with keys, values with values,
    last layer); Wang et al. (2021), "MiniLMv2" (each with itself, any number of heads). Position
    terms that some families add to their attention scores are not part of it.

    Args:
        student, teacher: two projections [b, l, d] each, the rows and the columns of the relation.
        mask: [b, l], true where there is a token.
        heads: a divisor of both widths.
    """
    ours, theirs = _relation(*student, mask, heads), _relation(*teacher, mask, heads)
    keys = mask[:, None, None, :]
    gap = (theirs - ours).masked_fill(~keys, 0.0)
    divergence = (theirs.exp() * gap).sum(-1).mean(1)
    return _mean_of_tokens(divergence, mask)


def _relation(
    rows: torch.Tensor, columns: torch.Tensor, mask: torch.Tensor, heads: int
) -> torch.Tensor:
    """Logarithms of the relation [b, heads, l, l]; -inf towards padding."""
    a, b = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (rows, columns))
    scores = a @ b.transpose(-1, -2) / a.shape[-1] ** 0.5
    return scores.masked_fill(~mask[:, None, None, :], -torch.inf).log_softmax(-1)


def _mean_of_tokens(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of values [b, l] over the true places of a mask, [b]."""
    return values.masked_fill(~mask, 0.0).sum(-1) / mask.sum(-1)
