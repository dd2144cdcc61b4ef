"""`kdlora trim`: an encoder with a smaller vocabulary."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdlora.cli.terminal import say_json, terminal

if TYPE_CHECKING:
    from kdlora.records.vocabulary_cut import Cut


def trim(
    encoder: Annotated[
        str,
        typer.Argument(metavar="ENCODER", help="A packaged encoder, a folder, or one of the hub."),
    ],
    corpus: Annotated[
        Path,
        typer.Option(
            help="Texts of the kind that the model will read, many more than are labelled: a .txt "
            "file with a text a line, or a CSV, TSV, JSONL or Parquet file."
        ),
    ],
    to: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the new encoder is written.")],
    text: Annotated[
        list[str] | None,
        typer.Option(help="Text column of a table, default text; may be given many times."),
    ] = None,
    keep: Annotated[
        float, typer.Option(help="Share of the corpus's tokens that the kept ones cover.")
    ] = 0.999,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Let --to replace a cut encoder that is there already."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Cut the rows of rare tokens out of an encoder's embeddings and out of its tokenizer.

    The folder is an encoder like any other: name it as a student in a study, or in `kdlora distil
    --student FOLDER`. Texts without a cut token are read and seen as before; that is checked.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from kdlora.errors import InputError
    from kdlora.models.trimmed import encoder_folder
    from kdlora.models.vocabulary import trim_vocabulary
    from kdlora.spec.resolve import encoder_ref
    from kdlora.tables.corpus import read_corpus

    if to.exists() and not replace:
        raise InputError(f"{to} is there already: give another name, or --replace")
    reference = encoder_ref(encoder, ".")
    texts = read_corpus(corpus, text or ["text"])
    folder = encoder_folder(reference)
    console = terminal(stderr=True)
    with Progress(
        TextColumn("tokenising"), BarColumn(bar_width=24), TimeRemainingColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    ) as bars:  # fmt: skip
        job = bars.add_task("", total=len(texts))
        made = trim_vocabulary(
            folder,
            texts,
            to,
            keep=keep,
            name=reference.hub_name or reference.name,
            on_progress=lambda more: bars.advance(job, more),
        )
    if as_json:
        say_json(asdict(made))
    else:
        _show(made, to)


def _show(made: Cut, to: Path) -> None:
    from rich.table import Table

    table = Table("", "before", "after", "kept")
    for column in table.columns[1:]:
        column.justify = "right"
    rows = (
        ("tokens", made.tokens_before, made.tokens_after),
        ("parameters", made.parameters_before, made.parameters_after),
    )
    for name, before, after in rows:
        table.add_row(name, f"{before:,}", f"{after:,}", f"{100 * after / before:.1f} %")
    share = made.size_after_mb / made.size_before_mb
    sizes = (f"{made.size_before_mb:,.1f}", f"{made.size_after_mb:,.1f}")
    table.add_row("weights in MB", *sizes, f"{100 * share:.1f} %")
    console = terminal()
    console.print(table)
    for line in (
        f"Counted in {made.counted_texts:,} texts. Of {made.held_out_texts:,} others "
        f"{100 * made.held_out_changed:.1f} % hold a token that was cut; they have "
        f"{100 * (made.held_out_growth - 1):.1f} % more tokens than before.",
        f"{made.checked_texts:,} texts without a cut token are read and seen as before.",
        f"written to {to}",
    ):
        console.print(line, soft_wrap=True)
