"""One run from top to bottom: read the texts, build the model, train, save, reload, measure.

The score in a record is that of the model as saved: it is loaded again from disk, merged, and
scored, so a checkpoint that does not restore faithfully cannot report a good number.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdlora.data.batches import Encoded, encode_once
from kdlora.data.examples import TaskData
from kdlora.data.tasks import load_task
from kdlora.distillation.hidden_states import drop_cache
from kdlora.distillation.losses import make_loss
from kdlora.measure.agreement import agreement
from kdlora.measure.efficiency import PeakMemory, count_parameters, merged_size_mb
from kdlora.measure.energy import EnergyMeter
from kdlora.measure.flops import flops_per_length
from kdlora.measure.health import find_flags
from kdlora.measure.quality import count_predictions, floor_score, quality, score_split
from kdlora.models import adapters
from kdlora.models.counting import resolve_budget
from kdlora.models.encoders import LoadedEncoder, load_encoder
from kdlora.models.merging import adapter_norm
from kdlora.models.saved import save_trained
from kdlora.recipes.hidden_states import Inside, match_inside
from kdlora.recipes.teacher import Lessons, prepare_lessons, start_from_teacher
from kdlora.recipes.untrained import (
    Outcome,
    baseline,
    compute_facts,
    folder_mb,
    given_teacher,
    outputs_teacher,
)
from kdlora.records.environment import describe_environment
from kdlora.records.halving import rung_of, write_rung
from kdlora.records.predictions import SplitOutputs, read_predictions, write_predictions
from kdlora.records.record import Agreement, Efficiency, Record, TaskFacts, TrainingFacts
from kdlora.records.store import Store
from kdlora.spec.run import (
    BaselineRun,
    DistilledRun,
    FileTeacherRun,
    GivenTeacherRun,
    Run,
    TrainedRun,
    seed_for,
)
from kdlora.training.checkpoint import Paused, Progress
from kdlora.training.forward import make_forward
from kdlora.training.inference import inference_costs, load_finished, predict, predict_held_out
from kdlora.training.loop import Hooks, Seeds, TrainingData, train
from kdlora.training.precision import Compute, choose_compute, place
from kdlora.training.schedule import Schedule, make_schedule

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
    if isinstance(run, BaselineRun):
        outcome = baseline(run, folder, data)
    elif isinstance(run, FileTeacherRun):
        outcome = outputs_teacher(run, data)
    elif isinstance(run, GivenTeacherRun):
        on_progress({"stage": "scoring the given teacher"})
        outcome = given_teacher(run, store, data)
    else:
        try:
            outcome = _trained(run, store, folder, data, on_progress, pause_epoch)
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


def _trained(
    run: TrainedRun,
    store: Store,
    folder: Path,
    data: TaskData,
    on_progress: OnProgress,
    pause_epoch: int | None,
) -> Outcome:
    """The main path: a teacher or a student, fully fine-tuned or adapted, with or without KD."""
    compute = choose_compute(run.training.precision, max_length=run.training.max_length)

    lessons, rows = None, data.train
    if isinstance(run, DistilledRun):
        on_progress({"stage": "labelling by the teacher"})
        lessons = prepare_lessons(run, store, data)
        rows = lessons.train

    on_progress({"stage": "building the model"})
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
            folder=store.tokens,
        )
        for name, part in {**data.splits(), "train": rows}.items()
    }
    schedule = make_schedule(len(rows), run.training, run.lr)
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
    place(model, compute)

    inside = None
    if isinstance(run, DistilledRun) and lessons is not None:
        inside = match_inside(
            run,
            store,
            task=data.task,
            student=model,
            rows=rows,
            texts=texts["train"],
            compute=compute,
            folder=folder,
            facts=lessons.facts,
        )
    progress, costs = _train(
        run, store, data, texts, model, lessons, inside, schedule, compute, on_progress,
        pause_epoch,
    )  # fmt: skip
    facts = _facts(loaded, model, schedule, compute, progress)
    taught = inside or lessons
    facts = facts.model_copy(update={**adapter_size, "teaching": taught and taught.facts})

    on_progress({"stage": "saving and scoring"})
    save_trained(model, loaded.tokenizer, folder / "model", encoder=encoder, base=start)
    if start is not None:
        shutil.rmtree(start)
    del model, loaded.model
    merged, _ = load_finished(run, folder, data.task, compute)
    outputs = predict_held_out(merged, texts, compute)

    on_progress({"stage": "measuring"})
    efficiency = Efficiency(
        **costs,
        trainable_params=trainable,
        total_params=total,
        size_mb=size_mb,
        saved_mb=folder_mb(folder / "model"),
        labelling_s=lessons.labelling_s + (inside.once_s if inside else 0.0) if lessons else None,
        **inference_costs(run, data.task, merged, compute, folder=store.costs),
    )
    soft = lessons.soft if lessons else None
    return Outcome(data, outputs, facts, efficiency, soft, progress.history)


def _train(
    run: TrainedRun,
    store: Store,
    data: TaskData,
    texts: dict[str, Encoded],
    model: nn.Module,
    lessons: Lessons | None,
    inside: Inside | None,
    schedule: Schedule,
    compute: Compute,
    on_progress: OnProgress,
    pause_epoch: int | None,
) -> tuple[Progress, dict[str, Any]]:
    """The training itself, and what it cost as fields of `Efficiency`."""
    task, selection, folder = data.task, data.selection, store.folder(run.run_id)
    flops = flops_per_length(model, backward=True, device=compute.device, folder=store.costs)
    forward = make_forward(model, compute)

    def evaluate(current: nn.Module) -> dict[str, float | None]:
        return score_split(
            task, predict(current, texts["selection"], compute, forward=forward), selection.labels
        )

    def step_flops(batch: int, length: int) -> float:
        return flops.flops(batch, length) + (inside.step_flops(batch, length) if inside else 0.0)

    rows = lessons.train if lessons else data.train
    training = TrainingData(
        texts["train"],
        torch.from_numpy(rows.labels),
        torch.from_numpy(lessons.soft.take(rows.ids)) if lessons else None,
        inside.matching if inside else None,
    )
    on_progress({"stage": "training", "total": schedule.total_steps})
    with ExitStack() as rulers:
        memory = rulers.enter_context(PeakMemory(compute.device))
        energy = rulers.enter_context(EnergyMeter(compute.device))
        progress = train(
            model,
            training,
            loss=make_loss(task, run.kd if isinstance(run, DistilledRun) else None),
            evaluate=evaluate,
            primary=task.primary,
            direction=task.direction,
            settings=run.training,
            schedule=schedule,
            compute=compute,
            seeds=Seeds(seed_for(run.seed, "order"), seed_for(run.seed, "dropout")),
            folder=folder,
            forward=forward,
            hooks=Hooks(
                after_step=adapters.after_step,
                extra_loss=adapters.extra_loss,
                earliest_best=adapters.earliest_stop(model),
                state=adapters.allocator_state,
                restore=adapters.load_allocator_state,
            ),
            step_flops=step_flops,
            on_progress=on_progress,
            pause_after=pause_epoch and pause_epoch * schedule.steps_per_epoch,
        )
    drop_cache(folder)
    seconds = max(progress.train_s, 1e-9)
    return progress, {
        "train_s": progress.train_s,
        "eval_s": progress.eval_s,
        "train_examples_per_s": progress.examples / seconds,
        "train_tokens_per_s": progress.tokens / seconds,
        "train_flops": progress.flops + (inside.once_flops if inside else 0.0),
        "peak_memory_mb": memory.peak_mb,
        "peak_memory_scope": memory.scope,
        # Of a run that paused or was interrupted, only the last part was measured.
        "energy_j": None if progress.resumed else energy.energy_j,
        "energy_method": None if progress.resumed else energy.method,
        "gpu_utilisation_percent": energy.gpu_utilisation_percent,
        "gpu_power_w": energy.gpu_power_w,
    }


def _record(run: Run, folder: Path, outcome: Outcome) -> Record:
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
        task=TaskFacts.of(task),
        facts=outcome.facts,
        quality=measured,
        agreement=shared,
        efficiency=outcome.efficiency,
        health=flags,
    )


def _facts(
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
        **compute_facts(compute, model),
    )
