"""What stands in files is shown on a terminal as text: never as markup, and never obeyed."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from kdlora.cli.progress import Board
from kdlora.cli.terminal import say, say_data, say_json, terminal
from kdlora.visible import visible
from tests.harness.hostile import HOSTILE, obeyed

MARKS = st.text(
    st.characters(max_codepoint=0xA0) | st.sampled_from("\u202a\u202e\u2066\u2069\u2028")
)


@given(MARKS)
def test_no_character_of_a_text_is_obeyed(text: str) -> None:
    assert not obeyed(visible(text))
    assert len(visible(text)) == len(text) + 5 * sum(letter in obeyed(text) for letter in text)


@given(st.recursive(MARKS | st.integers(), lambda v: st.lists(v) | st.dictionaries(MARKS, v)))
def test_json_stays_the_json_of_the_same_value(value: object) -> None:
    with redirect_stdout(io.TextIOWrapper(io.BytesIO(), encoding="utf-8")) as out:
        say_json(value)
        out.flush()
        text = out.buffer.getvalue().decode()
    assert json.loads(text) == value
    assert not obeyed(text)


def test_json_on_a_stream_without_every_letter_is_json() -> None:
    with redirect_stdout(io.TextIOWrapper(io.BytesIO(), encoding="ascii")) as out:
        say_json({"é": "\u202e"})
        out.flush()
    assert json.loads(out.buffer.getvalue()) == {"é": "\u202e"}


def as_table() -> Table:
    table = Table(HOSTILE, title=HOSTILE, caption=HOSTILE)
    table.add_row(HOSTILE)
    table.add_row(Text(HOSTILE))
    return table


@pytest.mark.parametrize(
    "made", [HOSTILE, Text(HOSTILE), as_table(), Panel(Text(HOSTILE), title=Text(HOSTILE))]
)
def test_whatever_is_printed_with_rich_is_text(made, monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    terminal().print(made)
    out = capsys.readouterr().out
    assert not obeyed(out)
    for part in ("[red]arm[/red]", ":bug:", "[/x]", r"\u001b[2J"):
        assert part in out


def test_lines_of_data_are_changed_on_a_terminal_alone(capsys, monkeypatch) -> None:
    say_data(HOSTILE)
    assert capsys.readouterr().out == f"{HOSTILE}\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    say_data(HOSTILE)
    say(HOSTILE)
    assert not obeyed(capsys.readouterr().out)


def test_what_a_run_is_called_and_says_is_no_markup_on_its_board(capsys) -> None:
    task = SimpleNamespace(name="t [red]x[/red]")
    run = SimpleNamespace(task=task, title="student/lora[bold]", seed=1, run_id="a")
    with Board(SimpleNamespace(runs=[run]), terminal()) as board:  # type: ignore[arg-type]
        board.on_event(run, {"start": True, "worker": 0})
        board.on_event(run, {"retry": HOSTILE})
        board.note(HOSTILE)
        board.on_event(run, {"start": True, "worker": 0})
        board.on_event(run, {"failed": f"ValueError: {HOSTILE.splitlines()[0]}"})
    out = capsys.readouterr().out
    assert not obeyed(out)
    assert out.count("t [red]x[/red]") == 2
