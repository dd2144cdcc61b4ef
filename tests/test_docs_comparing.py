"""The page on comparing: its example runs and prints what stands there, and its facts are ours."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest

from kdlora.evidence.estimator import MIN_TASKS, SEED_CORRELATION
from kdlora.evidence.result import SCOPES
from kdlora.report import build
from kdlora.report.content.parts import ReportInputs

PAGE = Path(__file__).resolve().parent.parent / "docs" / "comparing.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(python|text)\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.fixture(scope="module")
def example() -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The names that the page's code defines, and what it prints beside what the page shows."""
    names: dict[str, Any] = {}
    shown, printed = [], ""
    for kind, block in BLOCKS:
        if kind == "text":
            shown.append((printed, block))
            continue
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(block, names)
        printed = out.getvalue()
    return names, shown


def test_the_example_prints_what_the_page_shows(
    example: tuple[dict[str, Any], list[tuple[str, str]]],
) -> None:
    _, shown = example
    assert len(shown) == 3
    for printed, text in shown:
        assert printed == text


def test_the_figure_is_that_of_the_example(
    example: tuple[dict[str, Any], list[tuple[str, str]]], tmp_path: Path
) -> None:
    names, _ = example
    study = names["study"](tasks=7, seeds=3)
    build.write_report(study.table, tmp_path, ReportInputs("Example", texts=study.outputs))
    drawn = (tmp_path / "figures" / "forest.svg").read_text(encoding="utf-8")
    assert (PAGE.parent / "comparing-forest.svg").read_text(encoding="utf-8") == drawn


def test_the_page_names_every_scope_and_its_numbers() -> None:
    for scope in SCOPES:
        assert f"| **{scope}**" in TEXT
    assert MIN_TASKS == 6
    assert f"a correlation of {SEED_CORRELATION:g}" in TEXT
