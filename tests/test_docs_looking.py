"""docs/looking.md names findings, limits and options as they are."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import typer

from kdlora.cli.app import app
from kdlora.data.checks import duplicates, labels, look, tokens
from kdlora.data.splits import SHORT_SELECTION
from kdlora.planning import text_length
from kdlora.records.data_look import DataFinding
from kdlora.spec.sections import Training

TEXT = (Path(__file__).resolve().parent.parent / "docs" / "looking.md").read_text(encoding="utf-8")
LIMITS = dict(re.findall(r"^\| `(\w+)`.*?\| (.+) \|$", TEXT, flags=re.MULTILINE))


def test_every_finding_has_its_row() -> None:
    sources = "".join(inspect.getsource(module) for module in (labels, look, tokens))
    made = set(re.findall(r'DataFinding\(\s*f?"(\w+)"', sources)) - {"short_"}
    made |= {
        "short_selection",
        "short_report",
        "repeated_texts",
        "repeated_unlabelled",
        *look.LEAKS,
    }
    assert set(re.findall(r"`(\w+)`", TEXT.split("## Findings")[1])) >= made
    assert len(made) > 10


def test_limits_are_those_of_the_checks() -> None:
    def percents(name: str) -> list[float]:
        return [float(n) / 100 for n in re.findall(r"([\d.]+) %", LIMITS[name])]

    assert percents("conflicting_labels") == [labels.CONFLICTING_SHARE]
    assert percents("leaked_texts") == [look.LEAKED, look.NEARLY_LEAKED]
    assert percents("garbled_texts") == [look._GARBLED]
    assert percents("empty_texts") == [look._EMPTY]
    assert percents("repeated_texts") == [look.REPEATED]
    assert percents("cut_texts") == [tokens.CUT_TEXTS, tokens.CUT_TOKENS]
    assert percents("foreign_tokenizer") == [tokens.UNKNOWN_TOKENS]
    assert f"a word takes {tokens.SPELLED} tokens" in LIMITS["foreign_tokenizer"]
    assert f"fewer than {labels.RARE_CLASS_ROWS} " in LIMITS["rare_classes"]
    assert f"fewer than {labels.THIN_ROWS} rows" in LIMITS["short_selection"]
    assert f"fewer than {SHORT_SELECTION})" in LIMITS["short_selection"]
    assert labels.SHORT_REPORT == SHORT_SELECTION
    assert f"{100 * duplicates.NEAR:.0f} % of all pairs" in TEXT
    assert f"of {duplicates.LEAST_WORDS} words or more" in TEXT.replace("\n", " ")


def test_auto_is_as_it_says() -> None:
    assert (text_length.SHARE, text_length.STEP, text_length.MEMORY_SHARE) == (0.99, 8, 0.5)
    assert f"by default {Training().max_length}." in TEXT
    assert Training(max_length="auto").model_dump()["max_length"] == "auto"


def test_options_exist_and_objects_have_what_the_example_uses() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    known = {n for name in ("look", "distil") for p in commands[name].params for n in p.opts}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", TEXT)) <= known
    assert DataFinding("x", "info", "y").told == "y."
