"""Dropout masks from random bytes."""

from __future__ import annotations

import pytest
import torch

from kdlora.models.fused.masks import Masks


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("probability", [0.002, 0.05, 0.1, 0.5, 0.995])
def test_a_byte_decides_each_element(dtype, probability):
    """The masks of a seed are part of what makes a run repeatable: they stay what they were."""
    masks, shape = Masks(probability), (7, 3, 11)
    found = masks.draw(shape, torch.empty(0, dtype=dtype), torch.Generator().manual_seed(3))
    words = torch.empty(29, dtype=torch.int64)  # 231 bytes
    words.random_(-(2**63), None, generator=torch.Generator().manual_seed(3))
    wanted = (words.view(torch.uint8)[:231] >= masks.threshold).view(shape)
    assert found.dtype == dtype
    assert torch.equal(found, wanted.to(dtype))


def test_what_is_kept_is_scaled_to_the_expectation():
    masks = Masks(0.05)
    kept = masks.draw((1000, 1000), torch.empty(0), torch.Generator().manual_seed(0))
    assert abs(float(kept.mean()) * masks.scale - 1) < 1e-3
    assert 0.0495 < 1 - float(kept.mean()) < 0.052


def test_nothing_is_drawn_without_dropout():
    assert Masks(0.0).draw((2, 3), torch.empty(0)) is None
