"""One run from top to bottom: read the texts, build the model, train, save, reload, measure.

The score in a record is that of the model as saved: it is loaded again from disk, merged, and
scored, so a checkpoint that does not restore faithfully cannot report a good number.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdlora.data.batches import Encoded, encode_once
from kdlora.data.class_weights import class_weights, weighting_problems
from kdlora.data.examples import TaskData
from kdlora.data.tasks import load_task
from kdlora.data.unlabelled import load_unlabelled
from kdlora.distillation.hidden_states import drop_cache
from kdlora.distillation.losses import Weighting, make_loss
from kdlora.errors import InputError
from kdlora.measure.agreement import agreement
from kdlora.measure.efficiency import PeakMemory, count_parameters, merged_size_mb
from kdlora.measure.energy import EnergyMeter
from kdlora.measure.flops import flops_per_length
from kdlora.measure.health import find_flags
from kdlora.measure.quality import count_predictions, floor_score, quality, score_split
from kdlora.models import adapters
from kdlora.models.counting import resolve_budget
from kdlora.models.encoders import LoadedEncoder, load_encoder, resolve_encoder
from kdlora.models.merging import adapter_norm
from kdlora.models.saved import save_trained
from kdlora.models.target_scale import TargetScale, restore_unit, standardise_head
from kdlora.recipes.embeddings import embeddings, embeddings_teacher
from kdlora.recipes.frozen import frozen
from kdlora.recipes.hidden_states import HiddenStateTargets, match_hidden_states
from kdlora.recipes.outcome import RunOutcome, compute_facts, folder_mb
from kdlora.recipes.teacher import TeacherSignals, prepare_signals, start_from_teacher
from kdlora.recipes.untrained import (
    baseline,
    given_teacher,
    outputs_teacher,
    zero_shot_teacher,
)
from kdlora.records.environment import describe_environment
from kdlora.records.halving import rung_of, write_rung
from kdlora.records.predictions import SplitOutputs, read_predictions, write_predictions
from kdlora.records.record import (
    Agreement,
    Efficiency,
    Record,
    TaskFacts,
    Teaching,
    TrainingFacts,
    licences_of,
)
from kdlora.records.store import Store
from kdlora.spec.run import (
    BaselineRun,
    DistilledRun,
    EmbeddingsRun,
    EmbeddingsTeacherRun,
    FileTeacherRun,
    GivenTeacherRun,
    Run,
    TrainedRun,
    ZeroShotTeacherRun,
    seed_for,
)
from kdlora.training.checkpoint import Paused, Progress
from kdlora.training.forward import make_forward
from kdlora.training.inference import (
    inference_costs,
    load_finished,
    predict,
    predict_held_out,
    windows_per_text,
)
from kdlora.training.loop import Hooks, NewRates, Seeds, TrainingData, TrainingSetup, train
from kdlora.training.precision import Compute, choose_compute, ready_for_training
from kdlora.training.schedule import LearningRateSchedule, make_schedule

OnProgress = Callable[[dict[str, Any]], None]


def run_one(
    run: Run,
    store: Store,
    *,
    on_progress: OnProgress = lambda event: None,
    pause_epoch: int | None = None,
) -> Record:
    """Do one run and write its record; an interrupted one goes on from its checkpoint.

    Raises KdloraError for what the user can mend, KeyboardInterrupt after a checkpoint, and Paused
    when epoch `pause_epoch`, which is not the last, is trained and its rung is written.
    """
    started = datetime.now(UTC)
    folder = store.begin(run)
    on_progress({"stage": "reading data"})
    data = load_task(run.task, run.data)
    if isinstance(run, EmbeddingsRun):
        outcome = embeddings(run, folder, data)
    elif isinstance(run, BaselineRun):
        outcome = baseline(run, folder, data)
    elif isinstance(run, FileTeacherRun):
        outcome = outputs_teacher(run, data)
    elif isinstance(run, ZeroShotTeacherRun):
        on_progress({"stage": "asking the zero-shot teacher"})
        outcome = zero_shot_teacher(run, store, data)
    elif isinstance(run, EmbeddingsTeacherRun):
        outcome = embeddings_teacher(run, store, data)
    elif isinstance(run, GivenTeacherRun):
        on_progress({"stage": "scoring the given teacher"})
        outcome = given_teacher(run, store, data)
    elif run.adaptation == "frozen":
        outcome = frozen(run, store, data, on_progress)
    else:
        try:
            outcome = _trained(_Job(run, store, data, on_progress, pause_epoch))
        except Paused as paused:
            assert pause_epoch is not None
            history, task = paused.progress.history, data.task
            rung = rung_of(history, pause_epoch, task.primary, task.direction)
            write_rung(store, run.run_id, rung)
            raise
    on_progress({"stage": "recording"})
    scored = outcome.scored
    write_predictions(
        folder,
        {
            split: SplitOutputs(scored.split(split).ids, scored.split(split).labels, outputs)
            for split, outputs in outcome.outputs.items()
        },
    )
    record = _record(run, folder, outcome)
    record.environment = describe_environment(data.fingerprint)
    record.started_at = started.isoformat(timespec="seconds")
    record.finished_at = datetime.now(UTC).isoformat(timespec="seconds")
    store.finish(record)
    return record


@dataclass(frozen=True)
class _Job:
    """A training at work: what it is, where it lies, what it reads and who is told."""

    run: TrainedRun
    store: Store
    data: TaskData
    on_progress: OnProgress
    pause_epoch: int | None

    @property
    def folder(self) -> Path:
        return self.store.folder(self.run.run_id)


@dataclass(frozen=True)
class _Built:
    """A model ready to be trained, with its texts by split and what it is to learn from."""

    loaded: LoadedEncoder
    model: nn.Module
    texts: dict[str, Encoded]
    schedule: LearningRateSchedule
    compute: Compute
    signals: TeacherSignals | None
    hidden: HiddenStateTargets | None
    target: TargetScale | None  # of a regression
    weights: dict[str, float]  # of the classes; {} where all count alike


def _trained(job: _Job) -> RunOutcome:
    """The main path: a teacher or a student, fully fine-tuned or adapted, with or without KD."""
    run, store, data, folder = job.run, job.store, job.data, job.folder
    compute = choose_compute(run.training.precision, max_length=run.training.max_length)

    signals, rows = None, data.train
    if isinstance(run, DistilledRun):
        job.on_progress({"stage": "labelling by the teacher"})
        signals = prepare_signals(run, store, data)
        rows = signals.train

    job.on_progress({"stage": "building the model"})
    encoder, start = run.encoder, None
    if isinstance(run, DistilledRun) and run.kd.start == "teacher":
        start = folder / "start"
        encoder = start_from_teacher(run, store, data.task, start)
    loaded = load_encoder(
        encoder,
        data.task,
        seed=seed_for(run.seed, "head"),
        attention=compute.attention,
        dropout=run.training.dropout,
    )
    texts = {
        name: encode_once(
            loaded.tokenizer,
            part,
            max_length=run.training.max_length,
            windows=run.training.windows,
            folder=store.tokens,
        )
        for name, part in {**data.splits(), "train": rows}.items()
    }
    target = None
    if data.task.kind.numeric:
        taught = signals.soft.take(rows.ids) if signals else None
        target = standardise_head(loaded, rows.labels, taught)
    counted = load_unlabelled(run.counted, data, split_seed=run.data.split_seed)
    schedule = make_schedule(
        len(rows), run.training, run.lr, counted=len(counted.rows) if counted else 0
    )
    adapter = run.adapter and resolve_budget(
        loaded.model.config,
        run.adaptation,
        run.adapter,
        data.task,
        new_modules=loaded.new_modules,
    )
    model = adapters.adapt(
        loaded,
        run.adaptation,
        adapter,
        seed=seed_for(run.seed, "adapter"),
        total_steps=schedule.total_steps,
    )
    trainable, total = count_parameters(model)
    adapter_size = {
        "adapter_rank": adapter.rank if adapter else None,
        "adapter_params": adapters.adapter_parameters(model),
    }
    size_mb = merged_size_mb(model)
    ready_for_training(model, compute)
    hidden = None
    if isinstance(run, DistilledRun):
        hidden = match_hidden_states(
            run,
            store,
            data.task,
            student=model,
            rows=rows,
            texts=texts["train"],
            device=compute.device,
        )
    if problems := list(weighting_problems(run.training, data.task)):
        raise InputError(problems)
    weights = class_weights(run.training.class_weights, data.train.labels, data.task)
    built = _Built(loaded, model, texts, schedule, compute, signals, hidden, target, weights)
    progress, costs = _train(job, built)
    if target is not None:
        restore_unit(model, target)
    facts = _facts(built, progress).model_copy(
        update={**adapter_size, "teaching": _teaching(signals, hidden), "vocabulary": loaded.cut}
    )

    job.on_progress({"stage": "saving and scoring"})
    # an adapter must outlive the cache in which its cut encoder lies
    base = start or (Path(resolve_encoder(encoder)) if encoder.vocabulary is not None else None)
    save_trained(model, loaded.tokenizer, folder / "model", encoder=encoder, base=base)
    if start is not None:
        shutil.rmtree(start)
    del model, built, loaded.model
    merged, _ = load_finished(run, folder, data.task, compute)
    outputs = predict_held_out(merged, texts, compute)

    job.on_progress({"stage": "measuring"})
    once_s = hidden.labelling_s if hidden else 0.0
    efficiency = Efficiency(
        **costs,
        trainable_params=trainable,
        total_params=total,
        size_mb=size_mb,
        saved_mb=folder_mb(folder / "model"),
        windows_per_text=windows_per_text(texts["report"]),
        labelling_s=signals.labelling_s + once_s if signals else None,
        **inference_costs(run, data.task, merged, compute, folder=store.costs),
    )
    soft = signals.soft if signals else None
    return RunOutcome(data, outputs, facts, efficiency, soft, progress.history)


def _train(job: _Job, built: _Built) -> tuple[Progress, dict[str, Any]]:
    """The training itself, and what it cost as fields of `Efficiency`."""
    run, data, folder, hidden = job.run, job.data, job.folder, built.hidden
    model, compute, schedule, texts = built.model, built.compute, built.schedule, built.texts
    task, selection, target = data.task, data.selection, built.target
    flops = flops_per_length(model, backward=True, device=compute.device, folder=job.store.costs)
    forward = make_forward(model, compute)

    def evaluate(current: nn.Module) -> dict[str, float | None]:
        outputs = predict(current, texts["selection"], compute, forward=forward)
        outputs = target.restored(outputs) if target else outputs
        return score_split(task, outputs, selection.labels)

    def step_flops(batch: int, length: int) -> float:
        return flops.flops(batch, length) + (hidden.step_flops(batch, length) if hidden else 0.0)

    rows = built.signals.train if built.signals else data.train
    labels = torch.from_numpy(rows.labels)
    taught = torch.from_numpy(built.signals.soft.take(rows.ids)) if built.signals else None
    if target is not None:
        labels = target.standardised(labels)
        taught = target.standardised(taught) if taught is not None else None
    matching = hidden.matching if hidden else None
    training = TrainingData(texts["train"], labels, taught, matching)
    weights = None
    if built.weights:
        weights = torch.tensor([*built.weights.values()], device=compute.device)
    by = Weighting(weights, run.training.focal)
    new = None
    if run.head_lr is not None:
        names = adapters.new_parameters(model, built.loaded.new_modules)
        new = NewRates(names, run.head_lr / run.lr)
    setup = TrainingSetup(
        loss=make_loss(task, run.kd if isinstance(run, DistilledRun) else None, by),
        evaluate=evaluate,
        primary=task.primary,
        direction=task.direction,
        settings=run.training,
        schedule=schedule,
        compute=compute,
        seeds=Seeds(seed_for(run.seed, "order"), seed_for(run.seed, "dropout")),
        hooks=adapter_hooks(model),
        forward=forward,
        step_flops=step_flops,
        new=new,
        unit=target.unit if target else "",
    )
    job.on_progress({"stage": "training", "total": schedule.total_steps})
    with PeakMemory(compute.device) as memory, EnergyMeter(compute.device) as energy:
        progress = train(
            model,
            training,
            setup,
            folder=folder,
            on_progress=job.on_progress,
            pause_after=job.pause_epoch and job.pause_epoch * schedule.steps_per_epoch,
        )
    drop_cache(folder)
    seconds = max(progress.train_s, 1e-9)
    return progress, {
        "train_s": progress.train_s,
        "eval_s": progress.eval_s,
        "train_examples_per_s": progress.examples / seconds,
        "train_tokens_per_s": progress.tokens / seconds,
        "train_flops": progress.flops + (hidden.labelling_flops if hidden else 0.0),
        "peak_memory_mb": memory.peak_mb,
        "peak_memory_scope": memory.scope,
        # Of a run that paused or was interrupted, only the last part was measured.
        "energy_j": None if progress.resumed else energy.energy_j,
        "energy_method": None if progress.resumed else energy.method,
        "gpu_utilisation_percent": energy.gpu_utilisation_percent,
        "gpu_power_w": energy.gpu_power_w,
    }


def adapter_hooks(model: nn.Module) -> Hooks:
    """What a model's adapters ask of its training: AdaLoRA's ranks and both its terms."""
    return Hooks(
        after_step=adapters.after_step if adapters.allocates_ranks(model) else None,
        extra_loss=adapters.extra_loss,
        earliest_best=adapters.earliest_stop(model),
        state=adapters.allocator_state,
        restore=adapters.load_allocator_state,
    )


def _teaching(signals: TeacherSignals | None, hidden: HiddenStateTargets | None) -> Teaching | None:
    """How the run was taught, as its record says it."""
    if signals is None:
        return None
    return signals.facts.model_copy(update=hidden.facts if hidden else {})


def _record(run: Run, folder: Path, outcome: RunOutcome) -> Record:
    """Put the blocks together; quality comes from the stored predictions, to be recomputable."""
    data = outcome.scored
    task, report = data.task, data.reports["report"]
    outputs, labels = read_predictions(folder).by_split()
    for name, part in outcome.outputs.items():  # a split without a row leaves no prediction
        outputs.setdefault(name, part)
        labels.setdefault(name, data.split(name).labels)
    measured = quality(task, outputs, labels, n_train=len(data.train))
    shared: Agreement | None = None
    known = outcome.soft.knows(report.ids) if outcome.soft is not None else None
    if isinstance(run, DistilledRun) and outcome.soft and known is not None and known.any():
        shared = agreement(
            task,
            outputs["report"][known],
            outcome.soft.take(report.ids[known]),
            report.labels[known],
            teacher_run_id=run.teacher_run_id,
        )
    with_labels = data.train if len(data.train) else data.selection
    flags = find_flags(
        task=task,
        run=run,
        facts=outcome.facts,
        quality=measured,
        agreement=shared,
        history=outcome.history,
        floor=floor_score(task, with_labels.labels, report.labels),
        prediction_counts=count_predictions(task, outputs["report"]),
    )
    return Record(
        run_id=run.run_id,
        run=run,
        task=TaskFacts.of(task),
        facts=outcome.facts,
        quality=measured,
        agreement=shared,
        efficiency=outcome.efficiency,
        health=flags,
        licences=licences_of(run),
    )


def _facts(built: _Built, progress: Progress) -> TrainingFacts:
    schedule, model = built.schedule, built.model
    return TrainingFacts(
        steps=progress.step,
        planned_steps=schedule.total_steps,
        planned_epochs=schedule.epochs,
        epochs=progress.step / schedule.steps_per_epoch,
        best_step=progress.best_step,
        warmup_steps=schedule.warmup_steps,
        stopped=progress.stopped,
        micro_batch_size=progress.micro_batch_size,
        out_of_memory_retries=progress.out_of_memory_retries,
        nonfinite_steps=progress.nonfinite_steps,
        resumed=progress.resumed,
        new_modules=list(built.loaded.new_modules),
        modules_to_save=adapters.saved_modules(model),
        targets=adapters.adapted_layers(model),
        adapter_norm=adapter_norm(model),
        rank_pattern=adapters.rank_pattern(model),
        class_weights=built.weights or None,
        target_mean=built.target.mean if built.target else None,
        target_scale=built.target.scale if built.target else None,
        **compute_facts(built.compute, model),
    )
