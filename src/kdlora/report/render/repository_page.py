"""A short page of a study for a repository: its findings, a few tables, a few pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kdlora.errors import InputError, ReportError, did_you_mean
from kdlora.records.store import write_text
from kdlora.report.document import Explorer, Figure, Report, Section, Table, contents_of
from kdlora.report.render.markdown import render_markdown
from kdlora.report.render.svg import draw, side_by_side


def write_page(
    report: Report, out: Path, name: str, *, tables: Sequence[str], figures: Sequence[str]
) -> list[Path]:
    """Write ``<out>/<name>.md`` and an SVG a figure, ``<out>/<name>-<figure>.svg``.

    The page has the findings of every section and of its blocks those named. Raises InputError for
    names that the report does not have, ReportError where parts of it failed.
    """
    if failures := report.failures():
        listed = [f"{section.title}: {part.title}" for section, part in failures]
        raise ReportError(
            f"page {name}: could not be made: {'; '.join(listed)}\n{failures[0][1].trace}"
        )
    known = {"table": {t.key for t in report.tables()}, "figure": {f.key for f in report.figures()}}
    unknown = [
        f"the report has no {kind} '{key}'.{did_you_mean(key, known[kind])}"
        for kind, keys in (("table", tables), ("figure", figures))
        for key in keys
        if key not in known[kind]
    ]
    if unknown:
        raise InputError(unknown, where=f"page {name}")
    sections = [_shortened(section, set(tables), set(figures)) for section in report.sections]
    short = replace(report, sections=tuple(s for s in sections if s.findings or s.blocks))
    text = re.sub(r"\]\(figures/(\w+)\.png\)", rf"]({name}-\1.svg)", render_markdown(short))
    paths = [out / f"{name}.md"]
    write_text(paths[0], text)
    for figure in short.figures():
        path = out / f"{name}-{figure.key}.svg"
        write_text(path, side_by_side(figure, [draw(panel) for panel in figure.panels]))
        paths.append(path)
    return paths


def _shortened(section: Section, tables: set[str], figures: set[str]) -> Section:
    """Of a section the findings, and the tables and figures that were asked for."""
    blocks = tuple(
        block for block in section.blocks
        if (isinstance(block, Table) and block.key in tables)
        or (isinstance(block, Figure | Explorer) and block.key in figures)
    )  # fmt: skip
    listed = [block.title for block in blocks] or [found.topic for found in section.findings]
    return replace(section, intro=(), blocks=blocks, contents=contents_of(listed))
