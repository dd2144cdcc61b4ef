"""One run from top to bottom: read the texts, build the model, train, save, reload, measure.

The score in a record is that of the model as saved: it is loaded again from disk, merged, and
scored, so a checkpoint that does not restore faithfully cannot report a good number.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kdlora.data.batches import Encoded, encode
from kdlora.data.examples import TaskData
from kdlora.data.sources import load_task
from kdlora.distillation.losses import make_loss
from kdlora.distillation.soft_labels import SoftLabels
from kdlora.measure.agreement import agreement
from kdlora.measure.blocks import Agreement, Efficiency, TrainingFacts
from kdlora.measure.efficiency import PeakMemory, count_parameters, merged_size_mb
from kdlora.measure.energy import EnergyMeter
from kdlora.measure.flops import flops_per_length
from kdlora.measure.health import find_flags
from kdlora.measure.quality import count_predictions, floor_score, quality, score_split
from kdlora.models import adapters, baselines
from kdlora.models.encoders import LoadedEncoder, load_encoder
from kdlora.models.merging import adapter_norm
from kdlora.models.saved import save_trained
from kdlora.spec.run import Run
from kdlora.spec.seeds import seed_for
from kdlora.store.environment import describe_environment
from kdlora.store.predictions import read_predictions, write_predictions
from kdlora.store.record import Record
from kdlora.store.store import Store
from kdlora.store.teacher import teacher_labels
from kdlora.training.inference import inference_costs, load_finished, predict
from kdlora.training.loop import Hooks, Progress, Seeds, TrainingData, train
from kdlora.training.precision import Compute, choose_compute, place
from kdlora.training.schedule import Schedule, make_schedule

OnProgress = Callable[[dict[str, Any]], None]


@dataclass
class Outcome:
    """What any kind of run leaves: outputs [n, c] by held-out split, facts and costs."""

    outputs: dict[str, np.ndarray]
    facts: TrainingFacts
    efficiency: Efficiency
    soft: SoftLabels | None = None
    history: list[dict[str, Any]] = field(default_factory=list)


def run_one(run: Run, store: Store, *, on_progress: OnProgress = lambda event: None) -> Record:
    """Do one run and write its record; an interrupted one goes on from its checkpoint.

    Raises KdloraError for what the user can mend and KeyboardInterrupt after a checkpoint.
    """
    started = datetime.now(UTC)
    folder = store.begin(run)
    on_progress({"stage": "reading data"})
    data = load_task(run.task, run.data)
    if run.role == "baseline":
        outcome = _baseline(run, folder, data)
    elif run.adaptation == "given":
        outcome = _given_teacher(run, folder, data, on_progress)
    else:
        outcome = _trained(run, store, folder, data, on_progress)
    write_predictions(folder, data, outcome.outputs)
    record = _record(run, folder, data, outcome)
    record.environment = describe_environment(data.fingerprint)
    record.started_at = started.isoformat(timespec="seconds")
    record.finished_at = datetime.now(UTC).isoformat(timespec="seconds")
    store.finish(record)
    return record


def _trained(
    run: Run, store: Store, folder: Path, data: TaskData, on_progress: OnProgress
) -> Outcome:
    """The main path: a teacher or a student, fully fine-tuned or adapted, with or without KD."""
    assert run.encoder is not None
    assert run.training is not None
    assert run.lr is not None
    compute = choose_compute(run.training.precision, max_length=run.training.max_length)

    soft, labelling_s = None, None
    if run.distillation == "kd":
        on_progress({"stage": "labelling by the teacher"})
        soft, labelling_s = teacher_labels(run, store, data)

    on_progress({"stage": "building the model"})
    loaded = load_encoder(
        run.encoder,
        data.task,
        seed=seed_for(run.seed, "head"),
        attention=compute.attention,
        dropout=run.training.dropout,
    )
    texts = {
        name: encode(loaded.tokenizer, part.texts, max_length=run.training.max_length)
        for name, part in data.splits().items()
    }
    schedule = make_schedule(len(data.train), run.training, run.lr)
    model = adapters.adapt(
        loaded,
        run.adaptation,
        run.adapter,
        seed=seed_for(run.seed, "adapter"),
        total_steps=schedule.total_steps,
    )
    trainable, total = count_parameters(model)
    size_mb = merged_size_mb(model)
    place(model, compute)

    progress, costs = _train(run, folder, data, texts, model, soft, schedule, compute, on_progress)
    facts = _facts(run, loaded, model, schedule, compute, progress)

    on_progress({"stage": "saving and scoring"})
    save_trained(model, loaded.tokenizer, folder / "model", encoder=run.encoder)
    del model, loaded.model
    merged, _ = load_finished(run, folder, data.task, compute)
    outputs = {name: predict(merged, t, compute) for name, t in texts.items() if name != "train"}

    on_progress({"stage": "measuring"})
    efficiency = Efficiency(
        **costs,
        trainable_params=trainable,
        total_params=total,
        size_mb=size_mb,
        saved_mb=_folder_mb(folder / "model"),
        labelling_s=labelling_s,
        **inference_costs(run, data.task, merged, compute),
    )
    return Outcome(outputs, facts, efficiency, soft, progress.history)


def _train(
    run: Run,
    folder: Path,
    data: TaskData,
    texts: dict[str, Encoded],
    model: nn.Module,
    soft: SoftLabels | None,
    schedule: Schedule,
    compute: Compute,
    on_progress: OnProgress,
) -> tuple[Progress, dict[str, Any]]:
    """The training itself, and what it cost as fields of `Efficiency`."""
    assert run.training is not None
    task, selection = data.task, data.selection
    flops = flops_per_length(model, backward=True, device=compute.device)

    def evaluate(current: nn.Module) -> dict[str, float | None]:
        return score_split(task, predict(current, texts["selection"], compute), selection.labels)

    training = TrainingData(
        texts["train"],
        torch.from_numpy(data.train.labels),
        torch.from_numpy(soft.take(data.train.ids)) if soft is not None else None,
    )
    on_progress({"stage": "training", "total": schedule.total_steps})
    with ExitStack() as rulers:
        memory = rulers.enter_context(PeakMemory(compute.device))
        energy = rulers.enter_context(EnergyMeter(compute.device))
        progress = train(
            model,
            training,
            loss=make_loss(task, run.kd),
            evaluate=evaluate,
            primary=task.primary,
            direction=task.direction,
            settings=run.training,
            schedule=schedule,
            compute=compute,
            seeds=Seeds(seed_for(run.seed, "order"), seed_for(run.seed, "dropout")),
            folder=folder,
            hooks=Hooks(
                after_step=adapters.after_step,
                extra_loss=adapters.extra_loss,
                earliest_best=adapters.earliest_stop(model),
                state=adapters.allocator_state,
                restore=adapters.load_allocator_state,
            ),
            step_flops=flops.flops,
            on_progress=on_progress,
        )
    seconds = max(progress.train_s, 1e-9)
    return progress, {
        "train_s": progress.train_s,
        "eval_s": progress.eval_s,
        "train_examples_per_s": progress.examples / seconds,
        "train_tokens_per_s": progress.tokens / seconds,
        "train_flops": progress.flops,
        "peak_memory_mb": memory.peak_mb,
        "peak_memory_scope": memory.scope,
        "energy_j": energy.energy_j,
        "energy_method": energy.method,
        "gpu_utilisation_percent": energy.gpu_utilisation_percent,
        "gpu_power_w": energy.gpu_power_w,
    }


def _given_teacher(run: Run, folder: Path, data: TaskData, on_progress: OnProgress) -> Outcome:
    """Score a teacher that arrived fine-tuned; nothing is trained and nothing copied."""
    assert run.training is not None
    compute = choose_compute(run.training.precision, max_length=run.training.max_length)
    on_progress({"stage": "scoring the given teacher"})
    model, tokenizer = load_finished(run, folder, data.task, compute)
    outputs = {}
    for name, part in data.splits().items():
        if name != "train":
            texts = encode(tokenizer, part.texts, max_length=run.training.max_length)
            outputs[name] = predict(model, texts, compute)
    facts = TrainingFacts(stopped="not trained", **_compute_facts(compute, model))
    efficiency = Efficiency(
        trainable_params=0,
        total_params=count_parameters(model)[1],
        size_mb=merged_size_mb(model),
        train_s=0.0,
        **inference_costs(run, data.task, model, compute),
    )
    return Outcome(outputs, facts, efficiency)


def _baseline(run: Run, folder: Path, data: TaskData) -> Outcome:
    """Majority class (or mean) and TF-IDF with a linear model: what an encoder has to beat."""
    task, parts = data.task, {"selection": data.selection, **data.reports}
    facts = TrainingFacts(precision="fp64", device="cpu")
    if run.adaptation == "majority":
        outputs = {n: baselines.majority(task, data.train.labels, len(p)) for n, p in parts.items()}
        return Outcome(outputs, facts, Efficiency())
    started = datetime.now(UTC)
    model = baselines.train_tfidf(task, data.train, seed=seed_for(run.seed, "baseline"))
    train_s = (datetime.now(UTC) - started).total_seconds()
    model.save(folder / "model")
    p50, p95, throughput = model.time(data.reports["report"].texts)
    efficiency = Efficiency(
        trainable_params=model.n_params,
        total_params=model.n_params,
        size_mb=model.size_mb,
        saved_mb=_folder_mb(folder / "model"),
        train_s=train_s,
        train_examples_per_s=len(data.train) / max(train_s, 1e-9),
        latency_p50_ms=p50,
        latency_p95_ms=p95,
        throughput_per_s=throughput,
        protocol={"texts": "report split, tokenising included", "latency_batch": 1,
                  "throughput_batch": 32, "device": "cpu", "dtype": "float64"},
    )  # fmt: skip
    return Outcome({n: model.predict(part.texts) for n, part in parts.items()}, facts, efficiency)


def _record(run: Run, folder: Path, data: TaskData, outcome: Outcome) -> Record:
    """Put the blocks together; quality comes from the stored predictions, to be recomputable."""
    task, report = data.task, data.reports["report"]
    outputs, labels = read_predictions(folder).by_split()
    measured = quality(task, outputs, labels, n_train=len(data.train))
    shared: Agreement | None = None
    if outcome.soft is not None:
        assert run.teacher_run_id is not None
        teacher = outcome.soft.take(report.ids)
        shared = agreement(
            task, outputs["report"], teacher, report.labels, teacher_run_id=run.teacher_run_id
        )
    flags = find_flags(
        task=task,
        run=run,
        facts=outcome.facts,
        quality=measured,
        agreement=shared,
        history=outcome.history,
        floor=floor_score(task, data.train.labels, report.labels),
        prediction_counts=count_predictions(task, outputs["report"]),
    )
    return Record(
        run_id=run.run_id,
        run=run,
        facts=outcome.facts,
        quality=measured,
        agreement=shared,
        efficiency=outcome.efficiency,
        health=flags,
    )


def _facts(
    run: Run,
    loaded: LoadedEncoder,
    model: nn.Module,
    schedule: Schedule,
    compute: Compute,
    progress: Progress,
) -> TrainingFacts:
    return TrainingFacts(
        steps=progress.step,
        planned_steps=schedule.total_steps,
        epochs=progress.step / schedule.steps_per_epoch,
        best_step=progress.best_step,
        warmup_steps=schedule.warmup_steps,
        stopped=progress.stopped,
        micro_batch_size=progress.micro_batch_size,
        out_of_memory_retries=progress.out_of_memory_retries,
        nonfinite_steps=progress.nonfinite_steps,
        resumed=progress.resumed,
        new_modules=list(loaded.new_modules),
        modules_to_save=adapters.saved_modules(model),
        targets=adapters.adapted_layers(model),
        adapter_norm=adapter_norm(model),
        rank_pattern=adapters.rank_pattern(model),
        **_compute_facts(compute, model),
    )


def _compute_facts(compute: Compute, model: nn.Module) -> dict[str, Any]:
    """How the model was computed; attention is what the family really offered."""
    return {
        "precision": compute.name,
        "precision_reason": compute.reason,
        "attention": getattr(model.config, "_attn_implementation", compute.attention),
        "device": str(compute.device),
    }


def _folder_mb(folder: Path) -> float:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6
