"""Write a report: one HTML file that needs nothing else, Markdown, figures and tables beside it.

Both formats are rendered from the same `Report`; neither computes a number.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from kdlora.errors import StoreError
from kdlora.report.palette import COLOURS, kind_of, shape_of
from kdlora.report.parts import Figure, Report, Source, Table
from kdlora.report.sections import build
from kdlora.report.theme import together
from kdlora.store.store import write_text

PNG_SCALE = 2.0
PAGE_SCALE = 1.2  # at most, in a page that has the room

# Every file that a report may have, so that one of an earlier report is known as such.
FIGURES = ("trade_off", "quality_size", "quality_latency", "learning")
TABLES = (
    "summary", "effects", "effects_by_task", "flag_counts", "flags", "unfinished", "coverage",
    "shared", "settings", "splits", "quality", "agreement", "metrics", "per_class", "efficiency",
    "efficiency_by_task", "protocol", "environment", "runs",
)  # fmt: skip


@dataclass(frozen=True)
class ReportFiles:
    """What was written."""

    html: Path
    markdown: Path
    figures: tuple[Path, ...]
    tables: tuple[Path, ...]


def write_report(
    frame: pd.DataFrame,
    out: str | Path,
    *,
    title: str,
    spec: dict[str, Any],
    histories: dict[str, list[dict[str, Any]]] | None = None,
    notes: Sequence[str] = (),
    rerun: str = "kdlora run study.yaml",
) -> ReportFiles:
    """Write ``report.html``, ``report.md``, ``figures/`` and ``tables/`` below `out`.

    Args:
        frame: one row a cell, as `store.frame.load_frame` gives it; done, failed or missing.
        spec: the study, shown as YAML.
        histories: run id -> rows of its history, for the learning curves.
        notes: further sentences for the methods.
        rerun: the command that does the study again.

    Each file is replaced as a whole, the page last; figures and tables of an earlier report that
    this one does not have are removed. Raises InputError for an empty frame, StoreError where
    `out` cannot be written.
    """
    report = build(
        frame, title=title, spec=spec, histories=histories or {}, notes=notes, rerun=rerun
    )
    return save_report(report, Path(out))


def save_report(report: Report, out: Path) -> ReportFiles:
    """Render and write a report that is made. Raises StoreError where `out` cannot be written."""
    try:
        for folder in (out, out / "figures", out / "tables"):
            folder.mkdir(parents=True, exist_ok=True)
        figures = [path for figure in report.figures() for path in _write_figure(figure, out)]
    except OSError as error:
        raise StoreError(f"cannot write the report to {out}: {error.strerror or error}") from None
    tables = [_write_table(table, out) for table in report.tables()]
    files = ReportFiles(out / "report.html", out / "report.md", tuple(figures), tuple(tables))
    write_text(files.markdown, render_markdown(report))
    write_text(files.html, render_html(report))
    _remove_stale(out, {*figures, *tables})
    return files


def render_markdown(report: Report) -> str:
    text = _environment("md").get_template("report.md.j2").render(report=report)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def render_html(report: Report) -> str:
    """The page with its style, scripts and charts inside; colours are CSS variables."""
    panels = [panel for figure in report.figures() for panel in figure.panels]
    drawings = {panel.key: Markup(_drawing(panel.spec)) for panel in panels}
    specs = {panel.key: {**panel.spec, "title": None} for panel in panels}
    return _environment("html").get_template("report.html.j2").render(
        report=report,
        titles={table.key: table.title for table in report.tables()},
        drawings=drawings,
        specs=Markup(_by_variables(_safe_json(specs))),
        vega=Markup(_vega()) if panels else "",
        colours=COLOURS,
    )  # fmt: skip


@lru_cache(maxsize=2)
def _environment(kind: str) -> Environment:
    environment = Environment(
        loader=PackageLoader("kdlora.report"),
        autoescape=kind == "html",
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "md": _escape_markdown,
        "slug": slug,
        "kind": kind_of,
        "shape": shape_of,
    }
    environment.tests |= {
        "table": lambda block: isinstance(block, Table),
        "figure": lambda block: isinstance(block, Figure),
        "source": lambda block: isinstance(block, Source),
    }
    return environment


def _escape_markdown(text: str) -> str:
    """One line that Markdown shows as it is, inside a table too."""
    flat = " ".join(str(text).split())
    return re.sub(r"([\\|`*<>\[\]])", r"\\\1", flat)


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _safe_json(value: Any) -> str:
    """JSON that can stand inside a script element."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _by_variables(text: str) -> str:
    """Replace the theme's light colours by CSS variables, which know of dark pages."""
    for name, (colour, _) in COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    return text


def _drawing(spec: dict[str, Any]) -> str:
    """The static drawing that stands in the page where scripts do not run."""
    svg = vl_convert.vegalite_to_svg({**spec, "title": None})
    width = re.search(r'<svg[^>]*? width="([\d.]+)"', svg)
    assert width, "every drawing states its width"
    largest = round(PAGE_SCALE * float(width[1]))
    return _by_variables(svg.replace("<svg ", f'<svg style="max-width:{largest}px" ', 1))


@lru_cache(maxsize=1)
def _vega() -> str:
    """The charting libraries as one script without outside references to load."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace(
        "</script", "<\\/script"
    )


def _write_figure(figure: Figure, out: Path) -> list[Path]:
    spec = together([panel.spec for panel in figure.panels])
    svg, png = (out / "figures" / f"{figure.key}.{kind}" for kind in ("svg", "png"))
    write_text(svg, vl_convert.vegalite_to_svg(spec))
    temporary = png.with_name(f".{png.name}.{os.getpid()}.tmp")
    temporary.write_bytes(vl_convert.vegalite_to_png(spec, scale=PNG_SCALE))
    os.replace(temporary, png)
    return [svg, png]


def _write_table(table: Table, out: Path) -> Path:
    path = out / "tables" / f"{table.key}.csv"
    write_text(path, pd.DataFrame(table.records()).to_csv(index=False, lineterminator="\n"))
    return path


def _remove_stale(out: Path, written: set[Path]) -> None:
    """Drop what an earlier report wrote and this one does not have; other files are let be."""
    for name in FIGURES:
        for kind in ("svg", "png"):
            if (path := out / "figures" / f"{name}.{kind}") not in written:
                path.unlink(missing_ok=True)
    for name in TABLES:
        if (path := out / "tables" / f"{name}.csv") not in written:
            path.unlink(missing_ok=True)
