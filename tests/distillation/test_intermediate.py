from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax

from kdlora.distillation.matching import hidden_mse, padded, relation_kl

MASK = torch.tensor([[True, True, True, False], [True, True, False, False]])


def states(seed: int, width: int = 6) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 1, (2, 4, width)))


def test_hidden_loss_by_hand():
    student = torch.tensor([[[1.0, 2.0], [0.0, 0.0], [9.0, 9.0]]])
    teacher = torch.tensor([[[0.0, 0.0], [3.0, 1.0], [0.0, 0.0]]])
    mask = torch.tensor([[True, True, False]])
    # tokens: (1 + 4) / 2 and (9 + 1) / 2; the third is padding
    assert hidden_mse(student, teacher, mask).tolist() == [(2.5 + 5.0) / 2]


def numpy_relation(rows, columns, heads):
    """[tokens, width] x 2 -> [heads, tokens, tokens], head by head."""
    width = rows.shape[1] // heads
    found = []
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        found.append(softmax(rows[:, part] @ columns[:, part].T / np.sqrt(width), axis=1))
    return np.array(found)


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_relations_equal_numpy_text_by_text_without_padding(heads):
    student, teacher = (states(1), states(2)), (states(3, 12), states(4, 12))
    got = relation_kl(student, teacher, MASK, heads=heads)
    for text, length in enumerate((3, 2)):
        ours, theirs = (
            numpy_relation(*(x[text, :length].numpy() for x in side), heads)
            for side in (student, teacher)
        )
        divergence = (theirs * np.log(theirs / ours)).sum(-1)  # [heads, tokens]
        assert got[text].item() == pytest.approx(divergence.mean(), rel=1e-9)


def test_padding_changes_neither_value_nor_gradient():
    def gradient(fill: float):
        mine = [states(seed).masked_fill(~MASK[:, :, None], fill) for seed in (5, 6)]
        mine = [x.requires_grad_() for x in mine]
        yours = [states(seed).masked_fill(~MASK[:, :, None], -fill) for seed in (7, 8)]
        value = relation_kl(tuple(mine), tuple(yours), MASK, heads=2).sum()
        value = value + hidden_mse(mine[0], yours[0], MASK).sum()
        value.backward()
        return value.item(), [x.grad for x in mine]

    (one, some), (two, others) = gradient(0.0), gradient(50.0)
    assert one == pytest.approx(two)
    for a, b in zip(some, others, strict=True):
        assert torch.isfinite(b).all()
        torch.testing.assert_close(a, b)
        assert b[~MASK].abs().max() == 0


def test_equal_relations_cost_nothing_although_states_differ():
    """Relations see the products alone: turning queries and keys together changes nothing."""
    q, k = states(9), states(10)
    turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    value = relation_kl((q @ turn, k @ turn), (q, k), MASK, heads=1)
    assert value.abs().max() < 1e-12
    assert relation_kl((k, q), (q, k), MASK, heads=1).min() > 1e-3


def test_ragged_states_come_to_their_places():
    tokens = torch.arange(10.0).reshape(5, 2)
    out = padded(tokens, MASK)
    assert out[MASK].equal(tokens)
    assert out[~MASK].eq(0).all()
    left = padded(tokens, MASK.flip(1))
    assert left[1, 2:].equal(tokens[3:])
