"""The only training loop of kdlora.

It knows nothing of teachers, adapters or tasks: it is given a model, encoded texts, a loss and a
way to score the selection split, and returns what happened. Resuming from its checkpoint gives the
same weights as not having been interrupted, on as many threads as before: with another number sums
are rounded differently, and each thread draws dropout masks of its own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kdlora.data.batches import Encoded, collate, micro_batches, on_device, train_batches
from kdlora.distillation.losses import Loss
from kdlora.distillation.matching import Matching
from kdlora.measure.quality import better
from kdlora.models.inner_states import StateForward
from kdlora.spec.sections import Training
from kdlora.training.checkpoint import (
    Paused,
    Progress,
    load_checkpoint,
    restore,
    save_checkpoint,
    write_history,
)
from kdlora.training.forward import Forward, make_forward, make_state_forward
from kdlora.training.interrupts import polite_interrupt
from kdlora.training.precision import Compute
from kdlora.training.row_updates import RowAdamW, gradients_by_row
from kdlora.training.schedule import LearningRateSchedule, evaluation_steps
from kdlora.training.step_counts import StepCounts

CHECKPOINT_S = 60.0  # an epoch's end, or that of the training, is kept if so much would be lost


@dataclass(frozen=True)
class Hooks:
    """What an adapter adds to the loop; the defaults add nothing.

    `after_step` is called after steps that were taken: where there is one, every step waits for the
    device to say whether it was.
    """

    after_step: Callable[[nn.Module, int], None] | None = None
    extra_loss: Callable[[nn.Module], torch.Tensor | None] = lambda model: None
    earliest_best: int = 0  # evaluations before this step are no candidates (AdaLoRA's budgeting)
    state: Callable[[nn.Module], dict[str, Any] | None] = lambda model: None
    restore: Callable[[nn.Module, dict[str, Any] | None], None] = lambda model, state: None


@dataclass(frozen=True)
class Seeds:
    order: int
    dropout: int


@dataclass(frozen=True)
class NewRates:
    """Parameters that begin at random, by name, and by which factor their rate is the others'."""

    names: frozenset[str]
    factor: float


@dataclass(frozen=True)
class TrainingData:
    """Encoded training texts with labels [n] and, for distillation, teacher logits [n, c].

    `matching` holds the terms that compare inner states, and what is trained for them alone.
    """

    texts: Encoded
    labels: torch.Tensor
    teacher: torch.Tensor | None = None
    matching: Matching | None = None


Evaluate = Callable[[nn.Module], dict[str, float | None]]


@dataclass(frozen=True)
class TrainingSetup:
    """How a model is trained, and what for.

    Attributes:
        loss: ``(logits [b, c], labels [b], teacher [b, c] | None) -> scalar``, mean over examples.
        evaluate: metrics of the selection split; `primary` times `direction` decides.
        forward: from the inputs of a batch to logits; by default `make_forward` of the model.
        step_flops: FLOPs of one training step for (examples, padded length).
        new: parameters that learn at another rate; None: all learn alike.
        unit: of a regression's labels in training. A checkpoint of other ones is not continued.
    """

    loss: Loss
    evaluate: Evaluate
    primary: str
    direction: int
    settings: Training
    schedule: LearningRateSchedule
    compute: Compute
    seeds: Seeds
    hooks: Hooks = field(default_factory=Hooks)
    forward: Forward | None = None
    step_flops: Callable[[int, int], float] = lambda batch, length: 0.0
    unit: str = ""
    new: NewRates | None = None


@dataclass(frozen=True)
class _Training:
    """What every step of one training needs and none changes (but the weights themselves)."""

    model: nn.Module
    forward: Forward
    states: StateForward | None  # where inner states are matched
    trained: dict[str, nn.Parameter]
    optimizer: RowAdamW
    data: TrainingData
    setup: TrainingSetup
    counts: StepCounts


