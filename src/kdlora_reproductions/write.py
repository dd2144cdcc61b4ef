"""Reproduced reports as files: CSV for machines, Markdown for readers.

index.md            what reproduces, report by report
numbers.csv         every number: printed, recomputed, source, n, rule
contradictions.csv
001/report.md, 001/tables/*.csv, 001/sound/*.csv, 001/figures/*.csv
000/analysis_plots/*.svg and *.png   the figures by the names and folders that their report gives
                                     them; 001 beside its page, 002/combined_plots,
                                     003/efficiency_plots
001/supplementary_table_*.tex        the two LaTeX supplements
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import vl_convert

from kdlora.evidence.result import plain
from kdlora.files import whole_file
from kdlora.records.store import write_text
from kdlora.report.output_folder import check_replaceable, held
from kdlora.tables.writer import csv_text
from kdlora_reproductions import Reproduction
from kdlora_reproductions.figures import FOLDERS, drawn
from kdlora_reproductions.supplements import supplements
from kdlora_reproductions.tables import SOURCES, PublishedReport, PublishedTable

DIGITS = 4  # significant ones, where no published number says how many
INDEX, TITLE = "index.md", "# Five published reports, recomputed"
PIXELS = 2.0  # of a PNG for each unit of the SVG


def write_reports(
    reproduction: Reproduction,
    out: str | Path,
    *,
    on_step: Callable[[str], None] = lambda step: None,
) -> Path:
    """Write everything below `out` and return the index; what an earlier call wrote is replaced.

    `on_step` is told of each of `write_steps` before it begins. Raises InputError where other files
    would be lost, and StoreError where nothing can be written.
    """
    root = Path(out)
    names = (INDEX, "numbers.csv", "contradictions.csv", *(r.id for r in reproduction.reports))
    check_replaceable(root, names, page=INDEX, mark=TITLE)
    with held(root, page=INDEX):
        return _write_all(reproduction, root, on_step)


def _write_all(reproduction: Reproduction, root: Path, on_step: Callable[[str], None]) -> Path:
    _csv(reproduction.numbers(), root / "numbers.csv")
    objections = [
        {"report": r.id, "id": c.id, "said": c.said,
         "correct": json.dumps(plain(c.correct), ensure_ascii=False), "why": c.why}
        for r in reproduction.reports
        for c in r.contradictions
    ]  # fmt: skip
    columns = ["report", "id", "said", "correct", "why"]
    _csv(pd.DataFrame(objections, columns=columns), root / "contradictions.csv")
    for report in reproduction.reports:
        on_step(f"report {report.id}")
        _report(report, root / report.id)
        for name, data in report.figures.items():
            on_step(f"figure {name}")
            _draw(report.id, name, data, root / report.id)
    index = root / INDEX
    write_text(index, index_page(reproduction))
    return index


def write_steps(reproduction: Reproduction) -> int:
    """How many steps `write_reports` takes."""
    return sum(1 + len(report.figures) for report in reproduction.reports)


def _draw(report: str, name: str, data: pd.DataFrame, folder: Path) -> None:
    """A figure as SVG and PNG, where its report has it."""
    drawing = drawn(report, name, data)
    if drawing is None:
        return
    place = folder / drawing.folder / name
    place.parent.mkdir(parents=True, exist_ok=True)
    write_text(place.with_name(f"{name}.svg"), drawing.svg)
    with whole_file(place.with_name(f"{name}.png")) as temporary:
        temporary.write_bytes(vl_convert.svg_to_png(drawing.svg, scale=PIXELS))


def index_page(reproduction: Reproduction) -> str:
    """The summary page."""
    rows = pd.DataFrame(reproduction.summary())
    lines = [TITLE, ""]
    if len(rows):
        lines += [markdown_table(rows), ""]
    lines += [f"- Report {k} was left out: {why}." for k, why in reproduction.skipped.items()]
    lines += ["", "## Read from", ""]
    lines += [f"- {name}: {file}, sha256 {sha}" for name, file, sha in reproduction.sources]
    lines += [f"- {problem}" for problem in reproduction.problems]
    lines += ["", "## Where numbers come from", ""]
    lines += [f"- **{tag}**: {text}" for tag, text in SOURCES.items()]
    lines += ["", f"Bootstrap draws: {reproduction.rules.draws}, seed {reproduction.seed}.", ""]
    return "\n".join(lines)


def report_page(report: PublishedReport) -> str:
    """One report: what its data can carry first, then its own tables, then what contradicts."""
    lines = [f"# Report {report.id}: {report.title}", "", report.about, ""]
    if report.sound:
        lines += ["## What the data can carry", ""]
        for item in report.sound:
            shown = item.table[list(item.shown or item.table.columns)]
            lines += [f"### {item.question}", "", item.answer, "",
                      f"*{item.rule}; source {item.source}, n = {item.n}.*", "",
                      markdown_table(shown), ""]  # fmt: skip
    lines += ["## The report's own tables", "",
              "A number that does not reproduce is followed by what is printed.", ""]  # fmt: skip
    for table in report.tables:
        n = sorted({int(v) for v in table.cells["n"].dropna()})
        size = f"n = {n[0]}" if len(n) == 1 else f"n = {n[0]} to {n[-1]}" if n else "n unknown"
        lines += [f"### {table.title} ({table.id})", "", markdown_table(_shown(table)), "",
                  f"*{table.rule}; source {table.source}, {size}.*", ""]  # fmt: skip
        lines += [table.note, ""] if table.note else []
    if report.claims:
        claims = pd.DataFrame(
            [{"said": c.text, "printed": c.printed, "recomputed": _like(c.printed, c.value),
              "reproduces": "yes" if c.reproduced else "**no**", "source": c.source, "n": c.n,
              "rule": c.rule} for c in report.claims]
        )  # fmt: skip
        lines += ["## Numbers in the prose", "", markdown_table(claims), ""]
    if report.contradictions:
        lines += ["## Contradictions", ""]
        for c in report.contradictions:
            correct = json.dumps(plain(c.correct), ensure_ascii=False) if c.correct else ""
            lines.append(
                f"- *{c.said}* ({c.id}). {c.why} {f'Correct: {correct}' if correct else ''}"
            )
        lines.append("")
    if report.figures:
        lines += ["## Figures", "", *_shown_figures(report), ""]
    for name in supplements(report):
        lines += [f"Supplementary table: `{name}`", ""]
    return "\n".join(lines)


def _shown_figures(report: PublishedReport) -> list[str]:
    """The figures, or only their data where the report has a table and no picture."""
    folder = FOLDERS.get(report.id)
    if folder is None:
        return [f"Data: `figures/{name}.csv`" for name in report.figures]
    place = f"{folder}/" if folder else ""
    return [f"![{name}]({place}{name}.png)\n\nData: `figures/{name}.csv`\n"
            for name in report.figures]  # fmt: skip


def markdown_table(frame: pd.DataFrame) -> str:
    """A frame as a Markdown table; numbers with four significant digits, counts whole."""
    if frame.empty:
        return "(no rows)"
    head = "| " + " | ".join(_escape(c) for c in frame.columns) + " |"
    rule = "|" + " --- |" * len(frame.columns)
    body = ["| " + " | ".join(_escape(_text(v)) for v in row) + " |"
            for row in frame.itertuples(index=False, name=None)]  # fmt: skip
    return "\n".join([head, rule, *body])


def _shown(table: PublishedTable) -> pd.DataFrame:
    cells = table.cells.assign(
        shown=[
            _like(printed, value) + (f" (printed {printed})" if fits is False else "")
            for printed, value, fits in zip(
                table.cells["printed"], table.cells["value"], table.cells["reproduced"], strict=True
            )
        ]
    )
    return PublishedTable(table.id, "", "", "", cells).wide("shown")


def _like(printed: str, value: Any) -> str:
    """A value with as many decimals as the number it stands beside."""
    if value is None or isinstance(value, str) or value != value:
        return "" if value is None or value != value else str(value)
    try:
        float(printed)
    except ValueError:
        return _text(value)
    return f"{float(value):.{len(printed.partition('.')[2])}f}"


def _text(value: Any) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, float):
        whole = value.is_integer() and abs(value) < 1e15
        return f"{value:.0f}" if whole else f"{value:.{DIGITS}g}"
    return str(value)


def _escape(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _report(report: PublishedReport, folder: Path) -> None:
    parts: dict[str, Sequence[tuple[str, pd.DataFrame]]] = {
        "tables": [(t.id, t.cells.assign(source=t.source, rule=t.rule)) for t in report.tables],
        "sound": [(s.id, s.table.assign(source=s.source, rule=s.rule)) for s in report.sound],
        "figures": list(report.figures.items()),
    }
    for name, frames in parts.items():
        if frames:
            (folder / name).mkdir(parents=True, exist_ok=True)
        for file, frame in frames:
            _csv(frame, folder / name / f"{file}.csv")
    folder.mkdir(parents=True, exist_ok=True)
    for name, latex in supplements(report).items():
        write_text(folder / name, latex)
    write_text(folder / "report.md", report_page(report))


def _csv(frame: pd.DataFrame, path: Path) -> None:
    write_text(path, csv_text(frame))
