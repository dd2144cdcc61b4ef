"""Low-rank updates of linear layers, with dropout on what they read, and their gradients.

peft drops out the input of every adapter on its own: query's and value's masks differ although both
read the same stream. So the rows of A are multiplied module by module where there is dropout, and
in one product where there is none. What is kept is scaled up by the factors, see
`projection.Projection.bind`.
"""

from __future__ import annotations

import torch

# One mask a module, [t, i] ones and zeros in the compute dtype, None: all is kept, or the module
# has no factors. An empty tuple: no dropout anywhere.
Keeps = tuple[torch.Tensor | None, ...]


def add_low_rank(
    y: torch.Tensor,
    x: torch.Tensor,
    a: torch.Tensor | None,
    b: torch.Tensor | None,
    keeps: Keeps = (),
    ranks: tuple[int, ...] = (),
) -> torch.Tensor | None:
    """Add ``(x A^T) B^T`` to y in place; returns the hidden units ``x A^T`` for the gradient.

    Args:
        y: [t, o].
        x: [t, i], of which each module sees what its mask in `keeps` leaves.
        a: [r, i], the modules' below each other.
        b: [o, r].
        ranks: how many rows of A are whose; needed with `keeps`.
    """
    if a is None or b is None:
        return None
    if keeps:
        read = zip(keeps, a.split(ranks), strict=True)
        hidden = torch.cat([_kept(x, keep) @ rows.t() for keep, rows in read if len(rows)], 1)
    else:
        hidden = x @ a.t()
    y.addmm_(hidden, b.t())
    return hidden


def low_rank_backward(
    grad: torch.Tensor,
    gx: torch.Tensor | None,
    x: torch.Tensor | None,
    hidden: torch.Tensor | None,
    a: torch.Tensor | None,
    b: torch.Tensor | None,
    keeps: Keeps = (),
    ranks: tuple[int, ...] = (),
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The gradients of A and B; what the update adds to that of x is added to `gx` in place."""
    if a is None or b is None or x is None or hidden is None:
        return None, None
    g_hidden = grad @ b
    g_b = grad.t() @ hidden
    if not keeps:
        if gx is not None:
            gx.addmm_(g_hidden, a)
        return g_hidden.t() @ x, g_b
    g_a = torch.empty_like(a)
    pieces = zip(keeps, a.split(ranks), g_hidden.split(ranks, 1), g_a.split(ranks), strict=True)
    for keep, rows, g, into in pieces:
        if not len(rows):
            continue
        torch.mm(g.t(), _kept(x, keep), out=into)
        if gx is None:
            continue
        if keep is None:
            gx.addmm_(g, rows)
        else:
            gx.addcmul_(g @ rows, keep)
    return g_a, g_b


def _kept(x: torch.Tensor, keep: torch.Tensor | None) -> torch.Tensor:
    return x if keep is None else x * keep
