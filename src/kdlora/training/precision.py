"""Which number format, attention and device a run computes with, and why."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

SHORT_TOKENS = 256  # texts up to here keep the weights of attention on a processor


@dataclass(frozen=True)
class Compute:
    """Device, compute type and attention of a run; `reason` says in words how they were chosen."""

    device: torch.device
    dtype: torch.dtype
    attention: str
    reason: str

    @property
    def name(self) -> str:
        return "bf16" if self.dtype == torch.bfloat16 else "fp32"

    def autocast(self) -> AbstractContextManager:
        """Matrix products in the compute type; a no-op in fp32."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)


def choose_compute(
    precision: str = "auto", *, max_length: int = 128, device: str | None = None
) -> Compute:
    """Pick the device, bf16 where its matrix products are fast, and the attention by a rule.

    bf16 keeps fp32's range, so it needs no loss scaling; fp16 is never chosen (DeBERTa-v3
    overflows in it). Attention: on a processor short sequences (up to `SHORT_TOKENS`) run eager,
    because the flash backward of `scaled_dot_product_attention` costs more than it saves there;
    where longer ones may come, and on every accelerator, it is sdpa, whose memory grows only
    linearly (`forward.make_forward` decides by the batch).
    """
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if precision == "auto":
        fast, reason = _bf16_is_fast(where)
        dtype = torch.bfloat16 if fast else torch.float32
    else:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        reason = f"{precision} was asked for"
    short_on_cpu = where.type == "cpu" and max_length <= SHORT_TOKENS
    return Compute(where, dtype, "eager" if short_on_cpu else "sdpa", reason)


def _bf16_is_fast(device: torch.device) -> tuple[bool, str]:
    if device.type == "cuda":
        # Ampere (compute capability 8) and later multiply bf16 in hardware
        fast = torch.cuda.get_device_capability(device)[0] >= 8
        name = torch.cuda.get_device_name(device)
        return fast, f"{name} {'has' if fast else 'lacks'} bf16 tensor cores"
    flags = cpu_flags()
    found = [flag for flag in ("amx_bf16", "avx512_bf16") if flag in flags]
    if found:
        return True, f"the processor has {' and '.join(found)}"
    return False, "the processor has no bf16 matrix instructions"


def cpu_flags() -> set[str]:
    """Instruction sets of the processor as Linux names them; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return next((set(x.split(":", 1)[1].split()) for x in lines if x.startswith("flags")), set())


def ready_for_training(model: nn.Module, compute: Compute) -> nn.Module:
    """Ready a model for training: frozen weights in the compute type, trained ones in fp32.

    A frozen weight in bf16 is never cast again; a trained one keeps an fp32 master, so that small
    updates are not rounded away.
    """
    model.to(compute.device)
    for parameter in model.parameters():
        wanted = torch.float32 if parameter.requires_grad else compute.dtype
        if parameter.is_floating_point() and parameter.dtype != wanted:
            parameter.data = parameter.data.to(wanted)
    for module in model.modules():
        if hasattr(module, "cast_input_dtype_enabled"):  # peft's layers: autocast does it, once
            setattr(module, "cast_input_dtype_enabled", compute.dtype == torch.float32)  # noqa: B010
    return _exact_outputs(model, compute)


def ready_for_inference(model: nn.Module, compute: Compute) -> nn.Module:
    """Ready a merged fp32 model for scoring: all weights in the compute type, evaluation mode."""
    model.to(device=compute.device, dtype=compute.dtype)
    model.requires_grad_(False)
    return _exact_outputs(model, compute).eval()


class _Fp32Linear(nn.Linear):
    """A linear layer that computes in fp32 whatever surrounds it."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return nn.functional.linear(hidden.float(), self.weight, self.bias)


def _exact_outputs(model: nn.Module, compute: Compute) -> nn.Module:
    """Compute the last linear layer in fp32: bf16 logits near 4 come in steps of 1/32."""
    if compute.dtype == torch.float32:
        return model
    config: Any = model.config
    for module in model.modules():
        if type(module) is nn.Linear and module.out_features == config.num_labels:
            module.__class__ = _Fp32Linear  # same weights, same names, deep copies keep it
            module.float()
    return model
