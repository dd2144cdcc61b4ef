"""A regression's target in training, and its way back into the saved head.

A head begins near 0 and a step moves it by about the learning rate, whatever unit the labels have:
with labels around 100, or of a spread of a million, training would go into finding their mean and
their size. So labels, and a teacher's predictions with them, are trained on as
``(label - mean) / scale``, by the mean and the standard deviation of the training labels. The head
is a linear layer in the end, so that both are folded into it once training is over, and the saved
model answers in the labels' own unit without anybody's help.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from transformers.modeling_utils import PreTrainedModel

from kdlora.models.encoders import LoadedEncoder
from kdlora.models.inspection import output_layer

_TRIAL = 1024.0  # a power of two, by which weights are multiplied and divided without rounding


@dataclass(frozen=True)
class TargetScale:
    """What labels are freed of in training: ``(label - mean) / scale``; scale is above 0."""

    mean: float
    scale: float

    @property
    def unit(self) -> str:
        """As text, exactly."""
        return f"({self.mean!r}, {self.scale!r})"

    def standardised(self, values: torch.Tensor) -> torch.Tensor:
        """Labels [n] or predictions [n, 1] as they are trained on, in fp32; NaN stays NaN."""
        return ((values.double() - self.mean) / self.scale).float()

    def restored(self, outputs: np.ndarray) -> np.ndarray:
        """Outputs of a model in training [n, 1] in the labels' own unit, float64."""
        return outputs.astype(np.float64) * self.scale + self.mean

    @property
    def inverse(self) -> TargetScale:
        """From the labels' own unit to what is trained on."""
        return TargetScale(-self.mean / self.scale, 1 / self.scale)


def target_scale(
    labels: np.ndarray, teacher: np.ndarray | None = None, *, shifts: bool = True
) -> TargetScale:
    """The scale of training labels [n], or of a teacher's predictions where they say nothing.

    Labels say nothing where all are missing (NaN) or equal; where the teacher's are so too, the
    scale is 1. With `shifts` false, for a head without a bias, nothing is subtracted and the scale
    is the root mean square.
    """
    known = [values[np.isfinite(values)].astype(np.float64) for values in (labels, teacher)
             if values is not None]  # fmt: skip
    varied = [values for values in known if len(values) and np.ptp(values) > 0]
    values = next(iter(varied or [v for v in known if len(v)]), np.zeros(1))
    mean = float(values.mean()) if shifts else 0.0
    scale = float(np.sqrt(np.square(values - mean).mean())) if varied or not shifts else 1.0
    return TargetScale(mean, scale if scale > 0 else 1.0)


def standardise_head(
    loaded: LoadedEncoder, labels: np.ndarray, teacher: np.ndarray | None = None
) -> TargetScale | None:
    """How a regression is to be trained with this encoder; a head that came trained is put into it.

    A head of the files answers in the labels' own unit and begins training as what it was. None
    where the family's head does not end in a linear layer: then labels are trained on as they are.
    """
    layer = _scalable_output(loaded.model)
    if layer is None:
        return None
    scale = target_scale(labels, teacher, shifts=layer.bias is not None)
    names = {module: name for name, module in loaded.model.named_modules()}
    if names[layer] not in loaded.new_modules:
        _fold(layer, scale.inverse)
    return scale


def restore_unit(model: nn.Module, scale: TargetScale) -> None:
    """Make a model that was trained on standardised labels answer in their own unit."""
    layer = output_layer(model)
    assert layer is not None, "the layer was there when the training began"
    _fold(layer, scale)


def _scalable_output(model: PreTrainedModel) -> nn.Linear | None:
    """The layer whose output is the model's, so that a scale can be folded into it; None: none.

    Heads differ, so it is tried: many times its weights must give as many times the output.
    """
    layer = output_layer(model)
    if layer is None:
        return None
    training = model.training
    model.eval()
    tokens = torch.arange(4)[None] % model.config.vocab_size
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    with torch.no_grad():
        before = model(**inputs).logits
        _fold(layer, TargetScale(0.0, _TRIAL))
        after = model(**inputs).logits
        _fold(layer, TargetScale(0.0, 1 / _TRIAL))
    model.train(training)
    return layer if torch.allclose(after, _TRIAL * before, rtol=1e-4, atol=1e-4) else None


@torch.no_grad()
def _fold(layer: nn.Linear, target: TargetScale) -> None:
    """Make a layer that answered z answer ``scale * z + mean``. It has a bias, or the mean is 0."""
    layer.weight.copy_(layer.weight.double() * target.scale)
    if layer.bias is not None:
        layer.bias.copy_(layer.bias.double() * target.scale + target.mean)
