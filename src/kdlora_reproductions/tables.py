"""A published number beside the one that the records give, with its source, n and rule.

A number is reproduced when it lies within half a unit of the last digit printed. Nothing here
decides what is right: that is what the sound answers are for.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

import pandas as pd

from kdlora.errors import InputError
from kdlora.evidence.result import Result

# Where numbers come from. No table mixes two of them unless it says so.
SOURCES: dict[str, str] = {
    "paper": "Azimi et al. 2024 (arXiv 2410.20777), tables 1 and 2",
    "A574": "574 trainings, the state of 26 January (81 FFT, 372 LoRA-only, 121 KD-LoRA)",
    "B742": "742 trainings, the state of 27 January (81 FFT, 391 LoRA-only, 270 KD-LoRA)",
    "C1103": "1,103 trainings, the state of 28 January (81 FFT, 524 LoRA-only, 498 KD-LoRA); "
    "where they are not at hand the scores that the report prints are taken as given",
    "D": "four distillations of the 2x2 matrix, one validation split",
}
CELL_COLUMNS = ["table", "key", "column", "printed", "value", "n", "reproduced", "source", "rule"]


@dataclass(frozen=True)
class PublishedTable(Result):
    """One table of a report. `cells`: key, column, printed (text), value, n, reproduced."""

    id: str
    title: str
    source: str
    rule: str
    cells: pd.DataFrame = field(repr=True, compare=False)
    note: str = ""

    @property
    def reproduced(self) -> bool:
        return bool(self.cells["reproduced"].dropna().astype(bool).all())

    def wide(self, values: str = "value") -> pd.DataFrame:
        """The table as printed: a row a key, a column a column, in the published order."""
        order = dict.fromkeys(self.cells["key"]), dict.fromkeys(self.cells["column"])
        table = self.cells.pivot(index="key", columns="column", values=values)
        return table.reindex(index=list(order[0]), columns=list(order[1])).reset_index()


@dataclass(frozen=True)
class PublishedClaim(Result):
    """One number or name in a report's prose, recomputed."""

    id: str
    text: str
    printed: str
    value: float | str
    source: str
    rule: str
    n: int
    reproduced: bool


@dataclass(frozen=True)
class Contradiction(Result):
    """What a report says against its data, against itself or against another report."""

    id: str
    said: str
    correct: dict[str, Any]
    why: str


@dataclass(frozen=True)
class Sound(Result):
    """The answer that the data can carry to a question that the report answers.

    `shown` are the columns for a reader; the table has all of them. Empty: all are shown.
    """

    id: str
    question: str
    answer: str
    table: pd.DataFrame = field(repr=True, compare=False)
    source: str
    n: int
    rule: str
    shown: tuple[str, ...] = ()


@dataclass(frozen=True)
class PublishedReport(Result):
    """One of the five reports, regenerated."""

    id: str
    title: str
    about: str
    tables: tuple[PublishedTable, ...] = ()
    claims: tuple[PublishedClaim, ...] = ()
    contradictions: tuple[Contradiction, ...] = ()
    sound: tuple[Sound, ...] = ()
    figures: Mapping[str, pd.DataFrame] = field(default_factory=dict, compare=False)

    def numbers(self) -> pd.DataFrame:
        """Every number of the report in one frame with the columns of `CELL_COLUMNS`."""
        parts = [
            table.cells.assign(table=table.id, source=table.source, rule=table.rule)
            for table in self.tables
        ]
        parts.append(
            pd.DataFrame(
                [
                    {"table": "prose", "key": c.id, "column": c.text, "printed": c.printed,
                     "value": c.value, "n": c.n, "reproduced": c.reproduced, "source": c.source,
                     "rule": c.rule}
                    for c in self.claims
                ],
                columns=CELL_COLUMNS,
            )
        )  # fmt: skip
        parts = [part.astype(object) for part in parts if len(part)]
        if not parts:
            return pd.DataFrame(columns=CELL_COLUMNS)
        return pd.concat(parts, ignore_index=True)[CELL_COLUMNS]


