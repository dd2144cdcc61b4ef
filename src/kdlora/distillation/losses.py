"""Losses of a student: hard labels, and a teacher's cached logits.

All means are over examples. The knob between the two is `kd_weight` (the teacher's share), never
"alpha", which belongs to LoRA.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from kdlora.spec.study import Distillation
from kdlora.spec.tasks import Task

# (student logits [b, c] fp32, labels [b], teacher logits [b, c] or None) -> scalar mean over b
Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


def hard_loss(task: Task, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy for classes (labels [b] int64), mean squared error for regression."""
    if task.kind == "regression":
        return F.mse_loss(logits.squeeze(-1), labels.to(logits.dtype))
    return F.cross_entropy(logits, labels)


def kd_kl(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Soft-label loss ``T^2 * KL(softmax(teacher / T) || softmax(student / T))``, mean over rows.

    Source: Hinton, Vinyals, Dean (2015), "Distilling the knowledge in a neural network". The
    factor T^2 keeps the gradient's size independent of the temperature.

    Args:
        student: logits [b, c]; the gradient flows here.
        teacher: logits [b, c] in the same order of classes, never tempered beforehand.
        temperature: T > 0.
    """
    log_s = F.log_softmax(student / temperature, dim=-1)
    log_t = F.log_softmax(teacher / temperature, dim=-1)
    return temperature**2 * F.kl_div(log_s, log_t, reduction="batchmean", log_target=True)


def make_loss(task: Task, kd: Distillation | None) -> Loss:
    """The loss of a run: hard labels alone, or mixed with the teacher's term.

    ``(1 - kd_weight) * hard + kd_weight * soft``; soft is `kd_kl` for classes and the mean
    squared error between both predictions for regression.
    """

    def loss(
        logits: torch.Tensor, labels: torch.Tensor, teacher: torch.Tensor | None
    ) -> torch.Tensor:
        if kd is None:
            return hard_loss(task, logits, labels)
        assert teacher is not None, "a distilled run needs its teacher's logits"
        if task.kind == "regression":
            soft = F.mse_loss(logits.squeeze(-1), teacher.to(logits.dtype).squeeze(-1))
        else:
            soft = kd_kl(logits, teacher.to(logits.dtype), kd.temperature)
        return (1 - kd.kd_weight) * hard_loss(task, logits, labels) + kd.kd_weight * soft

    return loss
