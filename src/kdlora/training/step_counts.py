"""What the steps of a training add up to, kept where they are computed.

An accelerator works behind the program that asks it: to read one number is to wait until all that
was asked is done, and until then nothing new is asked. So losses are added up, and steps without a
finite gradient are counted and skipped, on the device itself. `read` brings the counts home where
the loop stops anyway: at an evaluation, at a checkpoint. On a processor that costs nothing, and the
loop reads after every step.
"""

from __future__ import annotations

import time

import torch

from kdlora.training.checkpoint import Progress

MAX_NONFINITE = 3  # consecutive steps without a finite gradient before training is given up
_FIELDS = ("loss_sum", "loss_steps", "nonfinite_steps", "nonfinite_row")


class StepCounts:
    """The counts of `Progress` that only the device knows, from where `progress` has them."""

    def __init__(self, progress: Progress, device: torch.device) -> None:
        known = [float(getattr(progress, name)) for name in _FIELDS]
        self._values = torch.tensor(known, dtype=torch.float64, device=device)
        self.at_hand = device.type == "cpu"  # reading waits for nothing

    def add(self, loss: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
        """Count one step by its loss and the norm of its gradient, scalars on the device.

        Returns 1.0 where the step must be skipped, else 0.0, a scalar fp32: where either is not
        finite, or where training was given up and nobody has read it yet. Steps after that are not
        counted.
        """
        total, steps, skipped, row = self._values.unbind()
        goes_on = row < MAX_NONFINITE
        bad = ~torch.isfinite(loss + norm)  # a sum in double precision cannot overflow
        counted = torch.stack(
            [total + loss.where(~bad, 0.0), steps + ~bad, skipped + bad, (row + 1) * bad]
        )
        self._values = counted.where(goes_on, self._values)
        return (bad | ~goes_on).float()

    def read(self, progress: Progress) -> None:
        """Put the counts into `progress`; the time that the device still needs is training's."""
        start = time.perf_counter()
        total, *whole = self._values.tolist()
        progress.loss_sum = total
        progress.loss_steps, progress.nonfinite_steps, progress.nonfinite_row = map(int, whole)
        progress.train_s += time.perf_counter() - start

    def restart_loss(self, progress: Progress) -> None:
        """Begin the mean loss anew, here and in `progress`."""
        progress.loss_sum, progress.loss_steps = 0.0, 0
        self._values[:2] = 0.0

    @staticmethod
    def given_up(progress: Progress) -> bool:
        """Whether so many steps in a row had no finite gradient that none will."""
        return progress.nonfinite_row >= MAX_NONFINITE