def train(
    model: nn.Module,
    data: TrainingData,
    setup: TrainingSetup,
    *,
    folder: Path,
    on_progress: Callable[[dict[str, Any]], None] = lambda event: None,
    checkpoint_minutes: float = 10.0,
    pause_after: int | None = None,
) -> Progress:
    """Train in place and leave the model at its best evaluation on the selection split.

    Args:
        model: placed by `precision.ready_for_training`; what requires a gradient is trained.
        folder: `history.jsonl` and, while the run is unfinished, `checkpoint.pt` are kept here: at
            the end of an epoch and of the training that is `CHECKPOINT_S` behind the last one, and
            every `checkpoint_minutes`.
        pause_after: a step before the last one, after which a checkpoint is written and left.

    Raises KeyboardInterrupt after having written a checkpoint, and Paused likewise.
    """
    hooks, settings, schedule, compute = setup.hooks, setup.settings, setup.schedule, setup.compute
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if data.matching is not None:  # projectors learn beside the student and are saved nowhere
        trained |= {f"matching.{n}": p for n, p in data.matching.named_parameters()}
    forward, states = setup.forward or make_forward(model, compute), None
    if data.matching is not None:
        states = make_state_forward(model, compute, data.matching.plan.student)
    optimizer = make_optimizer(trained, settings, setup.new)
    progress = Progress(
        micro_batch_size=settings.micro_batch_size or settings.batch_size, unit=setup.unit
    )
    best: dict[str, torch.Tensor] = {}
    evaluate_after = evaluation_steps(schedule, settings.evals_per_epoch)
    saved_at = time.monotonic()

    devices = [compute.device] if compute.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), gradients_by_row(model, compute.device):
        torch.manual_seed(setup.seeds.dropout)
        state = load_checkpoint(folder, compute, unit=setup.unit)
        if state is not None:
            progress, best = restore(state, trained, optimizer)
            hooks.restore(model, state["extra"])
            write_history(folder, progress)
        counts = StepCounts(progress, compute.device)
        training = _Training(model, forward, states, trained, optimizer, data, setup, counts)
        model.train()

        def save() -> None:
            nonlocal saved_at
            counts.read(progress)
            save_checkpoint(folder, progress, trained, best, optimizer, hooks.state(model))
            saved_at = time.monotonic()

        if pause_after is not None and progress.step >= pause_after:
            raise Paused(progress)
        left = schedule.total_steps - progress.step  # the last epoch need not be whole
        batches = islice(_batches_from(progress.step, data.texts, setup), left)
        with polite_interrupt() as interrupted:
            for batch in batches if progress.stopped == "completed" else ():
                _step(training, batch, progress)
                if counts.at_hand or progress.step in evaluate_after:
                    counts.read(progress)
                events: list[dict[str, Any]] = [
                    {"step": progress.step, "total": schedule.total_steps}
                ]
                if progress.step in evaluate_after:
                    _evaluate(training, progress, best)
                    write_history(folder, progress)
                    events.append({"evaluation": progress.history[-1]})
                if counts.given_up(progress):
                    progress.stopped = "nonfinite"
                elif _out_of_patience(progress, setup):
                    progress.stopped = "patience"
                # Here, between two steps, weights and counters belong together.
                try:
                    for event in events:
                        on_progress(event)
                    if interrupted():
                        raise KeyboardInterrupt
                except KeyboardInterrupt:
                    save()
                    raise
                if progress.stopped != "completed":
                    break
                if progress.step == pause_after:
                    save()
                    raise Paused(progress)
                epoch_ends = progress.step % schedule.steps_per_epoch == 0
                may_be_lost_s = CHECKPOINT_S if epoch_ends else 60 * checkpoint_minutes
                if time.monotonic() - saved_at > may_be_lost_s:
                    save()
            if progress.stopped != "completed" and time.monotonic() - saved_at > CHECKPOINT_S:
                save()

    optimizer.settle()
    model.eval()
    with torch.no_grad():
        for name, value in best.items():
            trained[name].copy_(value)
    return progress


