"""`kdlora predict`: a few texts, or a file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from kdlora.cli.terminal import say, say_data, say_json, terminal
from kdlora.errors import InputError

if TYPE_CHECKING:
    from kdlora.ship.answers import Answer, Predictor
    from kdlora.ship.predict import PredictedFile

_STANDARD_INPUT = Path("-")
_LINES = 256  # that are answered together


def predict(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="A saved student, an export, a run's folder or STUDY:RUN_ID, a study, which means "
            "its student, or a name of the model hub.",
        ),
    ],
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]",
            help="CSV, TSV, JSONL or Parquet; or -, for one text a line from standard input, the "
            "two of a pair with a tab between.",
        ),
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
    out: Annotated[
        Path | None, typer.Option(help="The CSV to write. Default: FILE-predictions.csv here.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace --out, whatever it holds.")
    ] = False,
    variant: Annotated[
        str | None,
        typer.Option(
            help="Of an export: torch, onnx, onnx-int8 or onnx-int4. Default: the fastest that "
            "passed the accuracy gate."
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Default: all processors.", min=1)] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Answers to --text or - as JSON.")
    ] = False,
) -> None:
    """Label texts with a saved model."""
    if (file is None) == (not text):
        raise InputError('give either texts (--text "...") or a file to predict')
    piped = file == _STANDARD_INPUT
    of_texts, of_files = {"--second": second, "--json": as_json}, {
        "--text-column": text_column, "--out": out, "--overwrite": overwrite,
    }  # fmt: skip
    foreign = {"--second": second, **of_files} if piped else of_files if file is None else of_texts
    if idle := [name for name, v in foreign.items() if v]:
        given = "standard input" if piped else "a file" if file else "--text"
        raise InputError(f"{' and '.join(idle)} mean nothing with {given}; leave them out")
    if second and len(second) != len(text or []):
        raise InputError(f"{len(text or [])} --text and {len(second)} --second; give as many")
    for given in [*(text or []), *(second or [])]:
        if not given.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in given):
            raise InputError(f"{given!a} holds bytes that are not text in this terminal's encoding")
    if file is not None and not piped and not file.is_file():
        raise InputError(f"no file at {file}")

    from kdlora.machine import choose_waiting

    choose_waiting()
    from kdlora.ship.predict import load_predictor, predict_file

    predictor = load_predictor(model, variant=variant, threads=threads)
    expected = len(predictor.card.text_columns)
    if piped:
        _predict_lines(predictor, sys.stdin.buffer, as_json=as_json)
        return
    if text:
        texts = (list(text), list(second)) if second else (list(text),)
        if len(texts) != expected and predictor.card.task:
            raise InputError(
                f"this model reads {expected} text{'s' if expected > 1 else ''} "
                f"({', '.join(predictor.card.text_columns)}), {len(texts)} given; "
                "a pair is --text with --second"
            )
        answers = predictor(texts)
        if as_json:
            say_json(answers)
            return
        for sentence, answer in zip(text, answers, strict=True):
            say_data(f"{_told(answer)}\t{sentence}")
        _say_withheld(sum(bool(a.get("withheld")) for a in answers), len(answers))
        _say_truncated(sum(answer["truncated"] for answer in answers), len(answers), predictor)
        return

    assert file is not None
    from kdlora.tables.formats import table_stem

    target = out or Path(f"{table_stem(file)}-predictions.csv")
    columns = tuple(text_column) if text_column else None
    if columns and predictor.card.task and len(columns) != expected:
        raise InputError(
            f"{len(columns)} --text-column given, but this model reads {expected} "
            f"({', '.join(predictor.card.text_columns)})"
        )
    from kdlora.tables.reader import open_table

    done, seconds = _follow(
        open_table(file).about_rows(),
        lambda on_rows: predict_file(
            predictor, file, target, columns=columns, overwrite=overwrite, on_rows=on_rows
        ),
    )
    say(f"{done.rows:,} rows with predictions: {target}")
    _say_withheld(done.withheld, done.rows)
    _say_truncated(done.truncated, done.rows, predictor)
    pace = done.rows / max(seconds, 1e-9)
    say(f"by {predictor.variant}, {pace:,.0f} rows a second", stderr=True)


def _told(answer: Answer) -> str:
    """An answer as a line begins with it."""
    if "value" in answer:
        return f"{answer['value']:.3f}"
    if "labels" in answer:
        shares = answer["probabilities"]
        return ", ".join(f"{name} {shares[name]:.3f}" for name in answer["labels"]) or "no label"
    label = "(withheld)" if answer["label"] is None else answer["label"]
    return f"{label}\t{answer['probability']:.3f}"


def _predict_lines(predictor: Predictor, lines: BinaryIO, *, as_json: bool) -> None:
    """Answer the lines of a stream in their order, one line or one JSON object for each.

    Raises InputError for a line that is no UTF-8 or holds another number of texts.
    """
    rows = truncated = withheld = 0
    while block := list(islice(lines, _LINES)):
        texts = []
        for number, line in enumerate(block, rows + 1):
            try:
                text = line.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError:
                raise InputError(f"line {number} of standard input is no UTF-8 text") from None
            parts = [text] if predictor.columns == 1 else text.split("\t")
            if len(parts) != predictor.columns:
                raise InputError(
                    f"line {number} of standard input holds {len(parts)} texts; the model reads "
                    f"{predictor.columns}, with a tab between"
                )
            texts.append(parts)
        answers = predictor([list(column) for column in zip(*texts, strict=True)])
        for parts, answer in zip(texts, answers, strict=True):
            if as_json:
                say_json(answer, indent=None)
            else:
                say_data("\t".join([_told(answer), *parts]))
        rows += len(block)
        truncated += sum(answer["truncated"] for answer in answers)
        withheld += sum(bool(answer.get("withheld")) for answer in answers)
    _say_withheld(withheld, rows)
    _say_truncated(truncated, rows, predictor)


def _say_withheld(withheld: int, rows: int) -> None:
    """Tell of texts that got no answer, beside the answers and not among them."""
    if withheld:
        say(
            f"{withheld:,} of {rows:,} answers are withheld: their probability is too low for the "
            "accuracy that the model was calibrated to",
            stderr=True,
        )


def _say_truncated(truncated: int, rows: int, predictor: Predictor) -> None:
    """Tell of texts whose end was not read, beside the answers and not among them."""
    if truncated:
        say(
            f"warning: {truncated:,} of {rows:,} inputs are longer than what the model reads "
            f"({predictor.card.how_long}); the rest of them had no say",
            stderr=True,
        )


def _follow(
    rows: int,
    work: Callable[[Callable[[int], None]], PredictedFile],
) -> tuple[PredictedFile, float]:
    """Do the work under a line that counts its rows, of about so many, and tells the time left.

    Returns what came of it, and seconds.
    """
    from rich.progress import (
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    began = time.monotonic()
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.fields[rows]:,} rows, {task.fields[pace]:,.0f} a second"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=terminal(stderr=True),
    ) as bar:
        job = bar.add_task("predict", total=rows or None, rows=0, pace=0.0)
        done = work(
            lambda n: bar.update(
                job, completed=n, rows=n, pace=n / max(time.monotonic() - began, 1e-9)
            )
        )
    return done, time.monotonic() - began
