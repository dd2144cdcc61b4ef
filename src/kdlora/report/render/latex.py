"""Tables as LaTeX with booktabs, ready for \\input, that fit the page; long ones run over pages.

Columns get widths from what they hold: numbers stay whole, texts and heads wrap, and what is too
long for a place stands in a note. A table that would not fit is set smaller, then on its side.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from kdlora.report.document import TIE, Cell, Column, Table
from kdlora.visible import visible

LONG = 40  # rows from which a table may break over pages
FULL_PAGE = 0.75  # of a page's height, from which a table may break over pages, too
LONG_WORD = 24  # characters from which a word may break behind a slash, a dash or an underscore
LONG_SUB = 24  # characters from which what stands below a number goes to a note
TEXT_WIDTH_PT, TEXT_HEIGHT_PT = 345.0, 550.0  # of LaTeX's article; a page on its side is as wide

PREAMBLE = (
    "% Needs \\usepackage{array,booktabs,longtable,pdflscape} and UTF-8 input, LaTeX's default."
)

# Sizes in points, with how much wider than scaled the letters of Computer Modern are there, and
# the space on each side of a column.
SIZES = (("small", 9.0, 1.03, 4.0), ("footnotesize", 8.0, 1.06, 3.0),
         ("scriptsize", 7.0, 1.14, 2.5), ("tiny", 5.0, 1.36, 2.0))  # fmt: skip

# Widths of cmr10 in em; what is not listed is taken as wide as a capital letter.
_EM = {
    **dict.fromkeys("0123456789", 0.5), **dict.fromkeys("ago/", 0.5), **dict.fromkeys("cez", 0.444),
    **dict.fromkeys("bdhnpu", 0.556), **dict.fromkeys("kqvxy", 0.528), **dict.fromkeys("ft", 0.389),
    **dict.fromkeys("rs", 0.394), **dict.fromkeys("ijl.,:;[]'", 0.306), "m": 0.833, "w": 0.722,
    " ": 0.333, "-": 0.333, "(": 0.389, ")": 0.389, "I": 0.361, "M": 0.917, "W": 1.028, "%": 0.833,
    "\N{NO-BREAK SPACE}": 0.333, "\N{EN DASH}": 0.5, "\N{DAGGER}": 0.4, TIE: 0.6,
    "\N{UPWARDS ARROW}": 0.5, "\N{DOWNWARDS ARROW}": 0.5,
}  # fmt: skip
_OTHER, _BOLD = 0.778, 1.15

_ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
    "\N{MINUS SIGN}": r"\ensuremath{-}", "\N{MULTIPLICATION SIGN}": r"\ensuremath{\times}",
    "\N{EN DASH}": "--", "\N{EM DASH}": "---", "\N{DAGGER}": r"\textsuperscript{\dag}",
    "\N{UPWARDS ARROW}": r"\ensuremath{\uparrow}",
    "\N{DOWNWARDS ARROW}": r"\ensuremath{\downarrow}",
    TIE: r"\textsuperscript{\ensuremath{\approx}}", "\N{PLUS-MINUS SIGN}": r"\ensuremath{\pm}",
    "\N{NO-BREAK SPACE}": "~", "\N{MIDDLE DOT}": r"\textperiodcentered{}",
    "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}", "\N{GREEK SMALL LETTER ALPHA}": r"\ensuremath{\alpha}",
    "\N{LESS-THAN OR EQUAL TO}": r"\ensuremath{\le}", "[": "{[}", "]": "{]}",
}  # fmt: skip


@lru_cache(maxsize=1 << 14)  # names stand in hundreds of rows
def escape(text: str) -> str:
    """Text as LaTeX shows it, in one line. What pdfTeX's fonts lack becomes a question mark."""
    flat = visible(re.sub(r"[\n\t\r]", " ", str(text)))
    return "".join(_ESCAPES.get(c, c if c.isascii() or _latin(c) else "?") for c in flat)


def _latin(character: str) -> bool:
    """Letters and signs of Western European languages, which every LaTeX knows."""
    return 0xA1 <= ord(character) <= 0xFF and character not in "\xad"


def text_width(text: str, size: float = 10.0, wider: float = 1.0) -> float:
    """About how wide LaTeX sets a text in Computer Modern, in points."""
    return size * wider * _ems(text)


@lru_cache(maxsize=1 << 16)  # the texts of a table are measured once for every layout tried
def _ems(text: str) -> float:
    return sum(_EM.get(c, _OTHER) for c in text)


