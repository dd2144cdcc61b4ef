"""`kdlora look`: what is in a data set, before anything is trained on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdlora.cli import completion
from kdlora.cli.options import LabelColumns, LabelSeparator, split_names
from kdlora.cli.study import AsJson, DataDir, Strict
from kdlora.cli.terminal import say_json, terminal
from kdlora.errors import InputError
from kdlora.records.data_look import percent
from kdlora.records.study_folder import RESULTS

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from kdlora.records.data_look import DataFinding, DataLook, TokenCount
    from kdlora.spec.sections import OwnTask

_MOST_CLASSES = 12  # that have a column of their own
_COLOURS = {"error": "red", "warning": "yellow", "info": "dim"}


def look(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE|STUDY|HUB",
            help="Labelled rows in a CSV, TSV, JSONL or Parquet file; or a study file, a preset "
            "or a study's folder; or with --train a data set of the hub.",
            autocompletion=completion.tables_and_studies,
        ),
    ],
    train: Annotated[
        str | None,
        typer.Option(help="The split to learn from of a data set of the hub, such as train."),
    ] = None,
    eval: Annotated[
        str | None, typer.Option(help="Held-out data of FILE, or a split of the data set.")
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="Text column of FILE, default text; twice for a pair.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="Label column of FILE, default label.")] = None,
    label_separator: LabelSeparator = None,
    labels: LabelColumns = None,
    kind: Annotated[
        str | None,
        typer.Option(help="auto (default), classification, regression or multilabel, of FILE."),
    ] = None,
    encoder: Annotated[
        list[str] | None,
        typer.Option(
            help="An encoder that is to read FILE; may be given many times. Without one no tokens "
            "are counted.",
            autocompletion=completion.encoders,
        ),
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(min=8, help="Tokens after which texts are cut; default 128.")
    ] = None,
    data_dir: DataDir = None,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Say what is in the data and what is doubtful about it; trains nothing."""
    from kdlora.cli.progress import waiting
    from kdlora.planning.data_looks import look_at_file, read_and_look, require_sound
    from kdlora.tables.formats import is_table_name

    console = terminal(stderr=as_json)
    of_file = {"--eval": eval, "--text": text, "--label": label, "--kind": kind,
               "--label-separator": label_separator, "--labels": labels,
               "--encoder": encoder, "--max-length": max_length}  # fmt: skip
    if train is not None or is_table_name(Path(source)):
        if data_dir is not None:
            raise InputError("--data-dir is of a study, and a file is given")
        task = _task(
            source,
            train,
            eval=eval,
            text=text,
            label=label,
            kind=kind,
            label_separator=label_separator,
            labels=split_names(labels),
        )
        with waiting("looking at the data", hidden=as_json):
            one = look_at_file(
                task,
                encoders=encoder or (),
                max_length=max_length,
                on_note=lambda note: console.print(note, style="dim"),
            )
        looks = [one]
    else:
        from kdlora.api import check
        from kdlora.cli.study import _read

        if given := [name for name, value in of_file.items() if value]:
            raise InputError(
                f"{', '.join(given)}: of a file, and {source} is a study, which says it itself"
            )
        planned = check(_read(_study_file(source), data_dir))
        with waiting("looking at the data", hidden=as_json):
            looks = read_and_look(planned)
    if as_json:
        say_json({"tasks": [one.as_dict() for one in looks]})
    else:
        for one in looks:
            show_look(one, console)
    if strict:
        require_sound(looks)


def _task(source: str, split: str | None, **options: object) -> OwnTask:
    """A file, or with a split a data set of the hub, as a task of its own.

    Options that are not given have the defaults of a study.
    """
    from pydantic import ValidationError

    from kdlora.planning.distil_study import task_name_of
    from kdlora.spec.base import explain
    from kdlora.spec.sections import OwnTask

    given = {name: value for name, value in options.items() if value}
    rows = {"train": source} if split is None else {"hub": source, "train": split}
    try:
        return OwnTask.model_validate({"name": task_name_of(source), **rows, **given})
    except ValidationError as error:
        raise InputError(explain(error, OwnTask)) from None


def _study_file(source: str) -> str:
    """The study file of a study's folder; what is no such folder stays as it is."""
    for folder in (Path(source), RESULTS / source):
        if (folder / "study.yaml").is_file():
            return str(folder / "study.yaml")
    return source


def show_look(one: DataLook, console: Console) -> None:
    """Rows, tokens and findings of one task."""
    console.print(_splits(one))
    for count in one.tokens:
        console.print(_tokens(count), soft_wrap=True)
    say_findings(one.findings, console)


def say_findings(found: Sequence[DataFinding], console: Console, *, prefix: str = "") -> None:
    """One line a finding, the worst first."""
    from rich.text import Text

    for finding in found:
        level = Text(f"{prefix}{finding.severity}: ", style=_COLOURS[finding.severity])
        console.print(level + Text(finding.told), soft_wrap=True)
    if not found:
        console.print(f"{prefix}nothing to doubt in the data", style="dim")


def _splits(one: DataLook) -> Table:
    from rich.table import Table

    names = list(dict.fromkeys(name for count in one.splits for name in count.classes))
    shown = names if len(names) <= _MOST_CLASSES else []
    table = Table("split", "from", title=f"{one.task}: {one.kind}", title_justify="left")
    table.add_column("rows", justify="right")
    for name in shown:
        table.add_column(name, justify="right")
    if names and not shown:
        table.add_column("classes", justify="right")
        table.add_column("smallest", justify="right")
        table.add_column("largest", justify="right")
    for count in one.splits:
        cells = [f"{count.classes.get(name, 0):,}" if count.classes else "-" for name in shown]
        if names and not shown:
            sizes = [n for n in count.classes.values() if n] or [0]
            cells = [f"{len(sizes):,}", f"{min(sizes):,}", f"{max(sizes):,}"]
        table.add_row(count.split, count.source, f"{count.rows:,}", *cells)
    return table


def _tokens(count: TokenCount) -> str:
    """A tokenizer's figures in a line that any terminal can wrap."""
    part = f" (of {count.measured:,} texts, evenly spaced)" if count.measured < count.texts else ""
    read = "cut after"
    if count.windows is not None:
        read = f"read in {count.windows:.1f} windows in the mean, of at most"
    return (
        f"{', '.join(count.encoders)}: {count.median:,} tokens in the median{part}, 99 % have at "
        f"most {count.percentile_99:,}, the longest {count.longest:,}; {read} "
        f"{count.max_length:,}: {percent(count.cut_texts)} of the texts, "
        f"{percent(count.cut_tokens)} of the tokens are cut; "
        f"{percent(count.unknown_tokens)} unknown; {count.tokens_per_word:.2f} tokens a word"
    )
