"""Latency and throughput of several models, timed side by side in one process.

A shared machine drifts: timing one model after the other would charge the drift to one of them.
So the models take turns, A B A B ..., and every number comes with the protocol behind it.
"""

from __future__ import annotations

import copy
import gc
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

Model = TypeVar("Model")
Rows = TypeVar("Rows")

WARM_UP_ROUNDS = 2
MIN_REPEATS = 10  # single rows: percentiles want several
MIN_BATCHES = 5  # batches cost far more, and only their median is used

# How threads wait and memory is kept: read by the runtime libraries when a process starts.
_SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "GLIBC_TUNABLES")


@dataclass(frozen=True)
class ModelTiming:
    """Percentiles of one forward pass at batch 1, and rows a second at a larger batch."""

    p50_ms: float
    p95_ms: float
    throughput_per_s: float
    protocol: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TimingProtocol:
    """How models are timed.

    Latency is one row, throughput `batch` rows, both `seq_length` tokens long without padding;
    throughput comes from the median time. After a warm-up there are up to `repeats` rounds of
    each, cut short when half of `budget_s` is spent, but at least 10 of single rows and 5 of
    batches. `merged` is what the caller knows of the models. `vocab_size` is the smallest of the
    models' by default.
    """

    seq_length: int = 64
    batch: int = 32
    repeats: int = 30
    budget_s: float = 6.0
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32
    merged: bool | None = None
    vocab_size: int | None = None


def time_models(
    models: Mapping[str, nn.Module],
    protocol: TimingProtocol,
    *,
    rng: np.random.Generator,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, ModelTiming]:
    """Time the models' forward passes in turns, on the same random token ids.

    A model that is on another device or in another dtype is timed as a copy; modes are put back.
    """
    configs: list[Any] = [model.config for model in models.values()]
    vocab_size = protocol.vocab_size or min(config.vocab_size for config in configs)
    device = torch.device(protocol.device)
    shape = (protocol.batch, protocol.seq_length)
    ids = torch.from_numpy(rng.integers(0, vocab_size, shape, dtype=np.int64)).to(device)
    timed = {name: _placed(model, device, protocol.dtype) for name, model in models.items()}

    def seconds(model: nn.Module, rows: Tensor) -> float:
        mask = torch.ones_like(rows)
        _synchronise(device)
        started = clock()
        model(input_ids=rows, attention_mask=mask)
        _synchronise(device)
        return clock() - started

    with _quiet(timed.values()):
        of_rows, of_batches = (
            in_turns(
                timed,
                rows,
                seconds,
                repeats=(least, max(protocol.repeats, least)),
                budget_s=protocol.budget_s / 2,
                clock=clock,
            )
            for rows, least in ((ids[:1], MIN_REPEATS), (ids, MIN_BATCHES))
        )
    first = next(iter(timed))
    followed = {
        "merged": protocol.merged,
        "seq_length": protocol.seq_length,
        "latency_batch": 1,
        "throughput_batch": protocol.batch,
        "latency_repeats": len(of_rows[first]),
        "throughput_repeats": len(of_batches[first]),
        "warm_up": WARM_UP_ROUNDS,
        "interleaved": list(models),
        "threads": torch.get_num_threads(),
        "dtype": str(protocol.dtype).removeprefix("torch."),
        "device": _device_name(device),
    }
    return {
        name: ModelTiming(
            p50_ms=float(np.percentile(of_rows[name], 50)) * 1e3,
            p95_ms=float(np.percentile(of_rows[name], 95)) * 1e3,
            throughput_per_s=protocol.batch / float(np.median(of_batches[name])),
            protocol=dict(followed),
        )
        for name in models
    }


def timing_conditions(device: torch.device) -> dict[str, Any]:
    """What beside a model's shape decides its speed: timings under others do not transfer."""
    return {
        "device": _device_name(device),
        "machine": platform.node(),
        "threads": torch.get_num_threads(),
        "settings": {name: os.environ.get(name) for name in _SETTINGS},
    }


def in_turns(
    models: Mapping[str, Model],
    rows: Rows,
    seconds: Callable[[Model, Rows], float],
    *,
    repeats: tuple[int, int],
    budget_s: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of every pass by model, in rounds (least, most) in which each model has one turn.

    Models and rows are whatever `seconds` can time. There are `WARM_UP_ROUNDS` before.
    """
    for _ in range(WARM_UP_ROUNDS):
        for model in models.values():
            seconds(model, rows)
    taken: dict[str, list[float]] = {name: [] for name in models}
    started = clock()
    least, most = repeats
    for done in range(most):
        if done >= least and clock() - started >= budget_s:
            break
        for name, model in models.items():
            taken[name].append(seconds(model, rows))
    return taken


def _placed(model: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The model itself, or a copy where it would have to be moved or cast.

    What counts is the dtype of most weights: a bf16 model may keep its head in fp32 on purpose.
    """
    elements: Counter[torch.dtype] = Counter()
    for parameter in model.parameters():
        elements[parameter.dtype] += parameter.numel()
    at_home = all(p.device.type == device.type for p in model.parameters())
    if at_home and elements.most_common(1)[0][0] == dtype:
        return model
    return copy.deepcopy(model).to(device=device, dtype=dtype)


@contextmanager
def _quiet(models: Any) -> Iterator[None]:
    """Evaluation mode, no autograd and no garbage collector in the way of the clock."""
    modes = {module: module.training for model in models for module in model.modules()}
    collecting = gc.isenabled()
    for model in models:
        model.eval()
    gc.disable()
    try:
        with torch.inference_mode():
            yield
    finally:
        if collecting:
            gc.enable()
        for module, mode in modes.items():
            module.training = mode


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"{device.type} ({platform.processor() or platform.machine()})"