def make_table(
    table_id: str,
    title: str,
    values: pd.DataFrame,
    *,
    source: str,
    rule: str,
    note: str = "",
) -> PublishedTable:
    """Set values (columns key, column, value, n) beside what the report prints, cell by cell.

    A column `slack` of the values widens the tolerance by the rounding of numbers that were taken
    from print; those numbers themselves are `given` and not judged. A cell that is printed and not
    computed stays as not reproduced.
    """
    printed = _printed_tables().get(table_id, {})
    places = zip(values["key"].astype(str), values["column"].astype(str), strict=True)
    slack = values["slack"] if "slack" in values else [0.0] * len(values)
    given = values["given"] if "given" in values else [False] * len(values)
    found = zip(values["value"], values["n"], slack, given, strict=True)
    computed = dict(zip(places, found, strict=True))
    rows = []
    for place in dict.fromkeys([*printed, *computed]):
        value, n, wider, is_given = computed.get(place, (None, None, 0.0, False))
        text = printed.get(place, "")
        fits = None if is_given else agrees(text, value, slack=wider)
        rows.append((*place, text, value, n, fits))
    columns = ["key", "column", "printed", "value", "n", "reproduced"]
    return PublishedTable(table_id, title, source, rule, pd.DataFrame(rows, columns=columns), note)


def make_claims(
    values: Mapping[str, tuple[float | str, int]], *, source: str, rule: str
) -> tuple[PublishedClaim, ...]:
    """Claims by id -> (value, n), looked up in the published prose. Raises KeyError for others."""
    published = _printed_claims()
    claims = []
    for claim_id, (value, n) in values.items():
        text, printed = published[claim_id]
        exact = isinstance(value, int)  # counts are right or wrong
        fits = printed == str(value) if exact else bool(agrees(printed, value))
        claims.append(PublishedClaim(claim_id, text, printed, value, source, rule, int(n), fits))
    return tuple(claims)


def half_unit(printed: str) -> float:
    """Half a unit of the last digit printed."""
    return 0.5 * 10.0 ** -len(printed.partition(".")[2])


def agrees(printed: str, value: Any, *, slack: float = 0.0) -> bool | None:
    """Whether a value rounds to what is printed; None where nothing is printed."""
    if not printed:
        return None
    if value is None or value != value:
        return False
    if isinstance(value, str):
        return printed == value
    if printed.startswith("<"):
        return float(value) < float(printed[1:])
    try:
        number = float(printed)
    except ValueError:
        return printed == str(value)
    return abs(float(value) - number) <= half_unit(printed) * (1 + 1e-3) + 1e-12 + slack


def long(table: pd.DataFrame, n: int | Mapping[str, int], *, key: str = " | ") -> pd.DataFrame:
    """A frame indexed by its keys as (key, column, value, n) rows; n per key or for all."""
    rows = []
    for index, row in table.iterrows():
        name = key.join(map(str, index)) if isinstance(index, tuple) else str(index)
        count = n.get(name) if isinstance(n, Mapping) else n
        rows += [(name, str(column), value, count) for column, value in row.items()]
    return pd.DataFrame(rows, columns=["key", "column", "value", "n"])


def rows_of(table: pd.DataFrame) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(first key, second key, row) of a frame indexed by two levels."""
    columns = [str(c) for c in table.columns]
    for (first, second), row in zip(
        table.index.tolist(), table.itertuples(index=False, name=None), strict=True
    ):
        yield str(first), str(second), dict(zip(columns, row, strict=True))


@cache
def _printed_tables() -> dict[str, dict[tuple[str, str], str]]:
    tables: dict[str, dict[tuple[str, str], str]] = {}
    for row in _read("tables.csv"):
        tables.setdefault(row["table"], {})[(row["key"], row["column"])] = row["printed"]
    return tables


@cache
def _printed_claims() -> dict[str, tuple[str, str]]:
    return {row["claim"]: (row["text"], row["printed"]) for row in _read("claims.csv")}


def printed_cell(table: str, key: str, column: str) -> tuple[float, float]:
    """A published number that is taken as given, and the rounding it carries.

    Raises InputError for a place that the report does not have.
    """
    text = _printed_tables()[table].get((key, column))
    if text is None:
        raise InputError(f"report {table.partition('.')[0]} prints no {column} for {key}")
    return float(text), half_unit(text)


def _read(name: str) -> list[dict[str, str]]:
    path = files("kdlora_reproductions") / "published" / name
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
