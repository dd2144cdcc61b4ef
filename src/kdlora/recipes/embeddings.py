"""A linear model on the embeddings of an encoder as it comes: a baseline, or a teacher.

For pairs whose answer is a number it knows the cosine alone. That is little, but a small encoder
that is trained on few pairs may know less: then it can teach (Reimers and Gurevych 2019,
"Sentence-BERT"; Thakur et al. 2021, "Augmented SBERT").
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kdlora.data.batches import encode
from kdlora.data.examples import Examples, TaskData
from kdlora.measure.efficiency import count_parameters, merged_size_mb
from kdlora.models.embedding_baseline import (
    EmbeddingBaseline,
    features_of,
    out_of_fold,
    train_embeddings,
)
from kdlora.models.encoders import LoadedEncoder, load_encoder
from kdlora.recipes.outcome import RunOutcome, compute_facts, folder_mb
from kdlora.records.contents import MODEL, require_whole_model
from kdlora.records.predictions import OUT_OF_FOLD, SplitOutputs, write_predictions
from kdlora.records.record import Efficiency, TrainingFacts
from kdlora.records.store import Store
from kdlora.spec.run import EmbeddingsRun, EmbeddingsTeacherRun, seed_for
from kdlora.training.inference import costs_alone, mean_embeddings
from kdlora.training.precision import choose_compute, ready_for_inference
from kdlora.vocabulary.task import CLASSIFICATION, Task


class Embedder:
    """The encoder of a run, as it comes; it is loaded at the first call."""

    def __init__(self, run: EmbeddingsRun | EmbeddingsTeacherRun, task: Task) -> None:
        self.run, self.task = run, task
        self.compute = choose_compute(run.training.precision, max_length=run.training.max_length)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings [n, d] of n texts."""
        training = self.run.training
        encoded = encode(
            self.loaded.tokenizer,
            (list(texts),),
            max_length=training.max_length,
            windows=training.windows,
        )
        return mean_embeddings(self.loaded.model, encoded, self.compute)

    @cached_property
    def loaded(self) -> LoadedEncoder:
        loaded = load_encoder(self.run.encoder, self.task, seed=0, attention=self.compute.attention)
        ready_for_inference(loaded.model, self.compute)
        return loaded


class EmbeddingsLabeller:
    """The teacher of a run that is such a linear model; it is read at the first call."""

    at_hand = False

    def __init__(self, run: EmbeddingsTeacherRun, task: Task, folder: Path) -> None:
        self.embed = Embedder(run, task)
        self.folder = folder / MODEL

    def knows(self, rows: Examples) -> np.ndarray:
        return np.ones(len(rows), dtype=bool)

    def label(self, rows: Examples) -> np.ndarray:
        """Logits [n, c], or numbers [n, 1]."""
        outputs = self.linear.predict(rows.texts, self.embed)
        return outputs.reshape(len(rows), -1).astype(np.float32)

    @cached_property
    def linear(self) -> EmbeddingBaseline:
        require_whole_model(self.folder)
        return EmbeddingBaseline.load(self.folder)


def embeddings_teacher(run: EmbeddingsTeacherRun, store: Store, data: TaskData) -> RunOutcome:
    """Fit it on the train rows and score it; what one text takes is timed."""
    embed, folder = Embedder(run, data.task), store.folder(run.run_id)
    linear, train_s, _ = _fitted(embed, data, seed_for(run.seed, "baseline"))
    linear.save(folder / MODEL)
    passes = len(data.train.texts)
    costs = costs_alone(embed.loaded.model, embed.compute, folder=store.costs, passes=passes)
    outcome = _outcome(embed, linear, data, folder, train_s)
    outcome.efficiency = outcome.efficiency.model_copy(update=costs)
    return outcome


def embeddings(run: EmbeddingsRun, folder: Path, data: TaskData) -> RunOutcome:
    """What a student's encoder knows before any training."""
    embed, seed = Embedder(run, data.task), seed_for(run.seed, "baseline")
    linear, train_s, features = _fitted(embed, data, seed)
    linear.save(folder / MODEL)
    if data.task.kind is CLASSIFICATION:  # what labels are held against after the training
        folded = out_of_fold(data.task, features, data.train, strength=linear.strength, seed=seed)
        rows = SplitOutputs(data.train.ids, data.train.labels, folded)
        write_predictions(folder, {"train": rows}, file=OUT_OF_FOLD)
    return _outcome(embed, linear, data, folder, train_s)


def _fitted(
    embed: Embedder, data: TaskData, seed: int
) -> tuple[EmbeddingBaseline, float, np.ndarray]:
    """The model, the seconds it took, and the features [n, f] of the train rows."""
    started = time.perf_counter()
    features = features_of(data.task.kind, data.train.texts, embed)
    linear = train_embeddings(data.task, features, data.train.labels, seed=seed)
    return linear, time.perf_counter() - started, features


def _outcome(
    embed: Embedder, linear: EmbeddingBaseline, data: TaskData, folder: Path, train_s: float
) -> RunOutcome:
    model, parts = embed.loaded.model, {"selection": data.selection, **data.reports}
    efficiency: dict[str, Any] = {
        "trainable_params": linear.n_params,
        "total_params": count_parameters(model)[1],
        "size_mb": merged_size_mb(model),
        "saved_mb": folder_mb(folder / MODEL),
        "train_s": train_s,
        "train_examples_per_s": len(data.train) / max(train_s, 1e-9),
    }
    return RunOutcome(
        data,
        {name: linear.predict(part.texts, embed) for name, part in parts.items()},
        TrainingFacts(stopped="not trained", **compute_facts(embed.compute, model)),
        Efficiency(**efficiency),
    )
