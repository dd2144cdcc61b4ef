"""Predictions with any model that kdlora made: a few texts, or a file in bounded memory."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kdlora.data.tables import Row, read_chunks
from kdlora.errors import InputError, ModelError, did_you_mean
from kdlora.files import whole_file
from kdlora.records.artefact import is_artefact, read_artefact
from kdlora.ship.answers import Answer, Predictor
from kdlora.ship.safety import check_folder

# What is in memory at a time: enough rows to sort by length, and never more text than this.
ROWS, CHARACTERS = 4096, 16_000_000
_READ = 256


def load_predictor(
    model: str | Path,
    *,
    variant: str | None = None,
    precision: str = "auto",
    threads: int | None = None,
) -> Predictor:
    """Load a saved student, a run's folder, an exported folder or any classifier's folder.

    Of an exported folder `variant` chooses what runs (``torch``, ``onnx``, ``onnx-int8``,
    ``onnx-int4``), by default the fastest that passed the accuracy gate. ONNX variants need no
    torch. `threads` default to what the libraries choose. Raises ModelError or InputError.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        raise ModelError(_no_folder(folder))
    if is_artefact(folder):
        return _load_exported(folder, variant, precision, threads)
    if variant not in (None, "torch"):
        raise InputError(
            f"{folder} was not exported, so it has no variant '{variant}'. "
            f"Make one: kdlora export {folder} --to DIR --format onnx"
        )
    if (folder / "plan.json").is_file() and not (folder / "config.json").is_file():
        student = folder / "student"
        hint = f" Its student: {student}" if student.is_dir() else ""
        raise ModelError(f"{folder} is a study with many models; name one of them.{hint}")
    return _load_torch(folder, precision, threads)


def _load_exported(
    folder: Path, variant: str | None, precision: str, threads: int | None
) -> Predictor:
    from kdlora.ship.onnx_runtime import load_onnx

    check_folder(folder)
    artefact = read_artefact(folder)
    torch = find_spec("torch") is not None
    chosen = artefact.variant(variant) if variant else artefact.best_variant(torch=torch)
    if chosen.runtime == "onnx":
        return load_onnx(folder, artefact, chosen, threads=threads)
    from kdlora.records.artefact import verify

    loaded = ("config.json", "model.safetensors", "tokenizer.json", "kdlora.json")
    verify(folder, artefact, only=loaded)
    return _load_torch(folder, precision, threads)


def _load_torch(folder: Path, precision: str, threads: int | None) -> Predictor:
    for module in ("torch", "transformers", "peft"):
        if find_spec(module) is None:
            raise ModelError(
                f"{folder} holds torch weights and {module} is not installed. Install it, or "
                "export the model where it is: kdlora export ... --format onnx"
            )
    from kdlora.models.checkpoints import silence_libraries
    from kdlora.ship.torch_runtime import load_torch

    silence_libraries()
    return load_torch(folder, precision=precision, threads=threads)


def _no_folder(folder: Path) -> str:
    if folder.is_file():
        return (
            f"{folder} is a file; a model is the folder that holds it"
            if folder.suffix in (".onnx", ".safetensors")
            else f"{folder} is a file; give the folder of a model, unpacked"
        )
    return (
        f"no model folder at {folder}. Give a saved student (the folder `student` of a study), "
        "an exported folder or a run's folder (below `runs`)"
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
    total = 0
    with (
        whole_file(target) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as handle,
    ):
        writer = None
        for rows in _chunks(source, wanted):
            texts = _texts(rows, wanted, source)
            found = list(_flat(predictor(texts)))
            if writer is None:
                fields = [*rows[0], *(k for k in found[0] if k not in rows[0])]
                writer = csv.DictWriter(handle, fields)
                writer.writeheader()
            writer.writerows({**r, **a} for r, a in zip(rows, found, strict=True))
            total += len(rows)
            on_rows(total)
    return total


def _chunks(source: Path, wanted: tuple[str, ...]) -> Iterator[list[Row]]:
    """Rows of the file, as many at a time as `ROWS` and `CHARACTERS` allow."""
    held: list[Row] = []
    characters = 0
    for rows in read_chunks(source, _READ):
        held += rows
        characters += sum(len(str(row.get(name, ""))) for row in rows for name in wanted)
        if len(held) >= ROWS or characters >= CHARACTERS:
            yield held
            held, characters = [], 0
    if held:
        yield held


def _texts(rows: list[Row], wanted: tuple[str, ...], source: Path) -> tuple[list[str], ...]:
    missing = [name for name in wanted if name not in rows[0]]
    if missing:
        raise InputError(
            f"{source} has no column '{missing[0]}'.{did_you_mean(missing[0], rows[0])} "
            "Name the text column with --text-column"
        )
    return tuple(
        ["" if row.get(name) is None else str(row[name]) for row in rows] for name in wanted
    )


def _flat(found: Iterable[Answer]) -> Iterator[dict[str, Any]]:
    for answer in found:
        if "value" in answer:
            yield {"prediction": answer["value"]}
        else:
            shares = {f"p_{k}": round(v, 6) for k, v in answer["probabilities"].items()}
            yield {
                "prediction": answer["label"],
                "probability": round(answer["probability"], 6),
                **shares,
            }
