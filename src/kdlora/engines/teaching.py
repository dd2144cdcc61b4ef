"""What of teaching can be checked before the first run: signals, transfer texts, tokenizers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kdlora.data.batches import encode
from kdlora.data.examples import Examples, TaskData
from kdlora.data.teacher_outputs import read_teacher_outputs
from kdlora.data.unlabelled import Unlabelled, load_unlabelled
from kdlora.distillation.matching import plan_matching
from kdlora.distillation.states import Shape, shape_of
from kdlora.distillation.teacher_states import require_same_tokens
from kdlora.errors import InputError, KdloraError
from kdlora.models.checkpoints import read_config, read_tokenizer
from kdlora.models.encoders import resolve_encoder
from kdlora.models.layers import with_layers
from kdlora.spec.distillation import signal_problems
from kdlora.spec.plan import Plan
from kdlora.spec.run import EncoderRef, Run

_SAMPLE = 256  # texts on which two tokenizers are compared; all of them are before training


def check_teaching(
    plan: Plan, loaded: dict[str, TaskData], on_note: Callable[[str], None]
) -> list[str]:
    """Problems of the distilled runs whose task could be read."""
    problems: list[str] = []
    seen: dict[str, Any] = {}
    by_id = {run.run_id: run for run in plan.runs}

    def once(key: str, check: Callable[..., Any], *arguments: Any) -> Any:
        """What the check of a key returned, now or before; its problems are kept once."""
        if key not in seen:
            seen[key] = None
            try:
                seen[key] = check(*arguments)
            except KdloraError as error:
                problems.extend(getattr(error, "problems", None) or [str(error)])
        return seen[key]

    for run in plan.runs:
        data = loaded.get(run.task.name)
        if data is None:
            continue
        if run.outputs is not None:
            once(run.run_id, _check_file, run, data, None)
        if run.kd is None:
            continue
        problems += [f"{run.title}: {p}" for p in signal_problems(run.kd.signals, data.task.kind)]
        if run.unlabelled:
            key = f"{run.task.name} {[source.model_dump_json() for source in run.unlabelled]}"
            extra: Unlabelled | None = once(key, _texts, run, data, on_note)
            teacher = by_id[run.teachers[0]]
            if teacher.outputs is not None and extra is not None:
                once(f"{teacher.run_id} {key}", _check_file, teacher, data, extra.rows)
        if run.kd.signals.match_states and run.encoder and run.reference:
            signals = run.kd.signals.model_dump_json()
            key = f"{run.encoder.title} {run.reference.title} {run.task.name} {signals}"
            once(key, _check_inside, run, data)
    return problems


def _texts(run: Run, data: TaskData, on_note: Callable[[str], None]) -> Unlabelled | None:
    found = load_unlabelled(run.unlabelled, data, split_seed=run.data.split_seed)
    if found is not None:
        used, *dropped = (f"{n:,} {why.replace('_', ' ')}" for why, n in found.counts().items())
        rest = f" (left out: {', '.join(dropped)})" if dropped else ""
        on_note(f"{data.task.name}: of {found.read:,} unlabelled texts, {used}{rest}")
    return found


def _check_file(teacher: Run, data: TaskData, extra: Examples | None) -> None:
    assert teacher.outputs is not None
    table = read_teacher_outputs(teacher.outputs, data.task)
    table.require(
        data.train if extra is None else extra, "train" if extra is None else "unlabelled"
    )


def _check_inside(run: Run, data: TaskData) -> None:
    """Layers, widths and heads that do not fit, and tokenizers that differ."""
    assert run.kd is not None
    assert run.training is not None
    assert run.encoder is not None
    assert run.reference is not None
    ours, theirs = _shape(run.encoder), _shape(run.reference)
    problems: list[str] = []
    if ours is not None and theirs is not None:
        try:
            plan_matching(run.kd.signals, ours, theirs)
        except InputError as error:
            problems += error.problems
    step = max(1, len(data.train) // _SAMPLE)
    rows = data.train.take(np.arange(0, len(data.train), step)[:_SAMPLE])
    both = [
        encode(
            read_tokenizer(resolve_encoder(encoder)),
            rows.texts,
            max_length=run.training.max_length,
        )
        for encoder in (run.encoder, run.reference)
    ]
    try:
        require_same_tokens(*both, names=(run.encoder.title, run.reference.title))
    except InputError as error:
        problems += error.problems
    if problems:
        raise InputError(problems)


def _shape(encoder: EncoderRef) -> Shape | None:
    """An encoder's shape; None for an adapter's folder, which has no config of its own."""
    source = resolve_encoder(encoder)
    if (Path(source) / "adapter_config.json").is_file():
        return None
    return shape_of(with_layers(read_config(source), encoder.layers, where=encoder.name))
