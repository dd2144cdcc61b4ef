"""Models in torch at work: a saved student, a run, any classifier saved by transformers."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

from kdlora.data.batches import encode, input_lengths
from kdlora.data.model_folder import check_folder
from kdlora.errors import ModelError
from kdlora.models.checkpoints import read_config
from kdlora.models.encoders import output_names, tokens_problem
from kdlora.models.inspection import max_tokens
from kdlora.models.saved import load_trained
from kdlora.records.store import Store
from kdlora.ship.answers import Outputs, Predictor, Texts
from kdlora.ship.card import CARD, ModelCard, make_card, read_calibration, read_card
from kdlora.spec.encoders import ADAPTER_CONFIG
from kdlora.spec.run import TrainedRun
from kdlora.training.forward import make_forward
from kdlora.training.inference import predict
from kdlora.training.precision import choose_compute, ready_for_inference
from kdlora.vocabulary.task import CLASSIFICATION, MULTILABEL, REGRESSION, Kind

LONGEST = 512  # tokens of a text for a model that does not say what it was trained on


def load_torch(folder: Path, *, precision: str = "auto", threads: int | None = None) -> Predictor:
    """Load a folder with torch weights, an adapter among them. Raises ModelError."""
    if threads:
        torch.set_num_threads(threads)
    encoder = None
    if (folder / "record.json").is_file():
        record = Store(folder.parent.parent).read(folder.name)
        if record is None or not isinstance(record.run, TrainedRun):
            raise ModelError(f"{folder} holds no trained encoder")
        card = make_card(
            record, folder, "named by the user", arm=record.run.title,
            calibration=read_calibration(folder),
        )  # fmt: skip
        encoder, folder = record.run.encoder, folder / "model"
        check_folder(folder)
    else:
        check_folder(folder)
        card = _card_of(folder)
    compute = choose_compute(precision, max_length=card.max_length)
    loaded, tokenizer = load_trained(folder, encoder=encoder, attention=compute.attention)
    _require_numbers(loaded, folder)
    _require_tokens(loaded, tokenizer, folder)
    limit = max_tokens(loaded.config)
    if limit is not None and limit < card.max_length:
        card = card.model_copy(update={"max_length": limit})
    if loaded.config.num_labels != card.num_outputs:
        # Cards once named only the classes of the report split; the model itself names all.
        card = card.model_copy(update={"label_names": list(output_names(loaded.config))})
    placed = ready_for_inference(loaded, compute)
    forward = make_forward(placed, compute)

    def run(texts: Texts) -> Outputs:
        encoded = encode(tokenizer, tuple(texts), max_length=card.max_length, windows=card.windows)
        lengths = input_lengths(encoded, card.max_length, texts, partial(_count, tokenizer))
        try:
            return Outputs(predict(placed, encoded, compute, forward=forward), *lengths)
        except (RuntimeError, IndexError) as error:  # what torch says of shapes, tokens and memory
            detail = " ".join(str(error).split())[:300]
            raise ModelError(f"{folder}: the model fails on these texts: {detail}") from error

    return Predictor(card, "torch", run)


def _count(tokenizer: PreTrainedTokenizerBase, texts: Texts) -> list[int]:
    """Tokens of every input, of which nothing is cut."""
    return [len(ids) for ids in tokenizer(*texts, truncation=False, verbose=False)["input_ids"]]


def _require_numbers(model: PreTrainedModel, folder: Path) -> None:
    """Raises ModelError where a weight is NaN or infinite: whatever it answered would be none."""
    bad = [name for name, p in model.named_parameters() if not bool(torch.isfinite(p).all())]
    if bad:
        raise ModelError(
            f"{folder}: weights are NaN or infinite ({', '.join(bad[:3])}"
            f"{', ...' if len(bad) > 3 else ''}): the training diverged, or the file is damaged"
        )


def _require_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    """Raises ModelError for a tokenizer that makes tokens which the encoder does not know."""
    rows = getattr(model.config, "vocab_size", None)
    if isinstance(rows, int) and (problem := tokens_problem(tokenizer, rows)):
        raise ModelError(f"{folder}: {problem}")


def _card_of(folder: Path) -> ModelCard:
    """The card of a folder, by its config where it has none. Raises ModelError."""
    card = read_card(folder)
    if card is not None:
        return card
    if (folder / ADAPTER_CONFIG).is_file():
        raise ModelError(
            f"{folder} holds an adapter alone, which does not say what its answers mean. Give the "
            "run's folder that it lies in, a saved student, or an export"
        )
    if (folder / CARD).is_file():
        raise ModelError(
            f"{folder / CARD} is no card that can be read, and what it says of calibration and "
            "lengths would be lost. Save the model again, or remove it to go by config.json alone"
        )
    return _card_of_config(folder)


def _card_of_config(folder: Path) -> ModelCard:
    """What a model without a card says of itself."""
    config = read_config(str(folder))
    stated = config.problem_type
    kind: Kind = REGRESSION if config.num_labels == 1 else CLASSIFICATION
    if stated == MULTILABEL.problem_type:
        kind = MULTILABEL
    elif stated not in (None, kind.problem_type):
        raise ModelError(
            f"{folder}: its config says problem_type {stated}: it answers with {config.num_labels} "
            "numbers. kdlora predicts with models that answer with one of several classes, with "
            "any of several labels, or with one number. If the config is wrong, set problem_type "
            f"to {kind.problem_type} in its config.json"
        )
    return ModelCard(
        run_id="",
        task="",
        arm="",
        seed=0,
        kind=kind.name,
        text_columns=["text"],
        label_names=[] if kind.numeric else list(output_names(config)),
        max_length=min(max_tokens(config) or LONGEST, LONGEST),
        metric="",
        selection_score=None,
        report_score=None,
        chosen_because="",
    )