def make_optimizer(
    trained: dict[str, nn.Parameter], settings: Training, rates: NewRates | None = None
) -> RowAdamW:
    """Fused AdamW with decoupled weight decay on matrices only (no biases, no norms).

    A group's `rate` is the factor by which it differs from the schedule's, if it does. Source:
    Loshchilov and Hutter (2019), "Decoupled weight decay regularization".
    """
    new = rates.names if rates else frozenset()
    groups = []
    for factor, names in ((1.0, trained.keys() - new), (rates.factor if rates else 1.0, new)):
        for decay, matrices in ((settings.weight_decay, True), (0.0, False)):
            params = [p for n, p in trained.items() if n in names and _decays(n, p) == matrices]
            group: dict[str, Any] = {"params": params, "weight_decay": decay}
            groups.append(group if factor == 1.0 else group | {"rate": factor})
    return RowAdamW([g for g in groups if g["params"]], lr=0.0, fused=True)


def _decays(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim >= 2 and "norm" not in name.lower()


def _batches_from(step: int, texts: Encoded, setup: TrainingSetup) -> Iterator[np.ndarray]:
    """Batches from optimizer step `step` on: the order of an epoch depends on its number alone."""
    first = step // setup.schedule.steps_per_epoch
    for epoch in range(first, math.ceil(setup.schedule.epochs)):
        rng = np.random.default_rng([setup.seeds.order, epoch])
        batches = train_batches(texts.lengths, setup.settings.batch_size, rng)
        skip = step - first * setup.schedule.steps_per_epoch if epoch == first else 0
        yield from batches[skip:]


def _step(training: _Training, batch: np.ndarray, progress: Progress) -> None:
    """One optimizer step; on out-of-memory the same batch again in halves, which is recorded."""
    start = time.perf_counter()
    optimizer, setup = training.optimizer, training.setup
    for group in optimizer.param_groups:
        group["lr"] = setup.schedule.lr(progress.step) * group.get("rate", 1.0)
    while True:
        try:
            value, flops = _accumulate(training, batch, progress.micro_batch_size)
            break
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error) or progress.micro_batch_size <= 1:
                raise
            optimizer.zero_grad(set_to_none=True)
            progress.micro_batch_size = math.ceil(progress.micro_batch_size / 2)
            progress.out_of_memory_retries += 1
            if setup.compute.device.type == "cuda":
                torch.cuda.empty_cache()
    norm = gradient_norm(training.trained)
    skipped = training.counts.add(value, norm)
    clipped_step(optimizer, norm, setup.settings.clip_norm, skipped)
    after_step = setup.hooks.after_step
    if after_step is not None and not bool(skipped):
        after_step(training.model, progress.step + 1)
    optimizer.zero_grad(set_to_none=True)
    progress.step += 1
    progress.examples += len(batch)
    progress.tokens += int(training.data.texts.lengths[batch].sum())
    progress.flops += flops
    progress.train_s += time.perf_counter() - start


def gradient_norm(trained: dict[str, nn.Parameter]) -> torch.Tensor:
    """L2 norm of all gradients together, a scalar tensor."""
    gradients = []
    for parameter in trained.values():
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()  # a token's uses are added up, once a step
            gradients.append(parameter.grad.values())
        elif parameter.grad is not None:
            gradients.append(parameter.grad)
    return nn.utils.get_total_norm(gradients)


def clipped_step(
    optimizer: RowAdamW, norm: torch.Tensor, clip_norm: float, skipped: torch.Tensor
) -> None:
    """A step with gradients of at most the norm `clip_norm`, or none where `skipped` is 1.

    The fused optimizer divides the gradients while it reads them, and looks at `skipped` itself (as
    it does both for loss scaling): that saves a pass over the gradients, and a wait for the device.
    """
    optimizer.grad_scale = ((norm + 1e-6) / clip_norm).clamp_min(1.0).float()  # type: ignore[attr-defined]
    optimizer.found_inf = skipped  # type: ignore[attr-defined]
    optimizer.step()


