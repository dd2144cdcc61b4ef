"""How many steps a run takes and the learning rate at each of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kdlora.spec.sections import MOST_EPOCHS, Training


@dataclass(frozen=True)
class LearningRateSchedule:
    """Linear warm-up from zero, then linear decay to zero at the last planned step."""

    total_steps: int
    warmup_steps: int
    steps_per_epoch: int
    peak_lr: float

    @property
    def epochs(self) -> float:
        """Passes over the rows."""
        return self.total_steps / self.steps_per_epoch

    def lr(self, step: int) -> float:
        """Learning rate of optimizer step `step`, counted from 0."""
        if step < self.warmup_steps:
            return self.peak_lr * (step + 1) / self.warmup_steps
        left = self.total_steps - step
        return self.peak_lr * max(left, 0) / max(self.total_steps - self.warmup_steps, 1)


def steps_of(n_train: int, training: Training, *, counted: int = 0) -> tuple[int, int]:
    """Steps of an epoch over `n_train` rows, and of the whole training.

    `counted` further rows are not trained on, but make it as long as if they were.
    """
    per_epoch = math.ceil(n_train / training.batch_size)
    lasting = math.ceil((n_train + counted) / training.batch_size)  # an epoch of all that counts
    raised = min(math.ceil(training.min_steps / max(lasting, 1)), MOST_EPOCHS)
    return per_epoch, lasting * max(training.epochs, raised)


def make_schedule(
    n_train: int, training: Training, peak_lr: float, *, counted: int = 0
) -> LearningRateSchedule:
    """The steps really planned for `n_train` examples; nothing else decides the schedule."""
    per_epoch, total = steps_of(n_train, training, counted=counted)
    return LearningRateSchedule(
        total_steps=total,
        warmup_steps=min(math.ceil(training.warmup * total), max(total - 1, 0)),
        steps_per_epoch=per_epoch,
        peak_lr=peak_lr,
    )


def evaluation_steps(schedule: LearningRateSchedule, evals_per_epoch: int) -> set[int]:
    """Numbers of finished steps after which the selection split is scored; the last always."""
    per = schedule.steps_per_epoch
    steps = {
        round(epoch * per + part * per / evals_per_epoch)
        for epoch in range(schedule.total_steps // max(per, 1))
        for part in range(1, evals_per_epoch + 1)
    }
    return {s for s in steps if s > 0} | {schedule.total_steps}
