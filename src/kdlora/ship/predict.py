"""Predictions with a saved model: for a few texts, or a file of any length in bounded memory."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdlora.data.batches import encode
from kdlora.data.chunks import read_chunks
from kdlora.errors import InputError, ModelError, did_you_mean
from kdlora.models.saved import load_trained
from kdlora.ship.student import ModelCard, make_card, read_card
from kdlora.store.store import Store
from kdlora.training.forward import Forward, make_forward
from kdlora.training.inference import predict as outputs_of
from kdlora.training.precision import Compute, choose_compute, place_for_inference

CHUNK = 8192  # rows in memory at a time


@dataclass(frozen=True)
class Predictor:
    """A model in memory, ready to be asked."""

    model: Any
    tokenizer: Any
    card: ModelCard
    compute: Compute
    forward: Forward

    def __call__(self, texts: tuple[list[str], ...]) -> list[dict[str, Any]]:
        """One answer a text: {"label", "probability", "probabilities"} or {"value"}."""
        encoded = encode(self.tokenizer, texts, max_length=self.card.max_length)
        outputs = outputs_of(self.model, encoded, self.compute, forward=self.forward)
        if self.card.kind == "regression":
            return [{"value": float(value)} for value in outputs[:, 0]]
        shifted = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        shares = shifted / shifted.sum(axis=1, keepdims=True)
        names = self.card.label_names
        return [
            {
                "label": names[int(row.argmax())],
                "probability": float(row.max()),
                "probabilities": {name: float(p) for name, p in zip(names, row, strict=True)},
            }
            for row in shares
        ]


def load_predictor(model: str | Path, *, precision: str = "auto") -> Predictor:
    """Load a saved student, a run's folder or any sequence classifier saved by transformers."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        raise ModelError(
            f"no model folder at {folder}. Give a saved student (the folder `student` of a study) "
            "or a run's folder (below `runs`)"
        )
    encoder = None
    if (folder / "record.json").is_file():
        record = Store(folder.parent.parent).read(folder.name)
        if record is None or record.run.role == "baseline" or record.run.adaptation == "given":
            raise ModelError(f"{folder} holds no trained encoder")
        card = make_card(record, "named by the user", arm=record.run.title)
        encoder, folder = record.run.encoder, folder / "model"
    else:
        card = read_card(folder) or _card_of_config(folder)
    compute = choose_compute(precision, max_length=card.max_length)
    loaded, tokenizer = load_trained(folder, encoder=encoder, attention=compute.attention)
    placed = place_for_inference(loaded, compute)
    return Predictor(placed, tokenizer, card, compute, make_forward(placed, compute))


def _card_of_config(folder: Path) -> ModelCard:
    """What a model without a card says of itself."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder} holds no model that can be read: {error}") from None
    regression = config.num_labels == 1
    return ModelCard(
        run_id="",
        task="",
        arm="",
        seed=0,
        kind="regression" if regression else "classification",
        text_columns=["text"],
        label_names=[] if regression else [config.id2label[i] for i in range(config.num_labels)],
        max_length=min(getattr(config, "max_position_embeddings", 512), 512),
        metric="",
        selection_score=None,
        report_score=None,
        chosen_because="",
    )


def predict_file(
    predictor: Predictor,
    source: Path,
    target: Path,
    *,
    columns: tuple[str, ...] | None = None,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> int:
    """Write `source` with its predictions added as a CSV; returns the number of rows.

    Works through the file in chunks, so its length does not matter. Columns added: `prediction`
    and, for classes, `probability` and one `p_<label>` each. The target appears only when whole.
    """
    wanted = columns or tuple(predictor.card.text_columns)
    temporary = target.with_name(f".{target.name}.tmp")
    total = 0
    try:
        with temporary.open("w", encoding="utf-8", newline="") as handle:
            writer = None
            for rows in read_chunks(source, CHUNK):
                texts = _texts(rows, wanted, source)
                answers = list(_flat(predictor(texts)))
                if writer is None:
                    fields = [*rows[0], *(k for k in answers[0] if k not in rows[0])]
                    writer = csv.DictWriter(handle, fields)
                    writer.writeheader()
                writer.writerows({**r, **a} for r, a in zip(rows, answers, strict=True))
                total += len(rows)
                on_rows(total)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return total


def _texts(
    rows: list[dict[str, Any]], wanted: tuple[str, ...], source: Path
) -> tuple[list[str], ...]:
    missing = [name for name in wanted if name not in rows[0]]
    if missing:
        raise InputError(
            f"{source} has no column '{missing[0]}'.{did_you_mean(missing[0], rows[0])} "
            "Name the text column with --text-column"
        )
    return tuple(["" if row[name] is None else str(row[name]) for row in rows] for name in wanted)


def _flat(answers: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for answer in answers:
        if "value" in answer:
            yield {"prediction": answer["value"]}
        else:
            shares = {f"p_{k}": round(v, 6) for k, v in answer["probabilities"].items()}
            yield {
                "prediction": answer["label"],
                "probability": round(answer["probability"], 6),
                **shares,
            }
