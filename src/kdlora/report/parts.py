"""What a report is made of. HTML, Markdown and CSV are rendered from these parts and nothing else,
so the formats cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Value = float | int | str | None

NONE = "\N{EN DASH}"  # shown where there is no number or name; empty in the CSV


@dataclass(frozen=True)
class Cell:
    """One place of a table: `text` is what every format shows, `value` what sorts and is saved.

    `sub` is a second, smaller line (a spread, a count), `mark` a dagger; `extra` holds further
    unrounded values, which only the CSV has, as columns named ``<column>.<key>``.
    """

    text: str
    value: Value = None
    sub: str = ""
    mark: str = ""
    extra: Mapping[str, Value] = field(default_factory=dict)

    @property
    def saved(self) -> Value:
        return self.text if self.value is None and self.text not in ("", NONE) else self.value

    @property
    def shown(self) -> str:
        return f"{self.text}{self.mark}" + (f" ({self.sub})" if self.sub else "")


@dataclass(frozen=True)
class Column:
    """`unit` stands under the label; numeric columns align right."""

    key: str
    label: str
    unit: str = ""
    numeric: bool = True

    @property
    def header(self) -> str:
        return f"{self.label} ({self.unit})" if self.unit else self.label


@dataclass(frozen=True)
class Table:
    """A table; the first `heads` columns name the row. `folded` ones start closed in the HTML."""

    key: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""
    notes: tuple[str, ...] = ()
    heads: int = 1
    folded: bool = False

    def records(self) -> list[dict[str, Value]]:
        """The unrounded values, one dict a row: what the CSV holds."""
        return [
            {
                name: value
                for column, cell in zip(self.columns, row, strict=True)
                for name, value in [
                    (column.key, cell.saved),
                    *((f"{column.key}.{key}", value) for key, value in cell.extra.items()),
                ]
            }
            for row in self.rows
        ]


@dataclass(frozen=True)
class Finding:
    """A sentence made from stored numbers; every number in it stands in one of its `tables`."""

    topic: str
    text: str
    tables: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tile:
    """A headline number and what it is."""

    text: str
    label: str


@dataclass(frozen=True)
class Panel:
    """One small chart as a Vega-Lite specification."""

    key: str
    title: str
    alt: str
    spec: dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """Small multiples that belong together; `tables` hold the same numbers in words."""

    key: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    tables: tuple[str, ...] = ()

    @property
    def alt(self) -> str:
        return " ".join(panel.alt for panel in self.panels)


@dataclass(frozen=True)
class Source:
    """Text to be shown as it is: a study file, a command."""

    key: str
    title: str
    text: str
    language: str = ""
    folded: bool = False


Block = Table | Figure | Source


@dataclass(frozen=True)
class Section:
    key: str
    title: str
    intro: tuple[str, ...] = ()
    tiles: tuple[Tile, ...] = ()
    findings: tuple[Finding, ...] = ()
    blocks: tuple[Block, ...] = ()


@dataclass(frozen=True)
class Report:
    title: str
    subtitle: str
    sections: tuple[Section, ...]

    def tables(self) -> Iterator[Table]:
        return (b for s in self.sections for b in s.blocks if isinstance(b, Table))

    def figures(self) -> Iterator[Figure]:
        return (b for s in self.sections for b in s.blocks if isinstance(b, Figure))
