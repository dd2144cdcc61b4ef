"""Write a report: one HTML file that needs nothing else, Markdown, figures and tables beside it.

Both formats are rendered from the same `Report`; neither computes a number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from kdlora.errors import ReportError, StoreError
from kdlora.files import cache_dir
from kdlora.records.predictions import FILE as PREDICTIONS
from kdlora.records.predictions import read_predictions
from kdlora.records.store import write_text
from kdlora.report.content.models import Bins, bins_of
from kdlora.report.content.parts import ERROR_LOG, Histories, guarded
from kdlora.report.content.study import FILES, Given, build
from kdlora.report.document import TIE, Block, Explorer, Figure, Missing, Report, Source, Table
from kdlora.report.render import raster
from kdlora.report.render.latex import render_latex
from kdlora.report.render.svg import draw, side_by_side, size_of
from kdlora.report.render.theme import COLOURS, kind_of, shape_of
from kdlora.report.stored_outputs import Examples
from kdlora.report.words import arm_name, plural, short_arm_name

PNG_SCALE = 1.5  # at most; large figures get as many pixels as stay quick to draw
MOST_PIXELS = 2.5e6
PAGE_SCALE = 1.2  # at most, in a page that has the room

FIGURE_KINDS = ("svg", "png", "pdf")
TABLE_KINDS = ("csv", "tex")


@dataclass(frozen=True)
class ReportFiles:
    """What was written. `failures` names parts that could not be made: "Section: part (error)"."""

    html: Path
    markdown: Path
    figures: tuple[Path, ...]
    tables: tuple[Path, ...]
    failures: tuple[str, ...] = ()
    errors: Path | None = None

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
    frame: pd.DataFrame,
    out: str | Path,
    *,
    title: str,
    spec: dict[str, Any],
    histories: Given[Histories] | None = None,
    notes: Sequence[str] = (),
    rerun: str = "kdlora run study.yaml",
    bins: Given[dict[str, Bins]] | None = None,
    examples: Given[Examples] | None = None,
    refresh_s: int | None = None,
) -> ReportFiles:
    """Write ``report.html``, ``report.md``, ``figures/`` and ``tables/`` below `out`.

    Args:
        frame: one row a cell, as `records.frame.load_frame` gives it; done, failed or missing.
        spec: the study, shown as YAML.
        histories: run id -> rows of its history, for the learning curves.
        notes: further sentences for the methods.
        rerun: the command that does the study again.
        bins: run id -> its report rows by confidence, for the reliability diagrams.
        examples: stored outputs and measured exports, for the recommendation and the matrix.
        refresh_s: the page loads itself again after so many seconds; for a study that runs.

    Each file is replaced as a whole, the page last; figures and tables of an earlier report that
    this one does not have are removed. `histories`, `bins` and `examples` may be functions, which
    are called when a part needs them. Raises InputError for a frame that is no study, StoreError
    where `out` cannot be written.
    """
    report = build(
        frame, title=title, spec=spec, histories=histories or {}, notes=notes, rerun=rerun,
        bins=bins, examples=examples,
    )  # fmt: skip
    return save_report(report, Path(out), refresh_s=refresh_s)


MOST_BINNED = 200  # runs whose predictions are read for the reliability diagrams


def read_bins(frame: pd.DataFrame, root: Path) -> dict[str, Bins]:
    """Report rows by confidence of the encoders' runs, as far as they stored their predictions.

    Of a large study only the first `MOST_BINNED` runs are read, seed by seed, so that all models
    are among them.
    """
    encoders = frame[(frame["status"] == "done") & (frame["role"] != "baseline")]
    if "seed" in encoders:
        encoders = encoders.sort_values("seed", kind="stable")
    found: dict[str, Bins] = {}
    for run_id in dict.fromkeys(encoders["run_id"]):
        folder = root / "runs" / str(run_id)
        if len(found) == MOST_BINNED or not (folder / PREDICTIONS).is_file():
            continue
        outputs, labels = read_predictions(folder).by_split()
        if "report" in outputs and (bins := bins_of(outputs["report"], labels["report"])):
            found[str(run_id)] = bins
    return found


def save_report(report: Report, out: Path, *, refresh_s: int | None = None) -> ReportFiles:
    """Render and write a report that is made. Raises StoreError where `out` cannot be written."""
    report, drawings = _drawn(report)
    try:
        for folder in (out, out / "figures", out / "tables"):
            folder.mkdir(parents=True, exist_ok=True)
        scales = dict(_write_drawing(figure, drawings, out) for figure in report.figures())
    except OSError as error:
        raise StoreError(f"cannot write the report to {out}: {error.strerror or error}") from None
    figures = [svg.with_suffix(f".{kind}") for svg in scales for kind in FIGURE_KINDS]
    page = ""
    try:
        with raster.beside(scales):
            tables = [path for table in report.tables() for path in _write_table(table, out)]
            write_text(out / "report.md", render_markdown(report))
            page = render_html(report, drawings=drawings, refresh_s=refresh_s)
    finally:
        if page:  # also where the pictures beside it could not be made
            write_text(out / "report.html", page)
    _remove_stale(out, {*figures, *tables})
    return ReportFiles(
        out / "report.html", out / "report.md", tuple(figures), tuple(tables),
        failures=tuple(f"{section.title}: {part.title}" for section, part in report.failures()),
        errors=_write_errors(report, out),
    )  # fmt: skip


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


def render_markdown(report: Report) -> str:
    titles = {table.key: table.title for table in report.tables()}
    template = _environment("md").get_template("report.md.j2")
    text = template.render(report=report, titles=titles)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def render_html(
    report: Report, *, drawings: dict[str, str] | None = None, refresh_s: int | None = None
) -> str:
    """The page with its style, scripts and charts inside; colours are CSS variables."""
    panels = [panel for figure in report.figures() for panel in figure.panels]
    drawn = drawings if drawings is not None else {panel.key: draw(panel) for panel in panels}
    steered = {f.panel.key for f in report.figures() if isinstance(f, Explorer)}
    specs = {p.key: {**p.spec, "title": None} for p in panels if p.key not in steered}
    return _environment("html").get_template("report.html.j2").render(
        report=report,
        titles={table.key: table.title for table in report.tables()},
        drawings={key: Markup(_in_page(svg)) for key, svg in drawn.items()},
        specs=Markup(_by_variables(_safe_json(specs))),
        explorers=Markup(_safe_json(_explorers(report))),
        vega=Markup(_vega()) if panels else "",
        refresh_s=refresh_s,
        tie=TIE,
        colours=COLOURS,
    )  # fmt: skip


def _explorers(report: Report) -> dict[str, Any]:
    """What the page's script needs of each explorer: axes, points, names and the bare chart."""
    found = {}
    for block in report.figures():
        if not isinstance(block, Explorer):
            continue
        arms = list(dict.fromkeys(row["arm"] for row in block.means))
        found[block.key] = {
            "axes": [{**vars(axis)} for axis in block.axes],
            "means": block.means,
            "runs": block.runs,
            "arms": {
                arm: {"name": arm_name(arm), "short": short_arm_name(arm), "kind": kind_of(arm),
                      "shape": shape_of(arm)}
                for arm in arms
            },
            "spec": json.loads(_by_variables(json.dumps(block.spec))),
        }  # fmt: skip
    return found


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
        "anchor": anchor,
        "kind": kind_of,
        "shape": shape_of,
    }
    environment.tests |= {
        "table": lambda block: isinstance(block, Table),
        "figure": lambda block: isinstance(block, Figure | Explorer),
        "explorer": lambda block: isinstance(block, Explorer),
        "source": lambda block: isinstance(block, Source),
        "missing": lambda block: isinstance(block, Missing),
    }
    return environment


