"""What a student needs to match its teacher's hidden states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kdlora.data.batches import Encoded, encode_once, eval_batches
from kdlora.data.examples import Examples
from kdlora.distillation.hidden_states import Online, cache_states, require_same_tokens, shape_of
from kdlora.distillation.matching import Matching, plan_matching
from kdlora.measure.flops import flops_per_length
from kdlora.recipes.teacher import finished_teacher, model_of
from kdlora.records.store import Store
from kdlora.spec.fingerprint import hash_json
from kdlora.spec.run import DistilledRun, seed_for
from kdlora.training.forward import make_state_forward
from kdlora.training.inference import load_finished
from kdlora.training.precision import choose_compute
from kdlora.vocabulary.task import Task


@dataclass(frozen=True, eq=False)
class HiddenStateTargets:
    """The terms on hidden states, facts about them, and what the teacher costs.

    `step_flops` are spent in every step where the states are computed then; `labelling_s` and
    `labelling_flops` once, before training, where they are cached. `facts` are fields of
    `records.record.Teaching`.
    """

    matching: Matching
    facts: dict[str, Any]
    step_flops: Callable[[int, int], float]
    labelling_s: float
    labelling_flops: float


def match_hidden_states(
    run: DistilledRun,
    store: Store,
    task: Task,
    *,
    student: nn.Module,
    rows: Examples,
    texts: Encoded,
    device: torch.device,
) -> HiddenStateTargets | None:
    """Ready the signals on hidden states; None if the run has none.

    The states of the first teacher are kept in the run's folder within `hidden_cache_mb` and the
    disk's free space, else computed in every step. `rows` and `texts` are the student's training
    rows and their tokens. Raises ModelError if the two tokenizers differ on any of them.
    """
    if not run.kd.signals.match_states:
        return None
    record = finished_teacher(run.teacher_run_id, store)
    teacher = model_of(record)
    max_length = run.training.max_length
    theirs = choose_compute(teacher.training.precision, max_length=max_length)
    model, tokenizer = load_finished(teacher, store.folder(run.teacher_run_id), task, theirs)
    windows = run.training.windows
    same = encode_once(tokenizer, rows, max_length=max_length, windows=windows, folder=store.tokens)
    require_same_tokens(texts, same, names=(run.encoder.name, teacher.encoder.name))

    ours, shape = shape_of(student.config), shape_of(model.config)  # type: ignore[arg-type]
    plan = plan_matching(run.kd.signals, ours, shape)
    online = Online(make_state_forward(model, theirs, plan.teacher), same, theirs.device)
    features = plan.teacher.features(shape.width)
    cached = cache_states(
        lambda: online,
        store.folder(run.run_id),
        texts=texts,
        ids=rows.ids,
        features=features,
        about=hash_json(
            [
                run.teacher_run_id,
                record.checksum,
                run.training.model_dump(mode="json", include={"max_length", "windows"}),
                repr(plan.teacher),
            ]
        ),
        budget_mb=run.kd.hidden_cache_mb,
        device=device,
    )
    matching = Matching(
        plan,
        cached or online,
        student_width=ours.width,
        teacher_width=shape.width,
        seed=seed_for(run.seed, "projector"),
    ).to(device)
    flops = flops_per_length(model, backward=False, device=theirs.device)
    lengths = same.row_lengths
    passes = [(len(index), int(lengths[index].max())) for index in eval_batches(lengths)]
    return HiddenStateTargets(
        matching,
        facts={
            "states": "cached" if cached else "computed in every step",
            "states_mb": cached.values.nbytes / 1e6 if cached else None,
            "projector_params": matching.parameter_count,
        },
        step_flops=flops.flops if cached is None else lambda batch, length: 0.0,
        labelling_s=cached.seconds if cached else 0.0,
        labelling_flops=sum(flops.flops(*shape) for shape in passes) if cached else 0.0,
    )
