"""What makes a program wait for its device: seen on a processor, where nothing is waited for."""

from __future__ import annotations

import sys
from collections.abc import Callable

from torch.utils._python_dispatch import TorchDispatchMode

from kdlora.training import loop

# A number's value, and results whose size depends on values.
_READS = {"_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "equal", "_unique2",
          "bincount"}  # fmt: skip


class Reads(TorchDispatchMode):
    """Collects the operations after which a program would wait for an accelerator.

    One is not ours: transformers asks once a forward pass whether a mask hides anything.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = func.overloadpacket.__name__
        places = args[1] if name in ("index", "index_put", "index_put_") else ()
        by_mask = any(one is not None and str(one.dtype) == "torch.bool" for one in places)
        if (name in _READS or by_mask) and not _of_the_mask():
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def _of_the_mask() -> bool:
    frame = sys._getframe(2)
    while frame is not None and "torch" in frame.f_globals.get("__name__", ""):
        frame = frame.f_back
    return frame is not None and frame.f_globals["__name__"] == "transformers.masking_utils"


def reads_of_steps(patch: object, fit: Callable[[], object]) -> list[str]:
    """What the steps of a training read, in order; `fit` does the training."""
    reads, step = Reads(), loop._step

    def watched(*arguments):  # type: ignore[no-untyped-def]
        with reads:
            step(*arguments)

    patch.setattr(loop, "_step", watched)  # type: ignore[attr-defined]
    fit()
    return reads.found
