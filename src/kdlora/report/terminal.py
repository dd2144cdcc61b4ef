"""The report's tables in the terminal: results, what to doubt, how far a study is."""

from __future__ import annotations

import pandas as pd
from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table as RichTable
from rich.text import Text

from kdlora.report import parts, tables, trust
from kdlora.report import words as w
from kdlora.report.gains import gather
from kdlora.report.tables import POINTS_NOTE
from kdlora.report.theme import kind_of
from kdlora.report.tidy import metric_of, names, rows_of, severities, tidy

# What fits into 80 columns; the report has the rest.
SHOWN = ("pair", "task", "model", "score", "runs", "retained", "size_mb", "latency_p50_ms",
         "speedup_latency", "train_s")  # fmt: skip
SHORT = {
    "retained": "Of teacher %",
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
    facts = gather(frame)
    found = tables.results(facts)
    tasks = names(facts.frame, "task")
    metrics = dict.fromkeys(w.metric_name(metric_of(facts.frame, task)[0]) for task in tasks)
    notes = [f"{w.sentence_case(', '.join(filter(None, metrics)))}. {POINTS_NOTE}"]
    if any(cell.mark for row in found.rows for cell in row):
        notes.append(f"{w.DAGGER} holds a flagged run")
    return _rich(found, notes, shown=SHOWN)


def flags_panel(frame: pd.DataFrame) -> RenderableType | None:
    """Every health flag with its run, and every failed run with its error; None if there is none."""
    runs = rows_of(tidy(frame).drop_duplicates("run_id"))
    lines = []
    for row in runs:
        details = (*row["flag_details"], *[""] * len(row["flags"]))
        for name, detail, level in zip(row["flags"], details, severities(row), strict=False):
            style = {"error": "bold red", "info": "dim"}.get(level, "yellow")
            lines.append(_line(style, name, f"{row['run_id']}: {detail}".rstrip(": ")))
    for row in runs:
        if row["status"] == "failed":
            last = (str(row["error"] or "").strip() or "no error was kept").splitlines()[-1]
            lines.append(_line("bold red", "failed", f"{row['run_id']}: {last}"))
    if not lines:
        return None
    return Panel(Group(*lines), title="Read with care", title_align="left", border_style="yellow")


def status_table(frame: pd.DataFrame) -> RichTable:
    """Done of planned runs, model by task, with what failed, is missing or flagged."""
    return _rich(trust.coverage(tidy(frame)), [])


def _line(style: str, name: str, text: str) -> Text:
    return Text.assemble((name, style), "  ", text)


def _rich(table: parts.Table, notes: list[str], shown: tuple[str, ...] | None = None) -> RichTable:
    """A report's table for the terminal; `shown` picks columns, all else is the report's."""
    places = [i for i, c in enumerate(table.columns) if shown is None or c.key in shown]
    drawn = RichTable(
        title=table.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False,
        caption="\n".join(notes) or None, caption_justify="left",
    )  # fmt: skip
    for i in places:
        column = table.columns[i]
        label = SHORT.get(column.key, column.label) if shown else column.label
        drawn.add_column(
            Text(label), justify="right" if column.numeric else "left", no_wrap=column.numeric
        )
    before: tuple[str, ...] | None = None
    for row in table.rows:
        heads = tuple(cell.text for cell in row[: max(table.heads - 1, 0)])
        if before is not None and heads != before:
            drawn.add_section()
        before = heads
        drawn.add_row(*(_cell(table.columns[i], row[i], short=shown is not None) for i in places))
    return drawn


def _cell(column: parts.Column, cell: parts.Cell, *, short: bool) -> Text:
    if column.key == "model" and isinstance(cell.value, str):
        name = w.short_arm_name(cell.value) if short else cell.text
        return Text(name, style=STYLES[kind_of(cell.value)])
    sub = "" if short or not cell.sub else f"\n{cell.sub}"
    return Text(cell.text).append(cell.mark, style="bold yellow").append(sub, style="dim")
