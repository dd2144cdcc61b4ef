"""A report as Markdown, for a repository or a terminal; its pictures lie beside it."""

from __future__ import annotations

import re

from kdlora.report.document import Report
from kdlora.report.render.templates import environment


def render_markdown(report: Report) -> str:
    """The whole report; figures are linked as ``figures/<key>.png``."""
    titles = {table.key: table.title for table in report.tables()}
    template = environment("md", md=escape, anchor=anchor).get_template("report.md.j2")
    text = template.render(report=report, titles=titles)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def escape(text: str) -> str:
    """One line that Markdown shows as it is, inside a table too."""
    flat = " ".join(str(text).split())
    return re.sub(r"([\\|`*<>\[\]])", r"\\\1", flat)


def anchor(title: str) -> str:
    """The place of a heading as Markdown viewers name it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
