"""Losses of a student: hard labels, and what its teacher's logits say.

Every signal gives one value an example, so that labelled and unlabelled rows can be weighted
apart; all means are over examples. The knob between the two is `kd_weight` (the teacher's share),
never "alpha", which belongs to LoRA.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F

from kdlora.errors import InputError
from kdlora.spec.distillation import Distillation, Dkd, Signals, Tempered, signal_problems
from kdlora.vocabulary.task import CLASSIFICATION, MULTILABEL, NO_LABEL, REGRESSION, Kind, Task

_TINY = 1e-8


class Loss(Protocol):
    """Student logits [b, c] fp32, labels [b] or [b, c], teacher logits or None -> mean over b.

    `matched` [b] is what signals beyond the logits add to the teacher's term.
    """

    def __call__(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        teacher: torch.Tensor | None,
        matched: torch.Tensor | None = None,
    ) -> torch.Tensor: ...


def is_labelled(labels: torch.Tensor) -> torch.Tensor:
    """Where labels [b] or [b, c] are there: boolean [b]."""
    known = ~labels.isnan() if labels.is_floating_point() else labels != NO_LABEL
    return known if known.ndim == 1 else known.all(-1)


@dataclass(frozen=True)
class Weighting:
    """What makes rows count unequally in the loss of hard labels.

    weights: [c] of the classes, or None; focal: gamma, 0 for none.
    """

    weights: torch.Tensor | None = None
    focal: float = 0.0


def weighted_loss(
    task: Task, logits: torch.Tensor, labels: torch.Tensor, by: Weighting
) -> torch.Tensor:
    """The loss of the task's kind against labels [b], per row [b], as much as each row counts.

    A cross-entropy is -log p, so that p, which the focal factor (1 - p)^gamma needs, is known from
    it. Source: Lin et al. (2017), "Focal loss for dense object detection".
    """
    loss = task.kind.loss(logits, labels)
    if by.focal:
        loss = (1 - torch.exp(-loss)).clamp_min(_TINY) ** by.focal * loss
    if by.weights is not None:
        loss = by.weights.to(loss)[labels.clamp_min(0)] * loss
    return loss


def kd_kl(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Soft-label loss ``T^2 * KL(softmax(teacher / T) || softmax(student / T))``, per row [b].

    Source: Hinton, Vinyals, Dean (2015), "Distilling the knowledge in a neural network". The
    factor T^2 keeps the gradient's size independent of the temperature.

    Args:
        student: logits [b, c]; the gradient flows here.
        teacher: logits [b, c] in the same order of classes, never tempered beforehand.
        temperature: T > 0.
    """
    log_s = F.log_softmax(student / temperature, dim=-1)
    log_t = F.log_softmax(teacher / temperature, dim=-1)
    return temperature**2 * _kl(log_t, log_s)


