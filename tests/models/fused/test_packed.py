"""Products with packed weights, and plain ones where those are the faster."""

from __future__ import annotations

import pytest
import torch

from kdlora.models.fused import packed
from kdlora.models.fused.packed import MANY, pack


@pytest.mark.parametrize("rows", [MANY - 1, MANY])
def test_both_ways_give_the_layers_values(monkeypatch, rows):
    torch.manual_seed(0)
    weight, bias = torch.randn(24, 16), torch.randn(24)
    x, grad = torch.randn(rows, 16), torch.randn(rows, 24)
    layer, calls, reorder = pack(weight, bias), [], packed._reordered
    monkeypatch.setattr(packed, "_reordered", lambda w: calls.append(w.shape) or reorder(w))
    torch.testing.assert_close(layer.forward(x), x @ weight.t() + bias, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(layer.backward(grad), grad @ weight, rtol=1e-5, atol=1e-4)
    assert len(calls) == (2 if rows < MANY else 0)
    wanted = torch.nn.functional.gelu(x @ weight.t() + bias)
    torch.testing.assert_close(layer.forward(x, gelu=True), wanted, rtol=1e-5, atol=1e-4)
