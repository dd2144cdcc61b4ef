"""kdlora's own training loop on the same workload."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from benchmarks.peers import BATCH, KD_WEIGHT, TEMPERATURE
from benchmarks.turns import Tally, Turn
from benchmarks.workload import Workload, make_model, with_lora, with_variant
from kdlora.distillation.losses import make_loss
from kdlora.recipes.run import adapter_hooks
from kdlora.spec.distillation import Distillation
from kdlora.spec.sections import Training
from kdlora.training.forward import Forward, make_forward
from kdlora.training.loop import Seeds, TrainingData, TrainingSetup, train
from kdlora.training.precision import Compute, choose_compute, ready_for_training
from kdlora.training.schedule import make_schedule
from kdlora.vocabulary.task import TASKS


class Ours:
    """kdlora's training of one model, which can be timed again and again.

    `variant` is an adapter other than the reports' LoRA, of the same rank in the same places; its
    ranks are planned for trainings of `steps`.
    """

    def __init__(
        self,
        shape: str,
        *,
        lora: bool = True,
        variant: str | None = None,
        steps: int = 1,
        precision: str = "auto",
    ) -> None:
        self.compute: Compute = choose_compute(precision)
        encoder = make_model(shape, attention=self.compute.attention)
        model: nn.Module = encoder
        if variant is not None:
            model = with_variant(encoder, shape, variant, steps)
        elif lora:
            model = with_lora(encoder, shape)
        self.model = ready_for_training(model, self.compute)
        self.forward = make_forward(self.model, self.compute)

    def epoch(self, work: Workload) -> Turn:
        """Train on every text once."""
        settings = Training(epochs=1, batch_size=BATCH)
        kd = Distillation(temperature=TEMPERATURE, kd_weight=KD_WEIGHT)
        tally = Tally()
        setup = TrainingSetup(
            loss=make_loss(TASKS["sst2"], kd),
            evaluate=lambda model: {"accuracy": 0.0},
            primary="accuracy",
            direction=1,
            settings=settings,
            schedule=make_schedule(len(work.texts), settings, 1e-4),
            compute=self.compute,
            seeds=Seeds(order=0, dropout=0),
            hooks=adapter_hooks(self.model),
            forward=counted(self.forward, tally),
        )
        data = TrainingData(work.texts, work.labels, work.teacher)
        with tempfile.TemporaryDirectory() as folder:
            begun = time.perf_counter()
            train(self.model, data, setup, folder=Path(folder))
            return Turn.of(time.perf_counter() - begun, tally, self.compute.name)


def counted(forward: Forward, tally: Tally) -> Forward:
    """The same pass, with its batches counted."""

    def call(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        tally.note(*inputs["input_ids"].shape)
        return forward(inputs)

    return call