def bernoulli_kl(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """``T^2 * KL(Bernoulli(sigmoid(teacher / T)) || Bernoulli(sigmoid(student / T)))``, per row.

    Each label of a row is a question of its own, so the softmax of `kd_kl` would be wrong: it lets
    a label's probability fall where another one is there. The mean is over the labels, as that of
    the hard loss. Source: Yang et al. (2023), "Multi-label knowledge distillation"; the factor T^2
    as in Hinton, Vinyals, Dean (2015).

    Args:
        student: logits [b, c]; the gradient flows here.
        teacher: logits [b, c] in the same order of labels, never tempered beforehand.
        temperature: T > 0.
    """
    s, t = student / temperature, teacher / temperature
    p = t.sigmoid()
    # log p/q + log (1-p)/(1-q), each of them exact for large logits
    each = p * (F.logsigmoid(t) - F.logsigmoid(s)) + (1 - p) * (F.logsigmoid(-t) - F.logsigmoid(-s))
    return temperature**2 * each.mean(dim=-1)


def logit_mse(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean over classes of the squared difference of logits [b, c], per row [b].

    Source: Ba and Caruana (2014), "Do deep nets really need to be deep?".
    """
    return (student - teacher).square().mean(dim=-1)


# What the signal `kl` compares: a number has no probabilities, so its squared difference counts.
_SOFT: dict[Kind, Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]] = {
    CLASSIFICATION: kd_kl,
    REGRESSION: lambda student, teacher, temperature: logit_mse(student, teacher),
    MULTILABEL: bernoulli_kl,
}


def dkd(
    student: torch.Tensor,
    teacher: torch.Tensor,
    target: torch.Tensor,
    *,
    alpha: float,
    beta: float,
    temperature: float,
) -> torch.Tensor:
    """Decoupled distillation ``T^2 (alpha TCKD + beta NCKD)``, per row [b].

    TCKD compares the target class with all others together, NCKD the others among themselves;
    with two classes NCKD is zero. With ``beta = 1 - p_teacher(target)`` and ``alpha = 1`` it is
    `kd_kl`. Source: Zhao et al. (2022), "Decoupled knowledge distillation".

    Args:
        student: logits [b, c]; the gradient flows here.
        teacher: logits [b, c].
        target: class [b] of each row.
    """
    outside = F.one_hot(target, student.shape[-1]).bool()

    def parts(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        log_p = F.log_softmax(logits / temperature, dim=-1)
        inside = log_p.gather(-1, target[:, None])
        others = log_p.masked_fill(outside, -torch.inf)
        rest = others.logsumexp(-1, keepdim=True)
        # the target's own place holds 0 in both, and so adds nothing
        return torch.cat([inside, rest], -1), (log_p - rest).masked_fill(outside, 0.0)

    target_s, others_s = parts(student)
    target_t, others_t = parts(teacher)
    nckd = (others_t.exp().masked_fill(outside, 0.0) * (others_t - others_s)).sum(-1)
    return temperature**2 * (alpha * _kl(target_t, target_s) + beta * nckd)


def dist(
    student: torch.Tensor,
    teacher: torch.Tensor,
    *,
    beta: float,
    gamma: float,
    temperature: float,
) -> torch.Tensor:
    """Relations instead of values: ``T^2 (beta inter + gamma intra)``, per row [b].

    Inter is 1 - Pearson's correlation of the two rows of probabilities, over classes; intra is
    the same over the rows of the batch, mean over classes, and so one number for all rows. With
    two classes a row's correlation is 1 or -1 whatever the values, and only intra teaches.
    Source: Huang et al. (2022), "Knowledge distillation from a stronger teacher".
    """
    p, q = ((x / temperature).softmax(-1) for x in (student, teacher))
    inter = 1 - _pearson(p, q)
    intra = 1 - _pearson(p.T, q.T).mean()
    return temperature**2 * (beta * inter + gamma * intra)


def _kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)


def _pearson(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Correlation along the last dimension; 0 where one side is constant."""
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    return F.cosine_similarity(a, b, dim=-1, eps=_TINY)


def make_loss(task: Task, kd: Distillation | None, by: Weighting = Weighting()) -> Loss:
    """The loss of a run: hard labels alone, or mixed with the teacher's term.

    A labelled row counts ``(1 - kd_weight) * hard + kd_weight * soft``, one that only the teacher
    labels ``soft``; soft is the weighted sum of the signals. `by` weighs rows in `hard` alone. For
    regression `kd_kl` gives way to the squared error of both predictions, where rows have several
    labels to `bernoulli_kl`. Raises InputError for signals, class weights or a focal loss that the
    kind of task cannot have.
    """
    if (by.focal or by.weights is not None) and not task.kind.weighs_classes:
        raise InputError(f"a {task.kind} has no class weights and no focal loss", where="training")
    if kd is None:

        def plain(
            logits: torch.Tensor,
            labels: torch.Tensor,
            teacher: torch.Tensor | None,
            matched: torch.Tensor | None = None,
        ) -> torch.Tensor:
            return weighted_loss(task, logits, labels, by).mean()

        return plain
    settings = kd
    problems = list(signal_problems(kd.signals, task.kind))
    if problems:
        raise InputError(problems, where="distillation.signals")

    def loss(
        logits: torch.Tensor,
        labels: torch.Tensor,
        teacher: torch.Tensor | None,
        matched: torch.Tensor | None = None,
    ) -> torch.Tensor:
        assert teacher is not None, "a distilled run needs its teacher's logits"
        soft = _soft(task, settings, logits, labels, teacher.to(logits.dtype))
        soft = soft if matched is None else soft + matched
        share = torch.where(is_labelled(labels), settings.kd_weight, 1.0).to(soft.dtype)
        hard = weighted_loss(task, logits, labels, by)
        return ((1 - share) * hard + share * soft).mean()

    return loss


def _soft(
    task: Task,
    kd: Distillation,
    logits: torch.Tensor,
    labels: torch.Tensor,
    teacher: torch.Tensor,
) -> torch.Tensor:
    """The signals that use logits alone, weighted and added, [b]."""
    signals: Signals = kd.signals
    total = torch.zeros(len(logits), dtype=logits.dtype, device=logits.device)
    if signals.kl is not None:
        soft = _SOFT[task.kind]
        total = total + signals.kl.weight * soft(logits, teacher, _temperature(signals.kl, kd))
    if signals.logit_mse is not None:
        total = total + signals.logit_mse.weight * logit_mse(logits, teacher)
    if signals.dkd is not None:
        total = total + signals.dkd.weight * _dkd(signals.dkd, kd, logits, labels, teacher)
    if signals.dist is not None:
        term = signals.dist
        value = dist(
            logits,
            teacher,
            beta=term.beta,
            gamma=term.gamma,
            temperature=_temperature(term, kd),
        )
        total = total + term.weight * value
    return total


def _dkd(
    term: Dkd,
    kd: Distillation,
    logits: torch.Tensor,
    labels: torch.Tensor,
    teacher: torch.Tensor,
) -> torch.Tensor:
    """A row without a label takes the teacher's choice for its target."""
    target = torch.where(is_labelled(labels), labels, teacher.argmax(-1))
    return dkd(
        logits,
        teacher,
        target,
        alpha=term.alpha,
        beta=term.beta,
        temperature=_temperature(term, kd),
    )


def _temperature(term: Tempered, kd: Distillation) -> float:
    return term.temperature if term.temperature is not None else kd.temperature
