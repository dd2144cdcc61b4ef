"""`kdlora mistakes`: where a study's student is wrong, and which labels may be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kdlora.cli.part import Where, Without
from kdlora.cli.study import AsJson, StudyFolder
from kdlora.cli.terminal import say_json, terminal

if TYPE_CHECKING:
    from rich.console import Console

    from kdlora.report.document import Table


def mistakes(
    study: StudyFolder,
    where: Where = None,
    without: Without = None,
    most: Annotated[int, typer.Option(min=1, help="Rows of each table.")] = 10,
    no_texts: Annotated[
        bool, typer.Option("--no-texts", help="Print no text; default: texts that are kept.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the surest wrong answers, labels that may be wrong, and scores by slice."""
    from kdlora.api.studies import mistakes_and_lacking
    from kdlora.cli.progress import waiting
    from kdlora.report.content import mistakes as content

    with waiting("looking for mistakes", hidden=as_json):
        found, lacking = mistakes_and_lacking(
            study, where=where or (), without=without or (), texts=not no_texts
        )
    if as_json:
        say_json({"tasks": [one.to_dict() for one in found], "lacking": lacking})
        return
    console = terminal()
    for table in (content.mistakes(found), content.label_errors(found)):
        if table is not None:
            _list(table, most, console)
    if (table := content.slices(found)) is not None:
        _show(table, console)
    for finding in (*content.findings(found), *content.lacking(lacking)):
        console.print(f"{finding.topic}: {finding.text}", soft_wrap=True)


def _list(table: Table, most: int, console: Console) -> None:
    """Rows with their texts below them, which need the whole width."""
    more = f", the first {most:,} of {len(table.rows):,}" if len(table.rows) > most else ""
    console.print(f"{table.title}{more}", style="italic")
    for row in table.rows[:most]:
        cells = list(zip(table.columns, row, strict=True))
        facts = [f"{c.label.lower()} {cell.shown}" + (f" {c.unit}" if c.unit else "")
                 for c, cell in cells if c.key != "text"]  # fmt: skip
        console.print(f"- {', '.join(facts)}", soft_wrap=True)
        for _, cell in (pair for pair in cells if pair[0].key == "text"):
            console.print(f"    {cell.text}", style="dim", soft_wrap=True)
    console.print()


def _show(table: Table, console: Console) -> None:
    from rich.table import Table as Shown

    shown = Shown(title=table.title, title_justify="left")
    for column in table.columns:
        side: Literal["right", "left"] = "right" if column.numeric else "left"
        shown.add_column(column.header, justify=side, overflow="fold")
    for row in table.rows:
        shown.add_row(*(cell.shown for cell in row))
    console.print(shown)
