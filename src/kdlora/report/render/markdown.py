"""A report as Markdown, for a repository or a terminal; its pictures lie beside it."""

from __future__ import annotations

import re
from functools import lru_cache

from kdlora.report.document import Cell, Report
from kdlora.report.render.templates import environment


def render_markdown(report: Report) -> str:
    """The whole report; figures are linked as ``figures/<key>.png``."""
    titles = {table.key: table.title for table in report.tables()}
    template = environment("md", md=escape, anchor=anchor, cell=cell).get_template("report.md.j2")
    text = template.render(report=report, titles=titles)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def cell(one: Cell) -> str:
    """A place of a table: the best of its column in bold, what stands below in brackets."""
    text = f"**{escape(one.text)}**" if one.standing == "best" else escape(one.text)
    below = f" ({escape(one.sub)})" if one.sub else ""
    return f"{text}{escape(one.marks)}{below}"


@lru_cache(maxsize=1 << 14)  # names stand in hundreds of rows
def escape(text: str) -> str:
    """One line that Markdown shows as it is, inside a table too."""
    flat = " ".join(str(text).split())
    return re.sub(r"([\\|`*<>\[\]])", r"\\\1", flat)


def anchor(title: str) -> str:
    """The place of a heading as Markdown viewers name it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
