"""What a report is made of. HTML, Markdown, LaTeX and CSV are rendered from these parts and nothing
else, so the formats cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Value = float | int | str | None

NONE = "\N{EN DASH}"  # shown where there is no number or name; empty in the CSV
TIE = "\N{ALMOST EQUAL TO}"  # beside a number that is not told apart from the best one
MOST_ROWS = 1000  # of a table that a page shows; the CSV always has all


@dataclass(frozen=True)
class Cell:
    """One place of a table: `text` is what every format shows, `value` what sorts and is saved.

    `sub` is a second, smaller line (a spread, a count), `mark` a dagger; `standing` is "best" for
    what is set in bold, "tie" for what is not told apart from it; `extra` holds further unrounded
    values, which only the CSV has, as columns named ``<column>.<key>``.
    """

    text: str
    value: Value = None
    sub: str = ""
    mark: str = ""
    extra: Mapping[str, Value] = field(default_factory=dict)
    standing: str = ""

    @property
    def saved(self) -> Value:
        return self.text if self.value is None and self.text not in ("", NONE) else self.value

    @property
    def marks(self) -> str:
        return self.mark + (TIE if self.standing == "tie" else "")

    @property
    def shown(self) -> str:
        return f"{self.text}{self.marks}" + (f" ({self.sub})" if self.sub else "")


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
    """A table; the first `heads` columns name the row. `folded` ones start closed in the HTML.

    A page shows the first `most` rows; the CSV has all.
    """

    key: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""
    notes: tuple[str, ...] = ()
    heads: int = 1
    folded: bool = False
    most: int = MOST_ROWS

    @property
    def shown_rows(self) -> tuple[tuple[Cell, ...], ...]:
        """What a page has room for."""
        return self.rows[: self.most]

    @property
    def shown_notes(self) -> tuple[str, ...]:
        if len(self.rows) <= self.most:
            return self.notes
        kept = f"The first {self.most:,} of {len(self.rows):,} rows; all are in {self.key}.csv."
        return (*self.notes, kept)

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
class Axis:
    """A quantity that the explorer can draw; `direction` says which way is better."""

    key: str
    label: str
    direction: int
    log: bool


@dataclass(frozen=True)
class Explorer:
    """Every run in one scatter plot whose axes and filters the reader chooses.

    `means` and `runs` are records with `arm`, `pair`, `task` and a value for every axis that is
    known; `spec` is the chart without data, `panel` the drawing for where no script runs.
    """

    key: str
    title: str
    caption: str
    axes: tuple[Axis, ...]
    means: tuple[dict[str, Any], ...]
    runs: tuple[dict[str, Any], ...]
    spec: dict[str, Any]
    panel: Panel
    tables: tuple[str, ...] = ()

    @property
    def alt(self) -> str:
        return self.panel.alt

    @property
    def panels(self) -> tuple[Panel, ...]:
        return (self.panel,)


@dataclass(frozen=True)
class Source:
    """Text to be shown as it is: a study file, a command."""

    key: str
    title: str
    text: str
    language: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Missing:
    """What stands in the place of a part that is not there: its title, and why it is missing.

    `trace` is the traceback of a part that failed; it is empty where only the data are lacking.
    """

    key: str
    title: str
    text: str
    trace: str = ""


@dataclass(frozen=True)
class Link:
    """Another page beside this one."""

    key: str
    title: str
    file: str


Block = Table | Figure | Explorer | Source | Missing | Link


@dataclass(frozen=True)
class Section:
    """A folded one starts closed, with `contents` beside its title: what stands in it."""

    key: str
    title: str
    intro: tuple[str, ...] = ()
    tiles: tuple[Tile, ...] = ()
    findings: tuple[Finding, ...] = ()
    blocks: tuple[Block, ...] = ()
    contents: str = ""
    folded: bool = False


def contents_of(titles: Iterable[str]) -> str:
    """What stands in a section, each title once."""
    return " \N{MIDDLE DOT} ".join(dict.fromkeys(titles))


@dataclass(frozen=True)
class Report:
    title: str
    subtitle: str
    sections: tuple[Section, ...]

    def tables(self) -> Iterator[Table]:
        return (b for s in self.sections for b in s.blocks if isinstance(b, Table))

    def figures(self) -> Iterator[Figure | Explorer]:
        blocks = (b for s in self.sections for b in s.blocks)
        return (b for b in blocks if isinstance(b, Figure | Explorer))

    def failures(self) -> list[tuple[Section, Missing]]:
        """The parts that failed, each with the section it belongs to."""
        return [
            (s, b) for s in self.sections for b in s.blocks if isinstance(b, Missing) and b.trace
        ]