@dataclass(frozen=True)
class Layout:
    """How a table is set: `widths` [columns] in points, or None where nothing wraps."""

    size: str
    separation: float
    widths: tuple[float, ...] | None
    sideways: bool = False

    def column_spec(self, columns: Sequence[Column]) -> str:
        if self.widths is None:
            return "".join("r" if column.numeric else "l" for column in columns)
        sides = ("left" if column.numeric else "right" for column in columns)
        return "".join(
            f">{{\\ragged{side}\\arraybackslash}}p{{{width:.1f}pt}}"
            for side, width in zip(sides, self.widths, strict=True)
        )


def layout_of(table: Table, rows: Sequence[Sequence[Cell]]) -> Layout:
    """The largest size at which the columns fit, upright where that can be.

    A column is at least as wide as its longest word; of numbers all is one word.
    """
    extents = [_extent(column, [row[i] for row in rows]) for i, column in enumerate(table.columns)]
    for sideways, page in ((False, TEXT_WIDTH_PT), (True, TEXT_HEIGHT_PT)):
        for size, points, wider, separation in SIZES[: 4 if sideways else 3]:
            room = page - 2 * separation * len(table.columns) - 0.5
            parts = [_widths(extent, points, wider) for extent in extents]
            if sum(natural for _, natural in parts) <= room:
                return Layout(size, separation, None, sideways)
            least = sum(narrow for narrow, _ in parts)
            if least <= room:
                spare = room - least
                wish = sum(natural - narrow for narrow, natural in parts)
                widths = tuple(
                    narrow + spare * (natural - narrow) / wish for narrow, natural in parts
                )
                return Layout(size, separation, widths, sideways)
    return Layout(SIZES[-1][0], 1.0, tuple(narrow for narrow, _ in parts), True)


@dataclass(frozen=True)
class _Extent:
    """The widest texts of a column, in em: all that its width depends on, at every size.

    `whole` and `words` are the widest texts, and parts that do not break, of the cells that are
    set alike: by how much wider the letters are, the marks behind and (`whole`) what stands below.
    """

    whole: dict[tuple[float, float, float], float]
    words: dict[tuple[float, float], float]
    below: float  # the widest word of what stands below
    head: float
    head_word: float


def _extent(column: Column, cells: Sequence[Cell]) -> _Extent:
    whole: dict[tuple[float, float, float], float] = {}
    words: dict[tuple[float, float], float] = {}
    below = 0.0
    for cell in cells:
        bold, marks = _BOLD if cell.standing == "best" else 1.0, _ems(cell.marks)
        alike = bold, marks, _ems(f" ({cell.sub})") if cell.sub else 0.0
        whole[alike] = max(whole.get(alike, 0.0), _ems(cell.text))
        parts = [cell.text] if column.numeric else _parts(cell.text)
        widest = max(map(_ems, parts), default=0.0)
        words[bold, marks] = max(words.get((bold, marks), 0.0), widest)
        below = max(below, *map(_ems, f"({cell.sub})".split()))
    head = column.label + (f" ({column.unit})" if column.unit else "")
    return _Extent(whole, words, below, _ems(head), max(map(_ems, head.split()), default=0.0))


def _widths(extent: _Extent, size: float, wider: float) -> tuple[float, float]:
    """The least width of a column, and the one at which nothing wraps."""

    def wide(ems: float) -> float:
        return 1.02 * (size * wider * ems)

    natural = [
        bold * wide(text) + wide(marks) + wide(sub)
        for (bold, marks, sub), text in extent.whole.items()
    ]
    narrow = [bold * wide(word) + wide(marks) for (bold, marks), word in extent.words.items()]
    return (
        max(*narrow, wide(extent.below), wide(extent.head_word), 0.0),
        max(*natural, wide(extent.head), 0.0),
    )


def _parts(text: str) -> list[str]:
    """What a line of a text may not break: words, of long ones what lies between slashes.

    A no-break space is no end of a word.
    """
    return [
        part
        for word in re.split(r"[ \t\n]+", text)
        for part in (re.findall(r"[^/_-]*[/_-]?", word) if len(word) > LONG_WORD else [word])
        if part
    ]


