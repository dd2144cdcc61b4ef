"""The report's tables in the terminal: results, what to doubt, how far a study is."""

from __future__ import annotations

import pandas as pd
from rich import box
from rich.console import Group, JustifyMethod, RenderableType
from rich.panel import Panel
from rich.table import Table as RichTable
from rich.text import Text

from kdlora.evidence.gains import describe
from kdlora.records.tidy import metrics_of, rows_of, severities, tidy
from kdlora.report import document as parts
from kdlora.report import words as w
from kdlora.report.content.cells import POINTS_NOTE
from kdlora.report.content.coverage import coverage
from kdlora.report.content.results import results
from kdlora.report.render.colours import kind_of

# What fits into 80 columns; the report has the rest.
SHOWN = ("pair", "task", "model", "score", "runs", "retained", "size_mb", "latency_p50_ms",
         "speedup_latency", "train_s")  # fmt: skip
SHORT = {
    "runs": "n",
    "retained": "Kept %",
    "size_mb": "MB",
    "latency_p50_ms": "ms",
    "speedup_latency": "Speed",
    "train_s": "Train s",
}
STYLES = {"teacher": "bold", "kd": "bold cyan", "student": "cyan", "baseline": "dim"}


def results_table(frame: pd.DataFrame) -> RichTable:
    """Every task and model: mean score over seeds, share of the teacher's, size, speed, time.

    Raises InputError for an empty frame.
    """
    facts = describe(frame)
    found = results(facts)
    metrics = {task: metric for task, (metric, _) in metrics_of(facts.frame).items()}
    notes = [", ".join(f"{t}: {w.metric_name(name)}" for t, name in metrics.items() if name)]
    notes += [POINTS_NOTE, "Kept: share of the teacher's score. ms: median latency of one text."]
    marks = "".join(cell.mark for row in found.rows for cell in row)
    if w.DAGGER in marks:
        notes.append(f"{w.DAGGER} A run behind this number carries a health flag.")
    if w.RESUMED in marks:
        notes.append(f"{w.RESUMED} A run behind this time was interrupted: it is no whole one.")
    places = [i for i, column in enumerate(found.columns) if column.key in SHOWN]
    drawn = _empty(found.title, notes)
    for column in (found.columns[i] for i in places):
        _add(drawn, SHORT.get(column.key, column.label), numeric=column.numeric)
    before = None
    for row in found.rows:
        block = [cell.text for cell in row[: found.heads - 1]]
        if before is not None and block != before:
            drawn.add_section()
        before = block
        drawn.add_row(*(_cell(found.columns[i], row[i]) for i in places))
    return drawn


def flags_panel(frame: pd.DataFrame) -> RenderableType | None:
    """Every health flag with its run, every failed run with its error; None if there is none."""
    runs = rows_of(tidy(frame).drop_duplicates("run_id"))
    lines = []
    for row in runs:
        details = (*row["flag_details"], *[""] * len(row["flags"]))
        for name, detail, level in zip(row["flags"], details, severities(row), strict=False):
            style = {"error": "bold red", "info": "dim"}.get(level, "yellow")
            lines.append(_line(style, name, f"{row['run_id']}: {detail}".rstrip(": ")))
    for row in runs:
        if row["status"] == "failed":
            lines.append(_line("bold red", "failed", f"{row['run_id']}: {last_word(row['error'])}"))
    if not lines:
        return None
    return Panel(Group(*lines), title="Read with care", title_align="left", border_style="yellow")


def status_table(frame: pd.DataFrame) -> RichTable:
    """Done of planned runs, model by task; failed ones are counted, flagged ones marked."""
    found = coverage(tidy(frame))
    drawn = _empty(found.title, [f"\N{BALLOT X} failed, {w.DAGGER} with a health flag"])
    for column in found.columns:
        _add(drawn, column.label, numeric=column.numeric)
    for row in found.rows:
        cells = zip(found.columns, row, strict=True)
        drawn.add_row(*(_state(c) if c.extra else _cell(column, c) for column, c in cells))
    return drawn


def last_word(error: object) -> str:
    """The line of an error that says what happened: a traceback's last, a message's first.

    A frame has NaN where no error was kept.
    """
    told = error if isinstance(error, str) else ""
    lines = told.strip().splitlines() or ["no error was kept"]
    return lines[-1 if lines[0].startswith("Traceback") else 0]


def _line(style: str, name: str, text: str) -> Text:
    return Text.assemble((name, style), "  ", text)


def _empty(title: str, notes: list[str]) -> RichTable:
    return RichTable(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False,
        padding=(0, 1, 0, 0), caption="\n".join(notes), caption_justify="left",
    )  # fmt: skip


def _add(drawn: RichTable, label: str, *, numeric: bool) -> None:
    justify: JustifyMethod = "right" if numeric else "left"
    drawn.add_column(Text(label), justify=justify, no_wrap=numeric or label == "Model")


def _cell(column: parts.Column, cell: parts.Cell) -> Text:
    if column.key == "model" and isinstance(cell.value, str):
        return Text(w.short_arm_name(cell.value), style=STYLES[kind_of(cell.value)])
    return Text(cell.text).append(cell.mark, style="bold yellow")


def _state(cell: parts.Cell) -> Text:
    counts = {key: int(value or 0) for key, value in cell.extra.items()}
    whole = counts["done"] == counts["planned"]
    text = Text(f"{counts['done']}/{counts['planned']}", style="green" if whole else "yellow")
    if counts["failed"]:
        text.append(f" {counts['failed']}\N{BALLOT X}", style="bold red")
    return text.append(w.DAGGER if counts["flagged"] else "", style="bold yellow")
