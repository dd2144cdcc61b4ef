"""Tables of papers and README files: a LaTeX tabular or a Markdown table as names and rows.

What spans several columns or rows stands in each of them. A header of several lines is joined, so
that "MNLI" above "m" and "mm" names the columns "MNLI m" and "MNLI mm".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from kdlora.errors import InputError
from kdlora.files import read_text
from kdlora.importing.numbers import plain_text

_TABULAR = re.compile(
    r"\\begin\{(tabular\*?|tabularx|tabulary|longtable|array)\}(.*?)\\end\{\1\}", re.DOTALL
)
_COMMENT = re.compile(r"(?<!\\)%.*")
_ROW_END = re.compile(r"\\\\\s*(?:\[[^\]]*\])?|\\tabularnewline")
_RULE = re.compile(
    r"\\(?:hline|toprule|midrule|bottomrule|addlinespace|endhead|endfirsthead|endfoot|endlastfoot"
    r"|(?:cmidrule|cline)\s*(?:\([^)]*\))?\s*\{[^}]*\}|specialrule(?:\{[^}]*\}){3})(?:\[[^\]]*\])?"
)
_HEAD_END = re.compile(r"\\(?:midrule|hline|endhead|endfirsthead)")
_MULTI_COLUMN = re.compile(r"\\multicolumn\s*\{(\d+)\}\s*\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}\s*")
_MULTI_ROW = re.compile(r"\\multirow\s*(?:\[[^\]]*\])?\s*\{(-?\d+)\}\s*\{[^{}]*\}\s*")
_DASHES = re.compile(r"\s*:?-+:?\s*")
_WIDEST = 200  # columns

Grid = tuple[list[str], list[list[str]]]


def read_paper_table(path: Path) -> Grid:
    """The names and the rows of the one table in a .tex or .md file, without marks of LaTeX.

    Raises InputError when the file holds none, several, or one whose rows differ in length.
    """
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    markdown = path.suffix.lower() == ".md"
    found = _markdown_tables(text) if markdown else _latex_tables(text)
    if len(found) != 1:
        what = "a Markdown table (| a | b |)" if markdown else r"a \begin{tabular}"
        raise InputError(
            f"{path.name} holds {len(found)} tables; expected one file with one: {what}"
        )
    head, body = found[0]
    return _names(head, path), _even(body, len(head[0]), path)


def _markdown_tables(text: str) -> list[tuple[list[list[str]], list[list[str]]]]:
    tables, lines = [], text.splitlines()
    rows = [_pipes(line) if "|" in line else None for line in lines]
    for i, cells in enumerate(rows[1:], 1):
        head = rows[i - 1]
        if not cells or not head or len(cells) != len(head):
            continue
        if all(_DASHES.fullmatch(cell) for cell in cells):
            body = []
            for below in rows[i + 1 :]:
                if below is None:
                    break
                body.append([plain_text(cell) for cell in below])
            tables.append(([[plain_text(cell) for cell in head]], body))
    return tables


def _pipes(line: str) -> list[str]:
    cells = re.split(r"(?<!\\)\|", line.strip())
    cells = cells[1:] if not cells[0].strip() else cells
    cells = cells[:-1] if cells and not cells[-1].strip() else cells
    return [cell.replace("\\|", "|").strip() for cell in cells]


def _latex_tables(text: str) -> list[tuple[list[list[str]], list[list[str]]]]:
    text = "\n".join(_COMMENT.sub("", line) for line in text.splitlines())
    tables = []
    for _, inner in _TABULAR.findall(text):
        grid = _latex_grid(_without_columns(inner))
        if grid:
            tables.append(grid)
    return tables


def _without_columns(inner: str) -> str:
    r"""What follows the arguments of \begin{tabular}: its width, its place and its columns."""
    while match := re.match(r"\s*(?:\[[^\]]*\]|\{(?:[^{}]|\{[^{}]*\})*\})", inner):
        inner = inner[match.end() :]
        if match[0].lstrip().startswith("{") and not re.match(r"\s*\{", inner):
            break
    return inner


def _latex_grid(inner: str) -> tuple[list[list[str]], list[list[str]]] | None:
    """Rows of the head and of the body; the head ends at the first rule below a row."""
    rows: list[list[str]] = []
    head_ends = 0
    spans: dict[int, tuple[int, str]] = {}  # column -> rows still to fill, text
    for line in _ROW_END.split(inner):
        if rows and not head_ends and _HEAD_END.search(line):
            head_ends = len(rows)
        line = _RULE.sub("", line)
        if not line.strip():
            continue
        row: list[str] = []
        for cell in re.split(r"(?<!\\)&", line):
            times, down = 1, 0
            if match := _MULTI_COLUMN.search(cell):
                times, cell = int(match[1]), cell[: match.start()] + cell[match.end() :]
            if match := _MULTI_ROW.search(cell):
                down, cell = int(match[1]), cell[: match.start()] + cell[match.end() :]
            text = plain_text(cell)
            for _ in range(min(times, _WIDEST)):
                left, above = spans.pop(len(row), (0, ""))
                if down > 1:
                    spans[len(row)] = (down - 1, text)
                elif left and not text:
                    if left > 1:
                        spans[len(row)] = (left - 1, above)
                    row.append(above)
                    continue
                row.append(text)
        rows.append(row)
    if len(rows) < 2:
        return None
    head_ends = head_ends if 0 < head_ends < len(rows) else 1
    return rows[:head_ends], rows[head_ends:]


def _names(head: Sequence[Sequence[str]], path: Path) -> list[str]:
    if len({len(row) for row in head}) != 1:
        raise InputError(f"{path.name}: the lines of the table's head differ in length")
    names = []
    for i, parts in enumerate(zip(*head, strict=True)):
        told = [part for part in dict.fromkeys(parts) if part]
        names.append(" ".join(told) or f"Unnamed: {i}")
    return names


def _even(body: list[list[str]], width: int, path: Path) -> list[list[str]]:
    """Rows of the head's length; a row with one filled cell is a heading inside the table."""
    rows, uneven = [], []
    for number, row in enumerate(body, 1):
        row = row + [""] * (width - len(row)) if len(row) == 1 else row
        if len({cell for cell in row if cell}) <= 1:
            continue
        if len(row) == width:
            rows.append(row)
        else:
            uneven.append(f"row {number} of the table has {len(row)} cells")
    if uneven:
        raise InputError([f"{u}, its head {width}" for u in uneven[:5]], where=path.name)
    if not rows:
        raise InputError(f"{path.name} holds a table without rows")
    return rows
