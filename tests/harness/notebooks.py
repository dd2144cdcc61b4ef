"""Notebooks that are run from top to bottom, cell by cell, in this process."""

from __future__ import annotations

import ast
import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def code_cells(path: Path) -> list[str]:
    """The code of a notebook, cell by cell. It must be stored without what it printed."""
    cells = [
        cell
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
        if cell["cell_type"] == "code"
    ]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)
    return ["".join(cell["source"]) for cell in cells]


def run_notebook(path: Path, folder: Path, instead: Mapping[str, str]) -> list[Any]:
    """What each cell of a notebook shows: the value of its last expression, or None.

    It is run in `folder`. `instead` says what stands in for words of the notebook; each must occur.
    """
    cells, names, shown = code_cells(path), {"__name__": "__main__"}, []
    for words, others in instead.items():
        assert any(words in cell for cell in cells), words
        cells = [cell.replace(words, others) for cell in cells]
    with contextlib.chdir(folder):
        for number, cell in enumerate(cells):
            tree = ast.parse(cell)
            last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, f"<cell {number}>", "exec"), names)
            value = None
            if isinstance(last, ast.Expr):
                value = eval(compile(ast.Expression(last.value), f"<cell {number}>", "eval"), names)
            shown.append(value)
    return shown
