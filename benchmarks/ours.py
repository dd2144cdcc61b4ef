"""kdlora's own training loop on the same workload."""

from __future__ import annotations

import contextlib
import tempfile
import time
from pathlib import Path
from typing import Any

from torch import nn

from benchmarks.peers import BATCH, KD_WEIGHT, TEMPERATURE
from benchmarks.workload import Workload, make_model, with_lora
from kdlora.distillation.losses import make_loss
from kdlora.spec.distillation import Distillation
from kdlora.spec.sections import Training
from kdlora.training.loop import Seeds, TrainingData, TrainingSetup, train
from kdlora.training.precision import Compute, choose_compute, ready_for_training
from kdlora.training.schedule import make_schedule
from kdlora.vocabulary.task import TASKS


class _Enough(Exception):
    """Ends a training after as many steps as are timed."""


class Ours:
    """kdlora's training of one model, which can be timed again and again."""

    def __init__(self, shape: str, *, lora: bool = True, precision: str = "auto") -> None:
        self.compute: Compute = choose_compute(precision)
        model: nn.Module = make_model(shape, attention=self.compute.attention)
        if lora:
            model = with_lora(model, shape)
        self.model = ready_for_training(model, self.compute)

    def seconds_per_example(self, work: Workload, steps: int) -> float:
        """Train `steps` steps after one that is not counted."""
        settings = Training(epochs=1, batch_size=BATCH)
        schedule = make_schedule(len(work.texts), settings, 1e-4)
        kd = Distillation(temperature=TEMPERATURE, kd_weight=KD_WEIGHT)
        ends: list[float] = []

        def note(event: dict[str, Any]) -> None:
            if "step" in event:
                ends.append(time.perf_counter())
                if len(ends) > steps:
                    raise _Enough

        with tempfile.TemporaryDirectory() as folder, contextlib.suppress(_Enough):
            train(
                self.model,
                TrainingData(work.texts, work.labels, work.teacher),
                TrainingSetup(
                    loss=make_loss(TASKS["sst2"], kd),
                    evaluate=lambda model: {"accuracy": 0.0},
                    primary="accuracy",
                    direction=1,
                    settings=settings,
                    schedule=schedule,
                    compute=self.compute,
                    seeds=Seeds(order=0, dropout=0),
                ),
                folder=Path(folder),
                on_progress=note,
            )
        return (ends[-1] - ends[0]) / ((len(ends) - 1) * BATCH)
