"""A student whose encoder stays as it is: only the last layer is fitted, in seconds.

With few labels it is often the best that one can do, and it is a plain model as any other. Its head
sees the mean over the tokens where the family allows it (`models.mean_pooling`). The one setting,
the penalty, is chosen on the selection split, or by cross-validation of the training rows where
that split is too small to choose on.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kdlora.data.batches import encode_once
from kdlora.data.examples import Examples, TaskData, is_labelled, joined
from kdlora.data.own_task import HELD_OUT
from kdlora.data.splits import FOLDS, SHORT_SELECTION, folds_of
from kdlora.distillation.losses import make_loss
from kdlora.errors import ModelError
from kdlora.measure.efficiency import count_parameters, merged_size_mb
from kdlora.measure.quality import score_split
from kdlora.models.encoders import load_encoder
from kdlora.models.inspection import output_layer
from kdlora.models.linear_head import (
    HeadData,
    LinearHead,
    Loss,
    choose_strength,
    fit_head,
    out_of_fold,
)
from kdlora.models.mean_pooling import with_mean_pooling
from kdlora.models.saved import save_trained
from kdlora.models.target_scale import TargetScale, target_scale
from kdlora.recipes.outcome import RunOutcome, compute_facts, folder_mb
from kdlora.recipes.teacher import prepare_signals
from kdlora.records.record import CrossValidation, Efficiency, TrainingFacts
from kdlora.records.store import Store
from kdlora.spec.run import DistilledRun, TrainedRun, seed_for
from kdlora.spec.sections import FEW_ROWS
from kdlora.training.inference import (
    head_inputs,
    inference_costs,
    load_finished,
    predict_held_out,
    windows_per_text,
)
from kdlora.training.precision import choose_compute, ready_for_inference
from kdlora.vocabulary.task import CLASSIFICATION, Kind


def frozen(
    run: TrainedRun, store: Store, data: TaskData, on_progress: Callable[[dict[str, Any]], None]
) -> RunOutcome:
    """Fit the last layer of the run's encoder, by labels or by its teacher; save and score it."""
    task, max_length, folder = data.task, run.training.max_length, store.folder(run.run_id)
    compute = choose_compute(run.training.precision, max_length=max_length)
    signals, rows = None, data.train
    if isinstance(run, DistilledRun):
        on_progress({"stage": "labelling by the teacher"})
        signals = prepare_signals(run, store, data)
        rows = signals.train
    on_progress({"stage": "reading the texts"})
    loaded = load_encoder(
        run.encoder, task, seed=seed_for(run.seed, "head"), attention=compute.attention
    )
    model, pooled = with_mean_pooling(loaded.model)
    layer = output_layer(model)
    if layer is None or layer.bias is None:
        raise ModelError(
            f"the head of a {model.config.model_type} model does not end in a linear layer with a "
            "bias, so it cannot be fitted alone: train student/fft or student/lora"
        )
    texts = {
        name: encode_once(
            loaded.tokenizer,
            part,
            max_length=max_length,
            windows=run.training.windows,
            folder=store.tokens,
        )
        for name, part in {**data.splits(), "train": rows}.items()
    }
    started = time.perf_counter()
    placed = ready_for_inference(copy.deepcopy(model), compute)  # what is saved stays in fp32
    reader = output_layer(placed)
    assert reader is not None
    features = {
        name: torch.from_numpy(head_inputs(placed, reader, part, compute))
        for name, part in texts.items()
    }
    on_progress({"stage": "fitting the head"})
    taught = signals.soft.take(rows.ids) if signals else None
    fitted = _fit(run, data, rows, features, taught)
    fitted.head.put_into(layer)
    train_s = time.perf_counter() - started
    facts = TrainingFacts(
        stopped="completed",
        new_modules=list(loaded.new_modules),
        teaching=signals.facts if signals else None,
        vocabulary=loaded.cut,
        head_sees="mean" if pooled else "first token",
        head_strength=fitted.strength,
        target_mean=fitted.target.mean if fitted.target else None,
        target_scale=fitted.target.scale if fitted.target else None,
        cross_validation=None if signals else _cross_validated(run, data, features, fitted),
        **compute_facts(compute, placed),
    )
    on_progress({"stage": "saving and scoring"})
    save_trained(model, loaded.tokenizer, folder / "model", encoder=run.encoder)
    total, size_mb = count_parameters(model)[1], merged_size_mb(model)
    trainable = layer.weight.numel() + layer.bias.numel()
    del model, placed, loaded
    merged, _ = load_finished(run, folder, task, compute)
    outputs = predict_held_out(merged, texts, compute)
    on_progress({"stage": "measuring"})
    efficiency = Efficiency(
        trainable_params=trainable,
        total_params=total,
        size_mb=size_mb,
        saved_mb=folder_mb(folder / "model"),
        train_s=train_s,
        train_examples_per_s=len(rows) / max(train_s, 1e-9),
        labelling_s=signals.labelling_s if signals else None,
        windows_per_text=windows_per_text(texts["report"]),
        **inference_costs(run, task, merged, compute, folder=store.costs),
    )
    return RunOutcome(data, outputs, facts, efficiency, signals.soft if signals else None)


