"""How much a row of each class counts in the loss of hard labels, where classes are not alike.

Weights are made of the training rows alone, and so that the mean over these rows is 1: the balance
with the teacher's term and the learning rate then mean what they mean without weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from kdlora.errors import did_you_mean
from kdlora.spec.sections import ClassWeights, Training
from kdlora.vocabulary.task import NO_LABEL, Task

if TYPE_CHECKING:
    from numpy.typing import NDArray


def weighting_problems(training: Training, task: Task) -> Iterator[str]:
    """What a task has to say against the class weights and the focal loss of a training."""
    asked = [name for name in ("class_weights", "focal") if name in training.weighting]
    if asked and not task.kind.weighs_classes:
        what = "numbers" if task.kind.numeric else "several labels a row"
        yield (
            f"training.{' and training.'.join(asked)}: task '{task.name}' has {what}; only classes "
            "of which each row has one can be weighted"
        )
    elif isinstance(training.class_weights, dict):
        for name in training.class_weights:
            if name not in task.label_names:
                hint = did_you_mean(name, task.label_names)
                yield f"training.class_weights: task '{task.name}' has no class '{name}'.{hint}"


def class_weights(wanted: ClassWeights, labels: NDArray[Any], task: Task) -> dict[str, float]:
    """The weight of each class of training labels [n], in the order of the task's classes.

    "balanced" gives every class that occurs the same say: n / (classes * rows of the class) (King
    and Zeng 2001, "Logistic regression in rare events data"). Of named weights only the ratios
    matter; classes that are not named count 1. A class without a row has the weight 1. {} for
    "none" and where no row has a label.
    """
    import numpy as np

    known = labels[labels != NO_LABEL]
    if wanted == "none" or not len(known):
        return {}
    counts = np.bincount(known, minlength=task.num_outputs)
    there = counts > 0
    if isinstance(wanted, dict):
        weights = np.array([wanted.get(name, 1.0) for name in task.label_names])
        weights = weights * len(known) / (weights * counts).sum()
    else:
        weights = len(known) / (there.sum() * np.where(there, counts, 1))
    return dict(zip(task.label_names, np.where(there, weights, 1.0).tolist(), strict=True))