def _accumulate(training: _Training, batch: np.ndarray, micro: int) -> tuple[torch.Tensor, float]:
    """Gradient of the batch's mean loss, computed in parts of `micro` examples: loss and FLOPs.

    The loss stays on the device: to read it is to wait for all that was asked of it.
    Of texts that are read in windows a part has so many windows, or one text. Their logits are
    pooled before the loss, so that it is that of whole texts.
    """
    model, data, setup = training.model, training.data, training.setup
    device = setup.compute.device
    windows = data.texts.windows
    total, flops = torch.zeros((), dtype=torch.float64, device=device), 0.0
    extra_done = False
    for part in micro_batches(data.texts, batch, micro):
        rows = data.texts.rows(part)
        inputs = collate(data.texts, rows, device)
        labels = on_device(data.labels[part], device)
        teacher = on_device(data.teacher[part], device) if data.teacher is not None else None
        matched = None
        if data.matching is None or training.states is None:
            logits = training.forward(inputs)
        else:
            logits, ours = training.states(inputs)
            matched = data.matching.terms(ours, inputs["attention_mask"], rows)
        logits = logits.float()
        if windows is not None:
            logits = windows.pool_tensor(logits, part)
            matched = None if matched is None else windows.pool_tensor(matched, part, "mean")
        value = setup.loss(logits, labels, teacher, *([] if matched is None else [matched]))
        value = value * (len(part) / len(batch))
        total += value.detach()
        if not extra_done:  # a property of the weights: added once a step
            extra = setup.hooks.extra_loss(model)
            value = value if extra is None else value + extra
            extra_done = True
        value.backward()
        flops += setup.step_flops(*inputs["input_ids"].shape)
    return total, flops


def _is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        "out of memory" in text or "can't allocate memory" in text
    )


def _evaluate(training: _Training, progress: Progress, best: dict[str, torch.Tensor]) -> None:
    """Score the selection split, keep the weights if they are the best candidate so far."""
    start = time.perf_counter()
    setup = training.setup
    training.optimizer.settle()
    metrics = setup.evaluate(training.model)
    training.model.train()
    score = metrics.get(setup.primary)
    usable = score if score is not None and math.isfinite(score) else None
    candidate = progress.step >= setup.hooks.earliest_best
    gained = usable is not None and better(usable, progress.best_score, setup.direction)
    if candidate and (not best or gained):
        progress.best_step = progress.step
        progress.best_score = usable
        for name, parameter in training.trained.items():
            best[name] = parameter.detach().clone()
        progress.evals_without_gain = 0
    else:
        progress.evals_without_gain += 1
    progress.evals += 1
    progress.eval_s += time.perf_counter() - start
    progress.history.append(
        {
            "step": progress.step,
            "epoch": round(progress.step / setup.schedule.steps_per_epoch, 4),
            "train_loss": progress.loss_sum / max(progress.loss_steps, 1),
            "lr": setup.schedule.lr(progress.step - 1),
            "selection": metrics,
        }
    )
    training.counts.restart_loss(progress)


def _out_of_patience(progress: Progress, setup: TrainingSetup) -> bool:
    """Patience counts only after warm-up, and never before a rank budget has been spent."""
    settings, schedule = setup.settings, setup.schedule
    if settings.patience is None or progress.step >= schedule.total_steps:
        return False
    if not progress.history or progress.history[-1]["step"] != progress.step:
        return False  # only an evaluation can exhaust it
    if progress.step <= max(schedule.warmup_steps, setup.hooks.earliest_best):
        progress.evals_without_gain = 0
        return False
    return progress.evals_without_gain >= settings.patience
