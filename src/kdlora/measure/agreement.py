"""How far a student answers as its teacher does, and how far it could have.

Agreement alone says little: two models that are right 95 % of the time agree on at least 90 % of
the rows whatever they learnt from each other. So it comes with Cohen's kappa, the level of chance
and the bounds that the two accuracies set. A reported agreement outside its bounds is an error of
whoever reported it, such as a flipped label map.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kdlora.measure.quality import Array, checked, score_split
from kdlora.records.plausible import agreement_bounds
from kdlora.records.record import Agreement, LabelAgreement
from kdlora.vocabulary.metric import correlation
from kdlora.vocabulary.task import Task


def agreement(
    task: Task,
    student_outputs: Array,
    teacher_outputs: Array,
    labels: Array,
    *,
    teacher_run_id: str,
) -> Agreement:
    """Compare the outputs of student and teacher on the same rows.

    Outputs are logits [n, c] or numbers [n]; `labels` [n], or [n, c] where a row may have several:
    two sets of labels agree where they are the same, and each label is told beside. The chance
    level and kappa are those of Cohen 1960; kappa is None where chance alone already gives full
    agreement. For numbers only the correlation of the two predictions and the teacher's score are
    set. Values are None where an output is not finite or there are no rows.
    """
    student, truth = checked(task, student_outputs, labels)
    teacher, _ = checked(task, teacher_outputs, labels)
    result = Agreement(
        teacher_run_id=teacher_run_id,
        teacher_score=score_split(task, teacher, truth)[task.primary],
        chance=None,
        pearson=None,
    )
    if not len(truth) or not (np.isfinite(student).all() and np.isfinite(teacher).all()):
        return result
    if task.kind.numeric:
        return result.model_copy(update={"pearson": correlation(student, teacher)})

    a, b = task.kind.decide(student), task.kind.decide(teacher)
    if not task.kind.several:
        return result.model_copy(update=_of_answers(a, b, truth, task.num_outputs))
    # each set of labels is an answer
    sets = np.unique(np.concatenate([a, b, truth]), axis=0, return_inverse=True)[1]
    said, taught, true = np.split(sets.reshape(-1), 3)
    per_label = {
        name: LabelAgreement(**_of_answers(a[:, i], b[:, i], truth[:, i], 2))
        for i, name in enumerate(task.label_names)
    }
    of_sets = _of_answers(said, taught, true, 2 if task.num_outputs == 1 else 3)
    return result.model_copy(update={**of_sets, "per_label": per_label})


def _of_answers(a: Array, b: Array, truth: Array, n_answers: int) -> dict[str, Any]:
    """Agreement of answers [n] of which so many are possible (3: any more than 2), its bounds."""
    observed = float(np.mean(a == b))
    size = max(n_answers, int(max(a.max(), b.max())) + 1)
    shares = [np.bincount(x, minlength=size) / len(x) for x in (a, b)]
    chance = float(shares[0] @ shares[1])
    bounds = agreement_bounds(
        float(np.mean(a == truth)), float(np.mean(b == truth)), n_classes=n_answers
    )
    # whole rows, as the agreement is: a bound that is reached is not missed by a rounding
    lower, upper = (round(bound * len(truth)) / len(truth) for bound in bounds)
    return {
        "agreement": observed,
        "kappa": (observed - chance) / (1 - chance) if chance < 1 else None,
        "chance": chance,
        "lower_bound": lower,
        "upper_bound": upper,
    }


def impossible(agreement: Agreement, *, tolerance: float = 1e-6) -> bool:
    """Whether the stated agreement lies outside its bounds by more than `tolerance`.

    Give half a unit of the last digit, three times over, for numbers that were rounded.
    """
    value, lower, upper = agreement.agreement, agreement.lower_bound, agreement.upper_bound
    if value is None:
        return False
    below = lower is not None and value < lower - tolerance
    above = upper is not None and value > upper + tolerance
    return below or above or not -tolerance <= value <= 1 + tolerance
