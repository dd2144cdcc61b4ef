"""Tables as LaTeX with booktabs, ready for \\input; long ones run over pages."""

from __future__ import annotations

from kdlora.report.document import TIE, Cell, Column, Table

LONG = 40  # rows from which a table may break over pages
WIDE = 7  # columns from which a table is scaled to the width of the text

PREAMBLE = (
    "% Needs \\usepackage{booktabs,graphicx,longtable} and UTF-8 input, which is LaTeX's default."
)

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


def escape(text: str) -> str:
    """Text as LaTeX shows it, in one line. What pdfTeX's fonts lack becomes a question mark."""
    flat = " ".join(str(text).split(" ")).replace("\n", " ").replace("\t", " ").replace("\r", " ")
    return "".join(_ESCAPES.get(c, c if c.isascii() or _latin(c) else "?") for c in flat)


def _latin(character: str) -> bool:
    """Letters and signs of Western European languages, which every LaTeX knows."""
    return 0xA1 <= ord(character) <= 0xFF and character not in "\xad"


def render_latex(table: Table) -> str:
    """The table as an environment of its own, with its caption, notes and a label."""
    body = [_row(table.columns, row) for row in table.shown_rows]
    spec = "".join("r" if column.numeric else "l" for column in table.columns)
    head = " & ".join(_head(column) for column in table.columns) + r" \\"
    caption = escape(". ".join(part.rstrip(".") for part in (table.title, table.caption) if part))
    notes = "".join(
        f"\\par\\smallskip\\footnotesize {escape(note)}\n" for note in table.shown_notes
    )
    label = f"tab:{table.key.replace('_', '-')}"
    if len(body) >= LONG:
        lines = [
            PREAMBLE,
            "{\\scriptsize\\setlength{\\tabcolsep}{3pt}",
            f"\\begin{{longtable}}{{{spec}}}",
            f"\\caption{{{caption}.}}\\label{{{label}}}\\\\",
            "\\toprule", head, "\\midrule", "\\endfirsthead",
            "\\toprule", head, "\\midrule", "\\endhead",
            "\\bottomrule", "\\endfoot",
            *body,
            "\\end{longtable}",
            f"{notes}}}",
        ]  # fmt: skip
        return "\n".join(lines) + "\n"
    wide = len(table.columns) >= WIDE
    lines = [
        PREAMBLE,
        "\\begin{table}[htbp]",
        "\\centering\\small",
        f"\\caption{{{caption}.}}\\label{{{label}}}",
        *(["\\resizebox{\\textwidth}{!}{%"] if wide else []),
        f"\\begin{{tabular}}{{{spec}}}",
        "\\toprule", head, "\\midrule",
        *body,
        "\\bottomrule",
        f"\\end{{tabular}}{'}' if wide else ''}",
        notes.rstrip("\n"),
        "\\end{table}",
    ]  # fmt: skip
    return "\n".join(line for line in lines if line) + "\n"


def _head(column: Column) -> str:
    return f"{escape(column.label)}" + (f" ({escape(column.unit)})" if column.unit else "")


def _row(columns: tuple[Column, ...], row: tuple[Cell, ...]) -> str:
    return " & ".join(_cell(cell) for cell, _ in zip(row, columns, strict=True)) + r" \\"


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    if cell.standing == "best":
        text = rf"\textbf{{{text}}}"
    below = rf" {{\scriptsize ({escape(cell.sub)})}}" if cell.sub else ""
    return f"{text}{escape(cell.marks)}{below}"
