"""A text made of several columns: ``{title} [SEP] {body}`` where a column's name may stand."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_FIELD = re.compile(r"\{([^{}]+)\}")


def fields_of(name: str, present: Sequence[str] | None = None) -> tuple[str, ...]:
    """The columns that a name means: itself, or those in the braces of a template.

    `present` are the columns of a file: one that is called so is no template.
    """
    if present is not None and name in present:
        return (name,)
    return tuple(dict.fromkeys(_FIELD.findall(name))) or (name,)


def is_template(name: str) -> bool:
    """Whether a name has columns in braces."""
    return _FIELD.search(name) is not None


def filled(template: str, texts: Mapping[str, str]) -> str:
    """The template with a row's texts in its braces; empty where all of them are."""
    if not any(texts[field].strip() for field in fields_of(template)):
        return ""
    return _FIELD.sub(lambda found: texts[found[1]], template)


def columns_of(names: Sequence[str], present: Sequence[str] | None = None) -> list[str]:
    """All columns that names and templates mean, each once."""
    return list(dict.fromkeys(field for name in names for field in fields_of(name, present)))


def composed_columns(
    names: Sequence[str], texts: Mapping[str, Sequence[str]], present: Sequence[str]
) -> tuple[list[str], ...]:
    """Columns of texts by names and templates, from the columns that these mean."""
    columns = []
    for name in names:
        if name in present:
            columns.append(list(texts[name]))
            continue
        fields = fields_of(name)
        rows = zip(*(texts[field] for field in fields), strict=True)
        columns.append([filled(name, dict(zip(fields, row, strict=True))) for row in rows])
    return tuple(columns)


def composed(
    names: Sequence[str],
    cells: Mapping[str, Any],
    present: Sequence[str],
    text_of: Callable[[Any], str],
) -> list[Any]:
    """A row's values by names and templates; `text_of` makes a cell a text."""
    return [
        cells[name]
        if name in present
        else filled(name, {field: text_of(cells[field]) for field in fields_of(name)})
        for name in names
    ]