@dataclass(frozen=True, eq=False)
class _Fitted:
    """The head in the labels' own unit, and what it was fitted by."""

    head: LinearHead
    strength: float
    loss: Loss
    target: TargetScale | None  # of a regression


def _fit(
    run: TrainedRun,
    data: TaskData,
    rows: Examples,
    features: Mapping[str, torch.Tensor],
    taught: np.ndarray | None,
) -> _Fitted:
    """Choose the penalty and fit the head on `rows`, by their labels and by what is `taught`."""
    task = data.task
    loss = make_loss(task, run.kd if isinstance(run, DistilledRun) else None)
    target = target_scale(rows.labels, taught) if task.kind.numeric else None
    labels = torch.from_numpy(rows.labels)
    logits = None if taught is None else torch.from_numpy(taught)
    if target is not None:
        labels = target.standardised(labels).double()
        logits = None if logits is None else target.standardised(logits)
    whole = HeadData(features["train"], labels, None if logits is None else logits.double())
    fold = None
    if len(data.selection) < SHORT_SELECTION:
        fold = _folds(run, data.task.kind, rows)
    known = is_labelled(rows.labels)

    def score(strength: float) -> float | None:
        if fold is None:
            head = fit_head(whole, task.num_outputs, loss, strength=strength)
            outputs, truth = head.outputs(features["selection"]), data.selection.labels
        else:
            folded = out_of_fold(whole, fold, task.num_outputs, loss, strength=strength)
            outputs, truth = folded[known], rows.labels[known]
        outputs = target.restored(outputs) if target else outputs
        return score_split(task, outputs, truth)[task.primary]

    strength = choose_strength(score, task.direction)
    head = fit_head(whole, task.num_outputs, loss, strength=strength)
    if target is not None:
        head = LinearHead(head.weight * target.scale, head.bias * target.scale + target.mean)
    return _Fitted(head, strength, loss, target)


def _folds(run: TrainedRun, kind: Kind, rows: Examples) -> np.ndarray:
    """The fold of each row [n]; rows of the same text are in one."""
    rng = np.random.default_rng(seed_for(run.seed, "folds"))
    return folds_of(kind, rows.labels, rows.texts, rng=rng)


def _cross_validated(
    run: TrainedRun, data: TaskData, features: Mapping[str, torch.Tensor], fitted: _Fitted
) -> CrossValidation | None:
    """All labelled rows of a small task, each answered by a head that was fitted without it.

    Only where the report split was held out of the same rows: it is too small to report on then.
    """
    task = data.task
    rows = joined(joined(data.train, data.selection), data.reports["report"])
    n = len(rows)
    if n >= FEW_ROWS or task.reports["report"] != HELD_OUT or task.kind is not CLASSIFICATION:
        return None
    whole = torch.cat([features["train"], features["selection"], features["report"]])
    everything = HeadData(whole, torch.from_numpy(rows.labels), None)
    fold, strength = _folds(run, data.task.kind, rows), fitted.strength
    outputs = out_of_fold(everything, fold, task.num_outputs, fitted.loss, strength=strength)
    right = int((task.kind.decide(outputs) == rows.labels).sum())
    scores = score_split(task, outputs, rows.labels)
    return CrossValidation(folds=FOLDS, rows=n, right=right, metrics=scores)
