"""`kdlora predict`: a few texts, or a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from kdlora.errors import InputError


def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A saved student or run folder.")],
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="CSV, TSV, JSONL or Parquet.")
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="A text; give many for many answers.")
    ] = None,
    second: Annotated[
        list[str] | None, typer.Option(help="The second text of a pair, one for each --text.")
    ] = None,
    text_column: Annotated[
        list[str] | None, typer.Option(help="Text column of the file; twice for a pair.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Default: FILE-predictions.csv here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Answers to --text as JSON.")] = False,
) -> None:
    """Label texts with a saved model."""
    if (file is None) == (not text):
        raise InputError('give either texts (--text "...") or a file to predict')
    if second and len(second) != len(text or []):
        raise InputError(f"{len(text or [])} --text and {len(second)} --second; give as many")
    if file is not None and not file.is_file():
        raise InputError(f"no file at {file}")

    from kdlora.engines.tuning import choose_waiting

    choose_waiting()
    from kdlora.models.quiet import silence_libraries
    from kdlora.ship.predict import load_predictor, predict_file

    silence_libraries()
    predictor = load_predictor(model)
    expected = len(predictor.card.text_columns)
    if text:
        columns = (list(text), list(second)) if second else (list(text),)
        if len(columns) != expected and predictor.card.task:
            raise InputError(
                f"this model reads {expected} text{'s' if expected > 1 else ''} "
                f"({', '.join(predictor.card.text_columns)}), {len(columns)} given; "
                "a pair is --text with --second"
            )
        answers = predictor(columns)
        if as_json:
            print(json.dumps(answers, indent=1, ensure_ascii=False))
            return
        for sentence, answer in zip(text, answers, strict=True):
            if "value" in answer:
                print(f"{answer['value']:.3f}\t{sentence}")
            else:
                print(f"{answer['label']}\t{answer['probability']:.3f}\t{sentence}")
        return

    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    assert file is not None
    target = out or Path(f"{file.name.split('.')[0]}-predictions.csv")
    with Progress(
        SpinnerColumn(), TextColumn("{task.fields[rows]:,} rows"), TimeElapsedColumn()
    ) as bar:
        job = bar.add_task("predict", total=None, rows=0)
        rows = predict_file(
            predictor,
            file,
            target,
            columns=tuple(text_column) if text_column else None,
            on_rows=lambda n: bar.update(job, rows=n),
        )
    print(f"{rows} rows with predictions: {target}")
