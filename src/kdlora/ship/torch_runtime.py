"""Models in torch at work: a saved student, a run, any classifier saved by transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kdlora.data.batches import encode
from kdlora.errors import ModelError
from kdlora.models.encoders import output_names
from kdlora.models.inspection import max_tokens
from kdlora.models.saved import load_trained
from kdlora.records.store import Store
from kdlora.ship.answers import Predictor, Texts
from kdlora.ship.card import ModelCard, make_card, read_calibration, read_card
from kdlora.ship.safety import check_folder
from kdlora.spec.run import TrainedRun
from kdlora.training.forward import make_forward
from kdlora.training.inference import predict
from kdlora.training.precision import choose_compute, place_for_inference
from kdlora.vocabulary.task import CLASSIFICATION, REGRESSION

LONGEST = 512  # tokens of a text for a model that does not say what it was trained on


def load_torch(folder: Path, *, precision: str = "auto", threads: int | None = None) -> Predictor:
    """Load a folder with torch weights, an adapter among them. Raises ModelError."""
    if threads:
        import torch

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
        card = read_card(folder) or _card_of_config(folder)
    compute = choose_compute(precision, max_length=card.max_length)
    loaded, tokenizer = load_trained(folder, encoder=encoder, attention=compute.attention)
    if loaded.config.num_labels != card.num_outputs:
        # Cards once named only the classes of the report split; the model itself names all.
        card = card.model_copy(update={"label_names": list(output_names(loaded.config))})
    placed = place_for_inference(loaded, compute)
    forward = make_forward(placed, compute)

    def outputs(texts: Texts) -> np.ndarray:
        encoded = encode(tokenizer, tuple(texts), max_length=card.max_length)
        return predict(placed, encoded, compute, forward=forward)

    return Predictor(card, "torch", outputs)


def _card_of_config(folder: Path) -> ModelCard:
    """What a model without a card says of itself."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder} holds no model that can be read: {error}") from None
    stated = config.problem_type
    kind = REGRESSION if config.num_labels == 1 else CLASSIFICATION
    if stated not in (None, kind.problem_type):
        several = "each of its labels may hold or not, alone or with others"
        numbers = f"it answers with {config.num_labels} numbers"
        why = numbers if stated == REGRESSION.problem_type else several
        raise ModelError(
            f"{folder}: its config says problem_type {stated}: {why}. kdlora predicts with models "
            "that answer with one of several classes or with one number. If the config is wrong, "
            f"set problem_type to {kind.problem_type} in its config.json"
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
