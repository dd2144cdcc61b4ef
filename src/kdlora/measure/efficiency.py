"""What a model weighs: parameters, bytes on disk, memory while something runs."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import Tensor, nn

MB = 1e6

# safetensors' names of the dtypes, in the order of its enumeration: data are written in the
# reverse of it (widest alignment first), then by name.
_DTYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.float32: "F32",
    torch.int64: "I64",
}


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """(trainable, total) parameters, shared ones once.

    Not in the total: the untrained originals that peft keeps beside each module to save, which
    take no part in the model as it stands.
    """
    originals: list[nn.Module] = [
        module.original_module
        for module in model.modules()
        if isinstance(module, ModulesToSaveWrapper)
    ]
    unused = {id(parameter) for module in originals for parameter in module.parameters()}
    parameters = list(model.parameters())
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    return trainable, sum(p.numel() for p in parameters if id(p) not in unused)


def merged_size_mb(model: nn.Module) -> float:
    """Size in MB (10^6 bytes) of the model's weights file, merged, in fp32 safetensors.

    Worked out from shapes, header included, so nothing is merged or written. Adapters count
    nothing, since they merge into the weights; tensors that share memory count once.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in _merged_tensors(base, ""):
        if id(tensor) not in seen:
            seen.add(id(tensor))
            tensors[name] = tensor
    return _safetensors_bytes(tensors) / MB


def _merged_tensors(module: nn.Module, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of the state dict that the model has once its adapters are merged."""
    if isinstance(module, AuxiliaryTrainingWrapper):
        module = module.original_module  # the trained copy has the same shapes
    if isinstance(module, BaseTunerLayer):
        module = module.get_base_layer()
    for name, parameter in module._parameters.items():
        if parameter is not None:
            yield prefix + name, parameter
    for name, buffer in module._buffers.items():
        if buffer is not None and name not in module._non_persistent_buffers_set:
            yield prefix + name, buffer
    for name, child in module._modules.items():
        if child is not None:
            yield from _merged_tensors(child, f"{prefix}{name}.")


def _safetensors_bytes(tensors: dict[str, Tensor]) -> int:
    """Bytes of a safetensors file: 8 for the header's length, the padded JSON header, the data."""
    order = list(_DTYPES)
    stored = {
        name: torch.float32 if tensor.is_floating_point() else tensor.dtype
        for name, tensor in tensors.items()
    }
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in sorted(tensors, key=lambda n: (-order.index(stored[n]), n)):
        shape = list(tensors[name].shape)
        start, end = end, end + math.prod(shape) * stored[name].itemsize
        header[name] = {
            "dtype": _DTYPES[stored[name]],
            "shape": shape,
            "data_offsets": [start, end],
        }
    header_bytes = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + math.ceil(header_bytes / 8) * 8 + end


class PeakMemory:
    """Highest memory use in MB inside a `with` block, with the scope that the number covers.

    On CUDA it is what torch allocated on the device. On Linux it is the resident set of the whole
    process, libraries and data included, from a high-water mark that is reset at the start;
    elsewhere that mark cannot be reset, and `scope` says so. `start_mb` is the use at the start,
    so that a caller can tell the growth. Both are None where nothing can be read.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.start_mb: float | None = None
        self.peak_mb: float | None = None
        self.scope: str | None = None

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self.start_mb = torch.cuda.memory_allocated(self.device) / MB
            self.scope = "cuda allocated"
            return self
        self.start_mb = _proc_status_mb("VmRSS")
        if self.start_mb is not None and _reset_high_water_mark():
            self.scope = "process resident set (whole process: libraries and data included)"
        else:
            self.scope = "process resident set, highest since the process began (not reset)"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.device.type == "cuda":
            self.peak_mb = torch.cuda.max_memory_allocated(self.device) / MB
            return
        self.peak_mb = _proc_status_mb("VmHWM")
        if self.peak_mb is None:
            self.peak_mb = _max_resident_mb()
        if self.peak_mb is None:
            self.scope = None


def _proc_status_mb(field: str, status: Path = Path("/proc/self/status")) -> float | None:
    """A memory field of the process; its "kB" are 1,024 bytes."""
    try:
        found = re.search(rf"^{field}:\s+(\d+) kB", status.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 / MB if found else None


def _reset_high_water_mark(control: Path = Path("/proc/self/clear_refs")) -> bool:
    try:
        control.write_text("5")
    except OSError:
        return False
    return True


def _max_resident_mb() -> float | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MB
