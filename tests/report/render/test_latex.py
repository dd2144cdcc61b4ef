"""Tables as LaTeX: escaped, well formed, and set by a real LaTeX where there is one."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdlora.report.content.parts import ReportInputs
from kdlora.report.content.study import build
from kdlora.report.document import Cell, Column, Table
from kdlora.report.render.latex import (
    LONG,
    LONG_SUB,
    SIZES,
    TEXT_HEIGHT_PT,
    TEXT_WIDTH_PT,
    escape,
    render_latex,
    text_width,
)
from tests.harness.studies import make_histories

# Where LaTeX lacks booktabs, its rules are plain lines: what is tested is our text.
STAND_IN = (
    "\\ProvidesPackage{booktabs}\\let\\toprule\\hline\\let\\midrule\\hline"
    "\\let\\bottomrule\\hline\n"
)
NASTY = (
    '50 % of A_1 & B#2 {x} ~ ^ \\ $ < > | "q" [r] \N{MINUS SIGN} \N{MULTIPLICATION SIGN} ↑ ↓ ± † ≈ '
    "é ß … \N{EN DASH} 日本"
)


def table(n=2, columns=3, **changes):
    names = tuple(Column(f"c{i}", f"C_{i}", "%", numeric=i > 0) for i in range(columns))
    rows = tuple(
        (Cell(f"[{i}] {NASTY}"), *(Cell(f"{i}.{j}", i) for j in range(1, columns)))
        for i in range(n)
    )
    return Table("some_key", "Some & title", names, rows, **{"caption": "50 % of it", **changes})


def test_what_latex_reads_as_commands_is_escaped():
    assert escape("a_b & 5 % #1 {x} $") == r"a\_b \& 5 \% \#1 \{x\} \$"
    assert escape("\\") == r"\textbackslash{}"
    assert escape("\N{MINUS SIGN}1.2 [3]") == r"\ensuremath{-}1.2 {[}3{]}"
    assert escape("two\nlines") == "two lines"
    assert escape("日") == "?"


@given(st.text())
def test_no_text_leaves_an_open_brace_or_a_bare_sign(text):
    found = escape(text)
    bare = re.sub(r"\\[\\{}$&#%_]|\\[a-zA-Z]+", "", found)
    assert bare.count("{") == bare.count("}")
    assert not set("$&#%_^\\") & set(bare)


def test_bold_ties_and_second_lines():
    columns = (Column("a", "A", numeric=False), Column("b", "B"))
    rows = (
        (Cell("first"), Cell("84.2", 0.842, "84.0 to 84.4", standing="best")),
        (Cell("second"), Cell("84.1", 0.841, standing="tie", mark="†")),
    )
    text = render_latex(Table("t", "T", columns, rows))
    assert r"first & \textbf{84.2} {\scriptsize (84.0 to 84.4)} \\" in text
    assert r"84.1\textsuperscript{\dag}\textsuperscript{\ensuremath{\approx}} \\" in text
    assert r"\begin{tabular}{lr}" in text
    assert text.index(r"\toprule") < text.index(r"\midrule") < text.index(r"\bottomrule")


def tall(n):
    """A table of few rows that are many lines high, with a text that does not break everywhere."""
    tied = "; ".join(f"seed\N{NO-BREAK SPACE}{i}:\N{NO-BREAK SPACE}+1234.5" for i in range(6))
    numbers = (Column(f"c{i}", "Number") for i in range(6))
    first, last = (Column(key, key.title(), numeric=False) for key in ("finding", "seeds"))
    columns = (first, *numbers, last)
    words = "the optimizer steps show different numbers of devices"
    rows = tuple((Cell(words), *[Cell("1,234.5")] * 6, Cell(tied)) for _ in range(n))
    return Table("tall", "Tall", columns, rows)


def test_a_table_that_is_higher_than_a_page_breaks_over_pages():
    assert "{longtable}" in render_latex(tall(LONG - 1))
    assert "{longtable}" not in render_latex(tall(3))


def test_a_column_holds_what_a_no_break_space_ties():
    widths = [float(w) for w in re.findall(r"p\{([\d.]+)pt\}", render_latex(tall(3)))]
    assert widths[-1] >= text_width("seed\N{NO-BREAK SPACE}0:\N{NO-BREAK SPACE}+1234.5;", 7.0)


def test_long_tables_break_over_pages():
    assert r"\begin{longtable}" in render_latex(table(LONG))
    assert r"\begin{table}" in render_latex(table(3))


def test_the_widths_of_letters_are_those_of_computer_modern():
    # cmr10: digits and "a" are 5 pt, "m" 8.33, "W" 10.28 (TeX's own metric file).
    assert text_width("0123456789") == pytest.approx(50)
    assert text_width("mamaW") == pytest.approx(2 * 8.33 + 2 * 5 + 10.28, abs=0.1)


def page_of(text):
    return TEXT_HEIGHT_PT if r"\begin{landscape}" in text else TEXT_WIDTH_PT


def set_width(one):
    """How wide a table is set, and the page: from the LaTeX, not from how it was planned."""
    text = render_latex(one)
    (separation,) = re.findall(r"tabcolsep}\{([\d.]+)pt", text)
    widths = [float(w) for w in re.findall(r"p\{([\d.]+)pt\}", text)]
    if not widths:
        size, wider = next(
            (points, wider) for name, points, wider, _ in SIZES if rf"\{name}\setlength" in text
        )
        noted = [
            [c if len(c.sub) < LONG_SUB else replace(c, sub="note 9") for c in row]
            for row in one.shown_rows
        ]
        cells = zip(*([c.shown for c in row] for row in noted), strict=True)
        widths = [
            max(text_width(t, size, wider) for t in (f"{c.label} {c.unit}", *column))
            for c, column in zip(one.columns, cells, strict=True)
        ]
    assert len(widths) == len(one.columns)
    return sum(widths) + 2 * float(separation) * len(widths), page_of(text)


@pytest.mark.parametrize("columns", [2, 5, 9, 16])
def test_a_table_is_no_wider_than_the_page(columns):
    width, page = set_width(table(columns=columns))
    assert width <= page + 0.5


def test_texts_wrap_and_numbers_stay_whole():
    columns = (Column("a", "Finding", numeric=False), Column("b", "Runs of all the tasks that are"),
               Column("c", "Other", numeric=False))  # fmt: skip
    words = "the optimizer steps show different numbers of devices " * 4
    rows = ((Cell(words), Cell("1,234,567.8 to 2,345,678.9"), Cell("a/path/of/many/parts" * 6)),)
    text = render_latex(Table("t", "T", columns, rows))
    widths = [float(w) for w in re.findall(r"p\{([\d.]+)pt\}", text)]
    assert widths[1] >= text_width("1,234,567.8 to 2,345,678.9", 7.0)
    assert r"\raggedleft\arraybackslash}p" in text
    assert r"a/\allowbreak{}path" in text
    assert sum(widths) < TEXT_WIDTH_PT


def test_what_is_too_long_below_a_number_is_told_once_in_a_note():
    sub = "optimizer steps differs in 44 of 45 paired cells (201 against 402)"
    columns = (Column("a", "A", numeric=False), Column("b", "B"))
    rows = tuple((Cell(f"row {i}"), Cell("45", 45, sub)) for i in range(3))
    text = render_latex(Table("t", "T", columns, rows, notes=("Of all.",)))
    assert text.count("(note 1)") == 3
    assert text.count("optimizer steps differs") == 1
    assert text.index("Note 1: optimizer") < text.index("Of all.")


def test_every_table_of_a_report_fits_its_page(troubled):
    report = build(troubled, ReportInputs("A study", histories=lambda: make_histories(troubled)))
    tables = list(report.tables())
    assert len(tables) > 15
    for one in tables:
        if one.shown_rows:
            width, page = set_width(one)
            assert width <= page + 0.5, one.key


@pytest.mark.parametrize("n", [2, LONG])
def test_each_row_has_every_column(n):
    text = render_latex(table(n, columns=4))
    lines = [line for line in text.splitlines() if line.endswith(r" \\")]
    assert len(lines) >= n + 1
    assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {3}


def test_every_table_of_a_report_is_set_by_latex(troubled, tmp_path):
    pdflatex = shutil.which("pdflatex")
    if pdflatex is None:
        pytest.skip("no pdflatex on this machine: tables are checked for their structure only")
    inputs = ReportInputs("A study", histories=lambda: make_histories(troubled))
    report = build(troubled, inputs)
    found = [*report.tables(), table(), table(LONG + 3), table(3, 9), tall(LONG - 1)]
    for i, one in enumerate(found):
        (tmp_path / f"t{i}.tex").write_text(render_latex(one), encoding="utf-8")
    known = subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True, text=True)
    if not known.stdout.strip():
        (tmp_path / "booktabs.sty").write_text(STAND_IN)
    inputs = "\n".join(f"\\input{{t{i}}}\\clearpage" for i in range(len(found)))
    (tmp_path / "all.tex").write_text(
        "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage{array,booktabs,longtable,pdflscape}"
        f"\\usepackage{{textcomp}}\\begin{{document}}{inputs}\\end{{document}}"
    )
    done = subprocess.run(
        [pdflatex, "-interaction=nonstopmode", "-halt-on-error", "all.tex"],
        cwd=tmp_path, capture_output=True, text=True, errors="replace",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-1500:]
    assert (tmp_path / "all.pdf").read_bytes().startswith(b"%PDF")
    log = (tmp_path / "all.log").read_text(errors="replace")
    assert re.findall(r"Overfull .hbox.*|.*Float too large.*", log) == []
