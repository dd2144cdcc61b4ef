"""Runs that train no encoder: a teacher that arrives as a model or a file, and two baselines."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from kdlora.data.batches import encode_once
from kdlora.data.examples import Examples, TaskData
from kdlora.measure.calibration import calibrate_teacher, calibrated
from kdlora.measure.efficiency import count_parameters, merged_size_mb
from kdlora.models import baselines
from kdlora.recipes.outcome import RunOutcome, compute_facts, folder_mb
from kdlora.recipes.teacher import calibrated_file, labels_at_hand
from kdlora.recipes.zero_shot import ZeroShotLabeller
from kdlora.records.record import Efficiency, TeacherFileFacts, TrainingFacts
from kdlora.records.store import Store
from kdlora.spec.run import (
    BaselineRun,
    FileTeacherRun,
    GivenTeacherRun,
    ZeroShotTeacherRun,
    seed_for,
)
from kdlora.training.inference import (
    inference_costs,
    load_finished,
    predict_held_out,
    windows_per_text,
)
from kdlora.training.precision import choose_compute

_MOST_TOLD = 20  # answers that are no class, in the record


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
        partly=table.partly,
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
