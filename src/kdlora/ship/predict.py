"""Predictions with any model that kdlora made: a few texts, or a file in bounded memory."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdlora.data.model_folder import check_folder, is_model_folder
from kdlora.errors import DataError, InputError, ModelError
from kdlora.extras import install_command, is_installed
from kdlora.files import real_path, whole_file
from kdlora.records.artefact import is_artefact, read_artefact
from kdlora.ship.answers import Predictor, answer_columns, flat
from kdlora.ship.named_model import model_folder
from kdlora.tables.reader import FileTable, Row, TableFile, column_problem, open_table, text_columns
from kdlora.tables.templates import columns_of, composed_columns
from kdlora.tables.writer import harmless

# Endings of tables that somebody may expect of a name, and that predictions are not written as.
_OTHER_TABLES = (
    ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".feather", ".arrow", ".xls", ".xlsx",
    ".ods", ".gz", ".bz2", ".xz", ".zst", ".zip",
)  # fmt: skip
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

    A study means the student that it saved, and a name of the hub is fetched first; see
    `named_model.model_folder`.
    Of an exported folder `variant` chooses what runs (``torch``, ``onnx``, ``onnx-int8``,
    ``onnx-int4``), by default the fastest that passed the accuracy gate. ONNX variants need no
    torch. `threads` default to what the libraries choose. Raises ModelError or InputError.
    """
    folder = model_folder(model)
    if not folder.is_dir():
        raise ModelError(_no_folder(folder))
    if is_artefact(folder):
        return _load_exported(folder, variant, precision, threads)
    if variant not in (None, "torch"):
        raise InputError(
            f"{folder} was not exported, so it has no variant '{variant}'. "
            f"Make one: kdlora export {folder} --to DIR --format onnx"
        )
    return _load_torch(folder, precision, threads)


def _load_exported(
    folder: Path, variant: str | None, precision: str, threads: int | None
) -> Predictor:
    from kdlora.ship.onnx_runtime import load_onnx

    check_folder(folder)
    artefact = read_artefact(folder)
    torch = is_installed("torch")
    chosen = artefact.variant(variant) if variant else artefact.best_variant(torch=torch)
    if chosen.runtime == "onnx":
        return load_onnx(folder, artefact, chosen, threads=threads)
    from kdlora.records.artefact import verify

    loaded = ("config.json", "model.safetensors", "tokenizer.json", "kdlora.json")
    verify(folder, artefact, only=loaded)
    return _load_torch(folder, precision, threads)


def _load_torch(folder: Path, precision: str, threads: int | None) -> Predictor:
    for module in ("torch", "transformers", "peft"):
        if not is_installed(module):
            raise ModelError(
                f"{folder} holds torch weights and {module} is not installed: "
                f"{install_command(module)}; or export the model where it is: "
                "kdlora export ... --format onnx"
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
        "an exported folder, a run's folder (below `runs`), a study's or a name of the hub"
    )


@dataclass(frozen=True)
class PredictedFile:
    """What came of predicting a file: rows, those whose end was not read, and where they are.

    `withheld` counts the rows whose answer is withheld.
    """

    rows: int
    truncated: int
    path: Path
    withheld: int = 0


