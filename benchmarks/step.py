"""Where the time of a training step goes, by torch's profiler on one thread."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.ours import Ours
from benchmarks.peers import BATCH
from benchmarks.results import write_results
from benchmarks.turns import described, machine
from benchmarks.workload import make_workload

SHAPES = (("distilbert", True), ("minilm-l3", True), ("bert-base", False))
_WARM, _STEPS = 2, 9

WIDE = "products of the layers, weights' gradients among them"
SMALL = "small products: adapters, outputs, sums"
_SMALL_SIDE = 16  # a product with a side of at most so many is small: ranks and outputs

# what an operation is for, by its name; the first that fits
_GROUPS = {
    WIDE: ("mkldnn::_linear_pointwise",),
    SMALL: ("aten::mm", "aten::addmm"),
    "products of attention": ("aten::bmm",),
    "softmax": ("aten::_softmax",),
    "GELU": ("aten::gelu",),
    "layer norms": ("aten::native_layer_norm",),
    "casts and copies": ("aten::copy_", "aten::cat"),
    "drawing dropout masks": ("aten::random_", "aten::ge"),
    "dropping, adding, scaling": ("aten::mul", "aten::add", "aten::sum"),
    "optimizer and clipping": ("aten::_fused_adamw", "aten::linalg_vector_norm", "Optimizer"),
    "embeddings": ("aten::embedding", "aten::index"),
}
REST = "everything else: Python and autograd, views, memory, small operations"


def group_of(operation: str, shapes: Sequence[Sequence[int]] = ()) -> str:
    """The row of the table that an operation of the profiler counts to.

    Trained weights are multiplied by the same operations as adapters, and told by the `shapes` of
    what the operation reads.
    """
    group = next((g for g, names in _GROUPS.items() if operation.startswith(names)), REST)
    if group == SMALL:
        sides = [n for shape in shapes if len(shape) == 2 for n in shape]
        return WIDE if sides and min(sides) > _SMALL_SIDE else SMALL
    return group


def measure() -> dict[str, Any]:
    """Shares of the time of steps, by shape and purpose."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        shares = {shape: _shares(shape, lora) for shape, lora in SHAPES}
    finally:
        torch.set_num_threads(threads)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"measured_at": now, "machine": machine(), "shares": shares}


def _shares(shape: str, lora: bool) -> dict[str, float]:
    work, ours = make_workload("movie-reviews", BATCH * _STEPS), Ours(shape, lora=lora)
    for _ in range(_WARM):
        ours.epoch(work)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
        total_s = ours.epoch(work).seconds
    spent: dict[str, float] = defaultdict(float)
    for operation in profiled.key_averages(group_by_input_shape=True):
        spent[group_of(operation.key, operation.input_shapes)] += (
            operation.self_cpu_time_total / 1e6
        )
    shares = {group: spent[group] / total_s for group in _GROUPS}
    return shares | {REST: 1 - sum(shares.values())}


def write(found: dict[str, Any], folder: Path) -> None:
    """`step.json` with every number and `step.md` with the table."""
    write_results(folder, "step", found, as_markdown(found))


def as_markdown(found: dict[str, Any]) -> str:
    """The table: a row a purpose, a column a shape."""
    about, shares = found["machine"], found["shares"]
    kinds = {s: "KD-LoRA" if lora else "full fine-tuning" for s, lora in SHAPES}
    lines = [
        "# Where a training step's time goes",
        "",
        f"Measured {found['measured_at']} on {described({**about, 'threads': 1})} by "
        f"`python -m benchmarks step`: torch's profiler over an epoch of {_STEPS} steps of {BATCH} "
        "texts with the lengths of movie reviews, after a warm-up. Where weights "
        "are frozen their products need no weights' gradients. The profiler itself costs time, "
        "most of all where operations are small, so the last row is less without it.",
        "",
        "| share of a step | " + " | ".join(f"{s}, {kinds[s]}" for s in shares) + " |",
        "|---|" + "---|" * len(shares),
    ]
    for group in (*_GROUPS, REST):
        cells = " | ".join(f"{values[group]:.0%}" for values in shares.values())
        lines.append(f"| {group} | {cells} |")
    return "\n".join(lines) + "\n"
