"""Rates of the matrix products of encoder layers, whole and in parts of at most 448 rows.

oneDNN's choice of how to share a product between threads depends on its shape; this prints where
that goes wrong on the machine at hand. `models.fused.packed` acts on it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from kdlora.models.fused.packed import ROWS, Packed, pack
from kdlora.training.precision import choose_compute

SHAPES = ((768, 768), (768, 2304), (768, 3072), (3072, 768), (384, 1536), (1536, 384))


def print_rates(rows: tuple[int, ...] = (300, 448, 640, 864, 1300, 2000)) -> None:
    """GFLOP/s by shape (inputs -> outputs) and rows: plain, packed, packed in parts."""
    dtype = choose_compute().dtype
    print(f"{torch.get_num_threads()} threads, {dtype}; GFLOP/s: plain / packed / packed in parts")
    for inputs, outputs in SHAPES:
        weight = torch.randn(outputs, inputs).to(dtype)
        packed = pack(weight, None)
        cells = []
        for n in rows:
            x = torch.randn(n, inputs).to(dtype)
            parts = x.split(-(-n // -(-n // ROWS)))
            flops = 2 * n * inputs * outputs
            ways: tuple[Callable[[], object], ...] = (
                partial(F.linear, x, weight),
                partial(packed.in_layout, x),
                partial(_in_parts, packed, parts),
            )
            rates = [flops / _seconds(way) / 1e9 for way in ways]
            cells.append(f"{n} rows " + " / ".join(f"{rate:.0f}" for rate in rates))
        print(f"{inputs} -> {outputs}: " + ";  ".join(cells), flush=True)


def _in_parts(packed: Packed, parts: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    return [packed.in_layout(part) for part in parts]


def _seconds(run: Callable[[], object], repeats: int = 15) -> float:
    for _ in range(3):
        run()
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)
