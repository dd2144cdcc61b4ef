"""Write a report: one HTML file that needs nothing else, Markdown, figures and tables beside it.

Both formats are rendered from the same `Report`; neither computes a number.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from kdlora.errors import ReportError
from kdlora.files import drop_dead, drop_dead_below, leftovers
from kdlora.records.store import write_text
from kdlora.report.content.mistakes import PAGE as MISTAKES
from kdlora.report.content.parts import ERROR_LOG, ReportInputs, guarded
from kdlora.report.content.study import FILES, build
from kdlora.report.document import MOST_ROWS, Block, Explorer, Figure, Link, Report, Table
from kdlora.report.output_folder import check_output_folder, held
from kdlora.report.privacy import without_private
from kdlora.report.render import raster
from kdlora.report.render.html import render_html
from kdlora.report.render.latex import render_latex
from kdlora.report.render.markdown import render_markdown
from kdlora.report.render.svg import draw, side_by_side, size_of
from kdlora.report.render.theme import charts_unchecked
from kdlora.report.words import plural
from kdlora.tables.writer import csv_text

PNG_SCALE = 1.5  # at most; large figures get as many pixels as stay quick to draw
MOST_PIXELS = 2.5e6

FIGURE_KINDS = ("svg", "png", "pdf")
TABLE_KINDS = ("csv", "tex")
PAGE, MARKDOWN = "report.html", "report.md"
FIGURE_AND_TABLE_FILES = tuple(
    f"{folder}/{name}.{kind}"
    for folder, kinds in (("figures", FIGURE_KINDS), ("tables", TABLE_KINDS))
    for name in FILES
    for kind in kinds
)
REPORT_FILES = (PAGE, MARKDOWN, MISTAKES, ERROR_LOG, *FIGURE_AND_TABLE_FILES)


@dataclass(frozen=True)
class ReportFiles:
    """What was written. `failures` names parts that could not be made: "Section: part (error)".

    `mistakes` is the page of the student's mistakes, where there are some.
    """

    html: Path
    markdown: Path
    figures: tuple[Path, ...]
    tables: tuple[Path, ...]
    failures: tuple[str, ...] = ()
    errors: Path | None = None
    mistakes: Path | None = None

    def check(self) -> None:
        """Raise ReportError where parts could not be made: which they are, and where it is told."""
        if self.failures:
            count = plural(len(self.failures), "part")
            listed = "".join(f"\n  - {failure}" for failure in self.failures)
            raise ReportError(
                f"{count} of {self.html} could not be made; the rest stands, and the tracebacks "
                f"are in {self.errors}:{listed}"
            )


def write_report(
    frame: pd.DataFrame, out: str | Path, inputs: ReportInputs, *, refresh_s: int | None = None
) -> ReportFiles:
    """Write ``report.html``, ``report.md``, ``figures/`` and ``tables/`` below `out`.

    Args:
        frame: one row a cell, as `records.frame.load_frame` gives it; done, failed or missing.
        refresh_s: the page loads itself again after so many seconds; for a study that runs.

    Each file is replaced as a whole, the page last; figures and tables of an earlier report that
    this one does not have are removed, and so is what one left that was killed. Whether `out` may
    be written to is asked before (`check_report_folder`). Raises InputError for a frame that
    is no study, StoreError where `out` cannot be written.
    """
    with charts_unchecked():
        report = build(*without_private(frame, inputs))
    return save_report(report, Path(out), refresh_s=refresh_s)


def check_report_folder(out: Path, study: Path) -> None:
    """See that the report of a study's folder may be written to `out`. Raises InputError.

    Nothing that no report made is lost: not what lies in the way, nor what a study keeps.
    """
    check_output_folder(out, study, REPORT_FILES, page=PAGE)


def save_report(report: Report, out: Path, *, refresh_s: int | None = None) -> ReportFiles:
    """Render and write a report that is made. Raises StoreError where `out` cannot be written."""
    report, drawings = _drawn(report)
    with held(out, page=PAGE):
        return _save(report, drawings, out, refresh_s)


def _save(
    report: Report, drawings: dict[str, str], out: Path, refresh_s: int | None
) -> ReportFiles:
    for folder in (out / "figures", out / "tables"):
        folder.mkdir(exist_ok=True)
        drop_dead_below(folder)
    for name in (MISTAKES, ERROR_LOG):  # which may not be written again
        drop_dead(leftovers(out / name))
    scales = dict(_write_drawing(figure, drawings, out) for figure in report.figures())
    figures = [svg.with_suffix(f".{kind}") for svg in scales for kind in FIGURE_KINDS]
    page = ""
    try:
        with raster.beside(scales):
            tables = [path for table in report.tables() for path in _write_table(table, out)]
            write_text(out / MARKDOWN, render_markdown(report))
            page = render_html(report, drawings=drawings, refresh_s=refresh_s)
    finally:
        if page:  # also where the pictures beside it could not be made
            write_text(out / PAGE, page)
    others = _write_linked(report, out)
    _remove_stale(out, {*figures, *tables})
    return ReportFiles(
        out / PAGE, out / MARKDOWN, tuple(figures), tuple(tables),
        failures=tuple(f"{section.title}: {part.title}" for section, part in report.failures()),
        errors=_write_errors(report, out), mistakes=others.get(MISTAKES),
    )  # fmt: skip


def _write_linked(report: Report, out: Path) -> dict[str, Path]:
    """The pages that sections link to, by their names: their tables with all that a page can show.

    One of an earlier report that this one does not link to is removed.
    """
    written = {}
    for section in report.sections:
        for link in (block for block in section.blocks if isinstance(block, Link)):
            shown = (block for block in section.blocks if isinstance(block, Table))
            tables = tuple(replace(table, most=MOST_ROWS) for table in shown)
            alone = replace(section, blocks=tables, folded=False)
            written[link.file] = out / link.file
            write_text(written[link.file], render_html(replace(report, sections=(alone,))))
    if MISTAKES not in written:
        (out / MISTAKES).unlink(missing_ok=True)
    return written


def _drawn(report: Report) -> tuple[Report, dict[str, str]]:
    """The drawing of every panel by its key; a figure that cannot be drawn says so in its place."""
    drawings: dict[str, str] = {}

    def draw_all(block: Figure | Explorer) -> Figure | Explorer:
        drawings.update({panel.key: draw(panel) for panel in block.panels})
        return block

    def drawn(block: Block) -> Block:
        if not isinstance(block, Figure | Explorer):
            return block
        return guarded(lambda: draw_all(block), f"figure-{block.key}", block.title)

    sections = tuple(replace(s, blocks=tuple(map(drawn, s.blocks))) for s in report.sections)
    return replace(report, sections=sections), drawings


def _write_errors(report: Report, out: Path) -> Path | None:
    """Keep the tracebacks of what failed; where nothing did, drop those of an earlier report."""
    path = out / ERROR_LOG
    failures = report.failures()
    if not failures:
        path.unlink(missing_ok=True)
        return None
    entries = [f"{section.title}: {part.title}\n\n{part.trace}" for section, part in failures]
    write_text(path, "\n".join(entries))
    return path


def _write_drawing(
    figure: Figure | Explorer, drawings: dict[str, str], out: Path
) -> tuple[Path, float]:
    """Write the figure as SVG; returns its path and the scale of its PNG."""
    svg = side_by_side(figure, [drawings[panel.key] for panel in figure.panels])
    path = out / "figures" / f"{figure.key}.svg"
    write_text(path, svg)
    width, height = size_of(svg)
    return path, min(PNG_SCALE, (MOST_PIXELS / (width * height)) ** 0.5)


def _write_table(table: Table, out: Path) -> list[Path]:
    csv, tex = (out / "tables" / f"{table.key}.{kind}" for kind in TABLE_KINDS)
    write_text(csv, csv_text(pd.DataFrame(table.records())))
    write_text(tex, render_latex(table))
    return [csv, tex]


def _remove_stale(out: Path, written: set[Path]) -> None:
    """Drop what an earlier report wrote and this one does not have; other files are let be."""
    for name in FIGURE_AND_TABLE_FILES:
        path = out / name
        if path not in written and path.is_file():
            path.unlink()
