"""Panels as SVG, drawn once and used twice: in the page and, put side by side, as a file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import Any

import vl_convert

from kdlora.report.document import Explorer, Figure, Panel
from kdlora.report.render.colours import light
from kdlora.report.render.theme import FONT
from kdlora.visible import visible

GAP, MARGIN, TITLE = 40.0, 16.0, 26.0  # px between panels, around them, of a panel's title
SIZE = re.compile(r'<svg[^>]*? width="([\d.]+)"[^>]*? height="([\d.]+)"')
IDS = re.compile(r'(?<=\bid=")([^"]+)(?=")|(?<=url\(#)([^)]+)(?=\))')


def spec_of(panel: Panel) -> dict[str, Any]:
    """What is drawn of a panel: its title is written by the page."""
    return {**visible(panel.spec), "title": None}


def draw(panel: Panel) -> str:
    """A panel without its title."""
    return vl_convert.vegalite_to_svg(spec_of(panel))


def size_of(svg: str) -> tuple[float, float]:
    """Width and height in px."""
    found = SIZE.search(svg)
    assert found, "every drawing states its size"
    return float(found[1]), float(found[2])


def side_by_side(figure: Figure | Explorer, drawings: Sequence[str], *, columns: int = 2) -> str:
    """All panels of a figure as one SVG, each below its title."""
    columns = min(columns, len(drawings))
    sizes = [size_of(svg) for svg in drawings]
    widths = [max(w for w, _ in sizes[i::columns]) for i in range(columns)]
    parts, y = [], MARGIN
    for start in range(0, len(drawings), columns):
        x = MARGIN
        row = range(start, min(start + columns, len(drawings)))
        for i in row:
            parts.append(
                f'<text x="{x}" y="{y + 14}" font-size="13" font-weight="600" '
                f'fill="{light("ink")}">{escape(visible(figure.panels[i].title))}</text>'
            )
            inner = IDS.sub(rf"p{i}-\g<0>", drawings[i])
            parts.append(inner.replace("<svg ", f'<svg x="{x}" y="{y + TITLE}" ', 1))
            x += widths[i - start] + GAP
        y += max(sizes[i][1] for i in row) + TITLE + GAP
    width, height = sum(widths) + GAP * (columns - 1) + 2 * MARGIN, y - GAP + MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}" '
        f'font-family="{FONT}"><rect width="100%" height="100%" fill="{light("card")}"/>'
        f"{''.join(parts)}</svg>\n"
    )
