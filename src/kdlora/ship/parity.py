"""Two forms of one model, compared on real texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdlora.data.batches import Encoded, pad
from kdlora.errors import ModelError
from kdlora.records.artefact import Parity
from kdlora.ship.onnx_graph import OUTPUT
from kdlora.ship.onnx_runtime import open_session

MERGE_TOLERANCE = 1e-5  # of logits, relative to the largest where that is above 1
ONNX_TOLERANCE = 1e-4
_SAMPLE = 64  # texts
_SIZES = (1, 3, 8, 16)  # of the batches, in turns

Model = Callable[..., Any]  # called with the inputs by name, answers with `.logits`


def compare(step: str, one: Model, other: Model, texts: Encoded, *, tolerance: float) -> Parity:
    """Compare logits on real texts, the longest and the shortest among them, in odd batches.

    Of texts that are read in windows it is windows. The tolerance is that of logits up to 1, and
    grows with larger ones. Raises ModelError.
    """
    order = np.argsort(texts.row_lengths, kind="stable")
    index = order[np.unique(np.linspace(0, len(order) - 1, min(_SAMPLE, len(order))).astype(int))]
    index = np.random.default_rng(0).permutation(index)
    worst, largest, start, size = 0.0, 1.0, 0, 0
    with torch.inference_mode():
        for number in range(len(index)):
            start, size = start + size, _SIZES[number % len(_SIZES)]
            rows = index[start : start + size]
            if not len(rows):
                break
            values = {k: torch.from_numpy(v) for k, v in pad(texts, rows).items()}
            a, b = one(**values).logits.float(), other(**values).logits.float()
            worst = max(worst, float((a - b).abs().max()))
            largest = max(largest, float(a.abs().max()))
    if not worst <= tolerance * largest:
        raise ModelError(
            f"{step}: logits differ by {worst:.2e} on {len(index)} texts, allowed are "
            f"{tolerance * largest:.1e}. Please report this with the run's spec.json"
        )
    return Parity(
        step=step,
        max_abs_difference=worst,
        tolerance=tolerance * largest,
        texts=len(index),
    )


class OnnxModel:
    """An ONNX file that answers as a torch model does, for comparisons."""

    def __init__(self, path: Path, inputs: list[str]) -> None:
        self.session, self.inputs = open_session(path), inputs

    def __call__(self, **values: torch.Tensor) -> Any:
        feed = {name: values[name].numpy() for name in self.inputs}
        (logits,) = self.session.run([OUTPUT], feed)
        return _Output(torch.from_numpy(logits))


@dataclass
class _Output:
    logits: torch.Tensor
