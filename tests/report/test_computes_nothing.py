"""The report words and draws what `evidence` and `choice` give: it averages, ranks, tests nothing.

A reader's number would otherwise have two homes, and the two would come to differ.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import kdlora.report

REPORT = Path(kdlora.report.__file__).parent
CONTENT = sorted((REPORT / "content").glob("*.py"))
# what makes one number out of several, orders by a number, or draws at random
COMPUTES = {
    "agg", "aggregate", "apply", "argmax", "argmin", "argsort", "average", "corr", "cumsum",
    "default_rng", "exp", "groupby", "idxmax", "idxmin", "mean", "median", "mode", "most_common",
    "nlargest", "nsmallest", "nunique", "pivot", "pivot_table", "prod", "quantile", "rank", "sqrt",
    "std", "sum", "transform", "value_counts", "var",
}  # fmt: skip
LIBRARIES = ("numpy", "scipy", "statsmodels", "sklearn", "statistics", "random")
# (module, what): why it is no computation of a number that is shown
ALLOWED = {
    ("explorer.py", "exp"): "the place of a mark on a logarithmic axis",
}


def computations(source: str) -> Iterator[tuple[int, str]]:
    """Line and name of everything by which a module makes numbers of its own."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if name in COMPUTES:
                yield node.lineno, name
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            by = node.right
            if isinstance(by, ast.Call) and getattr(by.func, "id", "") == "len":
                yield node.lineno, "/ len"
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, a.name) for a in node.names if a.name in LIBRARIES)
        elif isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] in LIBRARIES:
            yield node.lineno, str(node.module)


@pytest.mark.parametrize("path", CONTENT, ids=lambda path: path.stem)
def test_a_section_computes_no_number(path: Path) -> None:
    found = computations(path.read_text(encoding="utf-8"))
    left = [f"line {line}: {name}" for line, name in found if (path.name, name) not in ALLOWED]
    assert not left, f"{path.name} computes; let `evidence` or `choice` give it: {left}"


@pytest.mark.parametrize(
    "source",
    ["frame.groupby('arm')['score'].mean()", "sum(found) / len(found)", "import numpy as np",
     "from scipy import stats", "sorted(x)[0] / len(x)", "Counter(x).most_common()"],
)  # fmt: skip
def test_what_computes_is_seen(source: str) -> None:
    assert list(computations(source))


def test_every_permission_is_used() -> None:
    used = {
        (path.name, name)
        for path in CONTENT
        for _, name in computations(path.read_text(encoding="utf-8"))
    }
    assert set(ALLOWED) <= used
