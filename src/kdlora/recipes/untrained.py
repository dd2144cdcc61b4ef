"""Runs that train no encoder: a teacher that arrives as a model or a file, and the baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from kdlora.data.batches import encode, encode_once
from kdlora.data.examples import Examples, TaskData
from kdlora.distillation.soft_labels import SoftLabels
from kdlora.measure.calibration import calibrate_teacher, calibrated
from kdlora.measure.efficiency import count_parameters, merged_size_mb
from kdlora.models import baselines
from kdlora.models.embedding_baseline import features_of, out_of_fold, train_embeddings
from kdlora.models.encoders import load_encoder
from kdlora.recipes.teacher import calibrated_file, labels_at_hand
from kdlora.recipes.zero_shot import ZeroShotLabeller
from kdlora.records.predictions import OUT_OF_FOLD, SplitOutputs, write_predictions
from kdlora.records.record import Efficiency, TeacherFileFacts, TrainingFacts
from kdlora.records.store import Store
from kdlora.spec.run import (
    BaselineRun,
    EmbeddingsRun,
    FileTeacherRun,
    GivenTeacherRun,
    ZeroShotTeacherRun,
    seed_for,
)
from kdlora.training.inference import (
    inference_costs,
    load_finished,
    mean_embeddings,
    predict_held_out,
    windows_per_text,
)
from kdlora.training.precision import Compute, choose_compute, ready_for_inference
from kdlora.vocabulary.task import CLASSIFICATION

_MOST_TOLD = 20  # answers that are no class, in the record


@dataclass
class RunOutcome:
    """What any kind of run leaves: outputs [n, c] by held-out split, facts and costs.

    `scored` are the rows that the outputs belong to.
    """

    scored: TaskData
    outputs: dict[str, np.ndarray]
    facts: TrainingFacts
    efficiency: Efficiency
    soft: SoftLabels | None = None
    history: list[dict[str, Any]] = field(default_factory=list)


def given_teacher(run: GivenTeacherRun, store: Store, data: TaskData) -> RunOutcome:
    """Score a teacher that arrived fine-tuned; nothing is trained and nothing copied."""
    training = run.training
    compute = choose_compute(training.precision, max_length=training.max_length)
    model, tokenizer = load_finished(run, store.folder(run.run_id), data.task, compute)
    texts = {
        name: encode_once(
            tokenizer,
            part,
            max_length=training.max_length,
            windows=training.windows,
            folder=store.tokens,
        )
        for name, part in data.splits().items()
        if name != "train"
    }
    outputs = predict_held_out(model, texts, compute)
    facts = TrainingFacts(stopped="not trained", **compute_facts(compute, model))
    efficiency = Efficiency(
        trainable_params=0,
        total_params=count_parameters(model)[1],
        size_mb=merged_size_mb(model),
        train_s=0.0,
        windows_per_text=windows_per_text(texts["report"]),
        **inference_costs(run, data.task, model, compute, folder=store.costs),
    )
    return RunOutcome(data, outputs, facts, efficiency)


def outputs_teacher(run: FileTeacherRun, data: TaskData) -> RunOutcome:
    """Score a teacher that is a file, calibrated, on the held-out rows that the file answers."""
    teacher = calibrated_file(run, data)
    soft = labels_at_hand(teacher, data, run.run_id)

    def held(name: str) -> Examples:
        part = data.split(name)
        return part.take(soft.knows(part.ids))

    scored = replace(
        data, selection=held("selection"), reports={name: held(name) for name in data.reports}
    )
    outputs = {
        name: soft.take(part.ids) for name, part in scored.splits().items() if name != "train"
    }
    table = teacher.table
    told = TeacherFileFacts(
        read=table.read,
        left_out=table.left_out,
        no_class=dict(list(table.no_class.items())[:_MOST_TOLD]),
    )
    facts = TrainingFacts(stopped="not trained", teacher_file=told, calibration=teacher.calibration)
    return RunOutcome(scored, outputs, facts, Efficiency(trainable_params=0, train_s=0.0))


def zero_shot_teacher(run: ZeroShotTeacherRun, store: Store, data: TaskData) -> RunOutcome:
    """Score a teacher that answers by entailment, calibrated on the selection split's labels."""
    teacher = ZeroShotLabeller(run, data.task)
    raw = {name: teacher.label(part) for name, part in data.splits().items() if name != "train"}
    teacher.calibration = calibrate_teacher(
        data.task.kind, raw["selection"], data.selection.labels, answers_alone=False
    )
    outputs = {name: calibrated(logits, teacher.calibration) for name, logits in raw.items()}
    facts = TrainingFacts(
        stopped="not trained",
        calibration=teacher.calibration,
        precision=teacher.compute.name,
        precision_reason=teacher.compute.reason,
        device=str(teacher.compute.device),
    )
    efficiency = Efficiency(
        trainable_params=0,
        total_params=teacher.total_params,
        size_mb=teacher.size_mb,
        train_s=0.0,
        **teacher.costs(store.costs),
    )
    return RunOutcome(data, outputs, facts, efficiency)