def predict_file(
    predictor: Predictor,
    source: Path,
    target: Path,
    *,
    columns: tuple[str, ...] | None = None,
    overwrite: bool = False,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> PredictedFile:
    """Write `source` with its predictions added as a CSV.

    Works through the file in chunks, so its length does not matter. Columns added: `prediction`;
    for classes, `probability` and one `p_<label>` each; `withheld`, where the model may withhold
    answers: why `prediction` is empty, or nothing; and `tokens` and `truncated`, how long the input
    is and whether its end was not read. The file's own columns stay as they are; of a label that a
    spreadsheet would take for a formula it makes a text (`'=1+1`). The target appears
    only when whole, and nothing is replaced that this did not make, unless with `overwrite`: no
    other file than predictions with these columns, and never the source or a model's file.
    A target that is called as another kind of table is refused.

    Raises InputError for a file that has no such text column, or columns that are called as the
    added ones are, and for a target that may not be replaced; DataError for a damaged file.
    """
    wanted = columns or tuple(predictor.card.text_columns)
    table = open_table(source)
    added = answer_columns(predictor.card)
    _require_columns(table, wanted, added)
    header = [*table.columns, *added]
    target = _free_target(source, target, header, overwrite)
    fields = columns_of(wanted, table.columns)
    places = [table.columns.index(name) for name in fields]
    total = truncated = withheld = 0
    with (
        whole_file(target) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as handle,
    ):
        writer = csv.writer(handle)
        writer.writerow(header)
        for rows in _chunks(table, places):
            texts = dict(zip(fields, _texts(table, rows, places), strict=True))
            found = predictor(composed_columns(wanted, texts, table.columns))
            writer.writerows(
                [*map(_cell, values), *map(harmless, flat(answer))]
                for (_, values), answer in zip(rows, found, strict=True)
            )
            total += len(rows)
            truncated += sum(answer["truncated"] for answer in found)
            withheld += sum(bool(answer.get("withheld")) for answer in found)
            on_rows(total)
    return PredictedFile(total, truncated, target, withheld)


def _free_target(source: Path, target: Path, header: list[str], overwrite: bool) -> Path:
    """Where to write: the target, through links to a file. Raises InputError if it is taken."""
    problem = None
    found = real_path(target) if target.is_file() else target
    if not found.parent.is_dir():
        problem = f"there is no folder {found.parent}"
    elif os.path.lexists(found) and not found.is_file():
        problem = f"{target} is {'a folder' if found.is_dir() else 'no file'}; name a file"
    elif found.is_file() and found.samefile(source):
        problem = f"{target} is the file that is predicted; give another --out"
    elif found.is_file() and is_model_folder(found.parent):
        problem = f"{target} is a file of a model; give another --out"
    elif target.name.lower().endswith(_OTHER_TABLES):
        problem = (
            f"{target} is not the name of a CSV, and predictions are written as CSV: give --out a "
            "name that ends in .csv"
        )
    elif found.is_file() and not overwrite and _header(found) != header:
        problem = (
            f"{target} is there and holds other columns than the predictions of {source.name}: it "
            "stays as it is. Give another --out, or --overwrite to replace it"
        )
    if problem:
        raise InputError(problem)
    return found


def _header(path: Path) -> list[str] | None:
    """The columns of a CSV, None where it is none."""
    try:
        return open_table(path, format="csv").columns
    except DataError:
        return None


def _require_columns(table: TableFile, wanted: Sequence[str], added: Sequence[str]) -> None:
    """The texts have to be there once, and what is written must not take another column's name."""
    fields = columns_of(wanted, table.columns)
    found = [column_problem(table.path, name, table.columns) for name in fields]
    if problems := [problem for problem in found if problem]:
        problems[-1] = problems[-1].rstrip(".") + ". Name the text column with --text-column"
        raise InputError(problems)
    own = [name for name in added if name in table.columns]
    if own:
        raise InputError(
            f"{table.path} has columns of its own that are called {' and '.join(own)}, as the "
            "predictions are: rename them, or predict the file without them"
        )


def _chunks(table: TableFile, places: Sequence[int]) -> Iterator[list[Row]]:
    """Rows of the file, as many at a time as `ROWS` and `CHARACTERS` allow."""
    held: list[Row] = []
    characters = 0
    for rows in table.chunks(_READ):
        held += rows
        characters += sum(len(str(values[i])) for _, values in rows for i in places)
        if len(held) >= ROWS or characters >= CHARACTERS:
            yield held
            held, characters = [], 0
    if held:
        yield held


def _texts(table: TableFile, rows: list[Row], places: Sequence[int]) -> tuple[list[str], ...]:
    numbers = [number for number, _ in rows]
    names = [table.columns[i] for i in places]
    columns = {n: [values[i] for _, values in rows] for n, i in zip(names, places, strict=True)}
    return text_columns(FileTable(table.path, table.columns, columns, numbers), names)


def _cell(value: Any) -> Any:
    """A value as CSV can hold it: lists and objects as JSON."""
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return value
