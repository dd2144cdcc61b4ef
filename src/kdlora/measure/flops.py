"""Floating-point operations of a model, forward or for a whole training step.

Counted by torch's dispatcher and not from a formula, so adapters, frozen weights and relative
positions are all in it. Two per multiply-add; elementwise operations count nothing, as usual.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from transformers import PreTrainedModel

from kdlora.errors import ModelError
from kdlora.measure.shape_cache import once, shape_of

_LENGTHS = (4, 8, 12)
Coefficients = tuple[float, float, float]


@dataclass(frozen=True)
class FlopModel:
    """FLOPs of one pass over a batch: constant, linear and quadratic in the padded length.

    `per_example` is paid for every row: the head (constant), linear layers (linear) and attention
    (quadratic). `per_batch` is paid once whatever the batch holds, such as the projections of
    DeBERTa's relative positions or the weight norms of DoRA.
    """

    per_batch: Coefficients
    per_example: Coefficients

    def flops(self, batch: int, length: int) -> float:
        """FLOPs for `batch` rows that are padded to `length` tokens."""
        return _at(self.per_batch, length) + batch * _at(self.per_example, length)


def flops_per_length(
    model: nn.Module,
    *,
    backward: bool,
    device: torch.device | str | None = None,
    folder: Path | None = None,
) -> FlopModel:
    """Count tiny batches at three lengths and solve for the coefficients.

    `backward=True` counts a training step of the model as it stands, optimizer excluded: a frozen
    weight gets no gradient, and recomputation by gradient checkpointing is in. Attention is
    counted in its eager form, since torch does not count the fused one on a CPU; the operations
    are the same. Dropout's random state, gradients, modes and the attention implementation are
    left as they were. `device` is the model's own by default. With `folder` the coefficients are
    kept there for every model of this shape. Raises ModelError if `backward` is asked of a model
    that trains nothing.
    """
    first = next(model.parameters())
    if backward and not any(p.requires_grad for p in model.parameters()):
        raise ModelError("a training step has no FLOPs here: every parameter is frozen")
    place = torch.device(device) if device is not None else first.device
    found = once(
        folder,
        ["flops", shape_of(model), backward],
        lambda: asdict(_counted(model, backward, place)),
    )
    return FlopModel(tuple(found["per_batch"]), tuple(found["per_example"]))


def _counted(model: nn.Module, backward: bool, place: torch.device) -> FlopModel:
    with _undisturbed(model, place, train=backward), _eager_attention(model):
        one = [_count(model, 1, length, place, backward) for length in _LENGTHS]
        two = [_count(model, 2, length, place, backward) for length in _LENGTHS]
    per_example = [b - a for a, b in zip(one, two, strict=True)]
    per_batch = [a - e for a, e in zip(one, per_example, strict=True)]
    return FlopModel(per_batch=_parabola(per_batch), per_example=_parabola(per_example))


def _count(model: nn.Module, batch: int, length: int, device: torch.device, backward: bool) -> int:
    config = getattr(model, "config", None)
    # A padding id would shift the positions of some families.
    token = 1 if getattr(config, "pad_token_id", None) != 1 else 0
    ids = torch.full((batch, length), token, device=device)
    counter = _Counter()
    with counter, torch.set_grad_enabled(backward):
        with _autocast(model, device):
            output = model(input_ids=ids, attention_mask=torch.ones_like(ids))
        if backward:
            logits = output.logits if hasattr(output, "logits") else output[0]
            logits.float().sum().backward()
    model.zero_grad(set_to_none=True)
    return counter.flops


class _Counter(TorchDispatchMode):
    """Adds up what torch's formulas say of the operators that pass; others count nothing.

    torch's own counter also keeps which module an operator is of, for half as much time again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(getattr(func, "overloadpacket", func))
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        return result


def _autocast(model: nn.Module, device: torch.device) -> AbstractContextManager:
    """Autocast for a model with weights in a short format, whose layers may not match without."""
    short = {p.dtype for p in model.parameters() if p.dtype in (torch.bfloat16, torch.float16)}
    return torch.autocast(device.type, dtype=short.pop()) if short else nullcontext()


@contextmanager
def _undisturbed(model: nn.Module, device: torch.device, *, train: bool) -> Iterator[None]:
    """Set the mode, then put back modes, gradients and the random state."""
    modes = {module: module.training for module in model.modules()}
    gradients = {parameter: parameter.grad for parameter in model.parameters()}
    devices = [device] if device.type == "cuda" else []
    model.zero_grad(set_to_none=True)
    model.train(train)
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for parameter, gradient in gradients.items():
            parameter.grad = gradient


@contextmanager
def _eager_attention(model: nn.Module) -> Iterator[None]:
    encoder = next((m for m in model.modules() if isinstance(m, PreTrainedModel)), None)
    before = encoder.config._attn_implementation if encoder is not None else None
    if encoder is None or before in (None, "eager"):
        yield
        return
    encoder.set_attn_implementation("eager")
    try:
        yield
    finally:
        encoder.set_attn_implementation(before)


def _parabola(counts: list[int]) -> Coefficients:
    """(c, a, b) of c + a x + b x^2 through the counts at the three equally spaced lengths."""
    x0, x1, _ = _LENGTHS
    step = x1 - x0
    slope = (counts[1] - counts[0]) / step
    b = (counts[2] - 2 * counts[1] + counts[0]) / (2 * step**2)
    a = slope - b * (x0 + x1)
    return counts[0] - a * x0 - b * x0**2, a, b


def _at(coefficients: Coefficients, length: int) -> float:
    c, a, b = coefficients
    return c + a * length + b * length**2
