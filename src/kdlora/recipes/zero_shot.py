"""A teacher that answers a task that it never saw: by which class's sentence a text entails most.

Each class makes a sentence of the hypothesis; a classifier of entailment reads text and sentence as
a pair, and its logit for entailment is the class's logit. Source: Yin, Hay and Roth (2019),
"Benchmarking zero-shot text classification".
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from transformers import PreTrainedTokenizerBase

from kdlora.data.batches import encode
from kdlora.data.examples import Examples
from kdlora.errors import ModelError
from kdlora.measure.calibration import calibrated
from kdlora.measure.efficiency import merged_size_mb
from kdlora.models.checkpoints import read_classifier, read_config, read_tokenizer
from kdlora.models.encoders import check_loaded, new_modules, output_names, resolve_encoder
from kdlora.records.record import TeacherCalibration
from kdlora.spec.run import ZeroShotTeacherRun
from kdlora.training.forward import Forward, make_forward
from kdlora.training.inference import costs_alone, predict
from kdlora.training.precision import choose_compute, ready_for_inference
from kdlora.vocabulary.output_names import entailment_output
from kdlora.vocabulary.task import Task


class ZeroShotLabeller:
    """The teacher of a run that answers by entailment; its model is loaded at the first call."""

    at_hand = False

    def __init__(
        self, run: ZeroShotTeacherRun, task: Task, calibration: TeacherCalibration | None = None
    ) -> None:
        self.run, self.task, self.calibration = run, task, calibration
        self.training = run.training
        self.compute = choose_compute(run.training.precision, max_length=run.training.max_length)
        self.sentences = run.zero_shot.sentences(task.label_names)

    def knows(self, rows: Examples) -> np.ndarray:
        return np.ones(len(rows), dtype=bool)

    def label(self, rows: Examples) -> np.ndarray:
        """Logits [n, c]: the calibrated logit of entailment of each class's sentence."""
        model, tokenizer, forward, entailment = self._loaded
        logits = np.zeros((len(rows), len(self.sentences)), dtype=np.float32)
        for place, sentence in enumerate(self.sentences):
            pairs = (rows.texts[0], [sentence] * len(rows))
            texts = encode(
                tokenizer,
                pairs,
                max_length=self.training.max_length,
                windows=self.training.windows,
            )
            outputs = predict(model, texts, self.compute, forward=forward)
            logits[:, place] = outputs[:, entailment] if len(rows) else 0.0
        return calibrated(logits, self.calibration)

    def costs(self, folder: Path | None) -> dict[str, Any]:
        """What one text takes, which is a pass for each class; as fields of `Efficiency`.

        `folder` keeps what was timed, for every teacher of this shape and number of classes.
        """
        passes = len(self.sentences)
        return costs_alone(self._loaded[0], self.compute, folder=folder, passes=passes)

    @cached_property
    def total_params(self) -> int:
        return sum(weights.numel() for weights in self._loaded[0].parameters())

    @cached_property
    def size_mb(self) -> float:
        return merged_size_mb(self._loaded[0])

    @cached_property
    def _loaded(self) -> tuple[nn.Module, PreTrainedTokenizerBase, Forward, int]:
        source = resolve_encoder(self.run.entailment)
        config = read_config(source)
        entailment = entailment_output(output_names(config), where=self.run.entailment.name)
        checkpoint = read_classifier(source, config, seed=0, attention=self.compute.attention)
        tokenizer = read_tokenizer(source)
        check_loaded(source, checkpoint, tokenizer)
        if checkpoint.new_parameters:
            raise ModelError(
                f"{source}: a zero-shot teacher must know entailment, but its files hold no "
                f"weights for {', '.join(new_modules(checkpoint))}"
            )
        model = ready_for_inference(checkpoint.model, self.compute)
        return model, tokenizer, make_forward(model, self.compute), entailment
