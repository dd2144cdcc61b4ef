"""Numbers as people write them in tables: units, thousands, decimal commas, LaTeX and Markdown.

    12,5      1.234,5     1 234.5     1'234     3.4M     12 ms     85 %     1.2e6     1.2×10^6
    92.7 ± 0.2     85.0 (0.9)     \\textbf{92.7}     **92.7**     $92.7_{\\pm 0.2}$     −0.3     –

Whether a comma or a point stands before the decimals is decided once for a column: by the cells
that can be read in one way only, else by the rest of the table. "1,234" alone may be 1234 or 1.234:
what was read then is told, or the cell is left out and that is told. Nothing is decided by the size
of a number.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

Decimal = Literal["point", "comma"]

# quantity -> unit -> factor to the tidy unit of that quantity
FACTORS: dict[str, dict[str, float]] = {
    "memory": {
        "B": 1e-6,
        "KB": 1e-3,
        "MB": 1.0,
        "GB": 1e3,
        "KiB": 1024 / 1e6,
        "MiB": 1024**2 / 1e6,
        "GiB": 1024**3 / 1e6,
    },
    "seconds": {"ms": 1e-3, "s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0},
    "milliseconds": {"us": 1e-3, "ms": 1.0, "s": 1e3},
    "energy": {"J": 1.0, "kJ": 1e3, "Wh": 3600.0, "kWh": 3.6e6},
    "count": {"": 1.0, "K": 1e3, "k": 1e3, "M": 1e6, "B": 1e9},
    "flops": {"": 1.0, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15},
    "score": {"": 1.0, "fraction": 1.0, "percent": 0.01, "%": 0.01},
    "number": {"": 1.0, "x": 1.0},
}
WHOLE = ("count", "flops")  # of these "1,234" is no fraction
INTEGERS = ("seed", "rank", "batch_size", "epochs", "max_length", "n_report", "n_classes")

_MISSING = {"", "-", "--", "---", "?", "n/a", "n.a.", "na", "nan", "none", "null", "\\"}
_INFINITE = ("inf", "-inf", "+inf", "infinity", "-infinity", "+infinity")
_SIGNS = str.maketrans(
    {
        **dict.fromkeys("\u2212\u2010\u2011\u2012\u2013\u2014\u2015\ufe63\uff0d", "-"),
        **dict.fromkeys("\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009", " "),
        **dict.fromkeys("\u200a\u202f\u205f\u3000\t\r\n", " "),
        **dict.fromkeys("\u200b\u2060\ufeff", None),
        **dict.fromkeys("\u2019\u02bc\u00b4", "'"),
        "\uff05": "%",
        "\u03bc": "u",
        "\u00b5": "u",
    }
)
_ODD = re.compile(r"[^\w.,+\- %]|_")  # a cell without any of these is plain text already
_TAGS = re.compile(r"</?(?:b|strong|i|em|u|sup|sub|span|small|br)\b[^>]*>", re.IGNORECASE)
_WITH_COLOUR = re.compile(
    r"\\(?:cellcolor|rowcolor|color|hphantom|phantom|vphantom|footnote|footnotemark|cite\w*|label)"
    r"\s*(?:\[[^\]]*\])?\s*(?:\{[^{}]*\})?"
)
_TEXTCOLOUR = re.compile(r"\\textcolor\s*(?:\[[^\]]*\])?\s*\{[^{}]*\}")
_COMMAND = re.compile(r"\\[a-zA-Z]+\*?\s*(?:\[[^\]]*\])?\s*\{([^{}]*)\}")
_SWITCH = re.compile(r"\\[a-zA-Z]+\*?")
_SUBSCRIPT = re.compile(r"[_^]\s*(?:\{([^{}]*)\}|([\d.,]+))")
_BRACED = re.compile(r"[_^]\s*(?:\{([^{}]*)\}|($^))")  # "rank_8" is a name
_EMPHASIS = re.compile(r"(?<!\w)(\*\*|__|\*|_|`|~~)(?=\S)(.+?)(?<=\S)\1(?!\w)")
_POWER = re.compile(
    r"\s*(?:\\times|\\cdot|\u00d7|\u00b7)\s*10\s*\^?\s*\{?\s*([-+\u2212]?\d+)\s*\}?"
)
_MARKS = re.compile(r"[*\u2020\u2021\u00a7]+$")

_CORE = r"[-+]?\s?[\d.,](?:[\d.,]|[ '](?=\d))*(?:[eE][-+]?\d+)?"
_UNIT = r"(?P<{}>[A-Za-z%]*)"
_NUMBER = re.compile(
    rf"\s*(?P<core>{_CORE})\s*{_UNIT.format('unit')}\s*"
    rf"(?P<beside>(?:\u00b1\s*{_CORE}|\(\s*\u00b1?\s*{_CORE}\s*%?\s*\)|\[[^\[\]]*\])?)\s*"
    rf"{_UNIT.format('late')}\s*"
)


def _pattern(point: str, others: str) -> re.Pattern[str]:
    """A number whose decimals follow `point`, in groups of three by one of the `others`."""
    groups = rf"[1-9]\d{{0,2}}(?:(?P<by>[{others}])\d{{3}})(?:(?P=by)\d{{3}})*"
    return re.compile(
        rf"(?P<sign>[-+]?)\s?(?P<whole>{groups}|\d*)(?:{re.escape(point)}(?P<part>\d*))?"
        r"(?P<exponent>[eE][-+]?\d+)?"
    )


_READ: dict[Decimal, re.Pattern[str]] = {
    "point": _pattern(".", ", '"),
    "comma": _pattern(",", ". '"),
}


def quantity_of(column: str) -> str:
    """What a tidy column measures, told by its name."""
    if column in ("score", "selection_score") or column.startswith(("report", "selection.")):
        return "score"
    if column.endswith("_per_s"):
        return "number"
    for suffix, quantity in (
        ("_mb", "memory"),
        ("_ms", "milliseconds"),
        ("_s", "seconds"),
        ("_j", "energy"),
        ("params", "count"),
        ("flops", "flops"),
    ):
        if column.endswith(suffix):
            return quantity
    return "number"


def check_unit(column: str, unit: str) -> str | None:
    """A sentence if `unit` cannot be the unit of the tidy column, else None."""
    quantity = quantity_of(column)
    if unit in FACTORS[quantity]:
        return None
    known = ", ".join(repr(u) for u in FACTORS[quantity])
    return f"column '{column}': unit '{unit}' does not measure {quantity}; known: {known}"


def plain_text(cell: object) -> str:
    """A cell without the marks of LaTeX, Markdown and HTML: what a reader sees of it."""
    text = str(cell).translate(_SIGNS)
    if not _ODD.search(text):
        return text.strip()
    latex = "$" in text or "\\" in text
    text = html.unescape(_TAGS.sub("", text)).translate(_SIGNS)
    text = (
        text.replace("{,}", ",").replace("{.}", ".").replace("\\%", "%").replace("\\pm", "\u00b1")
    )
    text = _POWER.sub(r"e\1", text)
    text = re.sub(r"\\[,;:! ]|~", " ", text).replace("$", "").replace("\\_", "_")
    text = _TEXTCOLOUR.sub("", _WITH_COLOUR.sub("", text))
    for _ in range(4):  # commands within each other
        text, found = _COMMAND.subn(r"\1", text)
        if not found:
            break
    text = (_SUBSCRIPT if latex else _BRACED).sub(_beside, text)
    text = _SWITCH.sub("", text).replace("{", "").replace("}", "")
    text = re.sub(r"\+\s?/\s?-|\+-", "\u00b1", text)
    text = _EMPHASIS.sub(r"\2", text.strip())
    return _MARKS.sub("", re.sub(r"\s+", " ", text).strip()).strip()


def _beside(match: re.Match[str]) -> str:
    """A subscript: the spread of a score if it is a number, else a mark that says nothing here."""
    inner = (match[1] or match[2] or "").strip()
    if inner.startswith("\u00b1"):
        return f" {inner}"
    return f" ({inner})" if re.fullmatch(r"[\d.,]*\d", inner) and match[0][0] == "_" else ""


@dataclass(frozen=True)
class WrittenNumber:
    """A cell that holds a number; which one, its column's `Decimal` says.

    Attributes:
        core: digits, separators and exponent.
        unit: behind it, "" for none.
        beside: what else stands there: "± 0.2", "(0.9)" or "[84.1, 85.9]".
    """

    core: str
    unit: str
    beside: str

    @classmethod
    def of(cls, text: str) -> WrittenNumber | None:
        """The number in a plain text, None if it holds none."""
        match = _NUMBER.fullmatch(text.replace("\u00d7", "x"))
        if match is None or (match["unit"] and match["late"]):
            return None
        found = cls(match["core"].strip(), match["unit"] or match["late"], match["beside"])
        return (
            found if found.value("point") is not None or found.value("comma") is not None else None
        )

    def value(self, decimal: Decimal) -> float | None:
        """The number, None where it cannot be one with such decimals."""
        match = _READ[decimal].fullmatch(self.core)
        if match is None or not (match["whole"] or match["part"]):
            return None
        whole = re.sub(r"[., ']", "", match["whole"]) or "0"
        return float(f"{match['sign']}{whole}.{match['part'] or '0'}{match['exponent'] or ''}")

    @property
    def only(self) -> Decimal | Literal["either", "both"]:
        """The one way to read it; "either" where both give the same, "both" where they differ."""
        point, comma = self.value("point"), self.value("comma")
        if comma is None:
            return "point"
        if point is None:
            return "comma"
        return "either" if point == comma else "both"


@dataclass
class _Votes:
    """How many cells of a column can be read in one way only, and one that can in two."""

    point: int = 0
    comma: int = 0
    both: int = 0
    example: WrittenNumber | None = None  # of a cell with two readings

    @classmethod
    def of(cls, cells: Iterable[WrittenNumber | None]) -> _Votes:
        votes = cls()
        for cell in cells:
            kind = cell.only if cell is not None else "either"
            if kind == "both":
                votes.both += 1
                votes.example = votes.example or cell
            elif kind != "either":
                setattr(votes, kind, getattr(votes, kind) + 1)
        return votes

    @property
    def winner(self) -> Decimal | None:
        """The way in which most cells must be read; None for a draw."""
        if self.point == self.comma:
            return None
        return "point" if self.point > self.comma else "comma"


def is_nothing(cell: Any) -> bool:
    """Whether a cell of a table holds no value: null, NaN, nothing, a dash or "n/a"."""
    if cell is None or cell is pd.NA or (isinstance(cell, float) and np.isnan(cell)):
        return True
    if not isinstance(cell, str):
        return False
    return (
        cell.translate(_SIGNS).strip().lower() in _MISSING or plain_text(cell).lower() in _MISSING
    )


def _written(cells: Iterable[Any]) -> list[WrittenNumber | None]:
    return [None if is_nothing(c) else WrittenNumber.of(plain_text(c)) for c in cells]


def table_decimal(columns: Iterable[Sequence[Any]]) -> Decimal | None:
    """How a table writes decimals, by its columns of text that leave no doubt; None in doubt."""
    found = {_Votes.of(_written(column)).winner for column in columns} - {None}
    return found.pop() if len(found) == 1 else None


def in_doubt(cells: Sequence[str], *, commas: bool) -> bool:
    """Whether a reader that knows decimal points only may misread some number of a column.

    `commas`: the table as a whole has decimal commas.
    """
    votes = _Votes.of(_written(cells))
    return votes.comma > 0 or (votes.both > 0 and (commas or votes.point == 0))


@dataclass
class ReadNumbers:
    """A column's numbers, and what is to be told of them.

    Attributes:
        values: floats in the tidy unit; NaN where a cell is empty or unreadable.
        problems: why cells could not be read -> their positions.
        notes: sentences on how the column was read.
        beside: positions of cells with a second number, such as "± 0.2".
        doubtful: positions of scores that may be fractions among per cents.
    """

    values: pd.Series
    problems: dict[str, list[int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    beside: list[int] = field(default_factory=list)
    doubtful: list[int] = field(default_factory=list)


def to_numbers(
    values: pd.Series,
    column: str,
    *,
    unit: str = "",
    decimal: Decimal | None = None,
    elsewhere: Decimal | None = None,
) -> ReadNumbers:
    """Foreign cells as floats in the tidy column's unit.

    Args:
        unit: of bare numbers; a unit in the cell itself wins over it.
        decimal: how the column writes decimals, where a mapping states it.
        elsewhere: how the rest of the table does, see `table_decimal`.
    """
    quantity = quantity_of(column)
    factors = FACTORS[quantity]
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        numbers = pd.to_numeric(values, errors="coerce").astype(float)
        found = ReadNumbers(_whole_counts(_scale(numbers, factors.get(unit, 1.0)), column))
        if quantity == "score" and factors.get(unit, 1.0) != 1.0:
            found.doubtful = _doubtful(numbers.to_numpy(), np.ones(len(numbers), bool))
        return found
    found = ReadNumbers(values)
    cells = _written(values)
    how = decimal or _decide(found, cells, column, elsewhere)
    two_ways = next((_two_ways(c) for c in cells if c is not None and c.only == "both"), "")
    read, bare = np.full(len(values), np.nan), np.zeros(len(values), bool)
    for position, (cell, raw) in enumerate(zip(cells, values, strict=True)):
        if cell is None:
            if is_nothing(raw):
                continue
            text = plain_text(raw).lower()
            if text in _INFINITE:
                read[position] = float(text)
            else:
                found.problems.setdefault("is not a number", []).append(position)
            continue
        if how is None and cell.only == "both":
            found.problems.setdefault(two_ways, []).append(position)
            continue
        number = cell.value(how or (cell.only if cell.only != "either" else "point"))  # type: ignore[arg-type]
        if number is None:
            reason = f"is no number with a decimal {how}, which the column has"
            found.problems.setdefault(reason, []).append(position)
        elif cell.unit and cell.unit not in factors:
            known = ", ".join(filter(None, factors))
            reason = f"has the unknown unit '{cell.unit}' (known: {known})"
            found.problems.setdefault(reason, []).append(position)
        else:
            bare[position] = not cell.unit
            read[position] = _scale(number, factors[cell.unit]) if cell.unit else number
            if cell.beside:
                found.beside.append(position)
    factor = factors.get(unit, 1.0)
    if quantity == "score" and not unit and (~bare & np.isfinite(read)).any():
        factor = _like_the_others(found, read, bare, column)
    if quantity == "score" and factor != 1.0:
        found.doubtful = _doubtful(read, bare)
    read[bare] = _scale(read[bare], factor)
    found.values = _whole_counts(pd.Series(read, index=values.index), column)
    return found


def _decide(
    found: ReadNumbers,
    cells: Sequence[WrittenNumber | None],
    column: str,
    elsewhere: Decimal | None,
) -> Decimal | None:
    """How a column writes decimals, with a note where not its own cells tell; None in doubt."""
    votes = _Votes.of(cells)
    if votes.point or votes.comma:
        if votes.winner is None:
            found.notes.append(
                f"{column}: as many cells have a decimal comma as a decimal point; what may be "
                "either is left out. State `decimal: comma` or `decimal: point` in the mapping"
            )
        return votes.winner
    if votes.example is None:
        return "point"
    how = elsewhere
    why = f"as the table's other columns have a decimal {elsewhere}"
    if how is None and (quantity_of(column) in WHOLE or column in INTEGERS):
        how = "point" if "," in votes.example.core else "comma"
        why = "as it counts something"
    if how is None and "," not in votes.example.core:
        how, why = "point", "as nothing in the table has a decimal comma"
    if how is not None:
        other: Decimal = "comma" if how == "point" else "point"
        found.notes.append(
            f"{column}: '{votes.example.core}' is read as {votes.example.value(how):g} and not as "
            f"{votes.example.value(other):g}, {why}; state `decimal: {how}` in the mapping to be "
            "sure"
        )
    return how


def _two_ways(cell: WrittenNumber) -> str:
    return (
        f"may be {cell.value('point'):g} or {cell.value('comma'):g}; state `decimal: point` or "
        "`decimal: comma` in the mapping"
    )


def _like_the_others(found: ReadNumbers, read: np.ndarray, bare: np.ndarray, column: str) -> float:
    """The factor of bare scores beside such that are written with a per cent sign."""
    own = np.abs(read[bare & np.isfinite(read)])
    if not len(own) or (own > 1).mean() <= 0.5:
        return 1.0
    found.notes.append(
        f"{column}: {len(own)} cells without a unit are read as per cent, as those with % are"
    )
    return 0.01


def _doubtful(read: np.ndarray, bare: np.ndarray) -> list[int]:
    """Positions of bare numbers up to 1 where most bare numbers are above: fractions, perhaps."""
    size = np.abs(read)
    known = bare & np.isfinite(read) & (size > 0)
    if not known.any() or (size[known] > 1).mean() <= 0.5:
        return []
    return [int(i) for i in np.flatnonzero(known & (size <= 1))]


def _scale(value: Any, factor: float) -> Any:
    """The product without its noise: 57.7 % is 0.577, not 0.5770000000000001."""
    return value if factor == 1.0 else np.round(value * factor, 12)


def _whole_counts(numbers: pd.Series, column: str) -> pd.Series:
    """0.29645 M is 296,450 trainable parameters, without the noise of the product."""
    if quantity_of(column) != "count":
        return numbers
    return numbers.where(~(numbers.abs() >= 1000), numbers.round())