def baseline(run: BaselineRun, folder: Path, data: TaskData) -> RunOutcome:
    """Majority class (or mean) and TF-IDF with a linear model: what an encoder has to beat."""
    task, parts = data.task, {"selection": data.selection, **data.reports}
    facts = TrainingFacts(precision="fp64", device="cpu")
    if run.adaptation == "majority":
        outputs = {n: baselines.majority(task, data.train.labels, len(p)) for n, p in parts.items()}
        return RunOutcome(data, outputs, facts, Efficiency())
    started = datetime.now(UTC)
    model = baselines.train_tfidf(task, data.train, seed=seed_for(run.seed, "baseline"))
    train_s = (datetime.now(UTC) - started).total_seconds()
    model.save(folder / "model")
    p50, p95, throughput = model.time(data.reports["report"].texts)
    efficiency = Efficiency(
        trainable_params=model.n_params,
        total_params=model.n_params,
        size_mb=model.size_mb,
        saved_mb=folder_mb(folder / "model"),
        train_s=train_s,
        train_examples_per_s=len(data.train) / max(train_s, 1e-9),
        latency_p50_ms=p50,
        latency_p95_ms=p95,
        throughput_per_s=throughput,
        protocol={"texts": "report split, tokenising included", "latency_batch": 1,
                  "throughput_batch": 32, "device": "cpu", "dtype": "float64"},
    )  # fmt: skip
    outputs = {name: model.predict(part.texts) for name, part in parts.items()}
    return RunOutcome(data, outputs, facts, efficiency)


def embeddings(run: EmbeddingsRun, folder: Path, data: TaskData) -> RunOutcome:
    """A linear model on the embeddings of a student's encoder as it comes."""
    task, training = data.task, run.training
    compute = choose_compute(training.precision, max_length=training.max_length)
    loaded = load_encoder(run.encoder, task, seed=0, attention=compute.attention)
    model = ready_for_inference(loaded.model, compute)

    def embed(texts: Sequence[str]) -> np.ndarray:
        encoded = encode(
            loaded.tokenizer,
            (list(texts),),
            max_length=training.max_length,
            windows=training.windows,
        )
        return mean_embeddings(model, encoded, compute)

    started = datetime.now(UTC)
    features = features_of(task.kind, data.train.texts, embed)
    seed = seed_for(run.seed, "baseline")
    linear = train_embeddings(task, features, data.train.labels, seed=seed)
    train_s = (datetime.now(UTC) - started).total_seconds()
    linear.save(folder / "model")
    if task.kind is CLASSIFICATION:  # what labels are held against after the training
        folded = out_of_fold(task, features, data.train, strength=linear.strength, seed=seed)
        rows = SplitOutputs(data.train.ids, data.train.labels, folded)
        write_predictions(folder, {"train": rows}, file=OUT_OF_FOLD)
    parts = {"selection": data.selection, **data.reports}
    outputs = {name: linear.predict(part.texts, embed) for name, part in parts.items()}
    facts = TrainingFacts(stopped="not trained", **compute_facts(compute, model))
    efficiency = Efficiency(
        trainable_params=linear.n_params,
        total_params=count_parameters(model)[1],
        size_mb=merged_size_mb(model),
        saved_mb=folder_mb(folder / "model"),
        train_s=train_s,
        train_examples_per_s=len(data.train) / max(train_s, 1e-9),
    )
    return RunOutcome(data, outputs, facts, efficiency)


def compute_facts(compute: Compute, model: nn.Module) -> dict[str, Any]:
    """How the model was computed; attention is what the family really offered."""
    return {
        "precision": compute.name,
        "precision_reason": compute.reason,
        "attention": getattr(model.config, "_attn_implementation", compute.attention),
        "device": str(compute.device),
    }


def folder_mb(folder: Path) -> float:
    """Size of all files below a folder; MB = 10^6 bytes."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6
