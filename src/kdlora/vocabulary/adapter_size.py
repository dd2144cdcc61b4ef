"""How many parameters an adapter trains, by its rank and the layer that it stands beside.

A budget is turned into a rank by it, a plan estimates by it, and counts that others report are
checked by it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def halving_ranks(rank: int) -> list[int]:
    """The ranks of MrLoRA's blocks: ``r, r/2, r/4, ... 1``, halves rounded down."""
    ranks = []
    while rank >= 1:
        ranks.append(rank)
        rank //= 2
    return ranks


def initial_rank(rank: int) -> int:
    """The rank that AdaLoRA begins with: 1.5 times the one it should end with (the paper's)."""
    return math.ceil(1.5 * rank)


def layer_parameters(
    adaptation: str, rank: int, inputs: int, outputs: int, options: Mapping[str, Any]
) -> int:
    """Trainable parameters of one adapter beside a Linear layer from `inputs` to `outputs`.

    LoRA and rsLoRA: ``r (in + out)``; OLoRA the same, its r no larger than the layer. DoRA: one
    magnitude per output more. AdaLoRA begins with ``init_r > r`` triplets of two vectors and a
    value. MrLoRA: the sum of its blocks' ranks in place of r, and one weight per block. `options`
    are the adapter's own.
    """
    both = inputs + outputs
    if adaptation == "adalora":
        return options.get("init_r", initial_rank(rank)) * (both + 1)
    if adaptation == "mrlora":
        ranks = options.get("ranks") or halving_ranks(rank)
        return sum(ranks) * both + len(ranks)
    if adaptation == "olora":
        return min(rank, inputs, outputs) * both
    vectors = int(adaptation == "dora") + int(bool(options.get("lora_bias")))
    return rank * both + vectors * outputs
