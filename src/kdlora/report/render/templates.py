"""The templates of a page, and how they tell the blocks of a section apart."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from kdlora.report.document import Explorer, Figure, Link, Missing, Source, Table
from kdlora.visible import visible


def _shown(value: object) -> object:
    """What a template puts into a page, except for what was made for it: drawings and scripts."""
    return value if isinstance(value, Markup) else visible(value)


@cache  # to read a template takes as long as to fill it
def environment(suffix: str, **filters: Callable[..., str]) -> Environment:
    """The templates of one format: `suffix` is "html" or "md"; both know what a block is."""
    made = Environment(
        loader=PackageLoader("kdlora.report"),
        autoescape=suffix == "html",
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    made.filters |= filters
    made.tests |= {
        "table": lambda block: isinstance(block, Table),
        "figure": lambda block: isinstance(block, Figure | Explorer),
        "explorer": lambda block: isinstance(block, Explorer),
        "source": lambda block: isinstance(block, Source),
        "link": lambda block: isinstance(block, Link),
        "missing": lambda block: isinstance(block, Missing),
    }
    return made
