"""A report as Markdown, for a repository or a terminal; its pictures lie beside it."""

from __future__ import annotations

import re

from kdlora.report.document import Cell, Report
from kdlora.report.render.templates import environment
from kdlora.visible import as_markdown


def render_markdown(report: Report) -> str:
    """The whole report; figures are linked as ``figures/<key>.png``."""
    titles = {table.key: table.title for table in report.tables()}
    made = environment("md", md=as_markdown, anchor=anchor, cell=cell)
    template = made.get_template("report.md.j2")
    text = template.render(report=report, titles=titles)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def cell(one: Cell) -> str:
    """A place of a table: the best of its column in bold, what stands below in brackets."""
    text = f"**{as_markdown(one.text)}**" if one.standing == "best" else as_markdown(one.text)
    below = f" ({as_markdown(one.sub)})" if one.sub else ""
    return f"{text}{as_markdown(one.marks)}{below}"


def anchor(title: str) -> str:
    """The place of a heading as Markdown viewers name it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