def render_latex(table: Table) -> str:
    """The table as an environment of its own, with its caption, notes and a label."""
    rows, long = _with_notes(table.shown_rows)
    layout = layout_of(table, rows)
    spec = layout.column_spec(table.columns)
    body = [_row(table.columns, row, wraps=layout.widths is not None) for row in rows]
    head = " & ".join(_head(column) for column in table.columns) + r" \\"
    caption = escape(". ".join(part.rstrip(".") for part in (table.title, table.caption) if part))
    notes = "".join(
        f"\\par\\smallskip\\footnotesize {note}\n"
        for note in (*long, *(escape(note) for note in table.shown_notes))
    )
    label = f"tab:{table.key.replace('_', '-')}"
    font = f"\\{layout.size}\\setlength{{\\tabcolsep}}{{{layout.separation:g}pt}}"
    side = (["\\begin{landscape}"], ["\\end{landscape}"]) if layout.sideways else ([], [])
    page = TEXT_WIDTH_PT if layout.sideways else TEXT_HEIGHT_PT
    told = (caption, *long, *table.shown_notes)
    if len(body) >= LONG or _height(table.columns, rows, layout, told) > FULL_PAGE * page:
        lines = [
            PREAMBLE,
            *side[0],
            f"{{{font}",
            f"\\begin{{longtable}}{{{spec}}}",
            f"\\caption{{{caption}.}}\\label{{{label}}}\\\\",
            "\\toprule", head, "\\midrule", "\\endfirsthead",
            "\\toprule", head, "\\midrule", "\\endhead",
            "\\bottomrule", "\\endfoot",
            *body,
            "\\end{longtable}",
            f"{notes}}}",
            *side[1],
        ]  # fmt: skip
        return "\n".join(lines) + "\n"
    lines = [
        PREAMBLE,
        *side[0],
        "\\begin{table}[htbp]",
        f"\\centering{font}",
        f"\\caption{{{caption}.}}\\label{{{label}}}",
        f"\\begin{{tabular}}{{{spec}}}",
        "\\toprule", head, "\\midrule",
        *body,
        "\\bottomrule",
        "\\end{tabular}",
        notes.rstrip("\n"),
        "\\end{table}",
        *side[1],
    ]  # fmt: skip
    return "\n".join(line for line in lines if line) + "\n"


def _height(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], layout: Layout, texts: Sequence[str]
) -> float:
    """About how high a table stands on a page with its caption and notes, in points."""
    points, wider = next(size[1:3] for size in SIZES if size[0] == layout.size)

    def lines(texts: Sequence[str]) -> int:
        if layout.widths is None:
            return 1
        # a ragged line is a quarter empty
        return max(
            math.ceil(1.25 * text_width(text, points, wider) / width)
            for text, width in zip(texts, layout.widths, strict=True)
        )

    table = [[f"{column.label} {column.unit}" for column in columns]]
    table += [[f"{c.text} {c.sub}".strip() for c in row] for row in rows]
    page = TEXT_HEIGHT_PT if layout.sideways else TEXT_WIDTH_PT
    around = sum(1 + text_width(text) // page for text in texts)
    return 1.2 * (points * sum(map(lines, table)) + 10.0 * around)


def _with_notes(rows: Sequence[Sequence[Cell]]) -> tuple[list[tuple[Cell, ...]], list[str]]:
    """The rows with a number in place of what is too long to stand below a cell's text, and those
    texts; one that several cells share is told once."""
    known: dict[str, int] = {}
    made = []
    for row in rows:
        cells = []
        for cell in row:
            if len(cell.sub) >= LONG_SUB:
                n = known.setdefault(cell.sub, len(known) + 1)
                cell = replace(cell, sub=f"note {n}")
            cells.append(cell)
        made.append(tuple(cells))
    return made, [f"Note {n}: {escape(text)}." for text, n in known.items()]


def _head(column: Column) -> str:
    return f"{escape(column.label)}" + (f" ({escape(column.unit)})" if column.unit else "")


def _row(columns: tuple[Column, ...], row: tuple[Cell, ...], *, wraps: bool) -> str:
    cells = [
        _cell(cell, wraps=wraps and not column.numeric)
        for cell, column in zip(row, columns, strict=True)
    ]
    return " & ".join(cells) + r" \\"


def _cell(cell: Cell, *, wraps: bool) -> str:
    text = escape(cell.text)
    if wraps and max(map(len, cell.text.split()), default=0) > LONG_WORD:
        text = re.sub(r"(/|\\_|-)", r"\1\\allowbreak{}", text)
    if cell.standing == "best":
        text = rf"\textbf{{{text}}}"
    below = rf" {{\scriptsize ({escape(cell.sub)})}}" if cell.sub else ""
    return f"{text}{escape(cell.marks)}{below}"
