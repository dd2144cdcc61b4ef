"""A report as one HTML file that needs nothing else, in light and dark."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import vl_convert
from markupsafe import Markup

from kdlora.errors import StoreError
from kdlora.files import cache_dir, read_text
from kdlora.records.store import write_text
from kdlora.report.document import TIE, Explorer, Report
from kdlora.report.output_folder import MADE_BY
from kdlora.report.render.colours import COLOURS, kind_of, shape_of
from kdlora.report.render.svg import draw, size_of, spec_of
from kdlora.report.render.templates import environment
from kdlora.report.words import arm_name, short_arm_name
from kdlora.visible import visible

PAGE_SCALE = 1.2  # of a drawing at most, in a page that has the room


def render_html(
    report: Report, *, drawings: dict[str, str] | None = None, refresh_s: int | None = None
) -> str:
    """The page with its style, scripts and charts inside; colours are CSS variables."""
    panels = [panel for figure in report.figures() for panel in figure.panels]
    drawn = drawings if drawings is not None else {panel.key: draw(panel) for panel in panels}
    steered = {f.panel.key for f in report.figures() if isinstance(f, Explorer)}
    specs = {p.key: spec_of(p) for p in panels if p.key not in steered}
    return environment("html", kind=kind_of, shape=shape_of).get_template("report.html.j2").render(
        report=report,
        titles={table.key: table.title for table in report.tables()},
        drawings={key: Markup(_in_page(svg)) for key, svg in drawn.items()},
        specs=Markup(_by_variables(_safe_json(visible(specs)))),
        explorers=Markup(_safe_json(visible(_explorers(report)))),
        vega=Markup(_vega()) if panels else "",
        refresh_s=refresh_s,
        made_by=MADE_BY,
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
        return read_text(kept)
    except OSError:
        pass
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    bundle = bundle.replace("</script", "<\\/script")
    with suppress(OSError, StoreError):  # a cache that cannot be written costs a second
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_text(kept, bundle)
    return bundle