def _escape_markdown(text: str) -> str:
    """One line that Markdown shows as it is, inside a table too."""
    flat = " ".join(str(text).split())
    return re.sub(r"([\\|`*<>\[\]])", r"\\\1", flat)


def anchor(title: str) -> str:
    """The place of a heading as Markdown viewers name it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _safe_json(value: Any) -> str:
    """JSON that can stand inside a script element."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _by_variables(text: str) -> str:
    """Replace the theme's light colours by CSS variables, which know of dark pages."""
    for name, (colour, _) in COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    return text


def _in_page(svg: str) -> str:
    """The static drawing that stands in the page where scripts do not run."""
    largest = round(PAGE_SCALE * size_of(svg)[0])
    return _by_variables(svg.replace("<svg ", f'<svg style="max-width:{largest}px" ', 1))


@lru_cache(maxsize=1)
def _vega() -> str:
    """The charting libraries as one script without outside references to load.

    Putting them together takes a second, so the result is kept in the user's cache.
    """
    kept = cache_dir() / f"vega-{version('vl-convert-python')}.js"
    try:
        return kept.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        pass
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    bundle = bundle.replace("</script", "<\\/script")
    with suppress(OSError, StoreError):  # a cache that cannot be written costs a second
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_text(kept, bundle)
    return bundle


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
    write_text(csv, pd.DataFrame(table.records()).to_csv(index=False, lineterminator="\n"))
    write_text(tex, render_latex(table))
    return [csv, tex]


def _remove_stale(out: Path, written: set[Path]) -> None:
    """Drop what an earlier report wrote and this one does not have; other files are let be."""
    for folder, kinds in (("figures", FIGURE_KINDS), ("tables", TABLE_KINDS)):
        for name in FILES:
            for kind in kinds:
                if (path := out / folder / f"{name}.{kind}") not in written:
                    path.unlink(missing_ok=True)
