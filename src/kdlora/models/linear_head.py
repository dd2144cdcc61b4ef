"""The last layer of a classifier, fitted alone: convex, exact, and done in seconds.

What the layer reads is computed once. Its weights minimise the run's own loss, labels alone or a
teacher's logits too, with a penalty on their squares (logistic regression; ridge for numbers).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from kdlora.models.embedding_baseline import STRENGTHS

# logits [n, c], labels [n], teacher's logits [n, c] or None -> mean over n
Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]

_MAX_STEPS = 200
_TINY = 1e-6


@dataclass(frozen=True, eq=False)
class HeadData:
    """What a head is fitted on: features [n, d] in fp32, labels [n], teacher's logits [n, c]."""

    features: torch.Tensor
    labels: torch.Tensor
    taught: torch.Tensor | None

    def take(self, rows: np.ndarray) -> HeadData:
        index = torch.from_numpy(rows)
        taught = None if self.taught is None else self.taught[index]
        return HeadData(self.features[index], self.labels[index], taught)


@dataclass(frozen=True, eq=False)
class LinearHead:
    """Weights [c, d] and bias [c], in the unit of the features as they come."""

    weight: torch.Tensor
    bias: torch.Tensor

    def outputs(self, features: torch.Tensor) -> np.ndarray:
        """Logits or numbers [n, c]."""
        return (features.double() @ self.weight.T + self.bias).float().numpy()

    @torch.no_grad()
    def put_into(self, layer: nn.Linear) -> None:
        """Make a model's last layer this one."""
        layer.weight.copy_(self.weight)
        assert layer.bias is not None
        layer.bias.copy_(self.bias)


def fit_head(data: HeadData, outputs: int, loss: Loss, *, strength: float) -> LinearHead:
    """The head that minimises ``loss + |W|^2 / (2 n strength)`` on standardised features."""
    x = data.features.double()
    mean, spread = x.mean(0), x.std(0, correction=0).clamp_min(_TINY)
    x = (x - mean) / spread
    weight = torch.zeros(outputs, x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(outputs, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=_MAX_STEPS, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
    )
    penalty = 1 / (2 * len(x) * strength)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(x @ weight.T + bias, data.labels, data.taught)
        value = value + penalty * weight.square().sum()
        value.backward()
        return value

    optimizer.step(closure)
    found = weight.detach() / spread
    return LinearHead(found, bias.detach() - found @ mean)


def out_of_fold(
    data: HeadData, fold: np.ndarray, outputs: int, loss: Loss, *, strength: float
) -> np.ndarray:
    """Outputs [n, c], each row by a head that was fitted without its fold [n]."""
    found = np.zeros((len(fold), outputs), np.float32)
    for number in np.unique(fold):
        left = fold == number
        head = fit_head(data.take(np.flatnonzero(~left)), outputs, loss, strength=strength)
        found[left] = head.outputs(data.features[torch.from_numpy(left)])
    return found


def choose_strength(score: Callable[[float], float | None], direction: int) -> float:
    """The inverse regularisation with the best score; of equal ones the strongest penalty."""
    found = [(score(strength), strength) for strength in STRENGTHS]
    known = [(direction * value, -strength) for value, strength in found if value is not None]
    return -max(known)[1] if known else STRENGTHS[len(STRENGTHS) // 2]
